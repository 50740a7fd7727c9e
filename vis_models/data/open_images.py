"""Reader of OpenImages (V5 to V7) as it is published: nothing is unpacked or converted first.

Format: a folder with
    oidv7-class-descriptions-boxable.csv         LabelName (a MID such as /m/0dftk), DisplayName; with or without header
    oidv6-train-annotations-bbox.csv             ImageID, LabelName, XMin, XMax, YMin, YMax, IsGroupOf, ...
    train-annotations-object-segmentation.csv    MaskPath, ImageID, LabelName, BoxXMin, BoxXMax, BoxYMin, BoxYMax, ...
    train-masks/train-masks-0.zip ... -f.zip     PNG masks, in the archive of the first digit of their ImageID
    train/<ImageID>.jpg
and the same of `validation` and `test`. Boxes are in fractions of the image. The names of other releases, without
`oidv7-` or `oidv6-`, are known too, and archives may lie in the folder itself. A split is read where its CSV of masks
is there. Source: https://storage.googleapis.com/openimages/web/download.html.

What becomes an object (Johnander et al., section C.1, use the images as if they were labelled in full):
    a mask                         an object, resized to its image: the PNGs are often larger, and sometimes smaller
    a mask whose box IsGroupOf     a crowd, as COCO's `iscrowd`: neither found nor missed
    a box without a mask           left out, which leaves the object unlabelled: most of them have none
    IsDepiction, IsInside          not looked at: a drawn dog is labelled as a dog, and the paper takes all masks alike
    a class that is not asked for  left out

Masks are read when they are looked at (`mask_archives.py`). In memory are, for every mask that is kept, its place;
while reading also a few blocks of a CSV and the table of contents of one archive. There are no sizes of images in the
CSVs: they come from the headers of the files.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from PIL import Image

from vis_models.config import BadConfig, nearest
from vis_models.data.annotations import AnnotatedVideo, Category, TrackLabel, VideoSet
from vis_models.data.categories import counterparts
from vis_models.data.frame_names import stays_inside
from vis_models.data.json_entries import complaint
from vis_models.data.mask_archives import MaskArchive
from vis_models.data.pictures import FORMATS

SPLITS = ("train", "validation", "test")
PUBLISHED = "https://storage.googleapis.com/openimages"
MAPS = tuple(Path(__file__).with_name(f"open_images_to_ytvis{year}.csv") for year in (2019, 2021))
"""Reviewed: `category` of YouTube-VIS, the class of OpenImages that is a part of it, and what is to be said about it. A
category has a row for each such class, or one without a class. The older releases spell these names as V7 does."""
AGAIN = "Copy the file again; it may be another one, or damaged."
SAME_BOX = 2e-3
"""Two boxes are one where no side is farther apart, in fractions of the image: 2 px of its 1024."""
SAME_SHAPE = 0.05
"""Relative difference in width / height of a mask and its image up to which one is the other resized. Rounding gives a
thousandth; an image that was turned after its masks were drawn gives much more."""

Box = tuple[float, float, float, float]


def names_in(categories: Collection[str], folder: Path | str) -> dict[str, str]:
    """What classes of OpenImages are called in another data set.

    Args:
        categories: of the other data set. Where one of `MAPS` has all of them (YouTube-VIS 2019 or 2021, or a part of
            one) it is believed; for any other data set, classes with the name of a category are taken.
        folder: as published.

    Raises:
        BadConfig: no class descriptions.
    """
    for path in MAPS:
        with path.open(newline="") as file:
            rows = [*csv.DictReader(file)]
        called = counterparts({row["category"] for row in rows}, categories)
        if len({name for name in called.values() if name}) == len(categories):
            return {
                row["open_images"]: name for row in rows if row["open_images"] and (name := called[row["category"]])
            }
    return {theirs: ours for ours, theirs in counterparts(categories, _labels(Path(folder))).items() if theirs}


def read_open_images(folder: Path | str, classes: Collection[str], images_dir: Path | str | None = None) -> VideoSet:
    """The images that have a mask of these classes, each a video of one frame; other classes leave no trace.

    An image that is missing or damaged is listed: `VideoSet.check_frames` and the preflight of a training name it. A
    mask that is not in its archive or has another shape than its image is left out, and `notes` says how many are.

    Args:
        classes: display names. They become the categories, in this order.
        images_dir: folder with `train`, `validation`, `test`; by default the folder itself.

    Raises:
        BadConfig: a part of the release is missing (with where it is published), a CSV without its columns, a broken
            archive, an unknown class, or no mask of any of the classes.
    """
    folder = Path(folder)
    ids = dict(zip(_labels_of(classes, folder), range(1, len(classes) + 1), strict=True))
    splits = [split for split in SPLITS if (folder / _masks_csv(split)).is_file()]
    if not splits:
        raise _absent(folder, f"v5/{_masks_csv('train')}")
    reader = _Reader(folder, Path(images_dir or folder), ids)
    videos = tuple(video for split in splits for video in reader.read(split))
    if not videos:
        raise complaint(str(folder), f"masks of {', '.join(classes)}", "none", "Name other classes.")
    used = {track.category_id for video in videos for track in video.tracks}
    categories = tuple(Category(id=number, name=name) for number, name in enumerate(classes, start=1))
    if bare := [category.name for category in categories if category.id not in used]:
        reader.left_out["classes without a mask"] = bare
    notes = tuple(
        f"{folder}: {what}: {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in reader.left_out.items()
    )
    return VideoSet(categories, videos, str(folder), notes)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the CSV of masks."""

    file: str
    label: str
    box: Box


