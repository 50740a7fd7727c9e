"""Training clips: which frames, how they are changed, and how they become tensors. All pure functions.

Sample `n` of a run depends on the seed and on `n` alone: a run can resume anywhere, and any number of
workers sees the same global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Shaped, UInt8
from PIL import Image
from torch import Tensor

from vis_models import boxes
from vis_models import masks as mask_ops
from vis_models.config import BadConfig
from vis_models.data.annotations import AnnotatedVideo, VideoSet
from vis_models.data.augmentation import Augmentation
from vis_models.data.sampling import Sampling
from vis_models.types import Clips, Objects

STRIDE = 32
"""Of the coarsest map of a backbone: sides of padded batches are multiples of it."""


@dataclass(frozen=True)
class Change:
    """One draw of an augmentation: resize to `scaled`, put its corner at `corner`, cut to `target`, flip, recolour."""

    scaled: tuple[int, int]
    """(height, width) after scaling."""
    corner: tuple[int, int]
    """(row, column) of the scaled frame's corner in the result; negative where it is cropped."""
    target: tuple[int, int]
    """(height, width) of the result; zeros around a frame that is smaller."""
    flip_x: bool = False
    flip_y: bool = False
    channels: tuple[int, int, int] = (0, 1, 2)


def draw_change(
    rng: np.random.Generator, config: Augmentation, source: tuple[int, int], target: tuple[int, int]
) -> Change:
    """Draw one change for frames of size `source` (height, width) that become `target`.

    At scale 1 and without `fit` the frame is resized to the target as a whole. Otherwise a frame larger than the
    target is cropped at random, a smaller one is centred (Johnander et al., section C.2).
    """
    scale = rng.uniform(*config.scale)
    if config.fit:
        base = min(config.fit[0] / source[0], config.fit[1] / source[1])
    else:
        base = max(target[0] / source[0], target[1] / source[1])
    scaled = tuple(max(1, round(side * base * scale)) for side in source)
    if config.scale == (1.0, 1.0) and not config.fit:
        scaled = target  # the aspect is not kept, as at inference
    corner = tuple(
        -int(rng.integers(0, have - want + 1)) if have > want else (want - have) // 2
        for have, want in zip(scaled, target, strict=True)
    )
    return Change(
        scaled=(scaled[0], scaled[1]),
        corner=(corner[0], corner[1]),
        target=target,
        flip_x=bool(rng.random() < config.horizontal_flip),
        flip_y=bool(rng.random() < config.vertical_flip),
        channels=tuple(rng.permutation(3).tolist()) if config.swap_colours else (0, 1, 2),
    )


def draw_sizes(rng: np.random.Generator, config: Augmentation, source: tuple[int, int], frames: int) -> list[Change]:
    """Draw the changes of a sample whose size is drawn, too: one size, flip and colouring for all frames, and where a
    part is cut out, its place in each (Wu et al., "In defense of online models", section 4.1)."""
    part = source
    if config.crop_px and rng.random() < config.crop:
        least, most = config.crop_px
        part = tuple(int(rng.integers(min(least, side), min(most, side) + 1)) for side in source)  # type: ignore[assignment]
    shorter = int(rng.choice(config.shorter_px))
    scale = shorter / min(part)
    if config.longer_most_px:
        scale = min(scale, config.longer_most_px / max(part))
    height, width = (max(1, round(side * scale)) for side in part)
    flips = rng.random(2) < (config.horizontal_flip, config.vertical_flip)
    channels = tuple(rng.permutation(3).tolist()) if config.swap_colours else (0, 1, 2)
    scaled = (max(height, round(source[0] * scale)), max(width, round(source[1] * scale)))
    return [
        Change(
            scaled=scaled,
            corner=(-int(rng.integers(0, scaled[0] - height + 1)), -int(rng.integers(0, scaled[1] - width + 1))),
            target=(height, width),
            flip_x=bool(flips[0]),
            flip_y=bool(flips[1]),
            channels=channels,
        )
        for _ in range(frames)
    ]


def change_frame(frame: UInt8[np.ndarray, "H W 3"], change: Change) -> UInt8[np.ndarray, "h w 3"]:
    """Apply a change to a picture, bilinear."""
    if frame.shape[:2] != change.scaled:
        frame = np.asarray(Image.fromarray(frame).resize(change.scaled[::-1], Image.Resampling.BILINEAR))
    return np.ascontiguousarray(_place(frame, change)[..., change.channels])


