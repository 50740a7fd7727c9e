"""Reader of labelled single images: each becomes a video of one frame, so that training can mix them with videos.

Format (COCO): `images {id, height, width, file_name}`, `categories {id, name}`, `annotations {id, image_id,
category_id, iscrowd, segmentation}`. A segmentation is polygons, compressed RLE, or RLE with a list of counts. The mask
says where an object is: `bbox` and `area` are not read, and an object without a mask is refused.

Two data sets never number their categories alike: `translate` brings one to the other's by name.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vis_models import masks
from vis_models.data.annotations import (
    AnnotatedVideo,
    Category,
    TrackLabel,
    VideoSet,
    first_with_frame,
    read_youtube_vis,
)
from vis_models.data.categories import counterparts
from vis_models.data.dialects import VideoId, is_of_images, single_images
from vis_models.data.frame_names import plain, stays_inside
from vis_models.data.json_entries import Entry, complaint, load_json, unique
from vis_models.data.open_images import names_in, read_open_images

REMEDY = "The COCO format is described at the top of vis_models/data/coco.py."


def read_in_categories(
    path: Path | str,
    categories: tuple[Category, ...],
    names: Mapping[str, str] | None = None,
    frames_dir: Path | str | None = None,
) -> tuple[VideoSet, dict[str, int]]:
    """A labelled set in the categories of another one, as `translate` gives it.

    Args:
        path: JSON that `read_labels` knows, or the folder of an OpenImages release, of which only classes with a
            counterpart are read.
        names: as of `translate`, beside those of the reviewed maps in `open_images.py`.
        frames_dir: what the frames' names are relative to; None looks beside the labels.
    """
    names = names or {}
    if not Path(path).is_dir():
        return translate(read_labels(path, frames_dir), categories, names)
    names = {**names_in([category.name for category in categories], path), **names}
    return translate(read_open_images(path, names.keys(), frames_dir), categories, names)


def read_labels(json_path: Path | str, frames_dir: Path | str | None = None) -> VideoSet:
    """A JSON of either format: one whose `images` are of no video is COCO's, any other is read as YouTube-VIS."""
    content = load_json(Path(json_path), "a COCO or YouTube-VIS JSON", "images or videos")
    return (read_coco if is_of_images(content) else read_youtube_vis)(json_path, frames_dir)


def read_coco(json_path: Path | str, images_dir: Path | str | None = None) -> VideoSet:
    """Read and check a JSON (or .json.gz) of the COCO format; ids may be written as `dialects.py` describes.

    Args:
        images_dir: what `file_name` is relative to; by default the folder beside the JSON that has its name, else
            `images`, else the folder that holds the JSON.

    Raises:
        BadConfig: no such file, broken JSON, or an entry that contradicts the format or another entry.
    """
    path = Path(json_path)
    content, notes = single_images(load_json(path, "a COCO JSON", "images and categories"), str(path))
    whole = Entry(content, str(path), REMEDY)
    names = {number: entry.text("name") for number, entry in unique(whole.entries("categories")).items()}
    images = {number: _image(number, entry) for number, entry in unique(whole.entries("images")).items()}
    tracks: dict[VideoId, list[TrackLabel]] = {number: [] for number in images}
    for number, entry in unique(whole.entries("annotations")).items():
        image = images[entry.reference("image_id", images)]
        tracks[image.video_id].append(
            TrackLabel(
                track_id=number,
                category_id=entry.reference("category_id", names),
                crowd=bool(entry.value.get("iscrowd")),
                rles=(_rle(entry, image),),
            )
        )
    folders = [path.parent / path.name.split(".")[0], path.parent / "images", path.parent]
    root = Path(images_dir) if images_dir else first_with_frame(folders, [*images.values()])
    return VideoSet(
        categories=tuple(Category(id=number, name=name) for number, name in names.items()),
        videos=tuple(replace(image, frames_dir=root, tracks=tuple(tracks[number])) for number, image in images.items()),
        source=str(path),
        notes=notes,
    )


def _image(number: VideoId, entry: Entry) -> AnnotatedVideo:
    height, width, name = entry.integer("height"), entry.integer("width"), entry.text("file_name")
    if min(height, width) < 1:
        raise complaint(entry.where, "a size in pixels", f"{width}x{height}", REMEDY)
    if not stays_inside(name):
        raise complaint(f"{entry.where}, file_name", "a relative path", repr(name), REMEDY)
    return AnnotatedVideo(number, height, width, (plain(name),), frames_dir=Path(), tracks=())


def _rle(entry: Entry, image: AnnotatedVideo) -> bytes:
    expected = f"a mask of {image.width}x{image.height} px"
    where = f"{entry.where} of image {image.video_id}, segmentation"
    try:
        rle = masks.from_coco(entry.value.get("segmentation"), image.height, image.width)
    except Exception as error:  # pycocotools raises bare Exception for what it does not understand
        remedy = "Convert this mask, or the whole file, to the size of the image."
        raise complaint(where, expected, str(error), remedy) from error
    if rle is None:
        raise complaint(where, expected, "none", "Drop the annotations that have only a box: masks are learned too.")
    return rle


def translate(
    videos: VideoSet, categories: tuple[Category, ...], names: Mapping[str, str] | None = None
) -> tuple[VideoSet, dict[str, int]]:
    """A data set in the categories of another one, matched by name as `categories.py` does; ids and order mean nothing.

    Objects of any other category are dropped, which leaves them unlabelled in the picture.

    Args:
        categories: of the other data set.
        names: what a category of `videos` is called there, where the names differ.

    Returns:
        The data set, and how many objects were dropped of each category that has no counterpart.

    Raises:
        BadConfig: `names` speaks of a category that does not exist, or no category has a counterpart.
    """
    names = names or {}
    remedy = "Say what their categories are called here, as in names={'Sea turtle': 'turtle'}."
    theirs, ours = {c.name for c in videos.categories}, {c.name for c in categories}
    for given, known, side in ((names.keys(), theirs, "their"), (names.values(), ours, "our")):
        if unknown := sorted(set(given) - known):
            where = f"{videos.source}: names"
            raise complaint(where, f"{side} categories, of {sorted(known)}", str(unknown), remedy)
    by_name = {category.name: category.id for category in categories}
    pairs = counterparts((names.get(name, name) for name in theirs), by_name)
    ids = {c.id: by_name.get(pairs[names.get(c.name, c.name)] or "") for c in videos.categories}
    if not any(number is not None for number in ids.values()):
        raise complaint(f"{videos.source}: categories", f"some of {sorted(ours)}", f"only {sorted(theirs)}", remedy)
    called = {category.id: category.name for category in videos.categories}
    dropped: Counter[str] = Counter()
    translated = []
    for video in videos.videos:
        kept = []
        for track in video.tracks:
            number = ids[track.category_id]
            if number is None:
                dropped[called[track.category_id]] += 1
            else:
                kept.append(replace(track, category_id=number))
        translated.append(replace(video, tracks=tuple(kept)))
    return replace(videos, categories=categories, videos=tuple(translated)), dict(dropped)
