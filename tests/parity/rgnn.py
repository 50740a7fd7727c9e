"""Checks of RGNN: a clip from detections to losses and gradients, and the parts before and inside it."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.rgnn.appearance import box_map, mask_pool
from vis_models.rgnn.config import RgnnConfig
from vis_models.rgnn.graph import Graph
from vis_models.rgnn.layouts import rgnn_name
from vis_models.rgnn.model import NO_MASK_LOGIT, Rgnn
from vis_models.rgnn.state import FREE, SEEN, RgnnEncoded, RgnnState
from vis_models.rgnn.targets import closest_annotations, match_annotations
from vis_models.types import Detections, Objects, VideoInfo
from vis_models.yolact.model import Yolact
from vis_models.yolact.output import YolactOutput

from .case import NETWORK, RGNN, SEQUENCE_GRADIENT, Case, stats
from .layers import load_published
from .layouts import rgnn_detector_shapes, rgnn_shapes
from .weights import checkpoint, noise

PIXELS = 1e-4  # share of the pixels of a thresholded map that may differ
HEIGHT, WIDTH = 480, 864  # boxes are stored in pixels of such an image, whatever the size of the maps
GRAPH = {"edge0": "empty_edges", "edge": "edges", "tau0": "empty", "trk": "tracks", "det": "detections"}


class Recorder:
    """What functions of a model were given and gave back, in the order of the calls, while the model worked."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[tuple, Any]]] = {}

    def watch(self, owner: nn.Module, *names: str) -> None:
        for name in names:
            calls = self.calls.setdefault(name, [])
            setattr(owner, name, _watched(getattr(owner, name), calls))

    def given(self, name: str) -> list[tuple]:
        return [given for given, _ in self.calls[name]]

    def gave(self, name: str) -> list[Any]:
        return [gave for _, gave in self.calls[name]]


def _watched(function: Callable, calls: list[tuple[tuple, Any]]) -> Callable:
    def call(*given: Any) -> Any:
        gave = function(*given)
        calls.append((given, gave))
        return gave

    return call


class Clip:
    """A stored clip as the product takes it, and the released model that the case asks for."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.videos, self.length, slots, *maps = case["in.raw_segscores"].shape
        self.size = (4 * maps[0], 4 * maps[1])
        self.to_size = torch.tensor([self.size[1] / WIDTH, self.size[0] / HEIGHT] * 2)
        self.model = released(case, self.size, detections=slots, tracks=int(case["in.num_tracks"]))
        self.features = [self._features(t) for t in range(self.length)]
        self.frames = [self._frame(t) for t in range(self.length)]

    def _features(self, t: int) -> tuple[Tensor, Tensor]:
        seeds, sizes, scale = (
            self.case["in.feature_seeds"][t],
            self.case["in.feature_sizes"],
            self.case["in.feature_scale"],
        )
        c4, c5 = (
            noise(seed, (self.videos, channels, *size), scale).relu()
            for seed, channels, size in zip(seeds, (1024, 2048), sizes, strict=True)
        )
        return c4, c5

    def _frame(self, t: int) -> RgnnEncoded:
        found = Detections(
            boxes_px=self.case["in.det_boxes"][:, t] * self.to_size,
            class_logits=self.case["in.det_logits"][:, t],
            mask_logits=self.case["in.raw_segscores"][:, t].float(),
            valid=self.case["in.det_active"][:, t] == 1,
        )
        return self.model.attend(found, *self.features[t])

    @property
    def encoded(self) -> RgnnEncoded:
        """All frames, those of a clip in a row."""
        columns = ([getattr(frame, field.name) for frame in self.frames] for field in fields(RgnnEncoded))
        return RgnnEncoded(*(torch.stack(column, 1).flatten(0, 1) for column in columns))

    @property
    def objects(self) -> Objects:
        """Annotations; the first stored one is the background, in maps, boxes and labels."""
        numbers = torch.arange(1, self.case["in.anno_labels"].shape[1])[:, None, None]
        labels = (self.case["in.anno_labels"][:, 1:] - 1).clamp(min=0)
        return Objects(
            masks=self.case["in.anno_map"][:, :, None] == numbers,
            boxes_px=self.case["in.anno_boxes"][:, :, 1:] * self.to_size,
            visible=self.case["in.anno_active"][:, :, 1:] == 1,
            labels=labels,
            crowd=torch.zeros_like(labels, dtype=torch.bool),
        )


def released(case: Case, size: tuple[int, int] = (HEIGHT, WIDTH), **changes: Any) -> Rgnn:
    """The authors' model with the weights of a case, out of a checkpoint in their layout."""
    preset = RgnnConfig.released()
    detector = preset.detector.model_copy(update={"image_size": size})
    model = Rgnn(preset.model_copy(update={"detector": detector} | changes)).eval()
    state = checkpoint(rgnn_shapes(50), case.overrides)
    report = load_published(model, {"net": state})
    assert report.loaded == len(state)
    assert report.missing == report.unexpected == report.reshaped == []
    return model


