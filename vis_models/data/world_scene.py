"""One video of the drawn world before it is drawn: ground, camera, objects with their paths, occluders.

Lengths are in frame heights and times in frames, so that one seed is one world at every resolution.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator
from PIL import Image, ImageFilter
from pydantic import Field, field_validator

from vis_models.config import Config
from vis_models.data.world_paint import REACH, SHAPES, Look, blob, ground, reach_of, sprite, stone

CATEGORIES = tuple(SHAPES)
"""Category ids count from 1 in this order."""
OFF_STAGE = 0.4
"""How far outside the frame an object goes before it may come back on the other side."""
SOLID = [255 * (alpha >= 128) for alpha in range(256)]
"""Opacity -> mask: a pixel is an object's where the object covers at least half of it."""


class WorldConfig(Config):
    """Everything that decides the pixels of a drawn world."""

    level: Literal["easy", "hard"] = "easy"
    """`hard` has more objects, more look-alikes, more occlusion, fast motion, camera shake, blur, low contrast."""
    seed: int = Field(0, ge=0)
    height: int = Field(96, ge=32, le=2160)
    """Frame height in pixels, even because H.264 wants it."""
    width: int = Field(160, ge=32, le=4096)
    """Frame width in pixels, even."""
    frames: int = Field(16, ge=1)
    """Frames of a video."""

    @property
    def version(self) -> int:
        """Grows whenever the same config would draw other pixels."""
        return LEVELS[self.level].version

    @field_validator("height", "width")
    @classmethod
    def _even(cls, side_px: int) -> int:
        if side_px % 2:
            raise ValueError(f"expected an even number of pixels, got {side_px}; try {side_px + 1}")
        return side_px


@dataclass(frozen=True)
class Level:
    """How difficult a world is. Shares and chances are 0 to 1, ranges are (least, most)."""

    version: int
    """Grows with every change of the level. A result names the version it was measured on."""
    sizes: tuple[float, float]
    """Longer side of an object's upright silhouette, in frame heights."""
    objects: tuple[int, int]
    look_alike_thirds: int
    """In how many of three consecutive videos some objects are alike."""
    colour_spread: float
    """How far the colours of look-alikes differ, RGB 0 to 255; 0 is not at all."""
    speed: tuple[float, float]
    """Frame heights per frame."""
    crossing_chance: float
    """That an object's way leads through another one's place."""
    occluders: tuple[int, int]
    occluder_size: tuple[float, float]
    """Times the size of the object in whose way it is."""
    clutter: int
    camera_share: float
    shake: float
    """Greatest jump of the camera between frames, frame heights."""
    defocus_share: float
    motion_blur_share: float
    contrast: tuple[float, float]
    colour_distance: float
    """Least distance in RGB (0 to 255 per channel) of an object's main colour from the mean of the ground."""


LEVELS = {
    "easy": Level(
        version=1,
        sizes=(0.1, 0.4),
        objects=(1, 4),
        look_alike_thirds=1,
        colour_spread=14.0,
        speed=(0.01, 0.035),
        crossing_chance=0.4,
        occluders=(0, 1),
        occluder_size=(1.1, 1.5),
        clutter=8,
        camera_share=0.35,
        shake=0.0,
        defocus_share=0.15,
        motion_blur_share=0.1,
        contrast=(0.85, 1.0),
        colour_distance=110.0,
    ),
    "hard": Level(
        version=2,
        sizes=(0.12, 0.42),
        objects=(2, 5),
        look_alike_thirds=2,
        colour_spread=0.0,
        speed=(0.015, 0.05),
        crossing_chance=0.8,
        occluders=(0, 2),
        occluder_size=(1.2, 1.7),
        clutter=8,
        camera_share=0.5,
        shake=0.008,
        defocus_share=0.1,
        motion_blur_share=0.1,
        contrast=(0.8, 1.0),
        colour_distance=110.0,
    ),
}


@dataclass(frozen=True)
class Path:
    """A smooth way through the scene that passes `through` at time `when`."""

    through: Float[np.ndarray, "2"]
    when: float
    velocity: Float[np.ndarray, "2"]
    sway: Float[np.ndarray, "2"]
    period: float

    def at(self, time: float) -> Float[np.ndarray, "2"]:
        passed = time - self.when
        return self.through + self.velocity * passed + self.sway * np.sin(2 * np.pi * passed / self.period)


