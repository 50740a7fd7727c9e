"""What a detector sees of drawn objects: squares as boxes and masks, a colour as their appearance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from vis_models.trackers.contract import Seen, Sizes
from vis_models.types import Masks, Tracks, VideoInfo

HEIGHT, WIDTH, CLASSES = 60, 160, 3
VIDEO = VideoInfo("drawn", HEIGHT, WIDTH)


class Square(NamedTuple):
    """A detection."""

    x: float
    y: float = 10.0
    category: int = 0
    score: float = 0.9
    colour: tuple[float, float] = (1.0, 0.0)
    side: float = 20.0
    strip: int | None = None
    """The row of the square that its mask is; None: all of it."""


def seen(*squares: Square) -> Seen:
    """One frame; its map of features has one row, with a cell for each object and its colour in that cell."""
    count = len(squares)
    boxes = torch.tensor([[s.x, s.y, s.x + s.side, s.y + s.side] for s in squares]).view(-1, 4)
    chance = torch.zeros(count, CLASSES)
    for row, square in zip(chance, squares, strict=True):
        row[square.category] = square.score
    features = torch.zeros(2, 1, 4)
    for cell, square in enumerate(squares):
        features[:, 0, cell] = torch.tensor(square.colour)
    bitmaps = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
    for bitmap, square, (x0, y0, x1, y1) in zip(bitmaps, squares, boxes.int().tolist(), strict=True):
        bitmap[y0:y1, x0:x1] = True
        if square.strip is not None:
            bitmap[: y0 + square.strip] = bitmap[y0 + square.strip + 1 :] = False

    def masks(which: Sequence[int], exclusive: bool) -> Masks:
        return Masks.of(bitmaps[list(which)])

    return Seen(boxes, chance, torch.eye(4)[:count, None], features, masks)


def tracked(tracker: Any, film: Sequence[Seen]) -> list[Tracks]:
    """Everything that is said of a film, the last words at the end."""
    state, said = tracker.start([VIDEO], Sizes(4, CLASSES, (2, 1, 4))), []
    for frame in film:
        tracks, state = tracker.step(frame, state)
        said.append(tracks)
    return [*said, tracker.finish(state)]


def places(said: Sequence[Tracks]) -> dict[int, dict[int, int]]:
    """Track -> frame -> left edge of its mask."""
    found: dict[int, dict[int, int]] = {}
    for tracks in said:
        for sighting in tracks.sightings:
            for track, mask in zip(sighting.track_ids, sighting.masks.whole(), strict=True):
                if mask.any():
                    found.setdefault(track, {})[sighting.frame] = int(mask.any(0).int().argmax())
    return found


def verdicts(said: Sequence[Tracks]) -> dict[int, tuple[int, float]]:
    """Track -> category and score, to four digits."""
    words = [verdict for tracks in said for verdict in tracks.verdicts]
    assert len({verdict.track_id for verdict in words}) == len(words)
    return {verdict.track_id: (verdict.category, round(verdict.score, 4)) for verdict in words}


def crossing(one: int = 0, other: int = 0, frames: int = 12) -> list[Seen]:
    """Two squares of side 20 that move 4 pixels a frame towards each other, on one line.

    In frame 6 they are at 24 and 26, then at 28 and 22: by IoU alone, 18/22 against 16/24, each looks like the other.
    """
    ways = [4.0 * t for t in range(frames)]
    return [seen(Square(x, category=one, strip=0), Square(50 - x, category=other, strip=1)) for x in ways]


ONE, OTHER = {t: 4 * t for t in range(12)}, {t: 50 - 4 * t for t in range(12)}
"""Where the two are."""
SWAPPED = {t: ONE[t] if t <= 6 else OTHER[t] for t in ONE}, {t: OTHER[t] if t <= 6 else ONE[t] for t in ONE}
"""Where two tracks are that exchange them."""
