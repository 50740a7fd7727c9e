"""Published Mask R-CNNs: their names -> ours.

torchvision's two versions, the files of 2019 with their older names, the original MaskTrack R-CNN (of an early
mmdetection), mmtracking's and detectron2's, which count background last. The nets of detectron2's model zoo see blue
first; ours, made of them, red.
"""

import re

import torch
from torch import Tensor

from vis_models.layers.backbone_layouts import DETECTRON, Names

TORCHVISION: Names = {
    r"^backbone\.body\.": "backbone.",
    r"^backbone\.fpn\.": "fpn.",
    r"^(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$": r"\1.0.\2",
    r"^rpn\.head\.conv\.(weight|bias)$": r"rpn.conv.0.0.\1",
    r"^rpn\.head\.": "rpn.",
    r"^roi_heads\.": "",
}
"""One after the other; the third and fourth are of 2019, as are the masks' convolutions below."""
MMDETECTION: Names = {
    r"^detector\.": "",
    r"^roi_head\.": "",
    r"^neck\.lateral_convs\.(\d+)\.conv\.": r"fpn.inner_blocks.\1.0.",
    r"^neck\.fpn_convs\.(\d+)\.conv\.": r"fpn.layer_blocks.\1.0.",
    r"^rpn_head\.rpn_conv\.": "rpn.conv.0.0.",
    r"^rpn_head\.rpn_cls\.": "rpn.cls_logits.",
    r"^rpn_head\.rpn_reg\.": "rpn.bbox_pred.",
    r"^bbox_head\.shared_fcs\.0\.": "box_head.fc6.",
    r"^bbox_head\.shared_fcs\.1\.": "box_head.fc7.",
    r"^bbox_head\.fc_cls\.": "box_predictor.cls_score.",
    r"^bbox_head\.fc_reg\.": "box_predictor.bbox_pred.",
    r"^mask_head\.convs\.(\d+)\.conv\.": r"mask_head.\1.0.",
    r"^mask_head\.upsample\.": "mask_predictor.conv5_mask.",
    r"^mask_head\.conv_logits\.": "mask_predictor.mask_fcn_logits.",
    r"^track_head\.embed_head\.fcs\.": "track_head.fcs.",
}
DETECTRON2: Names = {
    r"^backbone\.bottom_up\.": "backbone.",
    **DETECTRON,
    r"^proposal_generator\.rpn_head\.conv\.": "rpn.conv.0.0.",
    r"^proposal_generator\.rpn_head\.objectness_logits\.": "rpn.cls_logits.",
    r"^proposal_generator\.rpn_head\.anchor_deltas\.": "rpn.bbox_pred.",
    r"^roi_heads\.box_head\.fc1\.": "box_head.fc6.",
    r"^roi_heads\.box_head\.fc2\.": "box_head.fc7.",
    r"^roi_heads\.mask_head\.deconv\.": "mask_predictor.conv5_mask.",
    r"^roi_heads\.mask_head\.predictor\.": "mask_predictor.mask_fcn_logits.",
    r"^roi_heads\.": "",
}
CONSTANTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
"""What older files of detectron2 carry beside the weights, and the config says."""
PUBLISHED = (
    "torchvision Mask R-CNN (backbone.body...) or ResNet (layer1.0.conv1.weight), mmdetection Mask R-CNN, MaskTrack "
    "R-CNN original or of mmtracking (neck.lateral_convs...), detectron2 Mask R-CNN (backbone.bottom_up...), ours "
    "(detector.backbone...)"
)


def renamed(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """The layout of a checkpoint, and its tensors under the names of `MaskRcnn` and `track_head.`; None: another."""
    if "backbone.body.layer1.0.conv1.weight" in state:
        version = 2 if "rpn.head.conv.1.0.weight" in state else 1
        return f"torchvision Mask R-CNN v{version}", _named(state, TORCHVISION)
    if any(key.endswith("neck.lateral_convs.0.conv.weight") for key in state):
        found = _named(state, MMDETECTION)
        last = any(key.startswith(("detector.", "roi_head.")) for key in state)
        if "track_head.fcs.0.weight" in found:
            layout = "mmtracking MaskTrack R-CNN" if last else "original MaskTrack R-CNN"
        else:
            layout = "mmdetection Mask R-CNN"
        return layout, _background_first(found) if last else found
    if "backbone.bottom_up.stem.conv1.weight" in state and "roi_heads.mask_head.deconv.weight" in state:
        return "detectron2 Mask R-CNN", _background_first(_of_detectron2(state))
    if "layer1.0.conv1.weight" in state:
        return "torchvision ResNet", {f"backbone.{key}": v for key, v in state.items() if not key.startswith("fc.")}
    return None


def _of_detectron2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    own = {key: tensor for key, tensor in state.items() if not key.startswith(CONSTANTS)}
    pyramid = re.compile(r"^backbone\.fpn_(lateral|output)(\d)\.")
    blocks = {"lateral": "inner", "output": "layer"}
    places = {
        key: pyramid.sub(lambda found: f"fpn.{blocks[found[1]]}_blocks.{int(found[2]) - 2}.0.", key) for key in own
    }
    found = _named({places[key]: tensor for key, tensor in own.items()}, DETECTRON2)
    found["backbone.conv1.weight"] = found["backbone.conv1.weight"].flip(1)
    return found


def _named(state: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    found = {}
    for key, tensor in state.items():
        for theirs, ours in names.items():
            key = re.sub(theirs, ours, key)
        key = re.sub(r"^mask_head\.mask_fcn(\d)\.", lambda number: f"mask_head.{int(number[1]) - 1}.0.", key)
        found[key] = tensor
    return found


def _background_first(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Background is their last class, and has no box and no mask of its own."""
    moved = dict(state)
    for kind in ("weight", "bias"):
        if (scores := f"box_predictor.cls_score.{kind}") in state:
            moved[scores] = state[scores].roll(1, 0)
        for key, rows in ((f"box_predictor.bbox_pred.{kind}", 4), (f"mask_predictor.mask_fcn_logits.{kind}", 1)):
            if key in state:
                none = torch.zeros_like(state[key][:1]).expand(rows, *state[key].shape[1:])
                moved[key] = torch.cat([none, state[key]])
    return moved
