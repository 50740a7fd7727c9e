"""Published RGNNs, and the YOLACTs and backbones that one starts from: their names -> ours."""

import re

from torch import Tensor

OURS = "vislake"
"""Layout of our own files."""
PUBLISHED = (
    "torchvision ResNet (layer1.0.conv1.weight), YOLACT (backbone.layers.0...), "
    "RGNN (backbone.layer1... and detector...), ours (detector.backbone...)"
)
"""The layouts that it knows, in words."""

# The authors' RGNN, beginnings of their keys -> of ours; "bkg" is tau_0, "eta" the trust in a new appearance
RGNN_NAMES = {
    "backbone.": "detector.backbone.",
    "detector.prediction_layers.0.": "detector.head.",
    "appnet.feat_nets.bb_feats_s8.0.": "appearance_c4.",
    "appnet.feat_nets.bb_feats_s16.0.": "appearance_c5.",
    "detection_descriptor_extractor.appearance_layers.": "appearance.",
    "track_detection_matcher.score_layers.trkdet.": "match_head.",
    "track_detection_matcher.score_layers.bkgdet.": "init_head.",
    "track_descriptor.init_var_background": "empty_initial_variance_logit",
    "track_descriptor.init_var": "initial_variance_logit",
    "track_descriptor.memory_layers.tracks.x.": "gate.x.",
    "track_descriptor.memory_layers.tracks.prev_out.": "gate.previous.",
    "track_descriptor.memory_layers.background.x.": "empty_gate.x.",
    "track_descriptor.memory_layers.background.prev_out.": "empty_gate.previous.",
    "track_descriptor.out_layers.lbscores.": "class_head.",
    "track_descriptor.out_layers.mean_eta.": "kappa_head.",
    "track_descriptor.out_layers.var_eta.": "nu_head.",
    "track_descriptor.out_layers.var_new.": "variance_head.",
    "track_module.embedding_to_seg_layers.0.": "mask_embedding.",
    "track_module.seg_layers.": "mask_net.",
}
RGNN_BLOCK = {
    "bkgdet.out.": "empty_edge.",
    "trkdet.out.": "edge.",
    "bkg.out.0.": "empty.",
    "trk.out.0.": "track.",
    "det.out.0.": "detection.",
    "bkg.bkgdet_sigmoid.": "gates.empty.net.",
    "trk.trkdet_sigmoid.": "gates.track.net.",
    "det.trkdet_sigmoid.": "gates.detection.net.",
    "det.bkgdet_sigmoid.": "gates.detection_from_empty.net.",
}
RGNN_RESIDUAL = {
    "bkgdet.out.": "residuals.empty_edges.",
    "trkdet.out.": "residuals.edges.",
    "bkg.out.": "residuals.empty.",
    "trk.out.": "residuals.tracks.",
    "det.out.": "residuals.detections.",
}


def renamed(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """The layout of a checkpoint and its tensors under the names of a whole model, whose `detector.` is a `Yolact`;
    None: of another kind."""
    if "layer1.0.conv1.weight" in state:
        keys = {key: f"detector.backbone.{key}" for key in state if not key.startswith("fc.")}
        return "torchvision ResNet", {new: state[old] for old, new in keys.items()}
    if "backbone.layers.0.0.conv1.weight" in state:
        return "YOLACT", {f"detector.{new}": state[old] for old in state if (new := _from_yolact(old)) is not None}
    if "backbone.layer1.0.conv1.weight" in state and any(key.startswith("detector.") for key in state):
        found = {rgnn_name(key): tensor for key, tensor in state.items()}
        for key in ("appearance_c4.weight", "appearance_c5.weight"):
            if key in found:  # a 1x1 convolution; we project after pooling
                found[key] = found[key].flatten(1)
        return "RGNN", found
    if any(key.startswith("detector.backbone.") for key in state):
        return OURS, state
    return None


def _from_yolact(key: str) -> str | None:
    """Our name for a key of YOLACT's published weights; None for the ones that nothing reads."""
    if re.match(r"backbone\.layer\d|fpn\.downsample_layers\.[2-9]", key):
        return None
    key = re.sub(r"^backbone\.layers\.(\d+)\.", lambda found: f"backbone.layer{int(found[1]) + 1}.", key)
    return key.replace("prediction_layers.0.", "head.")


def rgnn_name(key: str) -> str:
    """Our name for a key of the authors' RGNN; one without a counterpart keeps its own."""
    names, prefix, rest = RGNN_NAMES, "", key
    if found := re.match(r"track_detection_matcher\.layers\.(\d+)\.", key):  # blocks and residual stages in turn
        block, residual = divmod(int(found[1]), 2)
        names, prefix, rest = RGNN_RESIDUAL if residual else RGNN_BLOCK, f"blocks.{block}.", key[found.end() :]
    theirs = next((theirs for theirs in names if rest.startswith(theirs)), None)
    if theirs is None:
        return key
    ours = prefix + names[theirs] + rest.removeprefix(theirs)
    # A residual block counts its activations as layers, ours does not
    return re.sub(r"(?<=\.layers\.)\d+(?=\.(weight|bias)$)", lambda index: str(int(index[0]) // 2), ours)


def switches(state: dict[str, Tensor]) -> dict[str, int | str]:
    """Fields of `RgnnConfig` that the weights of an RGNN give away; none where there is no graph network."""
    if any(key.startswith("limited.") for key in state):
        return {"gnn": "limited"}
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    if not blocks:
        return {}
    residual = [tensor for key, tensor in state.items() if re.match(r"blocks\.0\.residuals\.tracks\..*weight$", key)]
    found: dict[str, int | str] = {"gnn": "full", "gnn_blocks": len(blocks), "gnn_residual": bool(residual)}
    if residual:
        inner, outer = residual[0].shape
        found |= {"bottleneck_layers": len(residual), "bottleneck": inner, "embedding": outer}
    return found
