"""What things of the drawn world look like: silhouettes, textures, sprites, the ground.

Shapes live in their own units: the upright silhouette fills -1 .. 1 on its longer side, y points down.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

Points = Float[np.ndarray, "P 2"]
RGB = Float[np.ndarray, "3"]
"""0 to 255."""

REACH = 1.5
"""A sprite covers -1.5 .. 1.5, so that a square's corner keeps clear of the border at any angle."""
PATTERNS = ("plain", "stripes", "checks", "dots", "marble")
RIM = 0.12
"""Width of an object's dark outline: keeps the silhouette readable on any ground."""


def circle(radius: float, x: float = 0.0) -> Points:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + radius * np.cos(turn), radius * np.sin(turn)], 1)


def polar(radii: list[float]) -> Points:
    """A closed polygon with its corners at equal angles, the first one on top."""
    turn = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) - np.pi / 2
    return np.stack([np.cos(turn), np.sin(turn)], 1) * np.asarray(radii)[:, None]


def cross(arm: float) -> Points:
    quarter = [(arm, -1), (arm, -arm), (1, -arm)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return np.array(corners, float)


SHAPES: dict[str, tuple[Points, ...]] = {
    "disc": (circle(1.0),),
    "square": (polar([2**0.5] * 4) @ (np.array([[1, 1], [-1, 1]]) / 2**0.5),),
    "triangle": (polar([2 / 3**0.5] * 3),),
    "star": (polar([1.05, 0.5] * 5),),
    "cross": (cross(0.34),),
    "ring": (circle(1.0), circle(0.5)),
}
"""Category name -> outline, then hole."""


def reach_of(outline: tuple[Points, ...]) -> float:
    """From the centre to the farthest point."""
    return float(np.linalg.norm(outline[0], axis=1).max())


@dataclass(frozen=True)
class Look:
    """A category and a texture; two objects with equal looks can be told apart by place only."""

    shape: str
    pattern: str
    colours: tuple[tuple[float, float, float], ...]
    cycles: float
    angle: float
    seed: int

    @classmethod
    def random(cls, rng: Generator, ground: RGB, distance: float) -> "Look":
        """Any shape and texture whose colours keep their distance (RGB, 0 to 255) from the ground's mean."""
        shape, pattern = str(rng.choice(list(SHAPES))), str(rng.choice(PATTERNS))
        main = colour(rng, (0.45, 0.95), (0.55, 1.0), ground, distance)
        second = 0.3 * main + 0.7 * colour(rng, (0.2, 0.9), (0.5, 1.0), ground, distance)
        cycles, angle, seed = rng.uniform(1.5, 3.0), rng.uniform(0, np.pi), int(rng.integers(2**31))
        return cls(shape, pattern, (tuple(main), tuple(second)), cycles, angle, seed)

    def recoloured(self, rng: Generator, spread: float) -> "Look":
        shift = rng.uniform(-spread, spread, 3)
        return replace(self, colours=tuple(tuple(np.clip(shade + shift, 0, 255)) for shade in self.colours))


def colour(
    rng: Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    ground: RGB | None = None,
    distance: float = 0.0,
) -> RGB:
    """A random colour of any hue, drawn again until it is at least `distance` from `ground`."""
    while True:
        hue = rng.uniform(0, 6) + np.array([0, 4, 2])
        wheel = np.clip(np.abs(hue % 6 - 3) - 1, 0, 1)
        rgb = 255 * rng.uniform(*value) * (1 - rng.uniform(*saturation) * (1 - wheel))
        if ground is None or np.linalg.norm(rgb - ground) >= distance:
            return rgb


def clouds(rng: Generator, height: int, width: int, cells: float) -> Float[np.ndarray, "H W"]:
    """Smooth noise, 0 to 1, with about `cells` bumps along the height."""
    coarse = (max(2, round(cells * width / height)), max(2, round(cells)))
    values = Image.fromarray(rng.random(coarse[::-1], dtype=np.float32))
    return np.clip(np.asarray(values.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)


def pattern(look: Look, side_px: int) -> Float[np.ndarray, "S S"]:
    """How much of the second colour each pixel of a sprite takes, 0 to 1."""
    y, x = (np.mgrid[:side_px, :side_px] + 0.5) * (2 * REACH / side_px) - REACH
    along = np.sin(np.pi * look.cycles * (x * np.cos(look.angle) + y * np.sin(look.angle)))
    across = np.sin(np.pi * look.cycles * (y * np.cos(look.angle) - x * np.sin(look.angle)))
    match look.pattern:
        case "stripes":
            return np.clip(0.5 + 3 * along, 0, 1)
        case "checks":
            return np.clip(0.5 + 4 * along * across, 0, 1)
        case "dots":
            return np.clip(4 * along * across - 1, 0, 1)
        case "marble":
            return clouds(np.random.default_rng(look.seed), side_px, side_px, 3 * look.cycles)
        case _:
            return 0.3 * (0.5 + x / (2 * REACH))


def sprite(look: Look, outline: tuple[Points, ...], side_px: int, rim: float = RIM) -> Image.Image:
    """The thing upright on a transparent square of REACH; its colours run on beyond the edge, lest a fringe show."""
    first, second = (np.array(shade) for shade in look.colours)
    share = pattern(look, side_px)[..., None]
    fine = Image.new("L", (4 * side_px, 4 * side_px))
    draw = ImageDraw.Draw(fine)
    for points, ink in zip(outline, (255, 0), strict=False):
        draw.polygon([tuple(point) for point in (points + REACH) * (4 * side_px / (2 * REACH))], fill=ink)
    alpha = fine.reduce(4)
    inside = alpha.filter(ImageFilter.GaussianBlur(rim * side_px / (2 * REACH)))
    shade = 0.45 + 0.55 * np.clip(np.asarray(inside, np.float32) / 255 * 2 - 0.9, 0, 1)[..., None] if rim else 1.0
    pixels = Image.fromarray((((1 - share) * first + share * second) * shade).astype(np.uint8))
    pixels.putalpha(alpha)
    return pixels


def blob(rng: Generator) -> tuple[Points, ...]:
    """An outline of no category: a lobed, lopsided stone."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = 1 + sum(rng.uniform(0.1, 0.25) * np.cos(k * turn + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 5))
    points = np.stack([radius * np.cos(turn), rng.uniform(0.6, 0.9) * radius * np.sin(turn)], 1)
    return (points / np.abs(points).max(),)


def stone(rng: Generator) -> Look:
    """The texture of things of no category: muted."""
    first, second = colour(rng, (0.1, 0.35), (0.3, 0.7)), colour(rng, (0.1, 0.35), (0.3, 0.7))
    return Look("blob", "marble", (tuple(first), tuple(second)), 3.0, 0.0, int(rng.integers(2**31)))


def ground(rng: Generator, height: int, width: int, margin_px: int, clutter: int) -> tuple[Image.Image, RGB]:
    """The textured ground, `margin_px` wider than the frame on each side, and its mean colour.

    Args:
        clutter: how many blobs and lines lie on it.
    """
    tall, wide = height + 2 * margin_px, width + 2 * margin_px
    first, second = colour(rng, (0.1, 0.45), (0.3, 0.85)), colour(rng, (0.1, 0.45), (0.3, 0.85))
    noise = np.mean([clouds(rng, tall, wide, cells) for cells in (3.0, 8.0, 24.0)], axis=0)
    share = np.clip(0.5 + 2 * (noise - 0.5), 0, 1)[..., None]
    canvas = Image.fromarray(((1 - share) * first + share * second).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(clutter):
        shade = tuple(int(v) for v in 0.5 * colour(rng, (0.1, 0.5), (0.3, 0.9)) + 0.25 * (first + second))
        centre = rng.uniform(0, 1, 2) * (wide, tall)
        if rng.random() < 0.5:
            points = centre + blob(rng)[0] * rng.uniform(0.02, 0.12) * height
            draw.polygon([tuple(point) for point in points], fill=shade)
        else:
            away = rng.uniform(-0.5, 0.5, 2) * height
            draw.line([tuple(centre), tuple(centre + away)], fill=shade, width=max(1, round(height / 60)))
    return canvas.filter(ImageFilter.GaussianBlur(height / 160)), (first + second) / 2
