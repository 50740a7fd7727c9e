"""Whatever holds videos -> a list of videos in a fixed order, each with a name, an address and a content id.

Nothing is opened here: a broken file is a video like any other until it is decoded.
"""

import csv
import glob
import gzip
import hashlib
import io
import json
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from pydantic import ValidationError

from jobs.store import Store
from vis_models.config import BadConfig, Config

FILMS = frozenset({
    "264", "265", "3gp", "asf", "avi", "flv", "gif", "h264", "h265", "hevc", "ivf", "m2ts", "m4v", "mkv", "mov", "mp4",
    "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv",
})  # fmt: skip
IMAGES = frozenset({"jpg", "jpeg", "png"})
DATA_SETS = (".json", ".json.gz")
"""How the name of a data set in the YouTube-VIS format ends."""
FRAMES_KEY = "vislake_frames"
"""In a data set's JSON: the folder of the frames, where it is none of the usual ones."""
MANIFESTS = frozenset({"jsonl", "ndjson", "csv", "parquet"})


class VideoSource(Config):
    """One video of an archive."""

    video_id: str
    """Unique in the archive; only ever a value in a table, never a file name."""
    uri: str
    """Local path or `s3://...` of a file, or of the folder that holds the frames."""
    kind: Literal["film", "frames"]
    content_id: str
    """Changes when the video changes: the store's ETag, else size and time of change; `missing` if it is not there."""
    size_bytes: int
    """What decoding costs, roughly: shards are balanced by it."""
    frames: tuple[str, ...] | None = None
    """Paths below `uri` in playing order; None for a film."""
    listed: bool = False
    """A data set lists exactly these frames, so leaps in their numbers are meant."""
    height: int | None = None
    """Size in pixels that a data set states; masks come out at this size. None: the size of the first frame."""
    width: int | None = None


def list_videos(archive: str, store: Store) -> list[VideoSource]:
    """The videos of an archive, sorted by their ids with numbers in counting order.

    Args:
        archive: a folder or S3 prefix with films and folders of frames, a glob, a film, a manifest with the columns
            `id` and `uri` (JSONL, CSV or Parquet), or a data set in the YouTube-VIS format (JSON).
        store: its credentials open `s3://` archives.

    Raises:
        BadConfig: there is nothing at this address, no video in it, or a manifest or data set is malformed.
    """
    fs, path = store.open_source(archive)
    store.check(archive)  # s3fs takes a refusal for an empty folder
    with store.guard(archive):
        sources = sorted(_list(fs, path, archive, store), key=lambda source: _counting(source.video_id))
    if not sources:
        raise BadConfig(
            f"{archive} holds no video: expected films ({', '.join(sorted(FILMS))}) or folders of "
            f"{', '.join(sorted(IMAGES))} frames, at any depth; hidden files are ignored"
        )
    twice = [video_id for video_id, times in Counter(source.video_id for source in sources).items() if times > 1]
    if twice:
        raise BadConfig(
            f"{archive}: {len(twice)} video ids occur more than once, expected unique ids; first: {twice[0]!r}"
        )
    return sources


def check_archive(archive: str, store: Store) -> None:
    """Without listing it. Raises BadConfig: nothing is at this address."""
    fs, path = store.open_source(archive)
    store.check(archive)
    with store.guard(archive):
        if not fs.exists(path) and not glob.has_magic(path):
            raise _absent(archive)


def _absent(archive: str) -> BadConfig:
    return BadConfig(f"archive {archive} does not exist; expected a folder, glob, manifest, S3 prefix or film")


def _list(fs: AbstractFileSystem, path: str, archive: str, store: Store) -> Iterable[VideoSource]:
    if fs.isdir(path):
        return _group(fs, fs.find(path, detail=True), path)
    if fs.isfile(path):
        if _suffix(path) in MANIFESTS:
            return _manifest(fs, path, archive, store)
        if path.endswith(DATA_SETS):
            return _youtube_vis(fs, path, archive, store)
        return [_film(fs, path, fs.info(path), posixpath.basename(path))]
    if glob.has_magic(path):
        return _glob(fs, path)
    raise _absent(archive)


