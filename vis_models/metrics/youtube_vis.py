"""YouTube-VIS files as the evaluator reads them: ground truth and results in, tracks of one video at a time out.

Source: youtubevos/cocoapi @ f3f9948a, `ytvos.py`. The reference computes a number for nearly any file and so does
this; `defects` names the entries that make such a number meaningless. What other tools write for the format is brought
to its form first, see `vis_models/data/dialects.py`; the reference would not read it.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from math import inf, isfinite
from typing import Any

import numpy as np
from jaxtyping import Float

from vis_models.config import BadConfig
from vis_models.data.dialects import VideoId, one_form, refer, text_of, track_key, whole
from vis_models.data.holdout import HoldOut, ListedVideo, require_sides, split, split_name
from vis_models.data.relatives import not_labels, not_results
from vis_models.masks import from_coco, measure_px, text_to_rle
from vis_models.metrics.mask_tracks import Prediction, Rle, Truth, mean_area_px

Entry = dict[str, Any]
MASK_REMEDY = "Write this mask anew, or set it to null."
KEYS: dict[str, dict[str, Any]] = {
    "videos": {"id": VideoId, "height": int, "width": int, "file_names": list},
    "categories": {"id": int, "name": str},
    "annotations": {"id": int, "video_id": VideoId, "category_id": int, "iscrowd": int, "segmentations": list},
    "results": {"video_id": VideoId, "category_id": int, "score": float, "segmentations": list},
}
"""What the evaluator needs of a YouTube-VIS file, and of a results file."""
WORDS = {int: "a whole number", VideoId: "a number or a text", float: "a number", str: "a text", list: "a list"}


class Listing:
    """The videos and categories of an opened YouTube-VIS JSON or a dialect of it, with or without labels.

    Raises:
        BadConfig: it is another format, a key is missing or its value of another kind, or there is no video.
    """

    def __init__(self, content: Any, name: str) -> None:
        self.name = name
        if not isinstance(content, dict):
            what = not_labels(content) or "expected a YouTube-VIS file, an object with videos and categories"
            raise BadConfig(f"{name} holds a {type(content).__name__}: {what}")
        form = one_form(content, name)
        content = form.content
        self.content = content
        """In the form of YouTube-VIS."""
        self.notes = form.notes
        """What was taken as something else than the file says, a sentence each."""
        self.frames = form.frames
        """Of CocoVID: (video, index of the frame) by the text of an image's id."""
        self.root = form.root
        """What the names of frames began with, such as `train/JPEGImages`."""
        for key in ("videos", "categories"):
            _require(content, key, name)
        if not content["videos"]:
            raise BadConfig(f"{name} lists no video: is this the right file?")
        for video in content["videos"]:
            if not video["file_names"] or not all(isinstance(file, str) for file in video["file_names"]):
                got = str(video["file_names"])[:40]
                raise BadConfig(f"{name}: video {video['id']}: expected 'file_names', one per frame, got {got}")
        ids = [(f"{key}: id", entry["id"]) for key in ("videos", "categories") for entry in content[key]]
        names = [("categories: name", entry["name"]) for entry in content["categories"]]
        self.doubles = [
            f"{what} {value} is there {times} times"
            for (what, value), times in Counter(ids + names).items()
            if times > 1
        ]
        """Ids of several videos or categories, names of several categories; the last one counts."""
        self.videos: dict[VideoId, Entry] = {video["id"]: video for video in content["videos"]}
        self.categories = {category["id"]: category["name"] for category in content["categories"]}
        self._id_by_text = {str(video_id): video_id for video_id in self.videos}
        self.defective = False
        """Has entries that somebody let pass, see `defects`."""
        self.left_out: frozenset[VideoId] = frozenset()
        """Videos of the file that take no part, see `hold_out`."""
        self.split: str | None = None
        """Name of the split of which this is the held-out part; None: this is the whole file."""

    def video_ids(self) -> list[VideoId]:
        """In the order in which the evaluator goes through the videos."""
        return sorted(self.videos)  # type: ignore[type-var]  # all numbers, or all text

    def id_of(self, text: str) -> VideoId:
        """The id of a video as this file writes it, by its text in tables. Raises KeyError: there is none."""
        return self._id_by_text[text]

    def length(self, video_id: VideoId) -> int:
        """Frames of a video. The key `length` is sometimes wrong, the list of files is what there is."""
        return len(self.videos[video_id]["file_names"])

    def size(self, video_id: VideoId) -> list[int]:
        """[height, width] in pixels, as an RLE states it."""
        return [self.videos[video_id]["height"], self.videos[video_id]["width"]]

    def hold_out(self, rule: HoldOut) -> None:
        """Forget all videos but those that the rule holds out. Raises BadConfig: there are none."""
        videos = [ListedVideo.of(video) for video in self.videos.values()]
        require_sides(videos, rule, self.name, training=False)
        train, held = split(videos, rule)
        kept = {video.video_id for video in held}
        self.left_out = frozenset(self.videos.keys() - kept)
        self.videos = {number: video for number, video in self.videos.items() if number in kept}
        self.split = split_name(train, held)