def change_mask(mask: Bool[np.ndarray, "H W"], change: Change) -> Bool[np.ndarray, "h w"]:
    """Apply the same change to a mask, nearest."""
    if mask.shape != change.scaled:
        mask = np.asarray(Image.fromarray(mask).resize(change.scaled[::-1], Image.Resampling.NEAREST))
    return _place(mask, change)


def _place(array: np.ndarray, change: Change) -> np.ndarray:
    (row, column), (height, width) = change.corner, change.target
    if array.shape[:2] != change.target or change.corner != (0, 0):
        cut = array[max(-row, 0) : height - row, max(-column, 0) : width - column]
        array = np.zeros((height, width, *array.shape[2:]), array.dtype)
        array[max(row, 0) : max(row, 0) + cut.shape[0], max(column, 0) : max(column, 0) + cut.shape[1]] = cut
    if change.flip_x:
        array = array[:, ::-1]
    return array[::-1] if change.flip_y else array


@dataclass(frozen=True)
class ClipSet:
    """Endless, seeded stream of clips: `clips[n]` is sample n of the run, whatever was asked before.

    Every pass over the videos is a new permutation; each visit draws frames and a change.
    """

    videos: VideoSet
    sampling: Sampling
    """Which frames make a sample."""
    size: tuple[int, int] | None
    """(height, width) of the model's input; None: it takes frames of any size, which the augmentation draws."""
    augmentation: Augmentation
    seed: int

    def __post_init__(self) -> None:
        if not (self.size or self.augmentation.shorter_px):
            raise BadConfig("the model takes frames of any size: say which (shorter_px of the augmentation)")
        if self.size and self.augmentation.shorter_px:
            raise BadConfig(
                f"the model takes frames of {self.size[0]}x{self.size[1]} px (height x width), and the augmentation "
                "draws their size (shorter_px): leave shorter_px empty"
            )
        if not self.usable:
            longest = max((len(video.file_names) for video in self.videos.videos), default=0)
            raise BadConfig(
                f"no video has {self.sampling.needs}: the data set has {len(self.videos.videos)} videos, the longest "
                f"of {longest} frames. Use shorter clips or other data."
            )

    @property
    def length(self) -> int:
        """L, frames of a sample."""
        return self.sampling.length

    @cached_property
    def usable(self) -> list[AnnotatedVideo]:
        return [video for video in self.videos.videos if video.tracks and self.sampling.fits(self._shows(video))]

    def _shows(self, video: AnnotatedVideo) -> Bool[np.ndarray, " T"]:
        """The frames in which an object can be seen that is no crowd; all of them where nobody asks.

        An image shows what it has labels of, whose masks may have to be read.
        """
        length = len(video.file_names)
        if not self.sampling.looks_for_objects:
            return np.ones(length, dtype=bool)
        single = [track for track in video.tracks if not track.crowd]
        if length == 1:
            return np.array([bool(single)])
        return np.array([any(track.rles[t] is not None for track in single) for t in range(length)])

    def __getitem__(self, n: int) -> Clips:
        turn, place = divmod(n, len(self.usable))
        order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self.usable))
        return self.clip(int(order[place]), n)

    @cached_property
    def _first_object(self) -> list[int]:
        """Of each usable video, where all objects of the set are counted."""
        return [0, *accumulate(len(video.tracks) for video in self.usable)]

    def clip(self, index: int, n: int) -> Clips:
        """Sample n, whose turn has come to video `index` of `usable`."""
        drawn = self._drawn(index, n)
        return replace(drawn, identities=self._first_object[index] + torch.arange(drawn.objects.labels.shape[1])[None])

    def _drawn(self, index: int, n: int) -> Clips:
        video = self.usable[index]
        rng = np.random.default_rng([self.seed, 1, n])
        frames = self.sampling.draw(self._shows(video), rng)
        draws = len(frames) if self.sampling.redraws else 1
        source = (video.height, video.width)
        alike = len(frames) // draws
        if self.size is None:
            changes = [each for _ in range(draws) for each in draw_sizes(rng, self.augmentation, source, alike)]
            sizes = torch.tensor([[change.target for change in changes]])
            return replace(load_clip(self.videos, video, frames, changes), sizes_px=sizes)
        changes = [draw_change(rng, self.augmentation, source, self.size) for _ in range(draws)] * alike
        return load_clip(self.videos, video, frames, changes)


