"""Whatever holds videos -> a list of videos in a fixed order, each with a name, an address and a content id.

No video is opened here: a broken file is a video like any other until it is decoded. Of tar and zip files the index is
read. What lies beside the videos and is not read is counted.
"""

import glob
import gzip
import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from fsspec import AbstractFileSystem
from pydantic import TypeAdapter, ValidationError

from jobs.archives.listing import entry_at, find
from jobs.archives.manifests import MANIFESTS, read_manifest
from jobs.archives.members import KINDS as ARCHIVES
from jobs.archives.members import is_packed_tar
from jobs.archives.shelves import FILMS, IMAGES, UNPACK, Counted, Files, PassedOver, group, members_of
from jobs.archives.sources import (
    EVERY_FRAME,
    MISSING,
    Entry,
    Sampling,
    VideoSource,
    counting,
    is_plain,
    split_member,
    suffix,
)
from jobs.filesystems import is_web
from jobs.settings import without_signature
from jobs.store import Store
from vis_models.config import BadConfig
from vis_models.data.dialects import one_form, text_of
from vis_models.data.frame_names import places

__all__ = ["IMAGES", "Archive", "PassedOver", "VideoSource", "check_archive", "list_videos", "read_archive"]

DATA_SETS = (".json", ".json.gz")
"""How the name of a data set in the YouTube-VIS or CocoVID format ends."""
FRAMES_KEY = "vislake_frames"
"""In a data set's JSON: the folder of the frames, where it is none of the usual ones."""
KINDS = "a folder, glob, manifest, list (.txt), tar, zip, S3 prefix or film"


@dataclass(frozen=True)
class Archive:
    """What an archive holds."""

    videos: tuple[VideoSource, ...]
    """Sorted by their ids with numbers in counting order."""
    passed_over: tuple[PassedOver, ...] = ()
    """The most frequent first."""


def list_videos(archive: str, store: Store) -> list[VideoSource]:
    """The videos of `read_archive`."""
    return list(read_archive(archive, store).videos)


def read_archive(
    archive: str, store: Store, frame_folder_fps: float | None = None, sampling: Sampling = EVERY_FRAME
) -> Archive:
    """The videos of an archive, and what it holds beside them.

    Args:
        archive: a folder or S3 prefix with films, folders of frames, tar and zip files; a glob; one of these files, or
            what lies in a tar or zip (`a.tar#x/b.mp4`); a manifest with the columns `id` and `uri` (JSONL, CSV or
            Parquet), a list of addresses (.txt), or a data set in the YouTube-VIS or CocoVID format (JSON).
        store: its credentials open `s3://` archives.
        frame_folder_fps: the clock of folders of frames; it counts more than time stamps in their names.
        sampling: which frames are looked at; the time range of a row of a manifest counts more.

    Raises:
        BadConfig: there is nothing at this address, no video in it, or a manifest or data set is malformed.
    """
    check_shown(archive)
    place, member = split_member(archive)
    fs, path = store.open_source(place)
    check_bucket(fs, place, store)  # s3fs takes a refusal for an empty folder
    counted = Counted()
    with store.guard(archive):
        sources = list(_list(fs, path, archive, member, store, counted))
    sources.sort(key=lambda source: counting(source.video_id))
    if not sources:
        kinds = ", ".join(f"{row.files} {row.kind} ({row.why})" for row in counted.rows()[:5])
        raise BadConfig(
            f"{archive} holds no video: expected films ({', '.join(sorted(FILMS))}) or folders of "
            f"{', '.join(sorted(IMAGES))} frames, at any depth; hidden files are ignored. Found: {kinds or 'no file'}"
        )
    twice = [one.video_id for one, after in pairwise(sources) if one.video_id == after.video_id]
    if twice:
        raise BadConfig(
            f"{archive}: {len(twice)} video ids occur more than once, expected unique ids; first: {twice[0]!r}"
        )
    if frame_folder_fps or sampling != EVERY_FRAME:
        sources = [_asked(source, frame_folder_fps, sampling) for source in sources]
    return Archive(videos=tuple(sources), passed_over=counted.rows())


def _asked(source: VideoSource, frame_folder_fps: float | None, sampling: Sampling) -> VideoSource:
    """With what was said for all videos of a run."""
    own = source.sampling
    fps = frame_folder_fps if frame_folder_fps and source.kind == "frames" else source.fps
    return replace(source, fps=fps, sampling=sampling.within(own.start_s, own.end_s))


def check_archive(archive: str, store: Store) -> None:
    """Without listing it. Raises BadConfig: nothing is at this address."""
    check_shown(archive)
    place, _ = split_member(archive)
    fs, path = store.open_source(place)
    check_bucket(fs, place, store)
    with store.guard(archive):
        there = entry_at(fs, path) if is_web(fs) else fs.exists(path) or glob.has_magic(path)
        if not there:
            raise _absent(archive)


def check_shown(archive: str) -> None:
    """Raises BadConfig: an address with a signature, typed where it is kept."""
    if without_signature(archive) != archive:
        raise BadConfig(
            f"{without_signature(archive)} has a query (?...), which may be a signature, and what is typed is kept in "
            "logs and tables. Write the address into a list, a file LIST.txt with one per line, and name that"
        )