def _glob(fs: AbstractFileSystem, pattern: str) -> Iterator[VideoSource]:
    """Files that a glob names may be called anything; folders that it names are searched."""
    parts = pattern.split("/")
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = "/".join(parts[:fixed])
    named: dict[str, Any] = {}
    for path, info in fs.glob(pattern, detail=True).items():
        if info["type"] == "directory":
            inside = fs.find(path, detail=True)
            named |= {file: inside[file] for file in inside if _suffix(file) in FILMS | IMAGES}
        else:
            named[path] = info
    yield from _group(fs, named, base, any_name=True)


def _group(fs: AbstractFileSystem, files: dict[str, Any], base: str, any_name: bool = False) -> Iterator[VideoSource]:
    """Each film is a video; the images of a folder are one, unless films lie beside them (previews, posters).

    With `any_name` files of unknown kind are films too, where no images lie beside them.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for path in files:
        relative = posixpath.relpath(path, base)
        if not any(part.startswith(".") for part in relative.split("/")):
            folders[posixpath.dirname(path)].append(path)
    for folder, paths in folders.items():
        images = [path for path in paths if _suffix(path) in IMAGES]
        films = [path for path in paths if _suffix(path) in FILMS or (any_name and not images)]
        for path in films:
            yield _film(fs, path, files[path], posixpath.relpath(path, base))
        if images and not films:
            name = posixpath.basename(base) if folder == base.rstrip("/") else posixpath.relpath(folder, base)
            yield _frames(fs, folder, {path: files[path] for path in images}, name)


def _film(fs: AbstractFileSystem, path: str, info: dict[str, Any], name: str) -> VideoSource:
    return VideoSource(
        video_id=_printable(name),
        uri=_uri(fs, path),
        kind="film",
        content_id=_content(info),
        size_bytes=info["size"],
    )


def _frames(fs: AbstractFileSystem, folder: str, images: dict[str, Any], name: str, **more: Any) -> VideoSource:
    order = sorted(images, key=_counting)
    content = json.dumps([(posixpath.basename(path), _content(images[path])) for path in order])
    return VideoSource(
        video_id=_printable(name),
        uri=_uri(fs, folder),
        kind="frames",
        content_id=hashlib.sha256(content.encode()).hexdigest()[:32],
        size_bytes=sum(info["size"] for info in images.values()),
        frames=tuple(posixpath.relpath(path, folder) for path in order),
        **more,
    )


def _manifest(fs: AbstractFileSystem, path: str, archive: str, store: Store) -> Iterator[VideoSource]:
    base = posixpath.dirname(_uri(fs, path))
    for where, row in _rows(fs, path, archive):
        if row.get("id") in (None, "") or not row.get("uri"):
            raise BadConfig(f"{archive}, {where}: expected values for `id` and `uri`, got {row}")
        video_id, uri = str(row["id"]), str(row["uri"])
        if not _is_plain(video_id):
            raise BadConfig(
                f"{archive}, {where}: id {video_id!r} is not allowed; expected a relative name of at most 512 "
                "characters without `..` and control characters"
            )
        source_fs, source = store.open_source(uri if "://" in uri or os.path.isabs(uri) else f"{base}/{uri}")
        with store.guard(uri):
            yield _named(source_fs, source).model_copy(update={"video_id": video_id})


def _named(fs: AbstractFileSystem, path: str) -> VideoSource:
    """A file or a folder of frames that a manifest names, whether it is there or not."""
    if fs.isdir(path):
        inside = {info["name"]: info for info in fs.ls(path, detail=True) if info["type"] == "file"}
        return _frames(fs, path, {name: inside[name] for name in inside if _suffix(name) in IMAGES}, "")
    try:
        return _film(fs, path, fs.info(path), "")
    except FileNotFoundError:
        return VideoSource(video_id="", uri=_uri(fs, path), kind="film", content_id="missing", size_bytes=0)


def _rows(fs: AbstractFileSystem, path: str, archive: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of each row of a manifest."""
    data = fs.cat_file(path)
    kind = _suffix(path)
    try:
        if kind == "parquet":
            rows = pq.read_table(io.BytesIO(data)).to_pylist()
            yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        elif kind == "csv":
            table = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
            yield from ((f"line {table.line_num}", row) for row in table)
        else:
            for number, line in enumerate(data.decode().splitlines(), start=1):
                if line.strip():
                    row = json.loads(line)
                    yield f"line {number}", row if isinstance(row, dict) else {"": row}
    except (ValueError, OSError) as error:
        raise BadConfig(f"{archive} is not a {kind} manifest: {error}; expected rows with `id` and `uri`") from error


