"""Small films and images with bytes changed, cut out, doubled or cut off, each as its seed says."""

import random
from pathlib import Path

import av
import numpy as np
from PIL import Image

from jobs.archives.archive import VideoSource, list_videos
from jobs.store import Store
from tests.jobs import barcode

KINDS = ("mp4", "webm", "mkv", "ts", "png", "jpg", "webp", "tif")
ANSWERS = {
    None, "bad_image", "damaged", "empty_file", "ends_early", "no_frames", "no_video_stream", "not_a_video",
    "size_changed", "unknown_codec",
}  # fmt: skip
"""What may become of such a file."""


def write(folder: Path, kind: str) -> Path:
    """A film of 12 frames, or an image."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"whole.{kind}"
    if kind in ("png", "jpg", "webp", "tif"):
        pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path, **({"compression": "tiff_lzw"} if kind == "tif" else {}))
        return path
    codec = "libvpx-vp9" if kind == "webm" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in range(12):
            picture = barcode.draw(5, frame, (48, 64))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def mutate(whole: bytes, seed: int) -> bytes:
    """Mostly the first and the last kilobyte, where containers keep what they promise."""
    chance = random.Random(seed)
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        near = chance.choice((0, 0, max(0, len(data) - 1024), chance.randrange(len(data) + 1)))
        place = min(len(data), near + chance.randrange(1024))
        length = chance.choice((1, 1, 1, 4, 64))
        how = chance.randrange(6)
        if how < 3:
            data[place : place + length] = chance.randbytes(length)
        elif how == 3:
            data[place : place + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"))
        elif how == 4:
            del data[place : place + length]
        else:
            data[place:place] = data[place : place + length]
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def source_of(path: Path, store: Store) -> VideoSource:
    """A film, or a folder with this one image."""
    if path.suffix[1:] in ("png", "jpg", "webp", "tif"):
        images = path.parent / "images"
        images.mkdir(exist_ok=True)
        path.rename(images / path.name)
        path = images
    (source,) = list_videos(str(path), store)
    return source