class _Reader:
    """Reads split after split; numbers the objects through all of them and remembers what it left out."""

    def __init__(self, folder: Path, images: Path, ids: Mapping[str, int]) -> None:
        self.folder, self.images, self.ids = folder, images, ids
        self.numbers = count(1)
        self.left_out: dict[str, list[str]] = defaultdict(list)

    def read(self, split: str) -> Iterator[AnnotatedVideo]:
        """The images of a split that have a mask, in the order of their ids."""
        boxes = _file(self.folder, f"{split}-annotations-bbox.csv", _boxes_at(split))
        if not (self.images / split).is_dir():
            where = f"s3://open-images-dataset/{split}"
            remedy = f"They are published at {where}: aws s3 --no-sign-request sync {where} {self.images / split}"
            raise complaint(str(self.images), f"a folder {split} with images", "none", remedy)
        rows = self._rows(self.folder / _masks_csv(split))
        digits = sorted({image[0] for image in rows})
        paths = [_archive(self.folder, split, digit) for digit in digits]  # all of them, before one is read
        crowds = self._crowds(boxes, rows)
        for digit, path in zip(digits, paths, strict=True):
            archive = MaskArchive(path)
            for image in sorted(image for image in rows if image[0] == digit):
                name = f"{split}/{image}.jpg"
                size_px, tracks = self._tracks(name, rows[image], crowds, archive)
                if tracks:
                    yield AnnotatedVideo(image, *size_px, (name,), frames_dir=self.images, tracks=tracks)

    def _rows(self, path: Path) -> dict[str, list[_Row]]:
        """The masks of each image."""
        sides = dict.fromkeys(("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"), pa.float64())
        texts = dict.fromkeys(("MaskPath", "ImageID", "LabelName"), pa.string())
        rows: dict[str, list[_Row]] = defaultdict(list)
        for row in _stream(path, texts | sides, {"LabelName": [*self.ids]}):
            if not stays_inside(row["ImageID"]):
                raise complaint(f"{path}, ImageID", "the name of a file", repr(row["ImageID"]), AGAIN)
            rows[row["ImageID"]].append(_Row(row["MaskPath"], row["LabelName"], _box(row, sides)))
        return rows

    def _crowds(self, path: Path, rows: Mapping[str, list[_Row]]) -> set[str]:
        """The files of the masks whose box is one of a group."""
        sides = dict.fromkeys(("XMin", "XMax", "YMin", "YMax"), pa.float64())
        columns = {"ImageID": pa.string(), "LabelName": pa.string(), "IsGroupOf": pa.int8(), **sides}
        return {
            mask.file
            for row in _stream(path, columns, {"LabelName": [*self.ids], "IsGroupOf": [1]})
            for mask in rows.get(row["ImageID"], ())
            if mask.label == row["LabelName"] and _is_same(mask.box, _box(row, sides))
        }

    def _tracks(
        self, name: str, rows: Iterable[_Row], crowds: Collection[str], archive: MaskArchive
    ) -> tuple[tuple[int, int], tuple[TrackLabel, ...]]:
        """(height, width) of an image in px, that of its first mask where the image cannot be read, and its objects."""
        size_px = _size_px(self.images / name)
        tracks = []
        for row in rows:
            drawn_px = archive.size_px(row.file)
            size_px = size_px or drawn_px
            if drawn_px is None or size_px is None:
                self.left_out["masks that are not in their archive"].append(row.file)
            elif abs(drawn_px[1] * size_px[0] / (drawn_px[0] * size_px[1]) - 1) > SAME_SHAPE:
                self.left_out["masks of another shape than their image"].append(row.file)
            else:
                mask = archive.mask(row.file, size_px)
                tracks.append(TrackLabel(next(self.numbers), self.ids[row.label], row.file in crowds, mask))
        return size_px or (1, 1), tuple(tracks)


