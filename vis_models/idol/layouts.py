"""Published checkpoints that IDOL can start from or be: their names -> those of `IdolNetwork`.

The authors' own, Deformable DETR of its authors, and backbones: torchvision's ResNet, Microsoft's Swin transformer.
"""

import re

from torch import Tensor

IDOL = {
    r"^detr\.detr\.backbone\.0\.backbone\.": "backbone.",
    r"^detr\.detr\.": "",
    r"^detr\.": "",
}
"""One after the other, as in every table here."""
DETECTRON = {
    r"^backbone\.stem\.conv1\.norm\.": "backbone.bn1.",
    r"^backbone\.stem\.": "backbone.",
    r"^backbone\.res(\d)\.": lambda found: f"backbone.layer{int(found[1]) - 1}.",
    r"^(backbone\.layer\d\.\d+)\.conv(\d)\.norm\.": r"\1.bn\2.",
    r"^(backbone\.layer\d\.\d+)\.shortcut\.norm\.": r"\1.downsample.1.",
    r"^(backbone\.layer\d\.\d+)\.shortcut\.": r"\1.downsample.0.",
}
"""Its names of a residual network, after those of `IDOL`."""
DEFORMABLE_DETR = {r"^backbone\.0\.body\.": "backbone."}
REPEATED = r"^transformer\.decoder\.(bbox|class)_embed\."
"""The decoder names the box heads of the network a second time."""
COMPUTED = r"\.relative_position_index$|\.attn_mask$"
"""What a Swin transformer works out from its window."""
OF_PICTURES = r"^(norm|head|fc)\."
"""What a backbone that was trained to class pictures ends with."""
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


def _named(state: dict[str, Tensor], names: dict) -> dict[str, Tensor]:
    found = {}
    for key, tensor in state.items():
        for theirs, ours in names.items():
            key = re.sub(theirs, ours, key)
        if not re.search(f"{REPEATED}|{COMPUTED}", key):
            found[key] = tensor
    return found
