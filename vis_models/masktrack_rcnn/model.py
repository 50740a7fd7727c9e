"""MaskTrack R-CNN: Mask R-CNN whose detections also say which object of the past they are.

Source: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, sections 3.2 to 3.4, over the detector of `mask_rcnn/`.

Axes: B videos side by side, F frames, N detection slots, M track slots, S classes, D channels of an embedding, R boxes
of all frames, L = 2 frames of a clip: query and reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.layers.roi_heads import BOX_CELLS
from vis_models.losses import nothing, track_loss
from vis_models.mask_rcnn import layouts
from vis_models.mask_rcnn.losses import Sampled
from vis_models.mask_rcnn.model import MaskRcnn, MaskRcnnEncoded, masks_of, slots
from vis_models.masktrack_rcnn import association
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.matching import NEW, columns, similarity
from vis_models.track_slots import FREE, VotedSlots, one_by_one
from vis_models.truths import Truth, sizes_of, truths_of
from vis_models.types import Clips, Frames, Objects, Sighting, Tracks, Verdict, VideoInfo


@dataclass(frozen=True)
class MaskTrackEncoded(MaskRcnnEncoded):
    """The detections of F frames, and what each looks like to the tracking head."""

    embedding: Float[Tensor, "F N D"]


@dataclass(frozen=True)
class MaskTrackState(VotedSlots):
    """The memory of B videos."""

    boxes_px: Float[Tensor, "B M 4"]
    """Where the track was seen last."""
    embedding: Float[Tensor, "B M D"]
    """As it was seen last."""
    label: Int[Tensor, "B M"]
    """The class with which it began: what the category cue asks for."""


class TrackHead(nn.Module):
    """Two linear layers; names are the original's."""

    def __init__(self, channels: int, width: int, final_relu: bool) -> None:
        super().__init__()
        self.fcs = nn.ModuleList([nn.Linear(channels * BOX_CELLS**2, width), nn.Linear(width, width)])
        self.final_relu = final_relu
        for linear in self.fcs:
            nn.init.normal_(linear.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def forward(self, pooled: Float[Tensor, "R K 7 7"]) -> Float[Tensor, "R D"]:
        features = self.fcs[1](self.fcs[0](pooled.flatten(1)).relu())
        return (features.relu() if self.final_relu else features).float()


class MaskTrackRcnn(nn.Module):
    """A `VideoModel`, trained end to end."""

    published = layouts.PUBLISHED

    def __init__(self, config: MaskTrackConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = MaskRcnn(config.detector)
        self.track_head = TrackHead(config.detector.channels, config.embedding, config.final_relu)

    def from_published(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        return layouts.renamed(state)

    def part(self, name: str) -> nn.Module:
        """`detector`: Mask R-CNN alone, on single frames. `whole`: all of it, on query and reference. `head`: what
        tracks alone, over a detector that stays as it is."""
        self.eval().requires_grad_(False)
        if name != "head":
            self.detector.trained()
        if name == "detector":
            return self.detector
        self.training = True
        self.track_head.train().requires_grad_(True)
        return self

    def frame_detector(self, name: str) -> MaskRcnn | None:
        return self.detector if name == "detector" else None

    def fusible(self) -> tuple[nn.Module, ...]:
        return (self.detector.backbone, self.detector.fpn) if self.config.frame_px else ()

    # ---- the contract ----------------------------------------------------------------------------------------

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return self.detector.frame_size(video)

    @torch.no_grad()
    def encode(self, frames: Frames) -> MaskTrackEncoded:
        """Detections, and their embeddings: features under the refined boxes, not under the proposals."""
        return self._with_embeddings(*self.detector.detect(frames.pixels))

    @torch.no_grad()
    def encode_objects(self, frames: Frames, objects: Objects) -> MaskTrackEncoded:
        """The paper's image oracle: boxes, classes and masks are those of the objects, all scores one."""
        given = self.detector.given(objects, (frames.pixels.shape[-2], frames.pixels.shape[-1]))
        return self._with_embeddings(given, self.detector.levels_of(frames))

    def _with_embeddings(self, found: MaskRcnnEncoded, levels: Sequence[Float[Tensor, "F _ _ _"]]) -> MaskTrackEncoded:
        frame, slot = found.valid.nonzero(as_tuple=True)
        features = self.track_head(self.detector.pooled(levels, found.boxes_px[frame, slot], frame))
        _, (embedding,) = slots(frame, len(found), found.valid.shape[1], (features,))
        return MaskTrackEncoded(**vars(found), embedding=embedding)

    @torch.no_grad()
    def start(self, videos: list[VideoInfo]) -> MaskTrackState:
        config, like = self.config, self.detector.mean
        shape = (len(videos), config.tracks)
        return MaskTrackState(
            **MaskTrackState.columns(videos, config.tracks, like.device),
            votes=like.new_zeros(*shape, config.classes, dtype=torch.long),
            score_sum=like.new_zeros(*shape),
            boxes_px=like.new_zeros(*shape, 4),
            embedding=like.new_zeros(*shape, config.embedding),
            label=like.new_zeros(*shape, dtype=torch.long),
        )

    @torch.no_grad()
    def step(self, encoded: MaskTrackEncoded, state: MaskTrackState) -> tuple[list[Tracks], MaskTrackState]:
        return one_by_one(self._step_one, encoded, state)

    @torch.no_grad()
    def finish(self, state: MaskTrackState) -> list[Tracks]:
        return [Tracks([], [state.verdict(row, slot) for slot in sorted(state.live(row))]) for row in range(len(state))]

    # ---- one frame of one video --------------------------------------------------------------------------------

    def _step_one(self, encoded: MaskTrackEncoded, state: MaskTrackState) -> tuple[Tracks, MaskTrackState]:
        state, found = state.own(), int(encoded.valid[0].sum())
        verdicts = self._forget(state)
        live = state.live(0)
        track = association.assign(self.config, self.scores(encoded, state, live))
        taken = [live[int(column)] if column >= 0 else int(column) for column in track]
        wanted = [n for n in range(found) if taken[n] == NEW]
        free = state.for_births(0, {slot for slot in taken if slot >= 0}, self.config.slot_recycling)
        for detection, slot in zip(wanted, free, strict=False):
            verdicts += [state.verdict(0, slot)] if state.track_id[0, slot] != FREE else []
            state.begin(0, slot)
            state.label[0, slot] = encoded.labels[0, detection]
            taken[detection] = slot
        own = association.winners(torch.tensor(taken, dtype=torch.long)).nonzero().flatten().tolist()
        slots_ = [taken[n] for n in own]
        state.boxes_px[0, slots_] = encoded.boxes_px[0, own]
        state.embedding[0, slots_] = encoded.embedding[0, own]
        state.see(0, slots_, encoded.labels[0, own], encoded.scores[0, own])
        masks = masks_of(encoded, 0, own, state.size_of(0), self.config.detector.pasting)
        sighting = Sighting(
            int(state.frame[0]), state.track_id[0, slots_].tolist(), encoded.scores[0, own].tolist(), masks
        )
        dropped = max(0, len(wanted) - len(free))
        return Tracks([sighting], verdicts, dropped), replace(state, frame=state.frame + 1)

    def scores(self, encoded: MaskTrackEncoded, state: MaskTrackState, live: Sequence[int]) -> Float[Tensor, "N _"]:
        """Eq. (4) of the detections of one frame and the tracks in these slots, after "a new object"."""
        valid = encoded.valid[0]
        same = encoded.labels[0, valid][:, None] == state.label[0, live]
        logits = similarity(encoded.embedding[0, valid], state.embedding[0, live])
        overlap = self.overlap(encoded, state, live)
        return association.score(self.config, logits, encoded.scores[0, valid], overlap, same)

    def overlap(self, encoded: MaskTrackEncoded, state: MaskTrackState, live: Sequence[int]) -> Float[Tensor, "N _"]:
        """IoU of the same, a track at its last box."""
        inclusive = encoded.boxes_px.new_tensor([0, 0, 1, 1]) * self.config.detector.plus_one
        own = encoded.boxes_px[0, encoded.valid[0]]
        return box_ops.iou(own + inclusive, state.boxes_px[0, live] + inclusive)

    def _forget(self, state: MaskTrackState) -> list[Verdict]:
        """About tracks that were out of sight for too long; their slots become free."""
        keep = self.config.keep_frames
        if keep is None:
            return []
        over = state.out_of_sight(0, keep)
        verdicts = [state.verdict(0, slot) for slot in over]
        state.track_id[0, over] = FREE
        return verdicts

    # ---- training ----------------------------------------------------------------------------------------------

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        """The five terms of Mask R-CNN on the query frame, where it learns, and which object of the reference frame its
        positives are.

        Raises:
            ValueError: clips that are no pairs.
        """
        if clips.frames.shape[1] != 2:
            raise ValueError(
                f"MaskTrack R-CNN learns from pairs, a query and a reference frame, got clips of "
                f"{clips.frames.shape[1]} frames: set the stage's sampling to pair"
            )
        truths, sizes, learns = truths_of(clips), sizes_of(clips), self.detector.training
        step = 1 if self.config.learn_reference and learns else 2
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            images = self.detector.normalised(clips.frames.flatten(0, 1), sizes)
            levels = self.detector.pyramid(images)
            learned = ([level[::step] for level in levels], (images.shape[-2], images.shape[-1]), sizes[::step])
            if learns:
                terms, sampled, pooled = self.detector.terms(*learned, truths[::step])
            else:
                terms, (_, sampled, pooled) = {}, self.detector.lessons(*learned, truths[::step])
        return terms | {
            "track": self.config.track_weight * self._track_loss(levels, truths, sampled, pooled, 2 // step)
        }

    def _track_loss(
        self,
        levels: Sequence[Float[Tensor, "F K _ _"]],
        truths: Sequence[Truth],
        sampled: Sampled,
        pooled: Float[Tensor, "R K 7 7"],
        stride: int,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of Eq. (2) over the positives of each query frame, whose mean is the loss.

        Args:
            stride: of the query frames among the frames of `sampled`.
        """
        query = sampled.positive & (sampled.frame % stride == 0)
        features = self.track_head(pooled[query])
        references = list(truths)[1::2]
        boxes = torch.cat([truth.boxes_px for truth in references])
        counts = [len(truth.boxes_px) for truth in references]
        of = torch.arange(len(references), device=boxes.device).repeat_interleave(
            torch.tensor(counts, device=boxes.device)
        )
        memory = self.track_head(self.detector.pooled([level[1::2] for level in levels], boxes, of)).split(counts)
        clip, index = sampled.frame[query] // stride, sampled.object[query]
        logits, targets = [], []
        for number, reference in enumerate(references):
            own = clip == number
            logits.append(similarity(features[own], memory[number]))
            targets.append(columns(truths[2 * number].slots[index[own]], reference.slots))
        return track_loss(logits, targets, self.config.track_normaliser) + nothing(self.track_head)
