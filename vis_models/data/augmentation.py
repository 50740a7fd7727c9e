"""What can be chosen about the random changes of training clips; without torch, as recipes are made of it."""

from pydantic import Field, PositiveInt

from vis_models.config import Config


class Augmentation(Config):
    """Random changes of a clip, the same for all its frames."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Isotropic scale, drawn uniformly: at 1 a frame just covers the model's input or, where it is set, fills `fit`."""
    fit: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) in pixels: what a frame of any size is first scaled to fit into, its aspect kept."""
    horizontal_flip: float = Field(0.5, ge=0, le=1)
    """Probability."""
    vertical_flip: float = Field(0.0, ge=0, le=1)
    """Probability; for worlds without up and down."""
    swap_colours: bool = False
    """Permute the colour channels; for worlds where colour means nothing."""
