"""Published checkpoints that IDOL can start from or be: their names -> those of `IdolNetwork`.

The authors' own, Deformable DETR of its authors, and backbones: torchvision's ResNet, Microsoft's Swin transformer.
"""

import re
from typing import Any

from torch import Tensor

from vis_models.config import BadConfig
from vis_models.idol.config import IdolConfig
from vis_models.layers.backbone_config import SwinConfig
from vis_models.layers.backbone_layouts import DETECTRON, Names, told_backbone

IDOL: Names = {
    r"^detr\.detr\.backbone\.0\.backbone\.": "backbone.",
    r"^detr\.detr\.": "",
    r"^detr\.": "",
}
"""One after the other, as in every table here."""
DEFORMABLE_DETR: Names = {r"^backbone\.0\.body\.": "backbone."}
REPEATED = r"^transformer\.decoder\.(bbox|class)_embed\."
"""The decoder names the box heads of the network a second time."""
COMPUTED = r"\.relative_position_index$|\.attn_mask$"
"""What a Swin transformer works out from its window."""
OF_PICTURES = r"^(norm|head|fc)\."
"""What a backbone that was trained to class pictures ends with."""
HEADS = 8
"""Of every attention of published weights, which no tensor tells."""
BEGINNINGS = {
    "Deformable DETR": "which finds boxes and no masks, expected IDOL; its transformer and backbone start a training",
    "Swin": "a backbone, expected a whole detector; it starts a training",
}
"""Layouts that are no whole network."""
PUBLISHED = (
    "IDOL (detr.detr.transformer...), Deformable DETR (transformer... and backbone.0.body...), torchvision ResNet "
    "(layer1.0.conv1.weight), Swin (layers.0.blocks.0.attn.qkv.weight)"
)


def renamed(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """The layout of a checkpoint, and its tensors under the names of `IdolNetwork`; None: another."""
    if "detr.detr.transformer.level_embed" in state:
        return "IDOL", _named(state, IDOL | DETECTRON)
    if "transformer.level_embed" in state and "backbone.0.body.conv1.weight" in state:
        return "Deformable DETR", _named(state, DEFORMABLE_DETR)
    for layout, key in (("torchvision ResNet", "layer1.0.conv1.weight"), ("Swin", "layers.0.blocks.0.attn.qkv.weight")):
        if key in state:
            own = {name: tensor for name, tensor in state.items() if not re.search(OF_PICTURES, name)}
            return layout, _named(own, {"^": "backbone."})
    return None


def told(tensors: dict[str, Tensor], heads: int = HEADS) -> dict[str, Any]:
    """The fields of `IdolConfig` that tensors under our names give away, if every attention has so many heads."""
    found: dict[str, Any] = {}
    backbone = told_backbone(tensors, "backbone.")
    if backbone is not None:
        found["backbone"] = backbone.model_dump()
    rows = {
        "num_classes": "class_embed.0.weight",
        "queries": "query_embed.weight",
        "levels": "transformer.level_embed",
        "hidden": "transformer.encoder.layers.0.linear1.weight",
    }
    found |= {name: len(tensors[key]) for name, key in rows.items() if key in tensors}
    if "transformer.level_embed" in tensors:
        found["channels"] = tensors["transformer.level_embed"].shape[1]
        weights = tensors.get("transformer.encoder.layers.0.self_attn.attention_weights.bias", ())
        found["points"] = len(weights) // (heads * found["levels"])
    for part in ("encoder", "decoder"):
        numbers = [int(n[1]) for key in tensors if (n := re.match(rf"transformer\.{part}\.layers\.(\d+)\.", key))]
        found |= {f"{part}_layers": 1 + max(numbers)} if numbers else {}
    return found


def require_alike(layout: str, tensors: dict[str, Tensor], config: IdolConfig) -> None:
    """Refuse a checkpoint that would fit in part and mean nothing. Other classes are left to the heads of classes,
    which begin anew.

    Raises:
        BadConfig: a checkpoint of other fields than the config, all of which are named.
    """
    theirs, ours = told(tensors, config.heads), config.model_dump()
    if "backbone" in theirs:
        own = config.backbone
        swin = isinstance(own, SwinConfig)
        told_fields = ("width", "blocks", "heads", "window") if swin else ("depth", "groups", "group_width")
        name = {True: "a Swin transformer", False: "a residual network"}
        is_swin = theirs["backbone"].get("name") == "swin"
        if is_swin != swin:
            raise BadConfig(f"its backbone is {name[is_swin]}, this model has {name[swin]}: change config.backbone")
        theirs |= {f"backbone.{field}": theirs["backbone"][field] for field in told_fields}
        ours |= {f"backbone.{field}": getattr(own, field) for field in told_fields}
    differing = [
        field for field, value in theirs.items() if field not in ("num_classes", "backbone") and ours[field] != value
    ]
    if differing:
        has = ", ".join(f"{field} {theirs[field]}" for field in differing)
        wanted = ", ".join(str(ours[field]) for field in differing)
        hint = " ".join(f"--set config.{field}={theirs[field]}" for field in differing)
        raise BadConfig(f"the {layout} has {has}, this model {wanted}: its weights mean nothing here. Try {hint}")


def _named(state: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    found = {}
    for key, tensor in state.items():
        for theirs, ours in names.items():
            key = re.sub(theirs, ours, key)
        if not re.search(f"{REPEATED}|{COMPUTED}", key):
            found[key] = tensor
    return found
