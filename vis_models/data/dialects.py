"""What tools write for YouTube-VIS labels -> the one form that our readers take, with a note for every change.

* CocoVID (mmtracking and most converters): `images {id, video_id, frame_id, file_name}`, one annotation per frame with
  `instance_id` (or `track_id`), `segmentation`, `area`. `frame_id` (or `frame_index`) orders the frames of a video; it
  may count from any number and leave some out.
* Ids as text or as 10.0, also where one list of a file writes them so and another does not. Two ids are the same when
  their text is: that is how the tables hold the ids of videos.
* Missing `iscrowd` (0), `areas` (those of the masks), ids of annotations (numbered from 1), sizes of videos (RLE's).
* Names of frames as `frame_names.py` describes.

What follows from the rest of a file is filled in, what does not is left to the reader's complaint. Nothing given is
changed in place, and a file in the one form comes out as it went in.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vis_models.config import BadConfig
from vis_models.data.frame_names import below, shared_root
from vis_models.data.relatives import not_labels

Entry = dict[str, Any]
VideoId = int | str
"""Of one file all are numbers, or all are text."""


@dataclass(frozen=True)
class OneForm:
    """A file in the form of YouTube-VIS."""

    content: Entry
    notes: tuple[str, ...] = ()
    """What was filled in or taken as something else, a sentence each."""
    frames: Mapping[str, tuple[VideoId, int]] = field(default_factory=dict)
    """Of CocoVID: (video, index of the frame) by the text of the image's id."""
    root: str = ""
    """What stood before all names of frames and was taken off, such as `train/JPEGImages`."""


def one_form(content: Entry, name: str) -> OneForm:
    """The labels of a file that is YouTube-VIS or one of its dialects; entries without sense stay as they are.

    Args:
        name: of the file, for messages.

    Raises:
        BadConfig: it is another known format, or CocoVID that contradicts itself.
    """
    if relative := not_labels(content):
        raise BadConfig(f"{name}: {relative}")
    notes: list[str] = []
    frames: dict[str, tuple[VideoId, int]] = {}
    content = {**content}
    if is_cocovid(content):
        content, frames = _joined(content, name, notes)
    _ids(content, name, notes, {"videos": "video_id", "categories": "category_id"})
    _fill(content, notes)
    root = _frame_names(content)
    video_of = {text_of(video["id"]): video["id"] for video in _objects(content, "videos") if "id" in video}
    frames = {image: (video_of.get(text_of(video), video), index) for image, (video, index) in frames.items()}
    return OneForm(content, tuple(notes), frames, root)


def single_images(content: Entry, name: str) -> tuple[Entry, tuple[str, ...]]:
    """(the content of a COCO file with its ids in one form, notes). Raises BadConfig: ids of categories are names.

    LVIS names an image by its address at COCO (`coco_url`): the last two parts, such as `train2017/000000391895.jpg`.
    """
    notes: list[str] = []
    content = {**content}
    images = _objects(content, "images")
    urls = [image.get("coco_url") if "file_name" not in image else None for image in images]
    if any(isinstance(url, str) for url in urls):
        named = ["/".join(url.split("/")[-2:]) if isinstance(url, str) else None for url in urls]
        _rewrite(content, "images", "file_name", [n or i.get("file_name") for n, i in zip(named, images, strict=True)])
        notes.append("images without file_name are named by the end of their coco_url")
    _ids(content, name, notes, {"images": "image_id", "categories": "category_id"})
    return content, tuple(notes)


def is_cocovid(content: Any) -> bool:
    """Whether its images say which video they are of."""
    images = content.get("images") if isinstance(content, Mapping) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], Mapping) and "video_id" in images[0]


def is_of_images(content: Any) -> bool:
    """Whether it is COCO's, labels of single images."""
    return isinstance(content, Mapping) and "images" in content and not is_cocovid(content)