class GroundTruth(Listing):
    """An opened YouTube-VIS JSON; masks are decoded when a video is asked for.

    Raises:
        BadConfig: as `Listing`, or there are no labels at all.
    """

    def __init__(self, content: Any, name: str = "ground truth") -> None:
        if isinstance(content, dict) and not content.get("annotations") and not not_labels(content):
            raise BadConfig(
                f"{name}: nothing to score against, the file has no annotations. The labels of the official "
                "YouTube-VIS and OVIS valid and test sets are not public: only their server scores them "
                "(`vis submission` writes what it takes). To score at home, hold out a part of train.json "
                "(`--holdout`)."
            )
        super().__init__(content, name)
        content = self.content
        _require(content, "annotations", name)
        self.annotations: dict[VideoId, list[Entry]] = defaultdict(list)
        for n, annotation in enumerate(content["annotations"]):
            areas = annotation.get("areas", [])
            if not isinstance(areas, list):
                raise BadConfig(f"{name}: annotations[{n}]: expected a list for 'areas', got {str(areas)[:40]!r}")
            if not all(isinstance(area, int | float | None) for area in areas):
                raise BadConfig(f"{name}: annotations[{n}]: expected numbers or null in 'areas', got {areas}")
            self.annotations[annotation["video_id"]].append(annotation)

    def hold_out(self, rule: HoldOut) -> None:
        """Raises also when no held-out video has a label."""
        super().hold_out(rule)
        for video_id in self.left_out & self.annotations.keys():
            del self.annotations[video_id]
        if not self.annotations:
            raise BadConfig(f"{self.name}: the {len(self.videos)} videos that the rule {rule} holds out have no labels")

    def truths(self, video_id: VideoId) -> list[Truth]:
        """The objects of one video, in the order of the file. Raises BadConfig: a mask is no RLE and no polygon."""
        annotations = self.annotations.get(video_id, [])
        return [
            Truth(
                rles=rles,
                areas_px=areas,
                truth_id=annotation["id"],
                category=annotation["category_id"],
                mean_area_px=mean_area_px(annotation.get("areas", areas)),
                crowd=bool(annotation["iscrowd"]),  # Rule: a key `ignore` has no effect
            )
            for annotation, (rles, areas) in zip(annotations, self._tracks(annotations, self.name), strict=True)
        ]

    def predictions(self, results: Sequence[Entry], name: str = "results") -> list[Prediction]:
        """The tracks of one video from its entries in a results file, in the order given, numbered from 1.

        Raises as `truths` does.
        """
        return [
            Prediction(rles, areas, entry["category_id"], mean_area_px(areas), float(entry["score"]), n)
            for n, (entry, (rles, areas)) in enumerate(zip(results, self._tracks(results, name), strict=True), start=1)
        ]

    def _tracks(self, entries: Sequence[Entry], name: str) -> list[tuple[list[Rle | None], Float[np.ndarray, " T"]]]:
        """Masks of each track of one video and their areas."""
        tracks = [self._rles(entry, n, name) for n, entry in enumerate(entries)]
        masks = [(n, frame, rle) for n, track in enumerate(tracks) for frame, rle in enumerate(track) if rle]
        areas = [np.zeros(len(track)) for track in tracks]
        for (n, frame, rle), area, canvas in zip(
            masks, *measure_px([rle["counts"] for _, _, rle in masks]), strict=True
        ):
            if canvas != rle["size"][0] * rle["size"][1]:
                raise BadConfig(
                    f"{name}: {_place(entries[n], n, frame)}: the runs of the RLE do not fill its size {rle['size']}. "
                    f"{MASK_REMEDY}"
                )
            areas[n][frame] = area
        return list(zip(tracks, areas, strict=True))

    def _rles(self, entry: Entry, n: int, name: str) -> list[Rle | None]:
        video = self.videos[entry["video_id"]]
        rles: list[Rle | None] = []
        for frame, segmentation in enumerate(entry["segmentations"]):
            try:
                rles.append(_rle(segmentation, [video["height"], video["width"]]))
            except BadConfig as error:
                raise BadConfig(f"{name}: {_place(entry, n, frame)}: {error}. {MASK_REMEDY}") from error
        return rles