@dataclass(frozen=True)
class Camera:
    """A slow pan that always comes back, plus shake. `at` is the scene's point in the frame's top left corner."""

    pan: Float[np.ndarray, "2"]
    period: float
    phase: float
    shake: Float[np.ndarray, "T 2"]

    def at(self, time: float) -> Float[np.ndarray, "2"]:
        pan = self.pan * np.sin(2 * np.pi * time / self.period + self.phase)
        return pan + self.shake[np.clip(round(time), 0, len(self.shake) - 1)]

    @property
    def reach(self) -> float:
        return float(np.abs(self.pan).max() + np.abs(self.shake).max())


@dataclass(frozen=True)
class Thing:
    """An object or, without a category, an occluder: what it looks like and how it moves."""

    look: Look
    sprite: Image.Image
    reach: float
    """From its centre to its farthest point, in the shape's units."""
    path: Path
    size: float
    breath: float
    """Slow change of size, as a share of it."""
    angle: float
    spin: float
    """Radians per frame."""

    @property
    def category_id(self) -> int:
        """From 1; 0 is an occluder."""
        return CATEGORIES.index(self.look.shape) + 1 if self.look.shape in CATEGORIES else 0

    def size_at(self, time: float) -> float:
        return float(self.size * (1 + self.breath * np.sin(2 * np.pi * (time - self.path.when) / 40)))

    def patch(self, centre_px: Float[np.ndarray, "2"], time: float, height_px: int) -> tuple[Image.Image, tuple]:
        """The sprite turned and scaled, and the pixel where its top left corner belongs."""
        half_px = self.size_at(time) * height_px / 2
        corner = np.floor(centre_px - half_px * self.reach - 1).astype(int)
        side = int(np.ceil(2 * half_px * self.reach + 3))
        angle = self.angle + self.spin * time
        zoom = self.sprite.width / (2 * REACH * half_px)
        turn = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        shift = self.sprite.width / 2 - turn @ (centre_px - corner)
        affine = (*turn[0], shift[0], *turn[1], shift[1])  # from pixels of the patch to pixels of the sprite
        patch = self.sprite.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        return patch, (int(corner[0]), int(corner[1]))


