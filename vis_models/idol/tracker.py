"""One frame of one video: detections to tracks, and what the memory bank keeps of them.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022, 3.3; where the paper is
silent, its released code. Differs from that code: a track that it deletes as noise after having told of it, and that
comes back, gets a new id here, as the old one was taken back.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.idol import association
from vis_models.idol.config import IdolConfig
from vis_models.idol.state import IdolEncoded, IdolState
from vis_models.masktrack_rcnn import association as cues
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.matching import NEW, similarity
from vis_models.track_slots import FREE
from vis_models.types import Sighting, Tracks, Verdict

CUES = MaskTrackConfig()
"""Weights of the cues beside embeddings, where these count (Table 6, "multi-cues")."""


def step(config: IdolConfig, encoded: IdolEncoded, state: IdolState) -> tuple[Tracks, IdolState]:
    """Both of one row."""
    state = state.own()
    frame, found = int(state.frame[0]), int(encoded.count[0])
    scores, labels = encoded.chances[0, :found].max(1)
    live = state.live(0)
    taken = association.begin(config, match(config, encoded, state, live), scores, encoded.masks[0] > 0)
    slots = [live[column] if column >= 0 else column for column in taken.tolist()]
    wanted = [detection for detection, slot in enumerate(slots) if slot == NEW]
    free = state.for_births(0, {slot for slot in slots if slot >= 0}, config.slot_recycling)
    verdicts = []
    for detection, slot in zip(wanted, free, strict=False):
        verdicts += _verdicts(config, state, [slot])
        state.seen[0, slot] = state.told[0, slot] = 0
        slots[detection] = slot
    own = [detection for detection, slot in enumerate(slots) if slot >= 0]
    shown = [slots[detection] for detection in own]
    _name(state, shown)
    _remember(state, shown, encoded, own, scores, labels, frame)
    masks = encoded.masks_of(0, own, state.size_of(0), config.mask_stride)
    sighting = Sighting(frame, state.track_id[0, shown].tolist(), scores[own].tolist(), masks)
    withdrawn = _withdraw(config, state, frame)
    over = state.out_of_sight(0, config.keep_frames - 1)
    verdicts += _verdicts(config, state, over)
    state.track_id[0, over] = FREE
    dropped = max(0, len(wanted) - len(free))
    return Tracks([sighting], verdicts, dropped, withdrawn), replace(state, frame=state.frame + 1)


def finish(config: IdolConfig, state: IdolState) -> Tracks:
    """Verdicts of one video's open tracks."""
    return Tracks([], _verdicts(config, state, state.live(0)))


def match(config: IdolConfig, encoded: IdolEncoded, state: IdolState, live: list[int]) -> Int[Tensor, " N"]:
    """The place in `live` of each detection's track, or what else it is."""
    found = int(encoded.count[0])
    embeddings, seen = encoded.embedding[0, :found], state.seen[0, live]
    held = seen.clamp(max=config.memory)
    known = association.remembered(config, state.bank[0, live], state.bank_scores[0, live], held)
    if config.match == "embedding":
        return association.assign(config, association.similarity(config, embeddings, known, seen), seen)
    scores, labels = encoded.chances[0, :found].max(1)
    overlap = box_ops.iou(encoded.boxes_px[0, :found], state.boxes_px[0, live])
    same = labels[:, None] == state.label[0, live]
    logits = similarity(embeddings.float(), known.float())
    return cues.assign(CUES, cues.score(CUES, logits, scores, overlap, same)).cpu()


def _name(state: IdolState, slots: list[int]) -> None:
    """A new id for each of these of which nothing was told, or all was taken back."""
    for slot in slots:
        if not state.told[0, slot]:
            state.begin(0, slot)


def _remember(
    state: IdolState,
    slots: list[int],
    encoded: IdolEncoded,
    own: list[int],
    scores: Float[Tensor, " N"],
    labels: Int[Tensor, " N"],
    frame: int,
) -> None:
    state.boxes_px[0, slots] = encoded.boxes_px[0, own]
    state.label[0, slots] = labels[own]
    state.bank[0, slots] = torch.cat([encoded.embedding[0, own][:, None], state.bank[0, slots][:, :-1]], 1)
    state.bank_scores[0, slots] = torch.cat([scores[own][:, None], state.bank_scores[0, slots][:, :-1]], 1)
    state.seen[0, slots] += 1
    state.told[0, slots] += 1
    state.chances[0, slots] += encoded.chances[0, own]
    state.last_frame[0, slots] = frame


def _withdraw(config: IdolConfig, state: IdolState, frame: int) -> tuple[int, ...]:
    """Ids of tracks that were none: seen too seldom, and not in the last two frames. The bank still knows them."""
    if frame < config.settled_frames:
        return ()
    noise = (state.track_id[0] != FREE) & (state.told[0] > 0) & (state.told[0] < config.least_sightings)
    noise &= state.last_frame[0] < frame - 1
    ids = tuple(sorted(state.track_id[0, noise].tolist()))
    state.told[0, noise] = 0
    return ids


def _verdicts(config: IdolConfig, state: IdolState, slots: list[int]) -> list[Verdict]:
    """About the tracks in these slots, where there is one and it was not taken back."""
    known = [slot for slot in slots if state.track_id[0, slot] != FREE and state.told[0, slot] > 0]
    return [state.verdict(0, slot, config.class_score) for slot in known]
