"""RGNN: tracks that a graph network associates, starts and scores, frame by frame.

Source: Johnander et al., "Video instance segmentation with recurrent graph neural networks",
GCPR 2021, over the detector of `yolact.py`. Equation and table numbers are the paper's. Where the
authors' released code differs there is a named switch with the values `paper` and `released`.

Axes: B videos side by side, F frames, L frames of a clip, M track slots, N detection slots,
D channels of an embedding, A channels of an appearance, C classes with background at 0.
"""

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from math import log, pi
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models import rgnn_ablations as ablations
from vis_models.configs import RgnnConfig
from vis_models.layers.resize import resize_logits
from vis_models.layers.video_masks import video_masks
from vis_models.losses import lovasz_softmax
from vis_models.types import Clips, Detections, Frames, Objects, Rows, Sighting, Tracks, Verdict, VideoInfo
from vis_models.yolact import Yolact

FREE, SEEN, KEPT = 0, 1, 2  # a slot is free; its track has a detection in this frame; it lives on without one
BACKGROUND_LOGIT = 10.0  # of every pixel, against which detections and tracks compete
NO_MASK_LOGIT = -20.0
INITIAL_VARIANCES = ("initial_variance_logit", "empty_initial_variance_logit")


@dataclass(frozen=True)
class RgnnEncoded(Rows):
    """What the frozen part says about F frames: detections and what to compute their appearance from."""

    boxes_px: Float[Tensor, "F N 4"]
    class_logits: Float[Tensor, "F N C"]
    mask_logits: Float[Tensor, "F N h w"]
    valid: Bool[Tensor, "F N"]
    pooled_c4: Float[Tensor, "F N+1 _"]
    """A constant 1 and C4, averaged under each detection's mask; the last row is the whole frame."""
    pooled_c5: Float[Tensor, "F N+1 _"]


@dataclass(frozen=True)
class RgnnState(Rows):
    """The memory of B videos: everything that one frame hands to the next."""

    size_px: Int[Tensor, "B 2"]
    """(height, width) of the video itself."""
    frame: Int[Tensor, " B"]
    """Index of the next frame."""
    births: Int[Tensor, " B"]
    """Tracks started so far: the next track id."""
    status: Int[Tensor, "B M"]
    """FREE, SEEN or KEPT."""
    track_id: Int[Tensor, "B M"]
    boxes_px: Float[Tensor, "B M 4"]
    embedding: Float[Tensor, "B M D"]
    """tau, the output of the gate."""
    cell: Float[Tensor, "B M D"]
    mean: Float[Tensor, "B M A"]
    variance: Float[Tensor, "B M A"]
    appearance_memory: Float[Tensor, "B M _"]
    """Of the LSTMs that predict mean and variance; no channels otherwise."""
    class_logits: Float[Tensor, "B M C"]
    votes: Float[Tensor, "B M _"]
    """Summed confidence and votes for each class, where the majority decides; no channels otherwise."""
    empty_embedding: Float[Tensor, "B D"]
    """tau_0, the empty track."""
    empty_cell: Float[Tensor, "B D"]
    empty_mean: Float[Tensor, "B A"]
    empty_variance: Float[Tensor, "B A"]
    empty_appearance_memory: Float[Tensor, "B _"]


@dataclass(frozen=True)
class Decisions:
    """What one frame decided, as training and reporting need it."""

    existing: Bool[Tensor, "B M"]
    """Tracks at the start of the frame."""
    match_logits: Float[Tensor, "B M N"]
    init_logits: Float[Tensor, "B N"]
    detection: Int[Tensor, "B M"]
    """The detection each SEEN track took, its initialiser for a new one; 0 elsewhere."""
    born: Bool[Tensor, "B M"]
    ended: Bool[Tensor, "B M"]
    """Tracks whose slot was taken over."""
    dropped: Int[Tensor, " B"]


