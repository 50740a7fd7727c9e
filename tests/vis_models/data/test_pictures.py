import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vis_models.data.pictures import FORMATS, ORIENTATION, upright_rgb

pytestmark = pytest.mark.unit


def stored(picture: Image.Image, form: str, **options: object) -> Image.Image:
    """Written and opened again, as from a file."""
    data = io.BytesIO()
    picture.save(data, form, **options)
    return Image.open(io.BytesIO(data.getvalue()), formats=FORMATS)


def scene() -> Image.Image:
    """No two of its eight orientations look alike."""
    picture = Image.new("RGB", (96, 64), (40, 40, 200))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 30, 20), fill=(250, 250, 250))
    draw.rectangle((0, 44, 60, 63), fill=(200, 30, 30))
    return picture


UNTURNED = {  # EXIF 2.32, table of Orientation: where row 0 and column 0 of the stored picture are seen
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}
"""What a camera stores that was held so, of what it saw."""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_shown_upright_however_the_camera_was_held(form: str, orientation: int):
    seen = np.asarray(scene())
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = stored(Image.fromarray(np.ascontiguousarray(UNTURNED[orientation](seen))), form, exif=exif)
    shown = np.asarray(upright_rgb(picture)).astype(int)
    assert shown.shape == seen.shape
    assert np.abs(shown - seen).mean() < 4


def test_labels_that_were_drawn_on_the_stored_picture_keep_it():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = stored(scene(), "PNG", exif=exif)
    assert upright_rgb(picture, stated=(64, 96)).size == (96, 64)
    assert upright_rgb(picture, stated=(96, 64)).size == (64, 96)
    assert upright_rgb(picture).size == (64, 96)


def test_exif_that_is_damaged_is_no_orientation():
    for tag in (0, 9, 300):
        exif = Image.Exif()
        exif[ORIENTATION] = tag
        assert upright_rgb(stored(scene(), "JPEG", exif=exif)).size == (96, 64)
    data = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    scene().save(data, "JPEG", exif=exif)
    broken = data.getvalue().replace(b"Exif\0\0MM", b"Exif\0\0??")
    assert upright_rgb(Image.open(io.BytesIO(broken))).size == (96, 64)


GREYS = [0, 1, 128, 257, 30_000, 61_430, 65_535]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_scaled_and_not_clipped(form: str):
    picture = stored(Image.fromarray(np.array([GREYS] * 40, np.uint16)), form)
    assert np.asarray(upright_rgb(picture))[0, :, 1].tolist() == [round(grey / 257) for grey in GREYS]


def test_a_tiff_whose_white_is_zero_is_inverted():
    picture = stored(Image.fromarray(np.array([GREYS], np.uint16)), "TIFF", tiffinfo={262: 0})
    assert np.asarray(upright_rgb(picture))[0, :, 1].tolist() == [round(255 - grey / 257) for grey in GREYS]


@pytest.mark.parametrize("form", ["TIFF", "PPM"])
def test_floats_go_from_black_to_white_or_are_refused(form: str):
    shares = np.array([[0, 0.25, 0.5, 1]], np.float32)
    assert np.asarray(upright_rgb(stored(Image.fromarray(shares), form)))[0, :, 0].tolist() == [0, 64, 128, 255]
    for wrong in (255 * shares, -shares, np.where(shares == 1, np.nan, shares)):
        with pytest.raises(ValueError, match=r"has floats from .*, expected 0 \(black\) to 1 \(white\)"):
            upright_rgb(stored(Image.fromarray(wrong.astype(np.float32)), form))


def test_integers_of_32_bits_are_refused():
    with pytest.raises(ValueError, match="integers of 32 bits, of which none is agreed to be white"):
        upright_rgb(stored(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("LAB", "TIFF"),
        ("P", "PNG"),
        ("P", "BMP"),
        ("RGB", "WEBP"),
    ],
)
def test_colours_stay_what_they_were(mode: str, form: str):
    picture = Image.new("RGB", (8, 8), (200, 40, 90))
    if mode == "LAB":
        picture = Image.new("LAB", (8, 8), (117, 191, 137))  # CIE 1976, D50
    elif mode == "P":
        picture = picture.quantize(2)
    shown = np.asarray(upright_rgb(stored(picture.convert(mode), form))).astype(int)
    assert np.abs(shown - (200, 40, 90)).max() < 14


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")])
def test_what_is_transparent_lies_over_black(mode: str, form: str):
    picture = Image.new("RGBA", (2, 1), (200, 200, 200, 255))
    picture.putpixel((1, 0), (200, 200, 200, 0))
    shown = np.asarray(
        upright_rgb(stored(picture.convert(mode), form, **({"lossless": True} if form == "WEBP" else {})))
    )
    assert shown[0].tolist() == [[200] * 3, [0] * 3]


def test_a_transparent_colour_of_a_palette_lies_over_black():
    picture = Image.new("P", (2, 1), 1)
    picture.putpalette([9, 9, 9, 200, 100, 50])
    picture.putpixel((1, 0), 0)
    assert np.asarray(upright_rgb(stored(picture, "PNG", transparency=0)))[0].tolist() == [[200, 100, 50], [0, 0, 0]]


@pytest.mark.parametrize("form", ["TIFF", "WEBP", "PNG"])
def test_a_stack_of_pictures_in_one_file_is_no_frame(form: str):
    with pytest.raises(ValueError, match="holds 2 pictures, expected one per file"):
        upright_rgb(stored(scene(), form, save_all=True, append_images=[scene().rotate(180)]))


def test_pictures_behind_the_first_are_no_frames():
    thumbnail = scene().resize((24, 16))
    assert upright_rgb(stored(scene(), "TIFF", save_all=True, append_images=[thumbnail])).size == (96, 64)
    assert upright_rgb(stored(scene(), "MPO", save_all=True, append_images=[scene()])).size == (96, 64)
