"""What is said of the features under a box: class, refined box, mask.

Source: He et al., "Mask R-CNN", ICCV 2017, Figure 4 (right); the convolutional box head of Li et al., "Benchmarking
detection transfer learning with vision transformers", 2021, which torchvision calls v2. Names are torchvision's.

Axes: R boxes, C classes with background at 0, D features.
"""

from jaxtyping import Float
from torch import Tensor, nn

from vis_models.layers.fpn import conv_block

BOX_CELLS, MASK_CELLS = 7, 14


class LinearBoxHead(nn.Module):
    """Two linear layers."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * BOX_CELLS**2, width)
        self.fc7 = nn.Linear(width, width)

    def forward(self, pooled: Float[Tensor, "R K 7 7"]) -> Float[Tensor, "R D"]:
        return self.fc7(self.fc6(pooled.flatten(1)).relu()).relu()


def conv_box_head(channels: int, width: int, norm: bool, convs: int = 4) -> nn.Sequential:
    """Convolutions, then one linear layer."""
    layers = [conv_block(channels, channels, 3, norm) for _ in range(convs)]
    linear = nn.Linear(channels * BOX_CELLS**2, width)
    return nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU(inplace=True))


class BoxPredictor(nn.Module):
    """A logit and a box for each class."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, num_classes)
        self.bbox_pred = nn.Linear(width, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: Float[Tensor, "R D"]) -> tuple[Float[Tensor, "R C"], Float[Tensor, "R C 4"]]:
        return self.cls_score(features).float(), self.bbox_pred(features).float().unflatten(1, (-1, 4))


def mask_head(channels: int, width: int, convs: int, norm: bool) -> nn.Sequential:
    return nn.Sequential(*(conv_block(width if index else channels, width, 3, norm) for index in range(convs)))


class MaskPredictor(nn.Module):
    """Twice the resolution, then a map of each class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.mask_fcn_logits = nn.Conv2d(channels, num_classes, 1)
        for conv in (self.conv5_mask, self.mask_fcn_logits):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "R _ 14 14"]) -> Float[Tensor, "R C 28 28"]:
        return self.mask_fcn_logits(self.conv5_mask(x).relu())
