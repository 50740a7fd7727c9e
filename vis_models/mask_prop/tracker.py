"""One frame of one video: it completes the clip whose middle lies T frames before, and that clip gets its tracks.

Source: Bertasius, Torresani, "Mask propagation", CVPR 2020, section 4.3. A frame is looked at once: of each the map of
features is kept as long as a clip reaches it. Clips at the beginning and the end of a video have fewer frames.

Axes: as `state.py`; n objects of a clip.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from vis_models.mask_prop import linking
from vis_models.mask_prop.config import MaskPropConfig
from vis_models.mask_prop.propagation import Propagation
from vis_models.mask_prop.state import MaskPropEncoded, MaskPropState, packed, unpacked
from vis_models.matching import NEW
from vis_models.track_slots import FREE
from vis_models.types import CodedMasks, Sighting, Tracks


def step(
    config: MaskPropConfig, branch: Propagation, encoded: MaskPropEncoded, state: MaskPropState
) -> tuple[Tracks, MaskPropState]:
    """Both of one row."""
    state, frame = _wait(config, encoded, state), int(state.frame[0])
    middle = frame - config.reach
    if middle < 0:
        return Tracks([], []), state
    return _clip(config, branch, state, middle)


def finish(config: MaskPropConfig, branch: Propagation, state: MaskPropState) -> Tracks:
    """The clips at the end of one video, and verdicts about the tracks that are left."""
    frames, state = int(state.frame[0]), state.own()
    sightings, verdicts = [], []
    for middle in range(max(0, frames - config.reach), frames):
        tracks, state = _clip(config, branch, state, middle)
        sightings += tracks.sightings
        verdicts += tracks.verdicts
    return Tracks(sightings, verdicts + [state.verdict(0, slot) for slot in state.live(0)])


def _wait(config: MaskPropConfig, encoded: MaskPropEncoded, state: MaskPropState) -> MaskPropState:
    """The state with one more frame."""
    state, frame = state.own(), int(state.frame[0])
    rles = encoded.masks_of(0, state.size_of(0), config.detector.pasting).rles()
    place = frame % (config.reach + 1)
    state.features[0, frame % config.clip_length] = encoded.features[0].to(state.features.dtype)
    state.count[0, place] = encoded.count[0]
    state.scores[0, place] = encoded.scores[0]
    state.class_scores[0, place] = encoded.class_scores[0]
    state.cover[0, place] = encoded.cover[0]
    state.frame[0] += 1
    return replace(state, codes=((*state.codes[0], tuple(rle.decode("ascii") for rle in rles)),))


def _clip(
    config: MaskPropConfig, branch: Propagation, state: MaskPropState, middle: int
) -> tuple[Tracks, MaskPropState]:
    """The oldest frame that waits, of which everything around it was seen: its objects go on with their tracks.
    `state` is written into."""
    place, here = middle % (config.reach + 1), middle % config.clip_length
    found = int(state.count[0, place])
    state.track[0, here] = FREE
    state.clips[0, here] = 0
    if found:
        state.clips[0, here, :found] = clip_masks(config, branch, state, middle)
        slots = _follow(config, state, middle, found)
        state.track[0, here, :found] = torch.tensor(slots, device=state.track.device)
        state.weigh(0, slots, state.class_scores[0, place, :found])
    shown = state.track[0, here, :found]
    ids, scores = state.track_id[0, shown].tolist(), state.scores[0, place, :found].tolist()
    masks = CodedMasks(state.size_of(0), [], [], [code.encode() for code in state.codes[0][0]])
    over = _out_of_reach(config, state, middle)
    verdicts = [state.verdict(0, slot) for slot in over]
    state.track_id[0, over] = FREE
    return Tracks([Sighting(middle, ids, scores, masks)], verdicts), replace(state, codes=(state.codes[0][1:],))


def clip_masks(
    config: MaskPropConfig, branch: Propagation, state: MaskPropState, middle: int
) -> UInt8[Tensor, "n W P"]:
    """What the objects of a frame look like in every frame of its clip. In its own each is as it was found there."""
    place, here = middle % (config.reach + 1), middle % config.clip_length
    cover = state.cover[0, place, : int(state.count[0, place])]
    frames = [frame for frame in _frames(config, state, middle) if frame != middle]
    bits = state.clips.new_zeros(len(cover), *state.clips.shape[3:])
    bits[:, here] = packed(cover)
    if frames:
        at = [frame % config.clip_length for frame in frames]
        target = state.features[0, at]
        source, masks = state.features[0, here].expand_as(target), cover.expand(len(at), *cover.shape)
        there = torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device)
        bits[:, at] = packed(branch(source, target, masks, there)).transpose(0, 1)
    return bits


def _follow(config: MaskPropConfig, state: MaskPropState, middle: int, found: int) -> list[int]:
    """The slot of each object's track, of a new one where none fits."""
    own = unpacked(state.clips[0, middle % config.clip_length, :found])
    earlier = torch.arange(max(0, middle - 2 * config.reach), middle, device=state.track.device)
    tracks = state.track[0, earlier % config.clip_length]  # (clips, N)
    clip, slot = (tracks != FREE).nonzero(as_tuple=True)
    before = unpacked(state.clips[0, earlier[clip] % config.clip_length, slot])
    live = torch.tensor(state.live(0), dtype=torch.long, device=own.device)
    match = linking.matching(own, before, _shared(config, state, middle, earlier[clip]))
    columns = linking.assign(linking.affinity(match, tracks[clip, slot], live), config.link_iou)
    free = iter(state.free(0))
    slots = [int(live[column]) if column != NEW else next(free) for column in columns]
    for n, column in enumerate(columns):
        if column == NEW:
            state.begin(0, slots[n])
    return slots


def _frames(config: MaskPropConfig, state: MaskPropState, middle: int) -> range:
    """Of the clip around a frame, as far as they were seen."""
    return range(max(0, middle - config.reach), min(int(state.frame[0]), middle + config.reach + 1))


def _shared(
    config: MaskPropConfig, state: MaskPropState, middle: int, earlier: Int[Tensor, " K"]
) -> Bool[Tensor, "K W"]:
    """By place in the state: frames of this clip that one around an earlier frame has, too."""
    frames = torch.tensor(_frames(config, state, middle), device=earlier.device)
    shared = torch.zeros(len(earlier), config.clip_length, dtype=torch.bool, device=earlier.device)
    shared[:, frames % config.clip_length] = frames <= earlier[:, None] + config.reach
    return shared


def _out_of_reach(config: MaskPropConfig, state: MaskPropState, middle: int) -> list[int]:
    """Tracks with which no later clip shares a frame."""
    near = torch.arange(max(0, middle + 1 - 2 * config.reach), middle + 1, device=state.track.device)
    seen = set(state.track[0, near % config.clip_length].flatten().tolist())
    return [slot for slot in state.live(0) if slot not in seen]