def load_clip(videos: VideoSet, video: AnnotatedVideo, frames: Sequence[int], changes: Sequence[Change]) -> Clips:
    """One clip (B = 1), each frame with its change, padded at the right and the bottom to the largest of them.

    Objects whose centre leaves the picture are dropped from it.
    """
    pictures = [change_frame(video.read_frame(index), each) for index, each in zip(frames, changes, strict=True)]
    index_of = {category.id: index for index, category in enumerate(videos.categories)}
    height, width = (max(change.target[axis] for change in changes) for axis in (0, 1))
    masks = np.zeros((len(frames), len(video.tracks), height, width), dtype=bool)
    for slot, track in enumerate(video.tracks):
        for row, (index, change) in enumerate(zip(frames, changes, strict=True)):
            rle = track.rles[index]
            if rle is not None:
                mask = mask_ops.decode(rle, video.height, video.width)
                if _centre_stays(mask, change):
                    masks[row, slot, : change.target[0], : change.target[1]] = change_mask(mask, change)
    tensor = torch.from_numpy(masks)
    objects = Objects(
        masks=tensor[None],
        boxes_px=boxes.of_masks(tensor)[None],
        visible=tensor.any(-1).any(-1)[None],
        labels=torch.tensor([[index_of[track.category_id] for track in video.tracks]]),
        crowd=torch.tensor([[track.crowd for track in video.tracks]]),
    )
    frames_ = [_padded_to(torch.from_numpy(picture).permute(2, 0, 1), (height, width)) for picture in pictures]
    return Clips(torch.stack(frames_)[None], objects)


def _centre_stays(mask: Bool[np.ndarray, "H W"], change: Change) -> bool:
    """Whether the centre of the object's box is still in the picture after the change."""
    for axis in (0, 1):
        along = np.flatnonzero(mask.any(1 - axis))
        if not len(along):
            return False
        centre = (along[0] + along[-1] + 1) / 2 * change.scaled[axis] / mask.shape[axis] + change.corner[axis]
        if not 0 <= centre < change.target[axis]:
            return False
    return True


def collate(clips: Sequence[Clips]) -> Clips:
    """Clips side by side. Where sizes are drawn, all are padded at the right and the bottom, with zeros, to the
    largest of them and from there to a multiple of `STRIDE`; `sizes_px` says what of each is picture."""
    shapes = {(clip.frames.shape[-2], clip.frames.shape[-1]) for clip in clips}
    names = _names(clips)
    if len(shapes) == 1 and all(clip.sizes_px is None for clip in clips):
        frames = torch.cat([clip.frames for clip in clips])
        return Clips(frames, join_objects([clip.objects for clip in clips]), identities=names)
    height, width = (-(-max(shape[axis] for shape in shapes) // STRIDE) * STRIDE for axis in (0, 1))
    sizes = torch.cat([_sizes(clip) for clip in clips])
    frames = torch.cat([_padded_to(clip.frames, (height, width)) for clip in clips])
    objects = [replace(clip.objects, masks=_padded_to(clip.objects.masks, (height, width))) for clip in clips]
    return Clips(frames, join_objects(objects), sizes, names)


def _names(clips: Sequence[Clips]) -> Int[Tensor, "B A"] | None:
    named = [clip.identities for clip in clips if clip.identities is not None]
    if len(named) < len(clips):
        return None
    slots = max(each.shape[1] for each in named)
    return torch.cat([F.pad(each, [0, slots - each.shape[1]], value=-1) for each in named])


def _sizes(clip: Clips) -> Int[Tensor, "B L 2"]:
    if clip.sizes_px is not None:
        return clip.sizes_px
    batch, length, _, height, width = clip.frames.shape
    return torch.tensor([height, width]).expand(batch, length, 2)


def _padded_to(maps: Shaped[Tensor, "*S h w"], size: tuple[int, int]) -> Shaped[Tensor, "*S H W"]:
    return F.pad(maps, [0, size[1] - maps.shape[-1], 0, size[0] - maps.shape[-2]])


def join_objects(parts: Sequence[Objects]) -> Objects:
    """Objects of clips side by side, their slots padded to the largest number."""
    slots = max(part.labels.shape[1] for part in parts)
    return Objects.join([_padded(part, slots) for part in parts])


def _padded(objects: Objects, slots: int) -> Objects:
    more = slots - objects.labels.shape[1]
    if not more:
        return objects
    return Objects(
        masks=F.pad(objects.masks, [0, 0, 0, 0, 0, more]),
        boxes_px=F.pad(objects.boxes_px, [0, 0, 0, more]),
        visible=F.pad(objects.visible, [0, more]),
        labels=F.pad(objects.labels, [0, more], value=-1),
        crowd=F.pad(objects.crowd, [0, more]),
    )