class Rgnn(nn.Module):
    """A `VideoModel`. The detector is frozen here: `Yolact.loss` trains it in stage 1, `Rgnn.loss` the rest."""

    encoded = RgnnEncoded
    """What `encode` returns."""
    initial_variance_logit: Float[Tensor, " A"]
    """Of a new track; not trained."""
    empty_initial_variance_logit: Float[Tensor, " A"]
    """Of tau_0."""

    def __init__(self, config: RgnnConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = Yolact(config.detector)
        _, c4, c5 = self.detector.backbone.channels
        D, A = config.embedding, config.appearance_channels
        num_classes = config.detector.num_classes + 1
        self.appearance_c4 = nn.Linear(c4, A // 2)
        self.appearance_c5 = nn.Linear(c5, A - A // 2)
        self.appearance = Residual(A, A // 4, layers=3, final_relu=config.association != "masktrack")
        if config.gnn == "full":
            self.blocks = nn.ModuleList(GnnBlock(config, first=index == 0) for index in range(config.gnn_blocks))
            self.match_head = _head(D, 1, bias=-2.1)
            self.init_head = _head(D, 1, bias=-2.1)
        else:
            self.limited = ablations.LimitedGnn(num_classes + 4, D)
        gate = {"lstm": Gate, "simple": ablations.SimpleGate, "none": ablations.NoGate}[config.gating]
        self.gate = gate(D)
        self.empty_gate = gate(D)
        if config.appearance == "lstm":
            self.appearance_lstm = ablations.AppearanceLstm(A, config.initial_variance_logit)
        self.class_head = nn.Linear(D, num_classes)
        self.kappa_head = nn.Linear(D, 1)
        self.nu_head = nn.Linear(D, 1)
        self.variance_head = _head(D, 1, bias=config.initial_variance_logit)
        self.mask_embedding = nn.Linear(D, 16)
        self.mask_net = nn.Sequential(
            nn.Conv2d(18, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 1, 3, padding=1)
        )
        for name in INITIAL_VARIANCES:
            self.register_buffer(name, torch.full((A,), config.initial_variance_logit))
        self.register_load_state_dict_pre_hook(_fill_initial_variances)
        self.detector.requires_grad_(False)
        for part in self._unused():
            part.requires_grad_(False)

    def _unused(self) -> list[nn.Module]:
        """Parts that no loss of this config reaches: they keep their place among the weights and are not trained."""
        config, unused = self.config, list[nn.Module]()
        if config.gnn == "limited":
            unused.append(self.empty_gate)
        if config.scoring != "learned":
            unused.append(self.class_head)
        if config.association == "masktrack" or config.appearance not in ("gaussian", "constant_variance"):
            unused += [self.kappa_head, self.nu_head, self.variance_head]
        if config.appearance == "constant_variance":
            unused += [self.nu_head, self.variance_head]
        if config.association == "masktrack":  # no decision reads the last edges, and masks stay as they were found
            unused += [self.match_head, self.init_head, self.mask_embedding, self.mask_net]
            last: Any = self.blocks[-1]
            unused += [stage for part, stage in last.residuals.items() if part in ("edges", "empty_edges")]
        return unused

    @property
    def encoder(self) -> Yolact:
        return self.detector

    def part(self, name: str) -> nn.Module:
        """`detector`: YOLACT alone. `whole`: everything else, the detector frozen."""
        alone = name == "detector"
        self.detector.requires_grad_(alone)
        return self.detector.train() if alone else self.train()

    def frame_detector(self, name: str) -> Yolact | None:
        return self.detector if name == "detector" else None

    def fusible(self) -> tuple[nn.Module, ...]:
        return self.detector.backbone, self.detector.fpn, self.detector.proto_net

    def train(self, mode: bool = True) -> "Rgnn":
        """The frozen detector stays in evaluation mode: its batch statistics do not move."""
        super().train(mode)
        self.detector.eval()
        return self

    # ---- the contract ----------------------------------------------------------------------------------------

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return self.config.detector.image_size

    @torch.no_grad()
    def encode(self, frames: Frames) -> RgnnEncoded:
        return self.describe(frames.pixels)

    @torch.no_grad()
    def encode_objects(self, frames: Frames, objects: Objects) -> RgnnEncoded:
        """A tracker behind a perfect detector: the image oracle of Yang, Fan, Xu, "Video instance segmentation", 2019.

        The largest objects take the detections' slots; crowds and objects of unknown class take none.
        """
        output = self.detector(frames.pixels)
        _, c4, c5 = output.features
        return self.attend(self._as_detections(objects, map_size(output.prototypes)), c4, c5)

    @torch.no_grad()
    def start(self, videos: list[VideoInfo]) -> RgnnState:
        sizes = torch.tensor([(video.height, video.width) for video in videos]).view(-1, 2)
        return self.blank(len(videos), sizes)

    @torch.no_grad()
    def step(self, encoded: RgnnEncoded, state: RgnnState) -> tuple[list[Tracks], RgnnState]:
        new, decisions = self.advance(encoded, state, self.config.init_test_logit)
        seen = new.status == SEEN
        where = seen.nonzero()
        logits = self.weigh_masks(encoded, decisions.detection, new.embedding, where)
        confidence = 1 - new.class_logits.softmax(-1)[..., 0]
        shown, sizes = seen.tolist(), [(height, width) for height, width in state.size_px.tolist()]
        exclusive = self.config.association != "masktrack"  # [31] lets tracks share pixels
        masks = video_masks(logits, [sum(slots) for slots in shown], sizes, BACKGROUND_LOGIT, exclusive)
        frames, ids, scores = state.frame.tolist(), new.track_id.tolist(), confidence.tolist()
        dropped, ended, tracks = decisions.dropped.tolist(), decisions.ended.any(1).tolist(), []
        for row, slots in enumerate(shown):
            own = [slot for slot, visible in enumerate(slots) if visible]
            sighting = Sighting(frames[row], [ids[row][m] for m in own], [scores[row][m] for m in own], masks[row])
            verdicts = self._verdicts(state, row, decisions.ended[row]) if ended[row] else []
            tracks.append(Tracks([sighting], verdicts, dropped[row]))
        return tracks, new

    @torch.no_grad()
    def finish(self, state: RgnnState) -> list[Tracks]:
        return [Tracks([], self._verdicts(state, row, state.status[row] != FREE)) for row in range(len(state))]

    def _verdicts(self, state: RgnnState, row: int, which: Bool[Tensor, " M"]) -> list[Verdict]:
        """Class and score of tracks as their last frame saw them."""
        score, category = state.class_logits[row, which].softmax(-1)[:, 1:].max(-1)
        ids = state.track_id[row, which]
        return [Verdict(*word) for word in zip(ids.tolist(), category.tolist(), score.tolist(), strict=True)]

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        return self.encoded_loss(*self.encode_clips(clips))

    # ---- one frame -------------------------------------------------------------------------------------------

    def describe(self, pixels: UInt8[Tensor, "F 3 H W"]) -> RgnnEncoded:
        """Detections of F frames, and the features under them.

        Differs from the released order, not in value: features are pooled first and projected later
        (`_appearances`), which is the same by linearity and leaves nothing to train in here.
        """
        output = self.detector(pixels)
        config = self.config
        found = self.detector.detect(output, config.detections, config.min_score, config.nms_iou)
        _, c4, c5 = output.features
        return self.attend(found, c4, c5)

    def _as_detections(self, objects: Objects, size: tuple[int, int]) -> Detections:
        """The visible objects of F frames, the largest first, in slots; `size`: of the detector's masks."""
        slots, classes = self.config.detections, self.config.detector.num_classes
        masks, boxes_px, visible = objects.masks[:, 0], objects.boxes_px[:, 0], objects.visible[:, 0]
        usable = visible & ~objects.crowd & (objects.labels >= 0)
        area = masks.flatten(2).sum(2).masked_fill(~usable, -1)
        spare = max(0, slots - area.shape[1])
        rank, best = F.pad(area, (0, spare), value=-1).topk(slots, dim=1)
        rows = torch.arange(len(best), device=best.device)[:, None]
        best, valid = best.clamp(max=area.shape[1] - 1), rank > 0
        share = F.adaptive_avg_pool2d(masks[rows, best].float(), size).clamp(0.0025, 0.9975)  # logits of -6 to 6
        chosen = F.one_hot(objects.labels[rows, best].clamp(min=0) + 1, classes + 1)
        return Detections(
            boxes_px=boxes_px[rows, best] * valid[..., None],
            class_logits=20.0 * chosen - 10,
            mask_logits=share.logit(),
            valid=valid,
        )

    def attend(self, found: Detections, c4: Float[Tensor, "F _ _ _"], c5: Float[Tensor, "F _ _ _"]) -> RgnnEncoded:
        """The features under the detections, however these were found."""
        raw = wide(found.mask_logits)
        inside = box_map(found.boxes_px, map_size(raw), self.config.detector.image_size)
        score = (raw + 10 * inside).masked_fill(~found.valid[..., None, None], -1e4)
        with torch.autocast(raw.device.type, enabled=False):  # a detection's share of a pixel can be one in thousands
            pooled_c4, pooled_c5 = (mask_pool(wide(c), score, self.config.mask_pooling) for c in (c4, c5))
        return RgnnEncoded(
            boxes_px=found.boxes_px,
            class_logits=found.class_logits,
            mask_logits=raw,
            valid=found.valid,
            pooled_c4=pooled_c4,
            pooled_c5=pooled_c5,
        )

    def blank(self, videos: int, size_px: Int[Tensor, "B 2"]) -> RgnnState:
        """The state before the first frame."""
        config, like = self.config, self.class_head.weight
        M, D = config.tracks, config.embedding
        A = config.appearance_channels if config.has_gaussian else 0
        memory = 4 * A if config.appearance == "lstm" else 0
        num_classes = config.detector.num_classes + 1
        variance, empty_variance = (F.softplus(getattr(self, name))[:A] for name in INITIAL_VARIANCES)
        return RgnnState(
            size_px=size_px.to(like.device),
            frame=like.new_zeros(videos, dtype=torch.long),
            births=like.new_zeros(videos, dtype=torch.long),
            status=like.new_full((videos, M), FREE, dtype=torch.long),
            track_id=like.new_full((videos, M), -1, dtype=torch.long),
            boxes_px=like.new_zeros(videos, M, 4),
            embedding=like.new_zeros(videos, M, D),
            cell=like.new_zeros(videos, M, D),
            mean=like.new_zeros(videos, M, A),
            variance=variance.expand(videos, M, -1),
            appearance_memory=like.new_zeros(videos, M, memory),
            class_logits=like.new_zeros(videos, M, num_classes),
            votes=like.new_zeros(videos, M, num_classes if config.scoring == "majority" else 0),
            empty_embedding=like.new_zeros(videos, D),
            empty_cell=like.new_zeros(videos, D),
            empty_mean=like.new_zeros(videos, A),
            empty_variance=empty_variance.expand(videos, -1),
            empty_appearance_memory=like.new_zeros(videos, memory),
        )

    def advance(self, encoded: RgnnEncoded, state: RgnnState, init_logit: float) -> tuple[RgnnState, Decisions]:
        """The next frame of B videos, masks apart: graph, decisions, memory (sections 3.1 to 3.4)."""
        looks, scene = self._appearances(encoded)
        if self.config.has_gaussian:
            first = (state.frame == 0)[:, None]
            state = replace(state, empty_mean=torch.where(first, scene, state.empty_mean))
        existing = state.status != FREE
        graph, match_logits, init_logits = self._reason(self._graph(encoded, looks, state, existing))
        match = match_logits.detach().masked_fill(~encoded.valid[:, None], -torch.inf)
        likely = init_logits.detach() > init_logit
        if self.config.association == "masktrack":
            match_logits = torch.einsum("bma,bna->bmn", state.mean, looks)
            match, likely = ablations.masktrack_decisions(
                match_logits.detach(),
                box_ops.iou(state.boxes_px, encoded.boxes_px),
                encoded.class_logits,
                state.class_logits,
                existing,
                encoded.valid,
            )
        status, detection, births = self._decide(encoded, state, match, likely)
        decisions = Decisions(
            existing, match_logits, init_logits, detection, births.born, births.born & existing, births.dropped
        )
        return self._remember(encoded, state, graph, decisions, status, looks, scene), decisions

    def _decide(
        self, encoded: RgnnEncoded, state: RgnnState, match: Float[Tensor, "B M N"], likely: Bool[Tensor, "B N"]
    ) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B M"], "Births"]:
        """What becomes of every slot, the detection it takes, and which tracks are new.

        Each track takes its best detection, which may be another's as well, if the logit reaches the threshold.
        """
        existing = state.status != FREE
        best, detection = match.max(-1)
        seen = existing & (best >= self.config.keep_active_logit)
        births = self._births(encoded, state, likely, (state.status == KEPT) & ~seen)
        status = torch.where(seen, SEEN, torch.where(existing, KEPT, FREE))
        status = torch.where(births.born, SEEN, status)
        return status, torch.where(births.born, births.detection, torch.where(seen, detection, 0)), births

    def _appearances(self, encoded: RgnnEncoded) -> tuple[Float[Tensor, "B N A"], Float[Tensor, "B A"]]:
        """Appearance of each detection and of the whole frame."""
        halves = []
        for layer, pooled in ((self.appearance_c4, encoded.pooled_c4), (self.appearance_c5, encoded.pooled_c5)):
            constant, features = pooled[..., :1], pooled[..., 1:]
            features = F.dropout1d(features.transpose(1, 2), self.config.dropout, self.training).transpose(1, 2)
            halves.append(F.linear(features, layer.weight) + constant * layer.bias)
        joined = torch.cat(halves, -1)
        return self.appearance(joined[:, :-1]) * encoded.valid[..., None], joined[:, -1]

    def _graph(
        self, encoded: RgnnEncoded, looks: Float[Tensor, "B N A"], state: RgnnState, existing: Bool[Tensor, "B M"]
    ) -> "Graph":
        """Nodes are tracks and detections; an edge holds how alike they look and how much they overlap."""
        height, width = self.config.detector.image_size
        box = encoded.boxes_px * encoded.boxes_px.new_tensor([2 / width, 2 / height] * 2) - 1
        compared = existing if self.config.inactive_box == "last" else existing & (state.status == SEEN)
        overlap = box_ops.iou(state.boxes_px * compared[..., None], encoded.boxes_px)
        edges, empty_edges = [2 * overlap - 1], looks[..., :0]
        if self.config.has_gaussian:
            edges.insert(0, self._alike(looks[:, None], state.mean[:, :, None], state.variance[:, :, None]))
            empty_edges = self._alike(looks, state.empty_mean[:, None], state.empty_variance[:, None])[..., None]
        nodes = [encoded.class_logits, box]
        if self.config.appearance == "embedding":
            nodes.append(looks)
        return Graph(
            tracks=state.embedding * existing[..., None],
            empty=state.empty_embedding,
            detections=torch.cat(nodes, -1),
            edges=torch.stack(edges, -1),
            empty_edges=empty_edges,
            track_mask=existing,
            detection_mask=encoded.valid,
        )

    def _alike(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Log-likelihood of an appearance under a track's Gaussian, scaled as released; never in bfloat16."""
        x, mean, variance = wide(x), wide(mean), wide(variance)
        likelihood = -0.5 * (x.shape[-1] * log(2 * pi) + (variance.log() + (x - mean) ** 2 / variance).sum(-1))
        return -4 + 0.01 * likelihood

    def _reason(self, graph: "Graph") -> tuple["Graph", Float[Tensor, "B M N"], Float[Tensor, "B N"]]:
        """The graph after the network, and its logits for matches and new tracks."""
        if self.config.gnn == "limited":
            tracks, detections, match_logits, init_logits = self.limited(
                graph.tracks, graph.detections, graph.edges, graph.track_mask, graph.detection_mask
            )
            return replace(graph, tracks=tracks, detections=detections), match_logits, init_logits
        for block in self.blocks:
            graph = block(graph)
        match, init = wide(self.match_head(graph.edges)), wide(self.init_head(graph.empty_edges))
        return graph, match.squeeze(-1), init.squeeze(-1)

    def _births(
        self, encoded: RgnnEncoded, state: RgnnState, likely: Bool[Tensor, "B N"], lost: Bool[Tensor, "B M"]
    ) -> "Births":
        """Detections that start tracks, best first, each in the next slot that may be taken.

        Those are the free ones and, with `slot_recycling`, those of `lost` tracks, least likely first.
        """
        wanted = encoded.valid & likely
        cost = torch.where(state.status == FREE, 0.0, torch.inf)
        if self.config.slot_recycling:
            foreground = 1 - state.class_logits.softmax(-1)[..., 0]
            cost = torch.where(lost, 1 + foreground, cost)
        slot_rank = cost.sort(dim=1, stable=True).indices.argsort(1)
        birth_rank = wanted.cumsum(1) - 1
        usable = cost < torch.inf
        pairs = usable[:, :, None] & wanted[:, None] & (slot_rank[:, :, None] == birth_rank[:, None])
        dropped = wanted.sum(1) - pairs.any(1).sum(1)
        return Births(born=pairs.any(2), detection=pairs.int().argmax(2), dropped=dropped)

    def _remember(
        self,
        encoded: RgnnEncoded,
        state: RgnnState,
        graph: "Graph",
        decisions: Decisions,
        status: Int[Tensor, "B M"],
        looks: Float[Tensor, "B N A"],
        scene: Float[Tensor, "B A"],
    ) -> RgnnState:
        """Gate, class scores and appearance of every track after the frame; free slots stay zero."""
        born, seen, alive = decisions.born[..., None], (status == SEEN)[..., None], (status != FREE)[..., None]
        taken = decisions.detection
        x = torch.where(born, _pick(graph.detections, taken), graph.tracks)
        embedding, cell = self.gate(x, state.embedding * ~born, state.cell * ~born)
        embedding, cell = embedding * alive, cell * alive
        empty_embedding, empty_cell = self.empty_gate(graph.empty, state.empty_embedding, state.empty_cell)
        state = self._remember_looks(state, _pick(looks, taken), scene, embedding, empty_embedding, born, seen)
        class_logits, votes = self._scores(state, embedding, _pick(encoded.class_logits, taken), born, seen)
        # ids follow the detections' scores, whatever slots the births found
        order = ((taken[:, :, None] > taken[:, None]) & decisions.born[:, None]).sum(2)
        return replace(
            state,
            frame=state.frame + 1,
            births=state.births + decisions.born.sum(1),
            status=status,
            track_id=torch.where(decisions.born, state.births[:, None] + order, state.track_id),
            boxes_px=torch.where(seen, _pick(encoded.boxes_px, taken), state.boxes_px),
            embedding=embedding,
            cell=cell,
            class_logits=class_logits,
            votes=votes,
            empty_embedding=empty_embedding,
            empty_cell=empty_cell,
        )

    def _scores(
        self,
        state: RgnnState,
        embedding: Float[Tensor, "B M D"],
        found: Float[Tensor, "B M C"],
        born: Bool[Tensor, "B M 1"],
        seen: Bool[Tensor, "B M 1"],
    ) -> tuple[Float[Tensor, "B M C"], Float[Tensor, "B M _"]]:
        """Class logits of every track, and its votes; `found` are the class logits of the detections taken."""
        if self.config.scoring == "learned":
            return wide(self.class_head(embedding)), state.votes
        if self.config.scoring == "majority":
            return ablations.majority(state.votes * ~born, found, seen)
        mean = torch.where(born, found, 0.9 * state.class_logits + 0.1 * found)
        return torch.where(seen, mean, state.class_logits), state.votes

    def _remember_looks(
        self,
        state: RgnnState,
        look: Float[Tensor, "B M A"],
        scene: Float[Tensor, "B A"],
        embedding: Float[Tensor, "B M D"],
        empty_embedding: Float[Tensor, "B D"],
        born: Bool[Tensor, "B M 1"],
        seen: Bool[Tensor, "B M 1"],
    ) -> RgnnState:
        """Move the appearance of each track with a detection towards its look, and tau_0's towards the frame's."""
        if not self.config.has_gaussian:
            return state
        if self.config.association == "masktrack":
            return replace(state, mean=torch.where(seen, look, state.mean))
        if self.config.appearance == "lstm":
            mean, variance, memory = self.appearance_lstm(look, state.appearance_memory * ~born)
            empty_mean, empty_variance, empty_memory = self.appearance_lstm(scene, state.empty_appearance_memory)
            memory = torch.where(seen, memory, state.appearance_memory)
            state = replace(state, appearance_memory=memory, empty_appearance_memory=empty_memory)
        else:
            start = F.softplus(self.initial_variance_logit)
            old_mean, old_variance = torch.where(born, 0.0, state.mean), torch.where(born, start, state.variance)
            mean, variance = self._update_appearance(embedding, look, old_mean, old_variance)
            if self.config.birth_appearance == "paper":
                mean, variance = torch.where(born, look, mean), torch.where(born, start, variance)
            empty_mean, empty_variance = self._update_appearance(
                empty_embedding, scene, state.empty_mean, state.empty_variance
            )
        return replace(
            state,
            mean=torch.where(seen, mean, state.mean),
            variance=torch.where(seen, variance, state.variance),
            empty_mean=empty_mean,
            empty_variance=empty_variance,
        )

    def _update_appearance(self, embedding: Tensor, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Move the Gaussian of each track towards x."""
        kappa, nu, sample = self._trust(embedding)
        if self.config.appearance == "constant_variance":
            return kappa * x + (1 - kappa) * mean, variance
        surprise = (x - mean) ** 2
        cross = {
            "paper": kappa * (1 - nu) / (kappa + nu),
            "released": kappa * nu / (kappa + nu),
            "exact": nu * (1 - kappa),
        }[self.config.variance_cross_term]
        return kappa * x + (1 - kappa) * mean, nu * sample + (1 - nu) * variance + cross * surprise

    def _trust(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One scalar each of every track: kappa and nu, its trust in a new mean and variance, and that variance."""
        kappa, nu = self.kappa_head(embedding).sigmoid(), self.nu_head(embedding).sigmoid()
        return kappa, nu, F.softplus(wide(self.variance_head(embedding)))

    def weigh_masks(
        self,
        encoded: RgnnEncoded,
        detection: Int[Tensor, "F M"],
        embedding: Float[Tensor, "F M D"],
        where: Int[Tensor, "T 2"],
    ) -> Float[Tensor, "T h w"]:
        """Mask logits of the tracks at (row, slot) `where`: their detection's mask, reweighted by what they are."""
        row, slot = where.unbind(1)
        taken = detection[row, slot]
        raw = encoded.mask_logits[row, taken]
        inside = box_map(encoded.boxes_px[row, taken][:, None], map_size(raw), self.config.detector.image_size)
        if self.config.association == "masktrack":
            return torch.where(inside[:, 0] > 0, raw + BACKGROUND_LOGIT, NO_MASK_LOGIT)
        words = F.relu(self.mask_embedding(embedding[row, slot]))[:, :, None, None].expand(-1, -1, *raw.shape[-2:])
        return wide(self.mask_net(torch.cat([raw[:, None], inside, words], 1))).squeeze(1)

    # ---- training --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_clips(self, clips: Clips) -> tuple[RgnnEncoded, Objects]:
        """The half of the loss without weights to train: B*L encoded frames, and masks where the loss looks."""
        objects = replace(clips.objects, masks=self._thinned(clips.objects.masks))
        return self.describe(clips.frames.flatten(0, 1)), objects

    def encoded_loss(self, encoded: RgnnEncoded, objects: Objects) -> dict[str, Tensor]:
        """Stage 2 from encoded frames, B*L rows with the frames of a clip in a row (section 3.5).

        Nothing is divided by the number of tracks or detections, as in the paper.
        """
        videos, length = objects.visible.shape[:2]
        state = self.blank(videos, torch.zeros(videos, 2, dtype=torch.long))
        identity = torch.full_like(state.status, -1)  # annotation of each track, -1 for background
        by_clip = [getattr(encoded, field.name).unflatten(0, (videos, length)) for field in fields(encoded)]
        weights = state.embedding.new_tensor(self.config.frame_weights[-length:])
        terms = {name: state.embedding.new_zeros(()) for name in ("score", "match", "init")}
        statuses, identities, detections, embeddings = [], [], [], []
        for frame in range(length):
            now = RgnnEncoded(*(column[:, frame] for column in by_clip))
            truth = match_annotations(now, objects.boxes_px[:, frame], objects.visible[:, frame] & ~objects.crowd)
            state, decisions = self.advance(now, state, self.config.init_train_logit)
            owner = first_owner(identity, decisions.existing)
            match, init = self._decision_terms(now, decisions, truth, identity, owner)
            terms["match"] += self.config.match_weight * match / (videos * length)
            terms["init"] += init / (videos * length)
            if self.config.scoring == "learned":
                scored = decisions.existing & ~decisions.ended  # a track in a taken slot is new, of another object
                score = self._score_term(state, scored, identity, first_owner(identity, scored), objects.labels)
                terms["score"] += weights[frame] * score / videos
            identity = torch.where(decisions.born, truth.gather(1, decisions.detection), identity)
            statuses.append(state.status)
            identities.append(identity)
            detections.append(decisions.detection)
            embeddings.append(state.embedding)
        if self.config.association == "masktrack":
            return terms  # the detector's masks as they are
        looked_at = torch.randperm(length, device=identity.device)[: self.config.loss_frames]
        seen = [status == SEEN for status in statuses]
        owners = [self._owners(*frame, state, identity) for frame in zip(statuses, identities, strict=True)]
        columns = (torch.stack(column, 1) for column in (seen, owners, detections, embeddings))
        rows = [column[:, looked_at].flatten(0, 1) for column in columns]
        shown = RgnnEncoded(*(column[:, looked_at].flatten(0, 1) for column in by_clip))
        terms["seg"] = self._segmentation_term(shown, objects.masks[:, looked_at].flatten(0, 1), *rows)
        return terms

    def _owners(
        self,
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

    def _decision_terms(
        self,
        encoded: RgnnEncoded,
        decisions: Decisions,
        truth: Int[Tensor, "B N"],
        identity: Int[Tensor, "B M"],
        owner: Bool[Tensor, "B M"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """A detection belongs to the first track of its annotation, and starts a track where there is none."""
        known = owner[:, :, None] & (truth[:, None] == identity[:, :, None])
        if self.config.association == "masktrack":
            match = ablations.masktrack_loss(decisions.match_logits, decisions.existing, known, truth >= 0)
            return match, torch.zeros_like(match)
        pairs = decisions.existing[:, :, None] & encoded.valid[:, None]
        new = (truth >= 0) & ~known.any(1)
        match_logits, init_logits = decisions.match_logits, decisions.init_logits
        match = F.binary_cross_entropy_with_logits(match_logits, known.to(match_logits.dtype), reduction="none")
        init = F.binary_cross_entropy_with_logits(init_logits, new.to(init_logits.dtype), reduction="none")
        return (match * pairs).sum(), (init * encoded.valid).sum()

    def _score_term(
        self,
        state: RgnnState,
        scored: Bool[Tensor, "B M"],
        identity: Int[Tensor, "B M"],
        owner: Bool[Tensor, "B M"],
        labels: Int[Tensor, "B A"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the tracks that the frame found: their object's class, or background."""
        real = owner if self.config.duplicate_target == "background" else identity >= 0
        target = torch.where(real, labels.gather(1, identity.clamp(min=0)) + 1, 0)
        loss = F.cross_entropy(state.class_logits.flatten(0, 1), target.flatten(), reduction="none")
        return (loss.view_as(target) * scored).sum()

    def _segmentation_term(
        self,
        encoded: RgnnEncoded,
        truth: Bool[Tensor, "F A H W"],
        seen: Bool[Tensor, "F M"],
        owners: Int[Tensor, "F M"],
        detection: Int[Tensor, "F M"],
        embedding: Float[Tensor, "F M D"],
    ) -> Float[Tensor, ""]:
        """Lovasz-softmax of background and tracks against the annotations that tracks own, over all frames at once."""
        where = seen.nonzero()
        weighed = self.weigh_masks(encoded, detection, embedding, where)
        logits = weighed.new_full((*seen.shape, *weighed.shape[-2:]), NO_MASK_LOGIT)
        logits = logits.index_put(where.unbind(1), weighed)
        logits = torch.cat([torch.full_like(logits[:, :1], BACKGROUND_LOGIT), logits], 1)
        slots = torch.arange(1, seen.shape[1] + 1, device=seen.device)
        annotations = torch.arange(truth.shape[1], device=seen.device)
        slot = ((owners[:, :, None] == annotations) * slots[:, None]).amax(1)  # (F, A), 0 where no track owns it
        labels = (truth * slot[..., None, None]).amax(1)
        whole = resize_logits(logits, self.config.detector.image_size)
        return lovasz_softmax(self._thinned(whole).softmax(1), labels)

    def _thinned(self, maps: Shaped[Tensor, "*S H W"]) -> Shaped[Tensor, "*S h w"]:
        """The pixels that the segmentation loss looks at."""
        stride = self.config.loss_stride
        return maps[..., stride // 2 :: stride, stride // 2 :: stride]


@dataclass(frozen=True)
class Births:
    """Which slots get a new track, from which detection, and how many found none."""

    born: Bool[Tensor, "B M"]
    detection: Int[Tensor, "B M"]
    dropped: Int[Tensor, " B"]


@dataclass(frozen=True)
class Graph:
    """Tracks and detections with an edge between each two; the empty track, tau_0, has edges of its own."""

    tracks: Float[Tensor, "B M _"]
    empty: Float[Tensor, "B _"]
    detections: Float[Tensor, "B N _"]
    edges: Float[Tensor, "B M N _"]
    empty_edges: Float[Tensor, "B N _"]
    track_mask: Bool[Tensor, "B M"]
    detection_mask: Bool[Tensor, "B N"]


class GnnBlock(nn.Module):
    """Eq. (1): edges from their ends, then nodes from their updated edges, then a residual stage on each."""

    def __init__(self, config: RgnnConfig, first: bool) -> None:
        super().__init__()
        D, inner = config.embedding, config.bottleneck
        looks = config.appearance_channels if config.appearance == "embedding" else 0
        detection = config.detector.num_classes + 1 + 4 + looks if first else D
        alike = int(config.has_gaussian)
        self.edge = _edge_net(D + detection + (1 + alike if first else D), config, first)
        self.empty_edge = _edge_net(D + detection + (alike if first else D), config, first)
        self.empty = _node_net(2 * D, config)
        self.track = _node_net(2 * D, config)
        self.detection = _node_net(detection + D, config)
        names = ("empty", "track", "detection", "detection_from_empty")
        gated = config.node_update == "gated"
        self.gates = nn.ModuleDict({name: MessageGate(D, inner) if gated else nn.Identity() for name in names})
        parts = [field.name for field in fields(Graph) if "mask" not in field.name]
        self.residuals = nn.ModuleDict(
            {p: Residual(D, inner, config.bottleneck_layers) for p in parts} if config.gnn_residual else {}
        )

    def forward(self, graph: Graph) -> Graph:
        return self.settle(self.exchange(graph))

    def exchange(self, graph: Graph) -> Graph:
        """Edges read their ends, then nodes their edges."""
        there, here = graph.track_mask[:, :, None], graph.detection_mask[..., None]
        M, N = graph.edges.shape[1:3]
        tracks = graph.tracks[:, :, None].expand(-1, -1, N, -1)
        detections = graph.detections[:, None].expand(-1, M, -1, -1)
        edges = self.edge(torch.cat([tracks, detections, graph.edges], -1))
        empty = graph.empty[:, None].expand(-1, N, -1)
        empty_edges = self.empty_edge(torch.cat([empty, graph.detections, graph.empty_edges], -1))
        active = (there & here[:, None, :, 0])[..., None]
        to_empty = (self.gates["empty"](empty_edges) * here).sum(1)
        to_tracks = (self.gates["track"](edges) * active).sum(2)
        to_detections = (self.gates["detection"](edges) * active).sum(1)
        to_detections = to_detections + self.gates["detection_from_empty"](empty_edges) * here
        return replace(
            graph,
            tracks=F.relu(self.track(torch.cat([graph.tracks, to_tracks], -1))),
            empty=F.relu(self.empty(torch.cat([graph.empty, to_empty], -1))),
            detections=F.relu(self.detection(torch.cat([graph.detections, to_detections], -1))),
            edges=edges,
            empty_edges=empty_edges,
        )

    def settle(self, graph: Graph) -> Graph:
        """The residual stage: each part by itself."""
        return replace(graph, **{part: stage(getattr(graph, part)) for part, stage in self.residuals.items()})


class MessageGate(nn.Module):
    """g(e) * e: what of an edge reaches the node."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(inplace=True), nn.Linear(inner, channels))

    def forward(self, edges: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        return self.net(edges).sigmoid() * edges


class Residual(nn.Module):
    """ReLU(x + h(x)) with a bottleneck of two or three linears (Table 3).

    Without the final ReLU looks can be unlike: [31] compares them with a new track at 0, which behind a ReLU none is
    below, so that a detection of a class that lives could never start a track.
    """

    def __init__(self, channels: int, inner: int, layers: int, final_relu: bool = True) -> None:
        super().__init__()
        self.final_relu = final_relu
        widths = [channels] + [inner] * (layers - 1) + [channels]
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList(linears)

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        y = x
        for linear in self.layers[:-1]:
            y = F.relu(linear(y))
        y = x + self.layers[-1](y)
        return F.relu(y) if self.final_relu else y


class Gate(nn.Module):
    """Eq. (2): an LSTM's gates with the graph network in the place of its linear layer (Eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.x = nn.Linear(channels, 4 * channels)
        self.previous = nn.Linear(channels, 4 * channels)

    def forward(
        self, x: Float[Tensor, "*S D"], previous: Float[Tensor, "*S D"], cell: Float[Tensor, "*S D"]
    ) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*S D"]]:
        forget, enter, leave, candidate = (self.x(x) + self.previous(previous)).chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        return leave.sigmoid() * cell.tanh(), cell


def match_annotations(
    encoded: RgnnEncoded, boxes_px: Float[Tensor, "B A 4"], visible: Bool[Tensor, "B A"]
) -> Int[Tensor, "B N"]:
    """The annotation of each detection, -1 for background: overlap above one half, one detection per annotation."""
    overlap, annotation = closest_annotations(encoded, boxes_px, visible)
    detections = torch.arange(overlap.shape[1], device=overlap.device)
    mine = torch.arange(overlap.shape[-1], device=overlap.device) == annotation[..., None]
    first = torch.where(mine, overlap, -1.0).argmax(1).gather(1, annotation.clamp(min=0))
    return torch.where(first == detections, annotation, -1)


def closest_annotations(
    encoded: RgnnEncoded, boxes_px: Float[Tensor, "B A 4"], visible: Bool[Tensor, "B A"]
) -> tuple[Float[Tensor, "B N A"], Int[Tensor, "B N"]]:
    """The overlap of each pair, and the annotation that a detection overlaps most, -1 where not above one half."""
    overlap = box_ops.iou(encoded.boxes_px, boxes_px) * (encoded.valid[..., None] & visible[:, None])
    value, annotation = overlap.max(-1)
    return overlap, torch.where(value > 0.5, annotation, -1)


def first_owner(identity: Int[Tensor, "B M"], alive: Bool[Tensor, "B M"]) -> Bool[Tensor, "B M"]:
    """Tracks with an annotation that no earlier slot has."""
    known = alive & (identity >= 0)
    same = (identity[:, :, None] == identity[:, None]) & known[:, None]
    return known & ~same.tril(-1).any(2)


def box_map(
    boxes_px: Float[Tensor, "F N 4"], size: tuple[int, int], image_size: tuple[int, int]
) -> Float[Tensor, "F N h w"]:
    """1 where a point of the map lies inside the box; points reach from edge to edge of the image, as released."""
    ys = torch.linspace(0, image_size[0], size[0], device=boxes_px.device)
    xs = torch.linspace(0, image_size[1], size[1], device=boxes_px.device)
    x0, y0, x1, y1 = boxes_px[..., None].unbind(-2)
    across = (xs >= x0) & (xs <= x1)
    down = (ys >= y0) & (ys <= y1)
    return (down[..., :, None] & across[..., None, :]).float()


def mask_pool(
    features: Float[Tensor, "F K h w"],
    score: Float[Tensor, "F N hs ws"],
    rule: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[Tensor, "F _ _"]:
    """A constant 1 and the features, averaged under each mask and, last row, over the frame: (F, N+1, 1+K).

    Detections compete for each pixel with the background at a constant logit: all together by softmax, each by
    itself by sigmoid.
    """
    score = resize_logits(score, map_size(features))
    share = (score - BACKGROUND_LOGIT).sigmoid()
    if rule == "softmax":
        share = torch.cat([torch.full_like(score[:, :1], BACKGROUND_LOGIT), score], 1).softmax(1)[:, 1:]
    weight = share / (share.sum((-2, -1), keepdim=True) + 1e-4)
    whole = torch.full_like(features[:, :1], 1 / features[0, 0].numel())
    weight = torch.cat([weight, whole], 1)
    features = torch.cat([torch.ones_like(features[:, :1]), features], 1)
    return torch.einsum("fnhw,fkhw->fnk", weight, features)


def map_size(maps: Shaped[Tensor, "*S h w"]) -> tuple[int, int]:
    """(height, width)."""
    return maps.shape[-2], maps.shape[-1]


def wide(values: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """In float32 at least: for what bfloat16 would round too far."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _edge_net(in_channels: int, config: RgnnConfig, first: bool) -> nn.Sequential:
    D = config.embedding
    layers: list[nn.Module] = [nn.Linear(in_channels, D), nn.ReLU(inplace=True)]
    if config.node_update == "mlp":
        layers += [nn.Linear(D, D), nn.ReLU(inplace=True)]
    if first:
        layers.append(Residual(D, config.bottleneck, config.bottleneck_layers))
    return nn.Sequential(*layers)


def _node_net(in_channels: int, config: RgnnConfig) -> nn.Module:
    D = config.embedding
    if config.node_update == "gated":
        return nn.Linear(in_channels, D)
    return nn.Sequential(nn.Linear(in_channels, D), nn.ReLU(inplace=True), nn.Linear(D, D))


def _fill_initial_variances(model: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Weights that were saved before the initial variances were among them take those of the config."""
    for name in INITIAL_VARIANCES:
        weights.setdefault(prefix + name, getattr(model, name))


def _head(in_channels: int, out_channels: int, bias: float) -> nn.Linear:
    linear = nn.Linear(in_channels, out_channels)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.constant_(linear.bias, bias)
    return linear


def _pick(values: Float[Tensor, "B N K"], index: Int[Tensor, "B M"]) -> Float[Tensor, "B M K"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
