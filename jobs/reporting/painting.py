"""Masks on frames: one colour per identity, the same in every frame."""

from collections.abc import Sequence

import numpy as np

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (28, 126, 214), (240, 107, 10), (47, 158, 68), (174, 62, 201), (245, 189, 10), (12, 165, 165), (230, 73, 128),
    (116, 184, 22), (92, 124, 250), (201, 42, 42), (153, 98, 30), (102, 217, 232),
)  # fmt: skip
"""Told apart from each other and from most scenes."""
PALE: Colour = (255, 255, 255)
"""Of objects that have no identity."""
TINT = 0.45
"""Share of the colour inside a mask; its edge is all colour."""
EDGE_PX = 2


def colour_of(track_id: int) -> Colour:
    return COLOURS[track_id % len(COLOURS)]


def paint(pixels: np.ndarray, masks: Sequence[tuple[Colour, np.ndarray]]) -> np.ndarray:
    """A copy of a frame, UInt8 (H, W, 3), with boolean masks (H, W) drawn in, later ones on top."""
    painted = pixels.astype(np.float32)
    for colour, mask in masks:
        painted[mask] = (1 - TINT) * painted[mask] + TINT * np.array(colour)
        inside = mask
        for _ in range(EDGE_PX):
            inside = _shrunk(inside)
        painted[mask & ~inside] = colour
    return painted.round().astype(np.uint8)


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask whose four neighbours belong to it, as do those beyond the border of the image."""
    around = np.pad(mask, 1, constant_values=True)
    return around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