def whole(value: Any) -> Any:
    """10.0 as 10, anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text_of(number: Any) -> str:
    """What two spellings of an id have in common."""
    return str(whole(number))


def _objects(content: Mapping[str, Any], key: str) -> list[Entry]:
    """The list under a key, or an empty one where it is no list of objects: its reader complains."""
    part = content.get(key)
    return part if isinstance(part, list) and all(isinstance(each, dict) for each in part) else []


# CocoVID: frames and their annotations -> videos and tracks


def _joined(content: Entry, name: str, notes: list[str]) -> tuple[Entry, dict[str, tuple[VideoId, int]]]:
    """(videos and annotations in the form of YouTube-VIS, the place of each image)."""
    by_video: dict[str, list[Entry]] = defaultdict(list)
    for n, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not {"id", "video_id", "file_name"} <= image.keys():
            raise BadConfig(f"{name}: images[{n}]: expected id, video_id and file_name, got {str(image)[:60]}")
        by_video[text_of(image["video_id"])].append(image)
    listed = {text_of(video.get("id")): video for video in _objects(content, "videos")}
    videos: list[Entry] = []
    place: dict[str, tuple[str, VideoId, int]] = {}
    for key in [*listed, *(key for key in by_video if key not in listed)]:
        if key in by_video:
            images = _in_order(by_video[key], f"{name}: video {key}", notes)
            videos.append(_video(listed.get(key, {}), images, f"{name}: video {key}"))
            place |= {text_of(image["id"]): (key, videos[-1]["id"], index) for index, image in enumerate(images)}
    if empty := [key for key in listed if key not in by_video]:
        notes.append(f"{len(empty)} videos have no image and are left out, the first is {empty[0]}")
    lengths = {text_of(video["id"]): len(video["file_names"]) for video in videos}
    tracks = _tracks(_objects(content, "annotations"), place, lengths, name, notes)
    rest = {key: value for key, value in content.items() if key != "images"}
    return rest | {"videos": videos, "annotations": tracks}, {k: (video, n) for k, (_, video, n) in place.items()}


def _in_order(images: Sequence[Entry], where: str, notes: list[str]) -> list[Entry]:
    order = next((key for key in ("frame_id", "frame_index") if all(key in image for image in images)), None)
    if order is None:
        said = "images without frame_id are taken in the order of their names, numbers in counting order"
        notes += [said] if said not in notes else []
        return sorted(images, key=lambda image: _counting(str(image["file_name"])))
    numbers = [image[order] for image in images]
    if not all(isinstance(whole(number), int) for number in numbers) or len(set(numbers)) != len(numbers):
        twice = next((n for n in numbers if numbers.count(n) > 1 or not isinstance(whole(n), int)), None)
        raise BadConfig(f"{where}: expected one image for each {order}, a whole number, got {twice!r} more than once")
    return sorted(images, key=lambda image: image[order])


def _counting(name: str) -> list[tuple[int, int | str]]:
    """Sorts `frame_2` before `frame_10`."""
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name)]


def _video(listed: Entry, images: Sequence[Entry], where: str) -> Entry:
    video = {**listed, "id": listed.get("id", images[0]["video_id"])}
    video["file_names"] = [image["file_name"] for image in images]
    video["length"] = len(images)
    for side in ("height", "width"):
        said = {whole(entry[side]) for entry in (*images, listed) if entry.get(side) is not None}
        if len(said) > 1:
            raise BadConfig(f"{where}: expected frames of one {side}, got {sorted(said, key=str)[:5]}")
        if said:
            video[side] = said.pop()
    return video


def _tracks(
    annotations: Sequence[Entry],
    place: Mapping[str, tuple[str, VideoId, int]],
    lengths: Mapping[str, int],
    name: str,
    notes: list[str],
) -> list[Entry]:
    """One annotation for each object, in the order in which the objects first appear in the file."""
    if annotations and not any(each.get("segmentation") for each in annotations):
        raise BadConfig(f"{name}: its annotations have boxes only, no segmentation: objects are scored by their masks")
    tracks: dict[tuple[str, str], Entry] = {}
    unseen = 0
    for n, one in enumerate(annotations):
        where = f"{name}: annotations[{n}]"
        image = text_of(one.get("image_id"))
        if image not in place:
            raise BadConfig(f"{where}: expected image_id to be the id of an image, got {one.get('image_id')!r}")
        key, video, index = place[image]
        track = track_key(one)
        if track is None:
            raise BadConfig(f"{where}: no instance_id or track_id, which says what object of video {video} this is")
        if not one.get("segmentation"):
            unseen += 1
            continue
        new = {"video_id": video, "category_id": one.get("category_id"), "iscrowd": 0}
        new |= {name: [None] * lengths[text_of(video)] for name in ("segmentations", "areas")}
        mine = tracks.setdefault((key, track), {"id": len(tracks) + 1} | new)
        if mine["segmentations"][index] is not None:
            raise BadConfig(f"{where}: object {track} of video {video} has a second annotation in image {image}")
        if text_of(mine["category_id"]) != text_of(one.get("category_id")):
            got = f"{mine['category_id']} and {one.get('category_id')}"
            raise BadConfig(f"{where}: expected one category_id for object {track} of video {video}, got {got}")
        mine["segmentations"][index], mine["areas"][index] = one["segmentation"], one.get("area")
        mine["iscrowd"] = one.get("iscrowd") or mine["iscrowd"]
    for mine in tracks.values():
        seen = [area for mask, area in zip(mine["segmentations"], mine["areas"], strict=True) if mask]
        if None in seen:
            del mine["areas"]
    if unseen:
        notes.append(f"{unseen} annotations have a box and no segmentation: nothing is seen there")
    notes.append(
        f"read as CocoVID: {len(annotations)} annotations of {len(place)} images are {len(tracks)} objects of "
        f"{len(lengths)} videos, numbered from 1 as they appear"
    )
    return [*tracks.values()]


def track_key(entry: Mapping[str, Any]) -> str | None:
    """Which object of its video an annotation of one frame belongs to."""
    named = next((entry[key] for key in ("instance_id", "track_id") if entry.get(key) is not None), None)
    return None if named is None else text_of(named)


# Ids


def _ids(content: Entry, name: str, notes: list[str], references: Mapping[str, str]) -> None:
    """Numbers for categories and annotations, numbers or text for other ids, and references that agree with them.

    Args:
        references: by the key of a list, what annotations call an id of it.
    """
    for key, refers in references.items():
        entries = _objects(content, key)
        given = [entry.get("id") for entry in entries]
        ids = _alike(given, key, name, notes)
        _rewrite(content, key, "id", ids)
        _point(content, refers, {text_of(id_): id_ for id_ in ids if id_ is not None}, key, notes)
    given = [entry.get("id") for entry in _objects(content, "annotations")]
    ids = [whole(number) for number in given]
    if all(number is None or _is_id(number) for number in ids) and not all(isinstance(number, int) for number in ids):
        numbers = [int(number) if str(number).isdecimal() else None for number in ids]
        if None in numbers:
            numbers = [*range(1, len(ids) + 1)]
            notes.append("annotations without a number for an id are numbered from 1 as they appear")
        ids = numbers
    _rewrite(content, "annotations", "id", ids)


def _alike(given: Sequence[Any], key: str, name: str, notes: list[str]) -> list[Any]:
    """The ids of a list, all of one type."""
    ids = [whole(number) for number in given]
    text = [number for number in ids if isinstance(number, str)]
    if not text or not all(_is_id(number) for number in ids):
        return ids
    if key != "categories":
        if len(text) < len(ids):
            notes.append(f"{len(text)} of {len(ids)} ids of {key} are text, all are taken as text")
        return [str(number) for number in ids]
    if names := [number for number in text if not number.isdecimal()]:
        raise BadConfig(f"{name}: {key}: expected numbers as ids, got {names[0]!r}: number the {key} from 1")
    notes.append(f"the ids of {key} are text, they are taken as numbers")
    return [int(number) for number in ids]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _point(content: Entry, refers: str, known: Mapping[str, Any], key: str, notes: list[str]) -> None:
    """References of annotations as the ids themselves are written."""
    annotations = _objects(content, "annotations")
    given = [entry.get(refers) for entry in annotations]
    meant = [refer(number, known) for number in given]
    if other := [new for old, new in zip(given, meant, strict=True) if isinstance(old, str) != isinstance(new, str)]:
        notes.append(
            f"{len(other)} annotations write {refers} as {'a number' if isinstance(other[0], str) else 'text'}, the "
            f"{key} do not: ids with the same text are taken as the same"
        )
    _rewrite(content, "annotations", refers, meant)


def refer(number: Any, known: Mapping[str, Any]) -> Any:
    """The id that a reference means, by the text that both have; a reference to nothing stays."""
    return known.get(text_of(number), number) if isinstance(number, int | float | str) else number


def _rewrite(content: Entry, key: str, part: str, values: Sequence[Any]) -> None:
    """The entries of a list with a value each, copied where it is another one."""
    entries = _objects(content, key)
    changed = [
        entry if entry.get(part) is value or (type(entry.get(part)) is type(value) and entry[part] == value)
        else entry | {part: value}
        for entry, value in zip(entries, values, strict=True)
    ]  # fmt: skip
    if any(new is not old for new, old in zip(changed, entries, strict=True)):
        content[key] = changed


# What is missing


def _fill(content: Entry, notes: list[str]) -> None:
    annotations = _objects(content, "annotations")
    singles = [entry.get("iscrowd") is None for entry in annotations]
    _rewrite(content, "annotations", "iscrowd", [whole(entry.get("iscrowd") or 0) for entry in annotations])
    if any(singles):
        notes.append(f"{sum(singles)} of {len(singles)} annotations have no iscrowd: taken as 0, single objects")
    without = [entry.get("areas") is None for entry in annotations]
    if any(without):
        notes.append(f"{sum(without)} of {len(without)} annotations have no areas: the areas of their masks count")
        content["annotations"] = [
            {key: value for key, value in entry.items() if key != "areas"} if entry.get("areas", 0) is None else entry
            for entry in _objects(content, "annotations")
        ]
    for place, side in enumerate(("height", "width")):
        videos = _objects(content, "videos")
        found = [whole(video.get(side)) for video in videos]
        if None in found:
            of_masks = _mask_sizes(content)
            guessed = [_only(of_masks.get(text_of(video.get("id")), set()), place) for video in videos]
            found = [own if own is not None else guess for own, guess in zip(found, guessed, strict=True)]
            notes.append(f"videos without {side}: that of their masks is taken")
        _rewrite(content, "videos", side, found)


def _mask_sizes(content: Entry) -> dict[str, set[tuple[Any, ...]]]:
    """The sizes of the RLE of each video."""
    sizes: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for entry in _objects(content, "annotations"):
        masks = entry.get("segmentations")
        for mask in masks if isinstance(masks, list) else ():
            if isinstance(mask, dict) and isinstance(size := mask.get("size"), list) and len(size) == 2:
                sizes[text_of(entry.get("video_id"))].add(tuple(size))
    return sizes


def _only(sizes: set[tuple[Any, ...]], place: int) -> Any:
    return next(iter(sizes))[place] if len(sizes) == 1 else None


def _frame_names(content: Entry) -> str:
    """Plain names below the folder of the frames; returns what all of them began with."""
    videos = _objects(content, "videos")
    lists: list[Any] = [video.get("file_names") for video in videos]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        return ""
    root = shared_root(name for names in lists for name in names)
    _rewrite(content, "videos", "file_names", [[below(name, root) for name in names] for names in lists])
    return root
