"""From pixels to what a backbone takes."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from vis_models.config import FramesConfig
from vis_models.layers.resize import keeping_aspect
from vis_models.types import Frames, VideoInfo

DIVISOR = 32
"""Sides of what enters a backbone are multiples of it; frames are padded at the right and the bottom."""


class TakesFrames(nn.Module):
    """Base of networks that take frames of any size: how large these become, and what enters the backbone."""

    config: FramesConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: FramesConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean_rgb).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std_rgb).view(3, 1, 1), persistent=False)

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        """(height, width) that the frames of a video become."""
        config = self.config
        return config.image_size or keeping_aspect(
            (video.height, video.width), config.shorter_px, config.longer_most_px
        )

    def resized(self, frame: UInt8[np.ndarray, "H W 3"]) -> Frames:
        """A frame alone, as large as it becomes."""
        height, width = self.frame_size(VideoInfo("", frame.shape[0], frame.shape[1]))
        picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        return Frames(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].to(self.mean.device))

    def normalised(self, pixels: UInt8[Tensor, "F 3 H W"], sizes_px: Int[Tensor, "F 2"]) -> Float[Tensor, "F 3 _ _"]:
        """What enters the backbone: padding is zero after the normalisation.

        Args:
            sizes_px: (height, width) of the picture in each frame.
        """
        images = (pixels - self.mean) / self.std
        height, width = images.shape[-2:]
        if bool((sizes_px != sizes_px.new_tensor([height, width])).any()):
            rows = torch.arange(height, device=images.device) < sizes_px[:, :1]
            columns = torch.arange(width, device=images.device) < sizes_px[:, 1:]
            images = images * (rows[:, None, :, None] & columns[:, None, None, :])
        return F.pad(images, [0, -width % DIVISOR, 0, -height % DIVISOR])


def whole_px(pixels: UInt8[Tensor, "F 3 H W"]) -> Int[Tensor, "F 2"]:
    """(height, width) of the picture in each frame, where none is padded."""
    return torch.tensor([pixels.shape[-2:]], device=pixels.device).expand(len(pixels), 2)