def _place(entry: Entry, n: int, frame: int) -> str:
    """`n`: of the entries of this video, from 0."""
    track = f"annotation {entry['id']}" if "iscrowd" in entry else f"track {n + 1} (score {entry['score']})"
    return f"{track} of video {entry['video_id']}, frame {frame}"


def _require(content: Entry, key: str, name: str) -> None:
    if not isinstance(content.get(key), list):
        raise BadConfig(f"{name} has no list {key!r}, got {sorted(content)}. Is this a YouTube-VIS file?")
    for n, entry in enumerate(content[key]):
        _require_keys(entry, key, f"{name}: {key}[{n}]")


def _require_keys(entry: Any, kind: str, where: str) -> None:
    if not isinstance(entry, dict):
        raise BadConfig(f"{where} is {str(entry)[:40]!r}, expected an object with {', '.join(KEYS[kind])}")
    for key, type_ in KEYS[kind].items():
        if key not in entry:
            video = f" (video {entry['video_id']})" if "video_id" in entry else ""
            raise BadConfig(f"{where} has no key {key!r}{video}, got {sorted(entry)}. Is this a YouTube-VIS file?")
        value = entry[key]
        fits = is_number(value) if type_ is float else isinstance(value, type_)
        if type_ is int and fits:
            fits = abs(value) < 2 ** (31 if kind == "categories" else 63)  # what the tables hold
        if not fits or (isinstance(value, bool) and key != "iscrowd"):
            raise BadConfig(f"{where}: expected {WORDS[type_]} for {key!r}, got {str(value)[:40]!r}")


def is_number(value: Any) -> bool:
    """Whether it is a number that a float holds; NaN and infinity are."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:
        return False


def _rle(segmentation: Any, video_size: list[int]) -> Rle | None:
    """Rule: an RLE keeps the size that it states, even if the video has another one."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and not _is_size(segmentation.get("size", video_size)):
        raise BadConfig(f"the size of an RLE is [height, width] in px, got {str(segmentation['size'])[:40]}")
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str) and "size" in segmentation:
        return {"size": segmentation["size"], "counts": text_to_rle(segmentation["counts"])}
    size = list(segmentation.get("size", video_size)) if isinstance(segmentation, dict) else video_size
    return {"size": size, "counts": from_coco(segmentation, *size)}


def _is_size(size: Any) -> bool:
    return (
        isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and 0 < side < 2**16 for side in size)
    )