class Scene:
    """Everything of one video that does not change while it plays; `frame` draws one moment of it."""

    def __init__(self, config: WorldConfig, index: int) -> None:
        self.config = config
        self.level = level = LEVELS[config.level]
        self.aspect = config.width / config.height
        rng, ground_rng = (np.random.default_rng([level.version, config.seed, index, part]) for part in (0, 1))
        self.camera = self._camera(rng)
        self.margin_px = int(np.ceil(self.camera.reach * config.height)) + 1
        self.ground, self.ground_colour = ground(ground_rng, config.height, config.width, self.margin_px, level.clutter)
        self.objects = self._objects(rng, alike=index % 3 < level.look_alike_thirds)
        self.occluders = self._occluders(rng)
        self.defocus_px = rng.uniform(0.5, 1.0) * config.height / 96 * (rng.random() < level.defocus_share)
        self.shutter = rng.uniform(0.5, 0.9) * (rng.random() < level.motion_blur_share)
        contrast = rng.uniform(*level.contrast)
        self.tones = [round(128 + contrast * (value - 128)) for value in range(256)] * 3

    def frame(self, time: int) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        """The picture, and who owns each pixel: 1 is the first object, 0 nobody."""
        owner = Image.new("L", (self.config.width, self.config.height))
        picture = self._draw(float(time), owner)
        if self.shutter:  # an open shutter shows the mean of a few moments; the truth is the middle one
            before, after = self._draw(time - self.shutter / 3), self._draw(time + self.shutter / 3)
            picture = Image.blend(Image.blend(before, after, 0.5), picture, 1 / 3)
        if self.defocus_px:
            picture = picture.filter(ImageFilter.BoxBlur(self.defocus_px))
        return np.asarray(picture.point(self.tones)), np.asarray(owner)

    def _draw(self, time: float, owner: Image.Image | None = None) -> Image.Image:
        height, width = self.config.height, self.config.width
        camera_px = np.round(self.camera.at(time) * height)  # whole pixels: the ground is cropped, not resampled
        x_px, y_px = (int(value) + self.margin_px for value in camera_px)
        picture = self.ground.crop((x_px, y_px, x_px + width, y_px + height))
        for number, thing in enumerate([*self.objects, *self.occluders], start=1):
            patch, corner = thing.patch(self.on_screen(thing, time, camera_px / height) * height, time, height)
            picture.paste(patch, corner, patch)
            if owner is not None:
                solid = patch.getchannel("A").point(SOLID)
                owner.paste(number if thing.category_id else 0, corner, solid)
        return picture

    def on_screen(self, thing: Thing, time: float, camera: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
        """Where its centre is. An object far outside the frame comes back on the other side."""
        place = thing.path.at(time) - camera
        if not thing.category_id:
            return place
        stage = np.array([self.aspect, 1.0]) + 2 * OFF_STAGE
        return (place + OFF_STAGE) % stage - OFF_STAGE

    def _camera(self, rng: Generator) -> Camera:
        angle, moves = rng.uniform(0, 2 * np.pi), rng.random() < self.level.camera_share
        pan = rng.uniform(0.1, 0.3) * moves * np.array([np.cos(angle), 0.5 * np.sin(angle)])
        shake = rng.uniform(-self.level.shake, self.level.shake, (self.config.frames, 2))
        return Camera(pan, rng.uniform(24, 60), rng.uniform(0, 2 * np.pi), shake)

    def _objects(self, rng: Generator, alike: bool) -> list[Thing]:
        """From back to front. Look-alikes copy one object's look and nearly its size."""
        level, (least, most) = self.level, self.level.objects
        count = int(rng.integers(max(least, 1 + alike), most + 1))
        copies = int(rng.integers(2, max(2, count // 2) + 1)) if alike else 1
        things: list[Thing] = []
        for number in range(count):
            if 0 < number < copies:
                look = things[0].look.recoloured(rng, self.level.colour_spread)
                size = float(np.clip(things[0].size * rng.uniform(0.85, 1.15), *level.sizes))
            else:
                look = Look.random(rng, self.ground_colour, self.level.colour_distance)
                size = rng.uniform(*level.sizes)
            things.append(self._thing(rng, look, size, self._path(rng, things)))
        return [things[place] for place in rng.permutation(count)]

    def _thing(self, rng: Generator, look: Look, size: float, path: Path) -> Thing:
        least, most = self.level.sizes
        breath = min(rng.uniform(0, 0.25), most / size - 1, 1 - least / size)  # never leaves the sizes of the level
        side_px = int(np.ceil(1.5 * REACH * size * self.config.height))  # finer than any frame will show it
        outline = SHAPES[look.shape]
        angle, spin = rng.uniform(0, 2 * np.pi), rng.uniform(-0.12, 0.12)
        return Thing(look, sprite(look, outline, side_px), reach_of(outline), path, size, breath, angle, spin)

    def _path(self, rng: Generator, others: list[Thing]) -> Path:
        """Through a random place in the frame, or through another object's place at a time in the middle."""
        frames = self.config.frames
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*self.level.speed)
        sway = rng.uniform(-0.05, 0.05, 2)
        if others and rng.random() < self.level.crossing_chance:
            other = others[rng.integers(len(others))].path
            when = rng.uniform(0.25, 0.75) * frames
            through = other.at(when)
            heading = np.arctan2(*other.velocity[::-1]) + np.pi + rng.uniform(-1.2, 1.2)
        else:
            when = rng.uniform(0, 1) * frames
            through = rng.uniform(0.1, 0.9, 2) * (self.aspect, 1) + self.camera.at(when)
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        return Path(through, when, velocity, sway, rng.uniform(20, 50))

    def _occluders(self, rng: Generator) -> list[Thing]:
        """Stones in the way of objects; they stand still in the scene."""
        things, still = [], np.zeros(2)
        for _ in range(rng.integers(self.level.occluders[0], self.level.occluders[1] + 1)):
            when = rng.uniform(0.25, 0.75) * self.config.frames
            hidden = self.objects[rng.integers(len(self.objects))]
            path = Path(hidden.path.at(when), when, still, still, period=1.0)
            size = hidden.size * rng.uniform(*self.level.occluder_size)
            look, outline = stone(rng), blob(rng)
            image = sprite(look, outline, int(np.ceil(1.5 * REACH * size * self.config.height)), rim=0.0)
            things.append(Thing(look, image, reach_of(outline), path, size, breath=0.0, angle=0.0, spin=0.0))
        return things