def _labels(folder: Path) -> dict[str, str]:
    """Display name -> MID of every class."""
    path = _file(folder, "class-descriptions-boxable.csv", "v7/oidv7-class-descriptions-boxable.csv")
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        labels = {row[1]: row[0] for row in csv.reader(file) if len(row) == 2 and row[0].startswith("/")}
    if not labels:
        remedy = f"Copy it again from {PUBLISHED}/v7/oidv7-class-descriptions-boxable.csv."
        raise complaint(str(path), "rows such as /m/01g317,Person", "none", remedy)
    return labels


def _labels_of(classes: Collection[str], folder: Path) -> list[str]:
    """The MID of each class. Raises BadConfig: there is no such class, or none is named."""
    known = _labels(folder)
    if not classes:
        remedy = "Say what its classes are called here, as in names={'Sea turtle': 'turtle'}."
        raise complaint(f"{folder}: classes", "at least one", "none", remedy)
    for name in classes:
        if name not in known:
            meant = nearest(name, known)
            hint = f"Did you mean {meant!r}?" if meant else "The class descriptions list them."
            raise complaint(f"{folder}: classes", "names of OpenImages", repr(name), hint)
    return [known[name] for name in classes]


def _masks_csv(split: str) -> str:
    return f"{split}-annotations-object-segmentation.csv"


def _boxes_at(split: str) -> str:
    return "v6/oidv6-train-annotations-bbox.csv" if split == "train" else f"v5/{split}-annotations-bbox.csv"


def _archive(folder: Path, split: str, digit: str) -> Path:
    own, name = folder / f"{split}-masks", f"{split}-masks-{digit}.zip"
    return _file(own if own.is_dir() else folder, name, f"v5/{split}-masks/{name}")


def _file(folder: Path, name: str, address: str) -> Path:
    """A file of the release by the name that it has in V5, or the newest with that of a later one."""
    for path in (*sorted(folder.glob(f"oidv*-{name}"), reverse=True), folder / name):
        if path.is_file():
            return path
    raise _absent(folder, address)


def _absent(folder: Path, address: str) -> BadConfig:
    there = [path.name for path in islice(folder.iterdir(), 6)] if folder.is_dir() else []
    got = f"only {', '.join(sorted(there))}" if there else "an empty folder"
    remedy = (
        f"It is published at {PUBLISHED}/{address}. The top of vis_models/data/open_images.py shows the whole folder; "
        "for a data set with a JSON name the JSON itself."
    )
    return complaint(str(folder), f"the file {address.rsplit('/', 1)[-1]} of OpenImages", got, remedy)


def _stream(
    path: Path, columns: Mapping[str, pa.DataType], wanted: Mapping[str, Collection[Any]]
) -> Iterator[dict[str, Any]]:
    """The rows of a CSV that have the wanted values; a few blocks of the file are in memory at a time.

    Args:
        columns: that a row is made of; the file may have more.
        wanted: by column, the values of which a row has one.

    Raises:
        BadConfig: a column is missing, or a row does not fit its columns.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        header = next(csv.reader(file), [])
    if not {*columns} <= {*header}:
        raise complaint(f"{path}, first line", f"the columns {', '.join(columns)}", f"{header}"[:200], AGAIN)
    options = pyarrow.csv.ConvertOptions(column_types=columns, include_columns=[*columns])
    values = {name: pa.array(some, columns[name]) for name, some in wanted.items()}
    try:
        with pyarrow.csv.open_csv(path, convert_options=options) as reader:
            for batch in reader:
                for name, some in values.items():
                    batch = batch.filter(pc.is_in(batch[name], value_set=some))
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        expected = f"rows of {len(header)} columns as its first line names them"
        raise complaint(str(path), expected, str(error), AGAIN) from error


def _box(row: Mapping[str, Any], sides: Iterable[str]) -> Box:
    left, right, top, bottom = (math.nan if row[side] is None else row[side] for side in sides)
    return left, right, top, bottom


def _is_same(a: Box, b: Box) -> bool:
    return all(abs(one - other) <= SAME_BOX for one, other in zip(a, b, strict=True))


def _size_px(file: Path) -> tuple[int, int] | None:
    """(height, width) of a picture as it is stored; None: it cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