# ---- a clip --------------------------------------------------------------------------------------------------


def sequence(case: Case) -> None:
    clip = Clip(case)
    model = clip.model
    log = Recorder()
    log.watch(model, "_appearances", "_graph", "_reason", "_trust", "advance")
    for block in model.blocks:
        log.watch(block, "exchange", "settle")
    terms = model.encoded_loss(clip.encoded, clip.objects)
    for t in range(clip.length):
        inputs(clip, t, log)
        graph(clip, t, log)
        memory(clip, t, log)
    losses(clip, terms)
    answers(clip)


def among(case: Case, key: str, ours: Tensor, which: Tensor) -> None:
    """Compare where it means something: `which` tracks, detections or pairs; elsewhere the numbers are undefined."""
    which = which.view(*which.shape, *(1 for _ in ours.shape[which.ndim :]))
    case.close(key, ours, RGNN, where=which.expand_as(ours))


def inputs(clip: Clip, t: int, log: Recorder) -> None:
    """Appearances of the detections and of the frame, and the memory that the graph meets."""
    case, model, frame, key = clip.case, clip.model, clip.frames[t], f"out.f{t}"
    for name, layer, maps in zip(
        ("c4", "c5"), (model.appearance_c4, model.appearance_c5), clip.features[t], strict=True
    ):
        projected = layer(maps.movedim(1, -1)).movedim(-1, 1)
        case.stats(f"{key}.app_map_{name}_stats", projected, RGNN)
    inside = box_map(frame.boxes_px, (frame.mask_logits.shape[-2], frame.mask_logits.shape[-1]), clip.size)
    case.close(f"{key}.box_map_sum", inside.sum((-2, -1)) * frame.valid, 0)
    looks, scene = log.gave("_appearances")[t]
    among(case, f"{key}.det_appearance", looks, frame.valid)
    case.close(f"{key}.frame_appearance", scene, RGNN)
    *_, state, existing = log.given("_graph")[t]
    case.same(f"{key}.active_before", state.status)
    appearances(case, key, "before", state)
    boxes = state.boxes_px / clip.to_size
    among(case, f"{key}.trk_boxes_before", boxes * (state.status == SEEN)[..., None], existing)


def appearances(case: Case, key: str, when: str, state: RgnnState) -> None:
    alive = state.status != FREE
    among(case, f"{key}.trk_appearance_mean_{when}", state.mean, alive)
    among(case, f"{key}.trk_appearance_var_{when}", state.variance, alive)
    case.close(f"{key}.tau0_appearance_mean_{when}", state.empty_mean, RGNN)
    case.close(f"{key}.tau0_appearance_var_{when}", state.empty_variance, RGNN)


def graph(clip: Clip, t: int, log: Recorder) -> None:
    """What enters the graph network, each of its stages, and its logits."""
    blocks = range(2 * t, 2 * t + 2)
    stages = [stage for index in blocks for stage in (log.gave("exchange")[index], log.gave("settle")[index])]
    compare_graph(clip.case, f"out.f{t}.in", log.gave("_graph")[t])
    for index, stage in enumerate(stages):
        compare_graph(clip.case, f"out.f{t}.layer{index}", stage)
    final, match, init = log.gave("_reason")[t]
    pairs = final.track_mask[:, :, None] & final.detection_mask[:, None]
    clip.case.close(f"out.f{t}.match_logits", match.masked_fill(~pairs, -1e5), RGNN)
    clip.case.close(f"out.f{t}.init_logits", init.masked_fill(~final.detection_mask, -1e5), RGNN)


def compare_graph(case: Case, key: str, ours: Graph) -> None:
    tracks, detections = ours.track_mask, ours.detection_mask
    which = {"edge0": detections, "edge": tracks[:, :, None] & detections[:, None], "trk": tracks, "det": detections}
    for theirs, part in GRAPH.items():
        among(
            case, f"{key}.{theirs}", getattr(ours, part), which.get(theirs, torch.ones(len(tracks), dtype=torch.bool))
        )


