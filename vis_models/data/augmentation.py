"""What can be chosen about the random changes of training clips; without torch, as recipes are made of it."""

from pydantic import Field, PositiveInt, model_validator

from vis_models.config import Config


class Augmentation(Config):
    """Random changes of a clip, the same for all its frames."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Isotropic scale, drawn uniformly: at 1 a frame just covers the model's input or, where it is set, fills `fit`."""
    fit: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) in pixels: what a frame of any size is first scaled to fit into, its aspect kept."""
    shorter_px: tuple[PositiveInt, ...] = ()
    """For models that take frames of any size: what the shorter side becomes, one of these drawn for each sample; the
    aspect is kept, and `scale` and `fit` are not used. Empty: every frame becomes the model's input."""
    longer_most_px: PositiveInt | None = None
    """What the longer side may become at most; the shorter one is smaller then."""
    crop_px: tuple[PositiveInt, PositiveInt] | None = None
    """Least and largest side of a part that is cut out before the frame gets its size, where sizes are drawn. All
    frames of a sample are cut to one size, each at a place of its own (IDOL)."""
    crop: float = Field(0.5, ge=0, le=1)
    """Probability of it."""
    horizontal_flip: float = Field(0.5, ge=0, le=1)
    """Probability."""
    vertical_flip: float = Field(0.0, ge=0, le=1)
    """Probability; for worlds without up and down."""
    swap_colours: bool = False
    """Permute the colour channels; for worlds where colour means nothing."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Augmentation":
        if not self.shorter_px and (self.longer_most_px or self.crop_px):
            raise ValueError("longer_most_px and crop_px are for sizes that are drawn: set shorter_px, too")
        if self.crop_px and self.crop_px[0] > self.crop_px[1]:
            raise ValueError(f"expected a least and a largest side of what is cut out, got {list(self.crop_px)}")
        return self
