"""One frame of each video: what is found in it given the frame before, and what becomes of the tracks.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021,
section 3.6. Ours, as the paper is silent: the filters that are carried are those that the reference frame's own fused
features told; a track has one class for life, or where class does not decide the one that is likeliest in all.

Axes: B videos, N detections of a video, M tracks of a video, R tracks of all videos, L levels, C channels, P cells of
all levels, S classes, K parameters of a filter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.layers.box_nms import nms_in_groups
from vis_models.layers.video_masks import video_masks
from vis_models.track_slots import FREE
from vis_models.types import Masks, Sighting, Tracks, Verdict
from vis_models.vis_stg import association, centres
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.graph import Fused, Instances
from vis_models.vis_stg.grid import Grid
from vis_models.vis_stg.network import Told, VisStgNetwork
from vis_models.vis_stg.state import VisStgEncoded, VisStgState


@dataclass(frozen=True)
class Detected:
    """Of one video, best first."""

    boxes_px: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int[Tensor, " N"]
    cells: Int[Tensor, " N"]
    chances: Float[Tensor, "N S"]
    """Of every class; where class decides what can be one object, of its own alone."""


@dataclass(frozen=True)
class Seen:
    """The new frame of each video through the network."""

    grid: Grid
    features: Float[Tensor, "B C P"]
    """Of the frames by themselves,"""
    fused: Float[Tensor, "B C P"]
    """and with the frames before."""
    graph: Fused | None
    live: list[list[int]]
    """Slots of each video's tracks, which are the graph's instances in this order."""
    told: Told
    found: list[Detected]
    nodes: Sequence[Float[Tensor, "_ L C"]]
    """What the detections look like to the graph of the next frame,"""
    filters: Sequence[Float[Tensor, "_ K"]]
    """and what makes their masks, joined with what did in the frame before."""


def step(
    config: VisStgConfig, network: VisStgNetwork, encoded: VisStgEncoded, state: VisStgState
) -> tuple[list[Tracks], VisStgState]:
    """The next frame of each video."""
    state = state.own()
    forgotten = [_forget(config, state, row) for row in range(len(state))]
    seen = look(config, network, encoded, state)
    size_px = (int(encoded.frame_px[0, 0]), int(encoded.frame_px[0, 1]))
    said = [_follow(config, network, seen, state, row, size_px, forgotten[row]) for row in range(len(state))]
    _keep_reference(network, seen, state)
    return said, replace(state, frame=state.frame + 1)


def finish(state: VisStgState, row: int) -> Tracks:
    """Verdicts of one video's open tracks."""
    return Tracks([], [state.verdict(row, slot) for slot in state.live(row)])


def look(config: VisStgConfig, network: VisStgNetwork, encoded: VisStgEncoded, state: VisStgState) -> Seen:
    """What the network says of each new frame; a film's first frame has no reference."""
    features = encoded.features
    grid = network.grid((int(encoded.frame_px[0, 0]), int(encoded.frame_px[0, 1])))
    live = [state.live(row) for row in range(len(state))]
    row = torch.tensor([row for row, slots in enumerate(live) for _ in slots], dtype=torch.long, device=features.device)
    slot = torch.tensor([slot for slots in live for slot in slots], dtype=torch.long, device=features.device)
    instances = Instances(state.nodes[row, slot], box_ops.centre_size(state.boxes_px[row, slot])[:, :2], row)
    first = (state.frame == 0)[:, None, None]
    before = torch.where(first, features, state.features) if state.features.shape[1] else None
    fused, graph = network.fuse(grid, features, before, instances)
    told = network.tell(grid, fused)
    found = detect(config, grid, told)
    counts, cells = [len(each.cells) for each in found], torch.cat([each.cells for each in found])
    frame = torch.arange(len(found), device=cells.device).repeat_interleave(torch.tensor(counts, device=cells.device))
    filters = network.filters(grid, told, frame, cells)
    if before is not None:
        joined = network.filters(grid, told, frame, cells, state.filters, features - before)
        filters = torch.where(first[frame, :, 0], filters, joined)
    nodes = network.nodes(grid, features, torch.cat([each.boxes_px for each in found]), frame)
    return Seen(grid, features, fused, graph, live, told, found, nodes.split(counts), filters.split(counts))


def detect(config: VisStgConfig, grid: Grid, told: Told) -> list[Detected]:
    """The peaks of each frame that are likely, without what is seen twice."""
    decoded = centres.decode(grid, told.heat.sigmoid(), told.size, told.offset, config.detections)
    found = []
    for heat, boxes, scores, labels, cells in zip(told.heat, *vars(decoded).values(), strict=True):
        likely = scores >= config.min_score
        kept = likely.nonzero().flatten()
        groups = labels[kept] if config.same_class else torch.zeros_like(kept)  # else one object would be several
        kept = kept[nms_in_groups(boxes[kept], scores[kept], groups, config.nms_iou, False)]
        every = heat[:, cells[kept]].T.sigmoid()
        chances = every * F.one_hot(labels[kept], every.shape[1]) if config.same_class else every
        found.append(Detected(boxes[kept], scores[kept], labels[kept], cells[kept], chances))
    return found