def _youtube_vis(fs: AbstractFileSystem, path: str, archive: str, store: Store) -> Iterator[VideoSource]:
    """The frames that a data set lists, at the size it states; its annotations are not read."""
    data = fs.cat_file(path)
    try:
        content = json.loads(gzip.decompress(data) if path.endswith(".gz") else data)
        listed = [
            (str(v["id"]), [str(name) for name in v["file_names"]], v["height"], v["width"]) for v in content["videos"]
        ]
    except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise BadConfig(
            f"{archive} is not a data set in the YouTube-VIS format ({type(error).__name__}: {error}); expected "
            "`videos`, each with `id`, `file_names`, `height` and `width`"
        ) from error
    for video_id, names, _, _ in listed:
        for name in names:
            if not _is_plain(name):
                raise BadConfig(f"{archive}, video {video_id}: file name {name!r} leaves the folder of the frames")
    if FRAMES_KEY in content:
        fs, images = store.open_source(str(content[FRAMES_KEY]))
    else:
        images = image_folder(fs, path, [name for _, names, _, _ in listed for name in names])
    found = fs.find(images, detail=True)
    for video_id, names, height, width in listed:
        paths = {f"{images}/{name}": found.get(f"{images}/{name}", {"size": 0}) for name in names}
        folder = posixpath.commonpath([posixpath.dirname(name) for name in paths]) if names else images
        try:
            source = _frames(fs, folder, paths, video_id, listed=True, height=height, width=width)
        except ValidationError as error:
            wrong = error.errors()[0]
            where = f"{archive}, video {video_id}, {wrong['loc'][0]}"
            raise BadConfig(f"{where}: {wrong['msg']}, got {wrong['input']!r}") from error
        yield source.model_copy(update={"frames": tuple(posixpath.relpath(name, folder) for name in paths)})


def image_folder(fs: AbstractFileSystem, path: str, names: list[str]) -> str:
    """Where a data set's frames lie: the first usual place that has one of the first frames. Raises BadConfig: none."""
    parent, stem = posixpath.dirname(path), posixpath.basename(path).split(".")[0]
    places = [f"{parent}/{stem}/JPEGImages", f"{parent}/JPEGImages", f"{parent}/{stem}", parent]
    for place in places:
        if any(fs.exists(f"{place}/{name}") for name in names[:3]):
            return place
    raise BadConfig(f"{path}: expected its frames in {places[0]} or {places[1]}, found {names[:1]} in neither")


def _content(info: dict[str, Any]) -> str:
    tag = info.get("ETag") or info.get("mtime", "missing")
    return f"{info['size']}-{str(tag).strip(chr(34))}"


def _uri(fs: AbstractFileSystem, path: str) -> str:
    return f"s3://{path}" if "s3" in fs.protocol else path


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].removeprefix(".").lower()


def _counting(name: str) -> list[tuple[int, int | str]]:
    """Sorts `frame_2` before `frame_10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part)) if part.isdigit() and part.isascii() else (0, part) for part in parts] + [(0, name)]


def _printable(name: str) -> str:
    """Control characters and bytes that are no UTF-8, which no table can hold, as %XX."""
    name = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"%{ord(found[0]):02X}", name)
    return re.sub(r"[\udc80-\udcff]", lambda found: f"%{ord(found[0]) - 0xDC00:02X}", name)


def _is_plain(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return len(name) <= 512 and name == _printable(name) and not name.startswith(("/", "\\")) and ".." not in parts