def memory(clip: Clip, t: int, log: Recorder) -> None:
    """Decisions, and every track after the frame."""
    case, key = clip.case, f"out.f{t}"
    state, decisions = log.gave("advance")[t]
    alive, seen = state.status != FREE, state.status == SEEN
    case.same(f"{key}.active_after", state.status)
    case.same(f"{key}.born", decisions.born)
    case.same(f"{key}.assigned_detection", torch.where(seen, decisions.detection, -1))
    among(case, f"{key}.trk_embedding", state.embedding, alive)
    among(case, f"{key}.trk_cell", state.cell, alive)
    among(case, f"{key}.trk_class_logits", state.class_logits, alive)
    case.close(f"{key}.tau0_embedding", state.empty_embedding, RGNN)
    case.close(f"{key}.tau0_cell", state.empty_cell, RGNN)
    for name, value in zip(("kappa", "nu", "sample_var"), log.gave("_trust")[2 * t], strict=True):  # then tau_0
        among(case, f"{key}.{name}", value[..., 0], seen)
    appearances(case, key, "after", state)
    among(case, f"{key}.trk_boxes_after", state.boxes_px / clip.to_size * seen[..., None], alive)


def losses(clip: Clip, terms: dict[str, Tensor]) -> None:
    """Targets, the four losses, and the gradient of every weight."""
    case, objects = clip.case, clip.objects
    truths = [(frame, objects.boxes_px[:, t], objects.visible[:, t]) for t, frame in enumerate(clip.frames)]
    case.same("out.det_anno_primary", torch.stack([match_annotations(*truth) for truth in truths], 1) + 1)
    case.same("out.det_anno_best", torch.stack([closest_annotations(*truth)[1] for truth in truths], 1) + 1)
    for name, ours in {"match_x4": "match", "init": "init", "score": "score", "seg": "seg"}.items():
        case.close(f"out.loss_{name}", terms[ours], RGNN)
    total = torch.stack(list(terms.values())).sum()
    case.close("out.loss_total", total, RGNN)
    total.backward()
    weights = dict(clip.model.named_parameters())
    for key in case.outputs:
        if key.startswith("out.grad."):
            weight = weights[rgnn_name(key.removeprefix("out.grad."))]
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            summary = torch.cat([gradient.double().norm()[None], stats(gradient, 7)])
            case.close(key, summary, SEQUENCE_GRADIENT)


def answers(clip: Clip) -> None:
    """What the contract says of the clip: mask logits, one object per pixel, and a class and score for each track."""
    case, model = clip.case, clip.model
    log = Recorder()
    log.watch(model, "weigh_masks")
    state = model.start([VideoInfo(f"video {row}", *clip.size) for row in range(clip.videos)])
    pixels = torch.zeros(clip.videos, clip.length, *clip.size, dtype=torch.long)
    for t, frame in enumerate(clip.frames):
        tracks, state = model.step(frame, state)
        for row, said in enumerate(tracks):
            for track, mask in zip(said.sightings[0].track_ids, said.sightings[0].masks.whole(), strict=True):
                pixels[row, t][mask] = 1 + int((state.track_id[row] == track).nonzero())
        *_, where = log.given("weigh_masks")[t]
        logits = torch.full((*state.status.shape, *frame.mask_logits.shape[-2:]), NO_MASK_LOGIT)
        logits = logits.index_put(where.unbind(1), log.gave("weigh_masks")[t])
        case.stats(f"out.f{t}.mask_logits_stats", logits, RGNN)
        whole = logits.shape == case.shape(f"out.f{t}.mask_logits")
        case.close(f"out.f{t}.mask_logits", logits if whole else logits[:, :8, ::5, ::7], RGNN)
    case.same("out.instance_map", pixels, PIXELS)
    label, score = case["out.video_label"].clone(), case["out.video_score"].clone()  # free slots keep the stored ones
    for row, said in enumerate(model.finish(state)):
        for verdict in said.verdicts:
            slot = state.track_id[row] == verdict.track_id
            label[row, slot], score[row, slot] = verdict.category + 1, verdict.score
    case.same("out.video_label", label)
    case.close("out.video_score", score, RGNN)


# ---- parts ---------------------------------------------------------------------------------------------------


def appearance_update(case: Case) -> None:
    given = [case[f"in.{name}"] for name in ("embedding", "sample", "mean", "variance")]
    for rule in ("released", "paper", "exact"):
        model = released(case, variance_cross_term=rule)
        mean, variance = model._update_appearance(*given)
        case.close(f"out.variance_after_{rule}", variance, RGNN)
    case.close("out.mean_after", mean, RGNN)
    for name, value in zip(("kappa", "nu", "sample_variance"), model._trust(given[0]), strict=True):
        case.close(f"out.{name}", value[..., 0], RGNN)
    likelihood = (model._alike(*given[1:]) + 4) / 0.01
    case.close("out.log_likelihood_exact_2pi", likelihood, RGNN)
    case.close("out.log_likelihood_released", likelihood, RGNN)


