"""Published checkpoints by name: fetched from where their authors put them, once, whole, and checked.

No file of another project lies in this one. Fetching goes on where it was cut off; where no network leads there, the
file can be brought by hand: `vis models import FILE` takes it.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from jobs.settings import Settings
from vis_models.config import BadConfig, nearest
from vis_models.progress import Progress

BLOCK = 2**20
TORCH, OPENMMLAB = "https://download.pytorch.org/models/", "https://download.openmmlab.com/"
VISION = "torchvision, BSD-3-Clause"
MMLAB = "OpenMMLab, Apache-2.0"


class Published(NamedTuple):
    """A checkpoint that its authors publish. Their names of files carry the first digits of the sha256."""

    url: str
    classes: str
    """Data set whose classes it tells apart (`vis_models/data/class_lists.py`); empty: a backbone, for `--init`."""
    licence: str
    about: str


PUBLISHED = {
    "maskrcnn_resnet50_fpn": Published(
        f"{TORCH}maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "coco", VISION, "Mask R-CNN R50-FPN v1, COCO"
    ),
    "maskrcnn_resnet50_fpn_v2": Published(
        f"{TORCH}maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", "coco", VISION, "Mask R-CNN R50-FPN v2, COCO"
    ),
    "masktrack_r50_ytvis2019": Published(
        f"{OPENMMLAB}mmtracking/vis/masktrack_rcnn/masktrack_rcnn_r50_fpn_12e_youtubevis2019/"
        "masktrack_rcnn_r50_fpn_12e_youtubevis2019_20211022_194830-6ca6b91e.pth",
        "ytvis2019", MMLAB, "MaskTrack R-CNN R50 of mmtracking, YouTube-VIS 2019",
    ),
    "mask_rcnn_r50_mmdetection": Published(
        f"{OPENMMLAB}mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_1x_coco/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth",
        "coco", MMLAB, "Mask R-CNN R50-FPN of mmdetection, COCO",
    ),
    "resnet18": Published(f"{TORCH}resnet18-f37072fd.pth", "", VISION, "ResNet-18, ImageNet"),
    "resnet50": Published(f"{TORCH}resnet50-0676ba61.pth", "", VISION, "ResNet-50, ImageNet"),
    "resnet101": Published(f"{TORCH}resnet101-63fe2227.pth", "", VISION, "ResNet-101, ImageNet"),
}  # fmt: skip


class Fetched(NamedTuple):
    """A checkpoint on this machine."""

    path: Path
    sha256: str
    checked: bool
    """Its sha256 begins as its name says; False: its authors say none, and this one is what came first."""


def published(name: str) -> Published:
    """Raises BadConfig: none of this name is listed."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    meant = nearest(name, PUBLISHED)
    hint = f"did you mean {meant}" if meant else f"expected one of {', '.join(PUBLISHED)}"
    raise BadConfig(f"no published checkpoint {name!r} is listed, {hint}. A file of your own: vis models import FILE")


def fetch(name: str, settings: Settings, progress: Progress | None = None) -> Fetched:
    """The file of a published checkpoint under `settings.scratch`, fetched unless it is there.

    Raises:
        BadConfig: no such name, no way to its server, or a file of another sha256 than its name says.
    """
    wanted = published(name)
    path = settings.scratch.expanduser() / "checkpoints" / wanted.url.rpartition("/")[2]
    if path.exists():
        return Fetched(path, *_check(wanted, path))
    arriving = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        for done, total in _bring(wanted.url, arriving):
            if progress:
                progress(f"fetch {name}", done, total, {})
    except (httpx.HTTPError, OSError) as error:
        use = f"vis models import FILE --classes {wanted.classes}" if wanted.classes else "vis train --init FILE"
        kept = f"; {arriving.stat().st_size} bytes are kept, the same command goes on" if arriving.exists() else ""
        raise BadConfig(
            f"{wanted.url} cannot be fetched ({_why(error)}){kept}. Where no network leads there, bring the file "
            f"another way and name it: {use}"
        ) from None
    digest, checked = _check(wanted, arriving)
    os.replace(arriving, path)
    return Fetched(path, digest, checked)


def _bring(url: str, path: Path) -> Iterator[tuple[int, int]]:
    """Appends to what is there; (bytes done, in all) now and then."""
    there = path.stat().st_size if path.exists() else 0
    asked = {"Range": f"bytes={there}-"} if there else {}
    with httpx.stream("GET", url, headers=asked, follow_redirects=True, timeout=60) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # it is whole already, or another file, which its digest tells
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            there = 0
        total = there + int(answer.headers.get("Content-Length", 0))
        with path.open("ab" if there else "wb") as file:
            for block in answer.iter_raw(BLOCK):
                file.write(block)
                there += len(block)
                yield there, max(total, there)
    if there < total:
        raise OSError(f"its server ended after {there} of {total} bytes")


def _check(wanted: Published, path: Path) -> tuple[str, bool]:
    """(sha256, whether it was known before). Raises BadConfig, and removes the file: it is another one."""
    digest = sha256_of(path)
    named = re.search(r"-([0-9a-f]{8})\.\w+$", wanted.url)
    noted = path.with_name(f"{wanted.url.rpartition('/')[2]}.sha256")
    expected = named[1] if named else noted.read_text().strip() if noted.exists() else ""
    if not digest.startswith(expected):
        path.unlink()
        raise BadConfig(
            f"what came from {wanted.url} has sha256 {digest[:16]}..., expected one that begins with {expected}: it is "
            "damaged or another file, and was removed. Fetch it again"
        )
    if not expected:
        noted.write_text(digest)
    return digest, bool(expected)


def sha256_of(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _why(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"its server answers {error.response.status_code}"
    return str(error) or type(error).__name__