def check_bucket(fs: AbstractFileSystem, uri: str, store: Store) -> None:
    if "s3" in fs.protocol:
        store.check(uri)


def _absent(archive: str) -> BadConfig:
    return BadConfig(f"archive {archive} does not exist; expected {KINDS}")


def _list(
    fs: AbstractFileSystem, path: str, archive: str, member: str | None, store: Store, counted: Counted
) -> Iterable[VideoSource]:
    if member is not None or suffix(path) in ARCHIVES:
        if not is_web(fs) and not fs.isfile(path):
            return _listed_folder(fs, path, archive, store, counted)
        within = members_of(fs, path, posixpath.basename(path), counted, member)
        if not within and member:
            raise BadConfig(f"{archive}: there is no film and no frame of this name in it")
        return within
    if not is_web(fs) and not fs.isfile(path):
        return _listed_folder(fs, path, archive, store, counted)
    if suffix(path) in MANIFESTS:
        return read_manifest(fs, path, archive, store, counted)
    if path.endswith(DATA_SETS):
        return _data_set(fs, path, archive, store)
    if is_packed_tar(path):
        raise BadConfig(f"{archive} is {UNPACK} first: nothing in it can be found without reading all before it")
    seen = entry_at(fs, path)
    if seen is None:
        raise _absent(archive)
    return [Files(fs, posixpath.dirname(path)).film(posixpath.basename(path), seen)]


def _listed_folder(
    fs: AbstractFileSystem, path: str, archive: str, store: Store, counted: Counted
) -> Iterable[VideoSource]:
    if fs.isdir(path):
        return group(Files(fs, path), find(fs, path), counted)
    if glob.has_magic(path):
        return _glob(fs, path, counted)
    if fs.exists(path):
        raise BadConfig(f"archive {archive} is neither a file nor a folder but a pipe, socket or device; copy it first")
    raise _absent(archive)


def _glob(fs: AbstractFileSystem, pattern: str, counted: Counted) -> Iterator[VideoSource]:
    """Files that a glob names may be called anything; folders that it names are searched."""
    parts = pattern.split("/")
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    files = Files(fs, "/".join(parts[:fixed]))
    named: dict[str, Entry] = {}
    for path, info in fs.glob(pattern, detail=True).items():
        name = posixpath.relpath(path, files.folder)
        if info["type"] == "directory" or (info.get("islink") and files.leads_to_folder(name)):
            for below, its_entry in find(fs, path).items():
                if suffix(below) in FILMS | IMAGES | ARCHIVES:
                    named[f"{name}/{below}"] = its_entry
                else:
                    counted.add(f"{name}/{below}", "no kind of film or frame")
        else:
            named[name] = entry_at(fs, path, info) or Entry(0, MISSING)
    yield from group(files, named, counted, any_name=True)


def _data_set(fs: AbstractFileSystem, path: str, archive: str, store: Store) -> Iterator[VideoSource]:
    """The frames that a data set lists, at the size it states; its annotations are not read."""
    data = fs.cat_file(path)
    try:
        content = json.loads(gzip.decompress(data) if path.endswith(".gz") else data)
        if isinstance(content, dict):
            content.pop("annotations", None)
        form = one_form(content, archive)
        listed = [
            (text_of(v["id"]), [str(name) for name in v["file_names"]], v["height"], v["width"])
            for v in form.content["videos"]
        ]
    except BadConfig:
        raise
    except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise BadConfig(
            f"{archive} is not a data set in the YouTube-VIS format ({type(error).__name__}: {error}); expected "
            "`videos`, each with `id`, `file_names`, `height` and `width`"
        ) from error
    for video_id, names, _, _ in listed:
        for name in names:
            if not is_plain(name):
                raise BadConfig(f"{archive}, video {video_id}: file name {name!r} leaves the folder of the frames")
    if FRAMES_KEY in content:
        fs, images = store.open_source(str(content[FRAMES_KEY]))
    else:
        images = image_folder(fs, path, [name for _, names, _, _ in listed for name in names], form.root)
    files, found = Files(fs, images), find(fs, images)
    for video_id, names, *size in listed:
        entries = {name: found.get(name, Entry(0, f"0-{MISSING}")) for name in names}
        folder = posixpath.commonpath([posixpath.dirname(name) for name in names]) if names else ""
        for side, pixels in zip(("height", "width"), size, strict=True):
            try:
                SIDE.validate_python(pixels)
            except ValidationError as error:
                where = f"{archive}, video {video_id}, {side}"
                raise BadConfig(f"{where}: {error.errors()[0]['msg']}, got {pixels!r}") from error
        height, width = map(SIDE.validate_python, size)
        yield replace(files.frames(folder, entries, names, listed=True, height=height, width=width), video_id=video_id)


SIDE: TypeAdapter[int | None] = TypeAdapter(int | None)


def image_folder(fs: AbstractFileSystem, path: str, names: list[str], root: str = "") -> str:
    """Where a data set's frames lie: the first usual place that has one of the first frames. Raises BadConfig: none.

    Args:
        root: what stood before all names, see `frame_names.py`.
    """
    folders = places(path, root)
    for place in folders:
        if any(fs.exists(posixpath.join(place, name)) for name in names[:3]):
            return place
    raise BadConfig(f"{path}: expected its frames in {folders[0]} or {folders[1]}, found {names[:1]} in neither")
