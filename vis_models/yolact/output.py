"""What YOLACT says about frames, before and after its decisions. Source and axes: as `model.py`."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.layers.resize import resize_logits


@dataclass(frozen=True)
class YolactOutput:
    """Everything that YOLACT says about F frames, before any decision."""

    boxes: Float[Tensor, "F P 4"]
    """Encoded against the priors."""
    logits: Float[Tensor, "F P C"]
    coefficients: Float[Tensor, "F P K"]
    prototypes: Float[Tensor, "F K h w"]
    semantic: Float[Tensor, "F _ _ _"]
    features: tuple[Tensor, Tensor, Tensor]
    """C3, C4, C5 of the backbone."""


@dataclass(frozen=True)
class Instances:
    """What YOLACT says about one frame after its decisions, best first."""

    classes: Int[Tensor, " N"]
    """Counted from 0, the first foreground class."""
    scores: Float[Tensor, " N"]
    boxes: Float[Tensor, "N 4"]
    """Corners as fractions of the image."""
    masks: Float[Tensor, "N h w"]
    """Probabilities at the resolution of the prototypes, 0 outside the box."""

    def at(self, size_px: tuple[int, int]) -> tuple[Int[Tensor, "N 4"], Bool[Tensor, "N H W"]]:
        """Boxes in whole pixels, cut off and not rounded, and masks, in an image of this height and width."""
        height, width = size_px
        boxes_px = self.boxes * self.boxes.new_tensor([width, height, width, height])
        return boxes_px.long(), resize_logits(self.masks[None], size_px)[0] > 0.5
