"""The file of a frame -> the picture that it shows.

One rule for training and for archives: a frame must look to the model as it did when the model learned.
"""

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")
"""What is opened, whatever the name says."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of this EXIF orientation upright."""
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262


def upright_rgb(picture: Image.Image, stated: tuple[int, int] | None = None) -> Image.Image:
    """A picture as it is to be seen: 8 bits of red, green and blue, upright, what is transparent over black.

    Args:
        stated: (height, width) that a data set gives. Where only the stored, unturned picture has this size, the labels
            were drawn on that, and it stays.

    Raises:
        ValueError: it has a range of values that nobody agreed on (floats outside of 0 to 1, 32-bit integers), or is
            the first of several of its size.
    """
    picture.load()
    _only_one(picture)
    rgb = _rgb(picture)
    turn = _turn(picture)
    turned = rgb.transpose(turn) if turn is not None else rgb
    return rgb if stated == (rgb.height, rgb.width) and rgb.size != turned.size else turned


def _only_one(picture: Image.Image) -> None:
    """A stack of pictures in one file is a film of its own; a thumbnail behind the picture is none, nor are the
    pictures that telephones append to a JPEG (MPO)."""
    pictures = getattr(picture, "n_frames", 1)
    if picture.format == "MPO" or pictures == 1:
        return
    size = picture.size
    picture.seek(1)
    if picture.size == size:
        raise ValueError(f"holds {pictures} pictures, expected one per file: write each as a file of its own")
    picture.seek(0)
    picture.load()


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """TIFF files come upright from Pillow already."""
    try:
        return TURNS.get(int(picture.getexif().get(ORIENTATION, 1)))
    except Exception:  # EXIF that is damaged in any way
        return None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return _grey(_of_tags(picture, np.asarray(picture)))
    if picture.mode == "I" and picture.format == "PPM":  # Pillow brings every range to 16 bits
        return _grey(np.asarray(picture) / 65535)
    if picture.mode == "F":
        values = np.asarray(picture)
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is refused, too
            raise ValueError(f"has floats from {values.min():g} to {values.max():g}, expected 0 (black) to 1 (white)")
        return _grey(values)
    if picture.mode == "I":
        raise ValueError("has integers of 32 bits, of which none is agreed to be white; expected 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")
    return picture.convert("RGB")


def _of_tags(picture: Image.Image, values: np.ndarray) -> np.ndarray:
    """Grey of up to 16 bits as a share of white; a TIFF says how many bits it has and which end is white."""
    tags = getattr(picture, "tag_v2", {})
    share = values / (2 ** tags.get(TIFF_BITS, (16,))[0] - 1)
    return 1 - share if tags.get(TIFF_PHOTOMETRIC) == 0 else share


def _grey(share: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(share * 255).astype(np.uint8)).convert("RGB")
