"""The training objective of the second stage (section 3.5): what each decision of a clip's frames should have been.

Nothing is divided by the number of tracks or detections, as in the paper. Source and axes: as `model.py`; every
`model` is an `Rgnn`.
"""

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.layers.resize import resize_logits
from vis_models.losses import lovasz_softmax
from vis_models.rgnn import ablations
from vis_models.rgnn.appearance import BACKGROUND_LOGIT, NO_MASK_LOGIT
from vis_models.rgnn.state import FREE, SEEN, Decisions, RgnnEncoded, RgnnState
from vis_models.rgnn.targets import first_owner, match_annotations
from vis_models.types import Objects


def encoded_loss(model: Any, encoded: RgnnEncoded, objects: Objects) -> dict[str, Tensor]:
    """Stage 2 from encoded frames, B*L rows with the frames of a clip in a row (section 3.5).

    Nothing is divided by the number of tracks or detections, as in the paper.
    """
    videos, length = objects.visible.shape[:2]
    state = model.blank(videos, torch.zeros(videos, 2, dtype=torch.long))
    identity = torch.full_like(state.status, -1)  # annotation of each track, -1 for background
    by_clip = [getattr(encoded, field.name).unflatten(0, (videos, length)) for field in fields(encoded)]
    weights = state.embedding.new_tensor(model.config.frame_weights[-length:])
    terms = {name: state.embedding.new_zeros(()) for name in ("score", "match", "init")}
    statuses, identities, detections, embeddings = [], [], [], []
    for frame in range(length):
        now = RgnnEncoded(*(column[:, frame] for column in by_clip))
        truth = match_annotations(now, objects.boxes_px[:, frame], objects.visible[:, frame] & ~objects.crowd)
        state, decisions = model.advance(now, state, model.config.init_train_logit)
        owner = first_owner(identity, decisions.existing)
        match, init = decision_terms(model, now, decisions, truth, identity, owner)
        terms["match"] += model.config.match_weight * match / (videos * length)
        terms["init"] += init / (videos * length)
        if model.config.scoring == "learned":
            scored = decisions.existing & ~decisions.ended  # a track in a taken slot is new, of another object
            score = score_term(model, state, scored, identity, first_owner(identity, scored), objects.labels)
            terms["score"] += weights[frame] * score / videos
        identity = torch.where(decisions.born, truth.gather(1, decisions.detection), identity)
        statuses.append(state.status)
        identities.append(identity)
        detections.append(decisions.detection)
        embeddings.append(state.embedding)
    if model.config.association == "masktrack":
        return terms  # the detector's masks as they are
    looked_at = torch.randperm(length, device=identity.device)[: model.config.loss_frames]
    seen = [status == SEEN for status in statuses]
    owners = [owners_of(*frame, state, identity) for frame in zip(statuses, identities, strict=True)]
    columns = (torch.stack(column, 1) for column in (seen, owners, detections, embeddings))
    rows = [column[:, looked_at].flatten(0, 1) for column in columns]
    shown = RgnnEncoded(*(column[:, looked_at].flatten(0, 1) for column in by_clip))
    terms["seg"] = segmentation_term(model, shown, objects.masks[:, looked_at].flatten(0, 1), *rows)
    return terms


def owners_of(
    status: Int[Tensor, "B M"],
    identity: Int[Tensor, "B M"],
    last: RgnnState,
    last_identity: Int[Tensor, "B M"],
) -> Int[Tensor, "B M"]:
    """The annotation whose pixels each track owns in a frame, -1 for none.

    As released, also before its birth: an object that has no track yet is not background.
    """
    known = torch.where(status != FREE, identity, last_identity)
    return torch.where(first_owner(known, last.status != FREE), known, -1)


def decision_terms(
    model: Any,
    encoded: RgnnEncoded,
    decisions: Decisions,
    truth: Int[Tensor, "B N"],
    identity: Int[Tensor, "B M"],
    owner: Bool[Tensor, "B M"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """A detection belongs to the first track of its annotation, and starts a track where there is none."""
    known = owner[:, :, None] & (truth[:, None] == identity[:, :, None])
    if model.config.association == "masktrack":
        match = ablations.masktrack_loss(decisions.match_logits, decisions.existing, known, truth >= 0)
        return match, torch.zeros_like(match)
    pairs = decisions.existing[:, :, None] & encoded.valid[:, None]
    new = (truth >= 0) & ~known.any(1)
    match_logits, init_logits = decisions.match_logits, decisions.init_logits
    match = F.binary_cross_entropy_with_logits(match_logits, known.to(match_logits.dtype), reduction="none")
    init = F.binary_cross_entropy_with_logits(init_logits, new.to(init_logits.dtype), reduction="none")
    return (match * pairs).sum(), (init * encoded.valid).sum()


def score_term(
    model: Any,
    state: RgnnState,
    scored: Bool[Tensor, "B M"],
    identity: Int[Tensor, "B M"],
    owner: Bool[Tensor, "B M"],
    labels: Int[Tensor, "B A"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the tracks that the frame found: their object's class, or background."""
    real = owner if model.config.duplicate_target == "background" else identity >= 0
    target = torch.where(real, labels.gather(1, identity.clamp(min=0)) + 1, 0)
    loss = F.cross_entropy(state.class_logits.flatten(0, 1), target.flatten(), reduction="none")
    return (loss.view_as(target) * scored).sum()


def segmentation_term(
    model: Any,
    encoded: RgnnEncoded,
    truth: Bool[Tensor, "F A H W"],
    seen: Bool[Tensor, "F M"],
    owners: Int[Tensor, "F M"],
    detection: Int[Tensor, "F M"],
    embedding: Float[Tensor, "F M D"],
) -> Float[Tensor, ""]:
    """Lovasz-softmax of background and tracks against the annotations that tracks own, over all frames at once."""
    where = seen.nonzero()
    weighed = model.weigh_masks(encoded, detection, embedding, where)
    logits = weighed.new_full((*seen.shape, *weighed.shape[-2:]), NO_MASK_LOGIT)
    logits = logits.index_put(where.unbind(1), weighed)
    logits = torch.cat([torch.full_like(logits[:, :1], BACKGROUND_LOGIT), logits], 1)
    slots = torch.arange(1, seen.shape[1] + 1, device=seen.device)
    annotations = torch.arange(truth.shape[1], device=seen.device)
    slot = ((owners[:, :, None] == annotations) * slots[:, None]).amax(1)  # (F, A), 0 where no track owns it
    labels = (truth * slot[..., None, None]).amax(1)
    whole = resize_logits(logits, model.config.detector.image_size)
    return lovasz_softmax(model._thinned(whole).softmax(1), labels)
