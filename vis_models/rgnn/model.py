"""RGNN: tracks that a graph network associates, starts and scores, frame by frame.

Source: Johnander et al., "Video instance segmentation with recurrent graph neural networks",
GCPR 2021, over the detector of `yolact/`. Equation and table numbers are the paper's. Where the
authors' released code differs there is a named switch with the values `paper` and `released`.

Axes: B videos side by side, F frames, L frames of a clip, M track slots, N detection slots,
D channels of an embedding, A channels of an appearance, C classes with background at 0.
"""

from dataclasses import replace
from math import log, pi
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.given_objects import as_detections
from vis_models.layers.video_masks import video_masks
from vis_models.rgnn import ablations, losses
from vis_models.rgnn.appearance import BACKGROUND_LOGIT, NO_MASK_LOGIT, box_map, map_size, mask_pool, wide
from vis_models.rgnn.config import RgnnConfig
from vis_models.rgnn.graph import Gate, GnnBlock, Graph, Residual
from vis_models.rgnn.state import FREE, KEPT, SEEN, Births, Decisions, RgnnEncoded, RgnnState
from vis_models.types import Clips, Detections, Frames, Objects, Sighting, Tracks, Verdict, VideoInfo, sizes_px
from vis_models.yolact.model import Yolact

INITIAL_VARIANCES = ("initial_variance_logit", "empty_initial_variance_logit")


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
        """A tracker behind a perfect detector: the image oracle of Yang, Fan, Xu, ICCV 2019."""
        output = self.detector(frames.pixels)
        _, c4, c5 = output.features
        config, size = self.config, map_size(output.prototypes)
        return self.attend(as_detections(objects, config.detections, config.classes, size), c4, c5)

    @torch.no_grad()
    def start(self, videos: list[VideoInfo]) -> RgnnState:
        return self.blank(len(videos), sizes_px(videos))

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
        """Stage 2 from encoded frames, B*L rows with the frames of a clip in a row (section 3.5)."""
        return losses.encoded_loss(self, encoded, objects)

    def _thinned(self, maps: Shaped[Tensor, "*S H W"]) -> Shaped[Tensor, "*S h w"]:
        """The pixels that the segmentation loss looks at."""
        stride = self.config.loss_stride
        return maps[..., stride // 2 :: stride, stride // 2 :: stride]


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