def _follow(
    config: VisStgConfig,
    network: VisStgNetwork,
    seen: Seen,
    state: VisStgState,
    row: int,
    size_px: tuple[int, int],
    ended: list[Verdict],
) -> Tracks:
    """One video: which detection continues which track, and what each track remembers of it."""
    found, live = seen.found[row], seen.live[row]
    embedded = _embedded(network, seen, row)
    scores = _scores(network, seen, state, row, embedded)
    track = association.assign(scores, config.match_score if config.association != "embedding" else 0.0).tolist()
    taken = [live[column] if column >= 0 else -1 for column in track]
    wanted = [detection for detection, slot in enumerate(taken) if slot < 0]
    free = state.for_births(row, {slot for slot in taken if slot >= 0}, config.slot_recycling)
    for detection, slot in zip(wanted, free, strict=False):
        ended += [state.verdict(row, slot)] if state.track_id[row, slot] != FREE else []
        state.begin(row, slot)
        taken[detection] = slot
    own = [detection for detection, slot in enumerate(taken) if slot >= 0]
    slots = [taken[detection] for detection in own]
    cells = found.cells[own]
    state.boxes_px[row, slots] = found.boxes_px[own]
    state.cell[row, slots] = cells
    if config.propagation:
        state.filter[row, slots] = seen.told.filters[row][:, cells].T
    state.label[row, slots] = found.labels[own]
    if embedded is not None:
        state.embedding[row, slots] = embedded[own]
    frames = torch.full_like(cells, row)
    state.nodes[row, slots] = seen.nodes[row][own]
    state.weigh(row, slots, found.chances[own])
    state.last_frame[row, slots] = state.frame[row]
    logits = network.masks(seen.grid, seen.told, seen.filters[row][own], frames, cells)
    masks = masks_of(logits, config.mask_stride, size_px, state.size_of(row))
    sighting = Sighting(int(state.frame[row]), state.track_id[row, slots].tolist(), found.scores[own].tolist(), masks)
    return Tracks([sighting], ended, max(0, len(wanted) - len(free)))


def masks_of(logits: Float[Tensor, "N h w"], stride: int, frame_px: tuple[int, int], size_px: tuple[int, int]) -> Masks:
    """At the video's own size: to the pixels of the padded input, cut to the picture, and from there. They may share
    pixels."""
    if not len(logits):
        return Masks(size_px, [], [])
    whole = F.interpolate(logits[:, None], scale_factor=stride, mode="bilinear", align_corners=False)[:, 0]
    cut = whole[:, : frame_px[0], : frame_px[1]]
    return video_masks(cut, [len(cut)], [size_px], background=0.0, exclusive=False)[0]


def _embedded(network: VisStgNetwork, seen: Seen, row: int) -> Float[Tensor, "N D"] | None:
    if network.embedding is None:
        return None
    said = network.along(network.embedding, seen.grid, seen.fused[[row]])[0]
    return said[:, seen.found[row].cells].T


def _scores(
    network: VisStgNetwork, seen: Seen, state: VisStgState, row: int, embedded: Float[Tensor, "N D"] | None
) -> Float[Tensor, "N M"]:
    """How much each detection is each track."""
    found, live = seen.found[row], seen.live[row]
    alike = (found.labels[:, None] == state.label[row, live]) | (not network.config.same_class)
    if embedded is not None:
        return association.among(association.by_embedding(embedded, state.embedding[row, live]), alike)
    if network.way_back is not None:
        said = network.along(network.way_back, seen.grid, seen.fused[[row]])[0][:, found.cells].T
        level, _ = seen.grid.places(found.cells.device)
        stride = torch.tensor(seen.grid.strides, device=found.cells.device)[level[found.cells]]
        was = found.boxes_px + (said * stride[:, None]).repeat(1, 2)
        return association.among(box_ops.iou(was, state.boxes_px[row, live]), alike)
    assert seen.graph is not None
    assert network.same is not None
    first = sum(map(len, seen.live[:row]))
    edge = seen.graph.edges.number[first : first + len(live)][:, found.cells].T
    chance = found.scores.new_zeros(edge.shape)
    kept = (edge >= 0) & alike
    chance[kept] = network.same(seen.graph.relations[edge[kept]]).float().sigmoid()[:, 0]
    return chance


def _keep_reference(network: VisStgNetwork, seen: Seen, state: VisStgState) -> None:
    """The new frame becomes the reference. Where a track is out of sight, its old filter takes the place of the new."""
    if state.features.shape[1]:
        state.features.copy_(seen.features)
    if not network.config.propagation:
        return
    state.filters.copy_(seen.told.filters)
    for row, slots in enumerate(seen.live):
        lost = [slot for slot in slots if state.last_frame[row, slot] < state.frame[row]]
        state.filters[row][:, state.cell[row, lost]] = state.filter[row, lost].T


def _forget(config: VisStgConfig, state: VisStgState, row: int) -> list[Verdict]:
    """About tracks that were out of sight for too long; their slots become free."""
    over = state.out_of_sight(row, config.keep_frames)
    verdicts = [state.verdict(row, slot) for slot in over]
    state.track_id[row, over] = FREE
    return verdicts