def as_tracks(
    listing: Listing, results: Sequence[Entry], name: str = "results"
) -> tuple[Sequence[Entry], tuple[str, ...]]:
    """(entries with the ids of the listing, one per track; notes): what other tools write for a results file.

    Entries of single frames (`image_id`, `instance_id` or `track_id`, `segmentation`) are joined to tracks.

    Raises:
        BadConfig: it is another known format, or frames that belong to no image of the listing.
    """
    if relative := not_results(results):
        raise BadConfig(f"{name}: {relative}")
    notes: tuple[str, ...] = ()
    if results and isinstance(results[0], dict) and "image_id" in results[0] and "segmentations" not in results[0]:
        joined = _joined(listing, results, name)
        notes = (f"{name}: {len(results)} entries of single frames are {len(joined)} tracks, each with its mean score",)
        results = joined
    for part, ids in (("video_id", {*listing.videos, *listing.left_out}), ("category_id", {*listing.categories})):
        results, other = _with_ids_of(ids, part, results)
        if other:
            had = "as text" if isinstance(next(iter(ids)), int) else "as a number"
            notes += (f"{name}: {other} entries write {part} {had}, the labels do not: ids of equal text are the same",)
    return results, notes


def _with_ids_of(ids: Collection[VideoId], part: str, results: Sequence[Entry]) -> tuple[list[Entry], int]:
    """(entries with ids as the labels write them, how many wrote text for a number or a number for text)."""
    by_text, entries, other = {str(id_): id_ for id_ in ids}, [], 0
    for entry in results:
        given = entry.get(part) if isinstance(entry, dict) else None
        meant = given if type(given) is int and given in ids else whole(refer(given, by_text))
        other += isinstance(given, str) != isinstance(meant, str)
        entries.append(entry if meant is given else entry | {part: meant})
    return entries, other


def _joined(listing: Listing, results: Sequence[Entry], name: str) -> list[Entry]:
    """Tracks of entries of single frames. Class: that with the largest sum of scores; score: the mean over frames."""
    if not listing.frames:
        raise BadConfig(
            f"{name}: its entries are of single frames (image_id), but {listing.name} has no images: give the CocoVID "
            "labels that these ids are of, or one entry per track"
        )
    tracks: dict[tuple[VideoId, str], Entry] = {}
    scores: dict[tuple[VideoId, str], dict[Any, float]] = defaultdict(lambda: defaultdict(float))
    for n, one in enumerate(results):
        where = f"{name}[{n}]"
        if missing := [key for key in ("image_id", "category_id", "score", "segmentation") if key not in one]:
            raise BadConfig(f"{where} has no key {missing[0]!r}, got {sorted(one)}")
        place, object_ = listing.frames.get(text_of(one["image_id"])), track_key(one)
        if place is None or object_ is None:
            got = f"image_id {one['image_id']!r}" if place is None else "no instance_id or track_id"
            raise BadConfig(f"{where}: expected an image of {listing.name} and the number of a track, got {got}")
        if not is_number(one["score"]):
            raise BadConfig(f"{where}: expected a number for 'score', got {str(one['score'])[:40]!r}")
        video, frame = place
        if video in listing.left_out:
            continue
        blank = {"video_id": video, "segmentations": [None] * listing.length(video)}
        track = tracks.setdefault((video, object_), blank)
        if track["segmentations"][frame] is not None:
            raise BadConfig(f"{where}: track {object_} of video {video} has two masks in image {one['image_id']}")
        track["segmentations"][frame] = one["segmentation"]
        scores[video, object_][one["category_id"]] += one["score"]
    for key, track in tracks.items():
        sums, frames = scores[key], sum(mask is not None for mask in track["segmentations"])
        track |= {"category_id": max(sums, key=lambda c: sums[c]), "score": sum(sums.values()) / max(1, frames)}
    return [*tracks.values()]


