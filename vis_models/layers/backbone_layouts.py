"""Backbones in published checkpoints: their names -> ours, and which one a file has, as its tensors tell."""

import re
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from vis_models.config import BadConfig
from vis_models.layers.backbone_config import ResNetConfig, SwinConfig

Names = dict[str, str | Callable[[re.Match[str]], str]]
"""Patterns of theirs -> ours, one after the other, as `re.sub` takes them."""
DETECTRON: Names = {
    r"^backbone\.stem\.conv1\.norm\.": "backbone.bn1.",
    r"^backbone\.stem\.": "backbone.",
    r"^backbone\.res(\d)\.": lambda found: f"backbone.layer{int(found[1]) - 1}.",
    r"^(backbone\.layer\d\.\d+)\.conv(\d)\.norm\.": r"\1.bn\2.",
    r"^(backbone\.layer\d\.\d+)\.shortcut\.norm\.": r"\1.downsample.1.",
    r"^(backbone\.layer\d\.\d+)\.shortcut\.": r"\1.downsample.0.",
}
"""detectron2's residual network behind `backbone.`."""


def told_backbone(tensors: Mapping[str, Tensor], prefix: str) -> ResNetConfig | SwinConfig | None:
    """None: there is none behind the prefix."""
    if f"{prefix}patch_embed.proj.weight" in tensors:
        return told_swin(tensors, prefix)
    return told_resnet(tensors, prefix) if f"{prefix}conv1.weight" in tensors else None


def told_resnet(tensors: Mapping[str, Tensor], prefix: str) -> ResNetConfig:
    """By how many blocks its third stage has, and how many channels a group of its convolutions.

    Raises:
        BadConfig: another number of blocks than any published one.
    """
    blocks = _count(tensors, rf"{re.escape(prefix)}layer3\.(\d+)\.conv1\.weight")
    bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
    depth: Any = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101}.get((blocks, bottleneck))
    if depth is None:
        raise BadConfig(f"its backbone has {blocks} blocks in the third stage, expected those of a ResNet 18 to 101")
    if not bottleneck:
        return ResNetConfig(depth=depth)
    out, inner = tensors[f"{prefix}layer1.0.conv2.weight"].shape[:2]
    groups = out // inner
    return ResNetConfig(depth=depth) if groups == 1 else ResNetConfig(depth=depth, groups=groups, group_width=inner)


def told_swin(tensors: Mapping[str, Tensor], prefix: str) -> SwinConfig:
    """By its blocks, and by the table of each stage, which has a row for each way two cells of a window can lie.

    Raises:
        BadConfig: a stage without blocks.
    """
    stages = [f"{prefix}layers.{stage}.blocks." for stage in range(4)]
    blocks = [_count(tensors, rf"{re.escape(stage)}(\d+)\.norm1\.weight") for stage in stages]
    tables = [tensors.get(f"{stage}0.attn.relative_position_bias_table") for stage in stages]
    found = [table.shape for table in tables if table is not None]
    if len(found) < len(stages):
        raise BadConfig(f"its Swin transformer has {len(found)} stages with relative_position_bias_table, expected 4")
    given = {
        "width": len(tensors[f"{prefix}patch_embed.proj.weight"]),
        "blocks": blocks,
        "heads": [shape[1] for shape in found],
        "window": (isqrt(found[0][0]) + 1) // 2,
    }
    return SwinConfig.model_validate(given)


def _count(tensors: Mapping[str, Tensor], numbered: str) -> int:
    """One more than the highest number that keys have in this place."""
    place = re.compile(numbered)
    return 1 + max((int(found[1]) for key in tensors if (found := place.fullmatch(key))), default=-1)
