"""What a JSON from elsewhere is, told by its keys: neighbours of YouTube-VIS that are given in its place."""

import re
from collections.abc import Callable, Mapping
from typing import Any

LABELS_MEANT = (
    "Meant are labels in the YouTube-VIS format (videos with file_names, annotations with segmentations) or as CocoVID "
    "(images with video_id and frame_id)"
)
RESULTS_MEANT = "Meant is a list with one entry per track: video_id, category_id, score, segmentations"


def not_labels(content: Any) -> str | None:
    """One sentence where the content is a known format that does not label video with masks; None: it may do."""
    return next((f"{says}. {LABELS_MEANT}" for is_it, says in RELATIVES if is_it(content)), None)


def not_results(content: Any) -> str | None:
    """One sentence where the content is a known format other than a results file; None: it may be one."""
    if _has(content, "videos", "categories") or _has(content, "images", "categories"):
        return f"these are labels: they go where the labels are named (--gt). {RESULTS_MEANT}"
    if _is_entry(content, "image_id", "score") and not _any_of(content[0], "instance_id", "track_id"):
        return f"these are results on single images (image_id), without a track. {RESULTS_MEANT}"
    told = (says for is_it, says in RELATIVES if is_it is not _results and is_it(content))
    return next((f"{says}. {RESULTS_MEANT}" for says in told), None)


def not_json(start: bytes) -> str | None:
    """What a file is that begins so, and is no JSON; None: it may be one, plain or gzip."""
    return next((says for begins, says in OTHER_FILES if begins.match(start)), None)


OTHER_FILES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"PK\x03\x04"), "this is a zip archive: unpack it and name the JSON that is in it"),
    (re.compile(rb"version https://git-lfs"), "this is a pointer of Git LFS: `git lfs pull` fetches the file itself"),
    (re.compile(rb"\x89PNG|\xff\xd8\xff"), "this is a picture: masks in pictures (DAVIS, MOTS) are converted first"),
    (re.compile(rb"(?:\d+ ){5}\S+\s"), "this is the text format of MOTS, a line per mask: convert it to CocoVID first"),
    (re.compile(rb"\s*<"), "this is XML (CVAT, VOC): export it as COCO"),
)


def _has(content: Any, *keys: str) -> bool:
    return isinstance(content, Mapping) and all(key in content for key in keys)


def _any_of(content: Any, *keys: str) -> bool:
    return isinstance(content, Mapping) and any(key in content for key in keys)


def _first(content: Any, key: str) -> Any:
    """The first entry of the list under a key, or of an object's values; nothing else has entries."""
    part = content.get(key) if isinstance(content, Mapping) else None
    if isinstance(part, Mapping):
        part = [*part.values()]
    return part[0] if isinstance(part, list) and part else {}


def _is_entry(content: Any, *keys: str) -> bool:
    return isinstance(content, list) and bool(content) and _has(content[0], *keys)


def _results(content: Any) -> bool:
    return _is_entry(content, "score") and _any_of(content[0], "segmentations", "segmentation", "bbox")


def _objects_of_videos(content: Any) -> bool:
    """YouTube-VOS: `videos` is an object by name, not a list."""
    return _has(content, "videos") and isinstance(content["videos"], Mapping)


def _names_only(content: Any) -> bool:
    """DAVIS: sequence -> object number -> name, three levels and nothing else."""
    if not isinstance(content, Mapping) or not content:
        return False
    inside = [*content.values()]
    return all(isinstance(each, Mapping) and each for each in inside) and all(
        number.isdecimal() and isinstance(name, str) for each in inside for number, name in each.items()
    )


RELATIVES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (_results, "this is a list of results (entries with a score), no labels: results are given with --results"),
    (
        lambda c: _any_of(_first(c, "videos"), "expressions") and _objects_of_videos(c),
        "this is a meta_expressions.json (Refer-YouTube-VOS, MeViS): sentences about objects, without masks",
    ),
    (
        _objects_of_videos,
        "this is the meta.json of YouTube-VOS: which objects a video has, without masks; those are PNG files. The same "
        "videos with masks in one file are YouTube-VIS, whose train.json (instances.json) is the file with labels",
    ),
    (_names_only, "this is a list of object names as DAVIS has it, without masks; those are PNG files"),
    (
        lambda c: _any_of(_first(c, "annotations"), "segments_info"),
        "this is COCO panoptic (also VIPSeg, Cityscapes-VPS): its masks are in PNG files, not in this one",
    ),
    (
        lambda c: _has(c, "tracks", "videos", "images") and _any_of(_first(c, "videos"), "neg_category_ids"),
        "this is TAO, which labels boxes, not masks; its masks are a data set of their own, BURST",
    ),
    (
        lambda c: _has(c, "sequences") and _any_of(_first(c, "sequences"), "annotated_image_paths", "segmentations"),
        "this is BURST, sequences with masks by frame, which is not read: convert it to CocoVID",
    ),
    (
        lambda c: _is_entry(c, "labels") or (_has(c, "frames") and _any_of(_first(c, "frames"), "labels")),
        "this is Scalabel (BDD100K): its own toolkit converts it to COCO's form with videos (CocoVID), which is read",
    ),
    (
        lambda c: _has(c, "masklet"),
        "this is a video of SA-V (masklets without classes): name a class and convert it first",
    ),
    (
        lambda c: _any_of(_first(c, "images"), "neg_category_ids") and not _has(c, "videos"),
        "this is LVIS: single images, no video",
    ),
    (
        lambda c: _has(c, "images") and not _any_of(_first(c, "images"), "video_id"),
        "this is a COCO file of single images: none of them says which video it is a frame of (video_id). Images are "
        "mixed into a training beside videos: the recipe's field `extra`",
    ),
    (lambda c: _has(c, "shapes", "imagePath"), "this is a labelme file: one image with polygons"),
    (lambda c: _any_of(c, "_via_img_metadata", "_via_settings"), "this is a project of the VGG Image Annotator"),
    (lambda c: _is_entry(c, "annotations", "data"), "this is an export of Label Studio: export it as COCO"),
)