def results_by_video(truth: GroundTruth, results: Sequence[Entry], name: str = "results") -> dict[VideoId, list[Entry]]:
    """The entries of a results file by video, in the order of the file, without those of videos that take no part.

    Raises:
        BadConfig: a key is missing or of another kind, or a video is not in the ground truth.
    """
    grouped: dict[VideoId, list[Entry]] = defaultdict(list)
    for n, entry in enumerate(results):
        _require_keys(entry, "results", f"{name}[{n}]")
        grouped[entry["video_id"]].append(entry)
    for video_id in truth.left_out & grouped.keys():
        del grouped[video_id]
    if strangers := sorted(set(grouped) - set(truth.videos), key=str):
        raise BadConfig(
            f"{name}: {len(strangers)} video ids are not in {truth.name}, the first are {strangers[:5]}. "
            f"Expected ids such as {truth.video_ids()[:3]}: were the results made for another data set?"
        )
    return grouped


def defects(truth: GroundTruth) -> list[str]:
    """Entries that the reference scores without a word although the number means little, one line each."""
    return [*_defects_of_truth(truth)]


def defects_of_results(truth: GroundTruth, results: Sequence[Entry]) -> list[str]:
    """The same for a results file."""
    return [*_defects_of_results(truth, results)]


def _defects_of_truth(truth: GroundTruth) -> Iterator[str]:
    yield from (f"{truth.name}: {double}" for double in truth.doubles)
    seen: set[int] = set()
    for video_id, annotations in truth.annotations.items():
        for annotation in annotations:
            where = f"{truth.name}: annotation {annotation['id']} of video {video_id}"
            if video_id not in truth.videos:
                yield f"{where}: no such video"
                continue
            if annotation["id"] == 0:
                yield f"{where}: the reference counts whatever matches id 0 as wrong, number from 1"
            if annotation["id"] in seen:
                yield f"{where}: the id appears twice"
            seen.add(annotation["id"])
            yield from _defects_of_track(truth, annotation, where)
            areas = annotation.get("areas", [0] * truth.length(video_id))
            if not all(0 <= (area or 0) < inf for area in areas):
                yield f"{where}: an area is no number of pixels, {str(areas)[:40]}"
            if len(areas) != truth.length(video_id):
                yield f"{where}: {len(areas)} areas for {truth.length(video_id)} frames"


def _defects_of_results(truth: GroundTruth, results: Sequence[Entry]) -> Iterator[str]:
    for n, entry in enumerate(results):
        if entry["video_id"] in truth.left_out:
            continue
        where = f"results[{n}] of video {entry['video_id']}"
        yield from _defects_of_track(truth, entry, where)
        if not isfinite(entry["score"]):
            yield f"{where}: score {entry['score']}, expected a finite number"


def _defects_of_track(truth: GroundTruth, entry: Entry, where: str) -> Iterator[str]:
    video = truth.videos[entry["video_id"]]
    if entry["category_id"] not in truth.categories:
        yield f"{where}: no category {entry['category_id']}, expected one of {sorted(truth.categories)[:5]}"
    if len(entry["segmentations"]) != truth.length(entry["video_id"]):
        yield f"{where}: {len(entry['segmentations'])} segmentations for {truth.length(entry['video_id'])} frames"
    expected = [video["height"], video["width"]]
    if odd := [frame for frame, mask in enumerate(entry["segmentations"]) if mask in ("", 0, {})]:
        got = repr(entry["segmentations"][odd[0]])
        yield f"{where}, frame {odd[0]}: {got} is no mask, expected null where there is none"
    masks = [(frame, mask) for frame, mask in enumerate(entry["segmentations"]) if isinstance(mask, dict) and mask]
    if strange := [(f, mask["size"]) for f, mask in masks if mask.get("size", expected) != expected]:
        frame, size = strange[0]
        more = f"; {len(strange)} masks of it are not" if len(strange) > 1 else ""
        yield f"{where}, frame {frame}: mask of size {size}, expected {expected} (height, width){more}"
