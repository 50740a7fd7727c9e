"""Checks of what IDOL learns from and how it tracks: matching, losses with gradients, association, whole videos."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.idol import association, losses, matching, tracker
from vis_models.idol.config import IdolConfig
from vis_models.idol.state import IdolEncoded, IdolState
from vis_models.losses import dice
from vis_models.truths import masks_at_cells
from vis_models.types import VideoInfo

from .case import NETWORK, OPERATOR, SEQUENCE_GRADIENT, Case

PIXELS = 1e-4  # share of the pixels of a thresholded map that may differ


def dice_forms(case: Case) -> None:
    for form in ("detr", "condinst", "soft_iou"):
        logits = case["in.logits"].clone().requires_grad_()
        found = dice(logits, case["in.targets"], form)  # type: ignore[arg-type]
        case.close(f"out.{form}", found, OPERATOR)
        if f"out.{form}_grad" in case:
            found.sum().backward()
            case.close(f"out.{form}_grad", logits.grad, OPERATOR)


def _objects(case: Case) -> Iterator[tuple[int, slice]]:
    """Number of each frame, and where its objects are."""
    first = 0
    for frame, count in enumerate(case["in.num_gt"].tolist()):
        yield frame, slice(first, first + count)
        first += count


def simota(case: Case) -> None:
    for frame, own in _objects(case):
        chances, boxes = case["in.logits"][frame].sigmoid(), case["in.boxes"][frame]
        true = case["in.gt_boxes"][own]
        given = matching.costs(chances, boxes, true, case["in.gt_labels"][own])
        objects, best = matching.assign(given)
        case.same(f"out.gt_of_query_{frame}", objects)
        case.same(f"out.best_query_of_gt_{frame}", best)
        if f"out.cost_{frame}" in case:
            within, core = matching.places(boxes, true)
            case.same(f"out.in_box_or_centre_{frame}", (within | core).any(1))
            case.same(f"out.in_box_and_centre_{frame}", within & core)
            case.close(f"out.cost_{frame}", given.cost, OPERATOR)
            case.close(f"out.iou_{frame}", given.overlap, OPERATOR)
            case.same(f"out.dynamic_k_{frame}", given.shares(matching.POSITIVES))


def criterion(case: Case) -> None:
    logits, boxes, masks = (case[f"in.{name}"].clone().requires_grad_() for name in ("logits", "boxes", "mask_logits"))
    firsts = torch.tensor([own.start for _, own in _objects(case)])
    matched = case["in.gt_of_query"] >= 0
    objects = (case["in.gt_of_query"] + firsts[:, None])[matched]
    labels = torch.full_like(case["in.gt_of_query"], -1)
    labels[matched] = case["in.gt_labels"][objects]
    count = matched.sum().float()
    true_masks = masks_at_cells(case["in.gt_masks"].bool(), (masks.shape[-2], masks.shape[-1]), stride=4)[objects]
    l1, giou = losses.box_losses(boxes[matched], case["in.gt_boxes"][objects], count)
    focal, overlap = losses.mask_losses(masks, true_masks.float(), count)
    terms = {
        "ce": losses.class_loss(logits, labels, count),
        "bbox": l1,
        "giou": giou,
        "mask": focal,
        "dice": overlap,
    }
    for name, value in terms.items():
        case.close(f"out.loss_{name}", value, OPERATOR)
    torch.stack(list(terms.values())).sum().backward()
    for name, given in (("logits", logits), ("boxes", boxes), ("masks", masks)):
        case.close(f"out.grad_{name}", given.grad, SEQUENCE_GRADIENT)


def contrastive(case: Case) -> None:
    key, reference = (case[f"in.hs_{name}"].clone().requires_grad_() for name in ("key", "ref"))
    pairs = []
    for frame, own in _objects(case):
        known = case["in.gt_valid"][own].bool()
        given = matching.costs(
            case["in.ref_class_prob"][frame], case["in.ref_boxes"][frame], case["in.gt_boxes"][own],
            case["in.gt_labels"][own],
        )  # fmt: skip
        positive, negative = (chosen & known for chosen in matching.contrasted(given))
        case.same(f"out.positive_{frame}", positive.T)
        case.same(f"out.not_negative_{frame}", (~negative & known).T)
        for number in known.nonzero().squeeze(1).tolist():
            query = int(case["in.key_query_of_gt"][own][number])
            liked, disliked = reference[frame, positive[:, number]], reference[frame, negative[:, number]]
            out = f"out.item{len(pairs)}."
            case.same(f"{out}num_pos", torch.tensor(len(liked)))
            case.same(f"{out}num_neg", torch.tensor(len(disliked)))
            case.same(f"{out}aux_count", torch.tensor(len(liked) + min(len(disliked), losses.SPARED * len(liked))))
            pairs.append((key[frame, query], liked, disliked))
    case.same("out.num_items", torch.tensor(len(pairs)))
    contrast = torch.stack([losses.contrast(*pair) for pair in pairs]).mean()
    cosine = torch.stack([losses.cosine_loss(*pair) for pair in pairs]).mean()
    case.close("out.loss_reid", contrast, OPERATOR)
    case.close("out.loss_reid_aux", cosine, OPERATOR)
    (contrast + cosine).backward()
    case.close("out.grad_key", key.grad, SEQUENCE_GRADIENT)
    case.close("out.grad_ref", reference.grad, SEQUENCE_GRADIENT)


def encoded(config: IdolConfig, boxes: Tensor, chances: Tensor, embedding: Tensor, logits: Tensor) -> IdolEncoded:
    """One frame whose detections are given, best first; those with the mask of a better one are left out."""
    kept = association.unlike_better(config, logits > 0)
    size = torch.tensor([[logits.shape[1] * config.mask_stride, logits.shape[2] * config.mask_stride]])
    count = torch.tensor([int(kept.sum())])
    return IdolEncoded(boxes[None, kept], chances[None, kept], embedding[None, kept], count, size, (logits[kept],))


def tracking(case: Case) -> None:
    classes = int(case["in.labels"].max()) + 1
    config = IdolConfig.released().model_copy(
        update={
            "num_classes": classes,
            "channels": case["in.embeddings"].shape[-1],
            "mask_nms_iou": float(case["in.mask_nms_threshold"]),
            "new_score": float(case["in.new_track_score"]),
            "keep_frames": int(case["in.memory_frames"]),
            "least_sightings": 0,
        }
    )
    state = IdolState.empty(config, [VideoInfo("", 96, 128)], torch.zeros(()))
    for t, valid in enumerate(case["in.valid"].bool()):
        if not valid.any():  # the published tracker is not asked about such a frame
            state = IdolState(*(value + (name == "frame") for name, value in vars(state).items()))
            continue
        own, out = valid.nonzero().squeeze(1), f"out.f{t}."
        embedding, logits = case["in.embeddings"][t, own], case["in.mask_logits"][t, own].float()
        labels, scores = case["in.labels"][t, own], case["in.scores"][t, own]
        chances = torch.zeros(len(own), classes).scatter(1, labels[:, None], scores[:, None])
        live = state.live(0)
        if f"{out}memory_ids" in case:
            held, seen = state.seen[0, live].clamp(max=config.memory), state.seen[0, live]
            known = association.remembered(config, state.bank[0, live], state.bank_scores[0, live], held)
            case.same(f"{out}memory_ids", state.track_id[0, live])
            case.close(f"{out}memory_embeddings", known, NETWORK)
            case.same(f"{out}memory_exist_frames", seen)
            alike = association.similarity(config, embedding, known, seen)
            case.close(f"{out}bisoftmax_before_mask_nms", alike, NETWORK)
        given = encoded(config, case["in.boxes"][t, own, :4], chances, embedding, logits)
        kept = own[association.unlike_better(config, logits > 0)]
        taken = association.begin(
            config, tracker.match(config, given, state, live), given.chances[0].amax(1), given.masks[0] > 0
        )
        ids, births = torch.full_like(case["in.labels"][t], -9), int(state.births[0])
        for place, column in zip(kept.tolist(), taken.tolist(), strict=True):
            if column == association.NEW:
                ids[place], births = births, births + 1
            else:
                other = {association.BACKDROP: -1, association.LEFT_OVER: -2}
                ids[place] = other[column] if column < 0 else int(state.track_id[0, live[column]])
        case.same(f"{out}id_of_detection", ids)
        said, state = tracker.step(config, given, state)
        assert sorted(said.sightings[0].track_ids) == sorted(int(id_) for id_ in ids if id_ >= 0)


def videos(case: Case) -> None:
    frames, _, classes = case["in.logits"].shape
    height, width = (int(side) for side in case["in.image_size"])
    original = (int(case["in.original_size"][0]), int(case["in.original_size"][1]))
    config = IdolConfig.released().model_copy(
        update={"num_classes": classes, "channels": case["in.embeddings"].shape[-1]}
    )
    state = IdolState.empty(config, [VideoInfo("", *original)], torch.zeros(()))
    masks: dict[int, dict[int, Tensor]] = {}
    verdicts, withdrawn = [], set()
    for t in range(frames):
        chances, corners = case["in.logits"][t].sigmoid(), box_ops.corners(case["in.boxes"][t])
        own = association.detections(config, chances, corners)
        logits = case["in.mask_logits"][t, own].float()
        given = encoded(config, corners[own], chances[own], case["in.embeddings"][t, own], logits)
        given = IdolEncoded(**vars(given) | {"frame_px": torch.tensor([[height, width]])})
        said, state = tracker.step(config, given, state)
        (sighting,) = said.sightings
        for id_, mask in zip(sighting.track_ids, sighting.masks.whole(), strict=True):
            masks.setdefault(id_, {})[t] = mask
        verdicts += said.verdicts
        withdrawn |= {*said.withdrawn}
    verdicts = sorted(verdicts + tracker.finish(config, state).verdicts, key=lambda verdict: verdict.track_id)
    assert not withdrawn & {verdict.track_id for verdict in verdicts}
    told = [
        (verdict.track_id, label, score)
        for verdict in verdicts
        for label, score in sorted([(verdict.category, verdict.score), *verdict.others])
        if score > config.class_score
    ]
    case.close("out.scores", torch.tensor([score for *_, score in told]), NETWORK)
    case.same("out.labels", torch.tensor([label for _, label, _ in told]))
    present = [[frame in masks[id_] for frame in range(frames)] for id_, *_ in told]
    case.same("out.present", torch.tensor(present))
    empty = torch.zeros(original, dtype=torch.bool)
    whole = torch.stack([torch.stack([masks[id_].get(t, empty) for t in range(frames)]) for id_, *_ in told])
    case.same("out.mask_area", whole.sum((2, 3)), share=1.0)
    expected = np.unpackbits(case["out.masks"].numpy(), axis=-1, count=original[1]).astype(bool)
    differ = (whole != torch.from_numpy(expected)).double().mean()
    assert differ <= PIXELS, f"{case.name}: {differ:.2%} of the masks' pixels differ"


CHECKS: dict[str, Callable[[Case], None]] = {
    "dice_losses": dice_forms,
    "idol_simota": simota,
    "idol_criterion": criterion,
    "idol_contrastive": contrastive,
    "idol_tracker": tracking,
    "idol_video_inference": videos,
}
SLOW: tuple[str, ...] = ()