def hard_assigner(case: Case) -> None:
    match, init, status = case["in.match_logits"], case["in.init_logits"], case["in.active_before"]
    (videos, tracks, detections), valid = match.shape, init > -1e5
    model = released(case, detections=detections, tracks=tracks)
    boxes, logits = torch.zeros(videos, detections, 4), torch.zeros(videos, detections, 41)
    pooled = torch.zeros(videos, detections + 1, 1)
    frame = RgnnEncoded(boxes, logits, torch.zeros(videos, detections, 1, 1), valid, pooled, pooled)
    state = replace(model.blank(videos, torch.zeros(videos, 2, dtype=torch.long)), status=status)
    after, detection, births = model._decide(frame, state, match, init > model.config.init_train_logit)
    case.same("out.assigned_detection", torch.where(after == SEEN, detection, -1))
    case.same("out.born", births.born)
    case.same("out.active_after", after)


def pooling(case: Case) -> None:
    raw, feature_map = case["in.raw_segscores"], case["in.feature_map"]
    inside = box_map(case["in.boxes"], (raw.shape[-2], raw.shape[-1]), (HEIGHT, WIDTH))
    case.same("out.box_map", inside)
    for key, rule in (("mask_pool", "softmax"), ("sigmoid_mask_pool", "sigmoid")):
        case.close(f"out.{key}", mask_pool(feature_map, raw + 10 * inside, rule)[:, :-1, 1:], RGNN)


def detector(case: Case) -> None:
    model = Yolact(RgnnConfig.released().detector).eval()
    state = checkpoint(rgnn_detector_shapes(50), case.overrides)
    report = load_published(model, {"net": state})
    assert report.loaded == len(state)
    assert report.missing == report.unexpected == report.reshaped == []
    with torch.no_grad():
        output = model.outputs(noise(case["in.input_seed"], (1, 3, HEIGHT, WIDTH)))
    for name, values in zip(("s4", "s8", "s16"), output.features, strict=True):
        case.stats(f"out.bb_feats_{name}_stats", values, NETWORK)
    boxes = model.boxes_px(output.boxes, model.priors)
    rows = slice(None, None, 131)
    named = {"loc": output.boxes, "conf": output.logits, "maskcoeffs": output.coefficients, "boxes": boxes}
    for name, values in named.items():
        case.close(f"out.yolact_{name}", values[0, rows], NETWORK)
        case.stats(f"out.yolact_{name}_stats", values, NETWORK)
    case.close("out.priors", box_ops.corners(model.priors)[rows] * torch.tensor([WIDTH, HEIGHT] * 2), NETWORK)
    case.same("out.num_priors", torch.tensor(len(model.priors)))
    prototypes = output.prototypes[0].permute(1, 2, 0)
    case.close("out.proto", prototypes[::9, ::9], NETWORK)
    case.stats("out.proto_stats", prototypes, NETWORK)
    case.close("out.semantic", output.semantic[0, :, ::9, ::9], NETWORK)


def detection_filter(case: Case) -> None:
    boxes, prototypes = case["in.boxes"], case["in.proto"].permute(0, 3, 1, 2)
    config = RgnnConfig.released()
    small = {"backbone": ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1)), "channels": 8, "prototype_channels": 8}
    clipped = {"clip_to_last_pixel": False}  # what enters the filter is cut off already
    model = Yolact(config.detector.model_copy(update=small | clipped))  # its network is not asked
    model.priors = box_ops.centre_size(boxes[0] / torch.tensor([WIDTH, HEIGHT] * 2))  # every box is its own prior
    none = torch.zeros(1, 1, 1, 1)
    output = YolactOutput(torch.zeros_like(boxes), case["in.conf"], case["in.coef"], prototypes, none, (none,) * 3)
    found = model.detect(output, int(case["in.max_num_detections"]), config.min_score, config.nms_iou)
    case.same("out.active", found.valid)
    case.close("out.boxes", found.boxes_px, RGNN)
    case.close("out.logits", found.class_logits, RGNN)
    case.close("out.raw_segscores", found.mask_logits.masked_fill(~found.valid[..., None, None], -1e4), RGNN)
    height, width = prototypes.shape[-2:]
    case.same("out.box_map", box_map(found.boxes_px, (height, width), (4 * height, 4 * width)))


CHECKS: dict[str, Callable[[Case], None]] = {
    "rgnn_sequence": sequence,
    "rgnn_appearance_update": appearance_update,
    "rgnn_hard_assigner": hard_assigner,
    "rgnn_mask_pool": pooling,
    "rgnn_detector": detector,
    "rgnn_detection_filter": detection_filter,
}
SLOW = ("rgnn_sequence_fullsize", "rgnn_detector_")
