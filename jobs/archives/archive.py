"""Whatever holds videos -> a list of videos in a fixed order, each with a name, an address and a content id.

Nothing is opened here: a broken file is a video like any other until it is decoded. What lies beside the videos and is
not read is counted.
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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from pydantic import ValidationError

from jobs.archives.frame_clocks import stamps_s
from jobs.store import Store
from vis_models.config import BadConfig, Config
from vis_models.data.dialects import one_form, text_of
from vis_models.data.frame_names import places

FILMS = frozenset({
    "264", "265", "3gp", "asf", "avi", "flv", "gif", "h264", "h265", "hevc", "ivf", "m2ts", "m4v", "mkv", "mov", "mp4",
    "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv",
})  # fmt: skip
IMAGES = frozenset({"bmp", "jfif", "jp2", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"})
SAME_KIND = {"jpeg": "jpg", "jfif": "jpg", "tiff": "tif", "pgm": "ppm"}
DATA_SETS = (".json", ".json.gz")
"""How the name of a data set in the YouTube-VIS or CocoVID format ends."""
FRAMES_KEY = "vislake_frames"
"""In a data set's JSON: the folder of the frames, where it is none of the usual ones."""
MANIFESTS = frozenset({"jsonl", "ndjson", "csv", "parquet"})


class VideoSource(Config):
    """One video of an archive."""

    video_id: str
    """Unique in the archive; only ever a value in a table, never a file name."""
    uri: str
    """Local path or `s3://...` of a file, or of the folder that holds the frames. A `file://` URL where the name of the
    folder or of a frame is no UTF-8, which no table can hold; `frames` are quoted likewise then."""
    kind: Literal["film", "frames"]
    content_id: str
    """Changes when the video changes: the store's ETag, else size and time of change; `missing` if it is not there."""
    size_bytes: int
    """What decoding costs, roughly: shards are balanced by it."""
    frames: tuple[str, ...] | None = None
    """Paths below `uri` in playing order; None for a film."""
    listed: bool = False
    """A data set lists exactly these frames, so leaps in their numbers are meant."""
    fps: float | None = None
    """Frames per second that the user gives a folder of frames, which has no clock but time stamps in its names."""
    height: int | None = None
    """Size in pixels that a data set states; masks come out at this size. None: the size of the first frame."""
    width: int | None = None

    @property
    def frame_names(self) -> tuple[str, ...]:
        """`frames` as the file system knows them."""
        names = self.frames or ()
        if not self.uri.startswith("file://"):
            return names
        return tuple(unquote(name, errors="surrogateescape") for name in names)


class PassedOver(Config):
    """Files of an archive that are not read."""

    why: str
    kind: str
    """The ending of their names."""
    files: int
    first: str
    """Below the archive."""


class Archive(Config):
    """What an archive holds."""

    videos: tuple[VideoSource, ...]
    """Sorted by their ids with numbers in counting order."""
    passed_over: tuple[PassedOver, ...] = ()
    """The most frequent first."""


class _Counted:
    """Counts what is passed over on the way."""

    def __init__(self) -> None:
        self._files: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def add(self, name: str, why: str) -> None:
        kind = _suffix(name)
        key = why, kind if kind.isalnum() and len(kind) <= 8 else "other"
        self._files[key] += 1
        self._first.setdefault(key, _printable(name))

    def rows(self) -> tuple[PassedOver, ...]:
        return tuple(
            PassedOver(why=key[0], kind=key[1], files=files, first=self._first[key])
            for key, files in self._files.most_common()
        )


def list_videos(archive: str, store: Store) -> list[VideoSource]:
    """The videos of `read_archive`."""
    return list(read_archive(archive, store).videos)


def read_archive(archive: str, store: Store, frame_folder_fps: float | None = None) -> Archive:
    """The videos of an archive, and what it holds beside them.

    Args:
        archive: a folder or S3 prefix with films and folders of frames, a glob, a film, a manifest with the columns
            `id` and `uri` (JSONL, CSV or Parquet), or a data set in the YouTube-VIS or CocoVID format (JSON).
        store: its credentials open `s3://` archives.
        frame_folder_fps: the clock of folders of frames; it counts more than time stamps in their names.

    Raises:
        BadConfig: there is nothing at this address, no video in it, or a manifest or data set is malformed.
    """
    fs, path = store.open_source(archive)
    store.check(archive)  # s3fs takes a refusal for an empty folder
    counted = _Counted()
    with store.guard(archive):
        sources = sorted(_list(fs, path, archive, store, counted), key=lambda source: _counting(source.video_id))
    if not sources:
        kinds = ", ".join(f"{row.files} {row.kind} ({row.why})" for row in counted.rows()[:5])
        raise BadConfig(
            f"{archive} holds no video: expected films ({', '.join(sorted(FILMS))}) or folders of "
            f"{', '.join(sorted(IMAGES))} frames, at any depth; hidden files are ignored. Found: {kinds or 'no file'}"
        )
    twice = [video_id for video_id, times in Counter(source.video_id for source in sources).items() if times > 1]
    if twice:
        raise BadConfig(
            f"{archive}: {len(twice)} video ids occur more than once, expected unique ids; first: {twice[0]!r}"
        )
    if frame_folder_fps:
        clock = {"fps": frame_folder_fps}
        sources = [source.model_copy(update=clock) if source.kind == "frames" else source for source in sources]
    return Archive(videos=tuple(sources), passed_over=counted.rows())


def check_archive(archive: str, store: Store) -> None:
    """Without listing it. Raises BadConfig: nothing is at this address."""
    fs, path = store.open_source(archive)
    store.check(archive)
    with store.guard(archive):
        if not fs.exists(path) and not glob.has_magic(path):
            raise _absent(archive)


def _absent(archive: str) -> BadConfig:
    return BadConfig(f"archive {archive} does not exist; expected a folder, glob, manifest, S3 prefix or film")


def _list(fs: AbstractFileSystem, path: str, archive: str, store: Store, counted: _Counted) -> Iterable[VideoSource]:
    if fs.isdir(path):
        return _group(fs, fs.find(path, detail=True), path, counted)
    if fs.isfile(path):
        if _suffix(path) in MANIFESTS:
            return _manifest(fs, path, archive, store)
        if path.endswith(DATA_SETS):
            return _data_set(fs, path, archive, store)
        return [_film(fs, path, fs.info(path), posixpath.basename(path))]
    if glob.has_magic(path):
        return _glob(fs, path, counted)
    if fs.exists(path):
        raise BadConfig(f"archive {archive} is neither a file nor a folder but a pipe, socket or device; copy it first")
    raise _absent(archive)


def _glob(fs: AbstractFileSystem, pattern: str, counted: _Counted) -> Iterator[VideoSource]:
    """Files that a glob names may be called anything; folders that it names are searched."""
    parts = pattern.split("/")
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = "/".join(parts[:fixed])
    named: dict[str, Any] = {}
    for path, info in fs.glob(pattern, detail=True).items():
        if info["type"] == "directory" or _leads_to_folder(fs, path, info):
            for file, its_info in fs.find(path, detail=True).items():
                if _suffix(file) in FILMS | IMAGES:
                    named[file] = its_info
                else:
                    counted.add(posixpath.relpath(file, base), "no kind of film or frame")
        else:
            named[path] = info
    yield from _group(fs, named, base, counted, any_name=True)


def _group(
    fs: AbstractFileSystem, files: dict[str, Any], base: str, counted: _Counted, any_name: bool = False
) -> Iterator[VideoSource]:
    """Each film is a video; the images of a folder are one, unless films lie beside them (previews, posters).

    With `any_name` files of unknown kind are films too, where no images lie beside them.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for path, info in files.items():
        relative = posixpath.relpath(path, base)
        if any(part.startswith(".") for part in relative.split("/")):
            counted.add(relative, "hidden")
        elif _leads_to_folder(fs, path, info):
            counted.add(relative, "link to a folder")
        else:
            folders[posixpath.dirname(path)].append(path)
    for folder, paths in folders.items():
        images = [path for path in paths if _suffix(path) in IMAGES]
        films = [path for path in paths if _suffix(path) in FILMS or (any_name and not images)]
        frames = [] if films else _one_of_each(images)
        for path in films:
            yield _film(fs, path, files[path], posixpath.relpath(path, base))
        if frames:
            name = posixpath.basename(base) if folder == base.rstrip("/") else posixpath.relpath(folder, base)
            yield _frames(fs, folder, {path: files[path] for path in frames}, name)
        for path in sorted(set(paths) - set(films) - set(frames)):
            why = "no kind of film or frame" if path not in images else "beside films" if films else "second image kind"
            counted.add(posixpath.relpath(path, base), why)


def _one_of_each(images: list[str]) -> list[str]:
    """Without the images of rarer kinds, where one name occurs in several kinds: masks or depth beside the frames."""
    if len({posixpath.splitext(path)[0] for path in images}) == len(images):
        return images
    kinds = Counter(SAME_KIND.get(_suffix(path), _suffix(path)) for path in images)
    usual = max(kinds, key=lambda kind: (kinds[kind], kind == "jpg"))
    return [path for path in images if SAME_KIND.get(_suffix(path), _suffix(path)) == usual]


def _leads_to_folder(fs: AbstractFileSystem, path: str, info: dict[str, Any]) -> bool:
    return bool(info.get("islink")) and fs.isdir(path)


def _film(fs: AbstractFileSystem, path: str, info: dict[str, Any], name: str) -> VideoSource:
    return VideoSource(
        video_id=_printable(name),
        uri=_uri(fs, path),
        kind="film",
        content_id=_content(info),
        size_bytes=info["size"],
    )


def _frames(
    fs: AbstractFileSystem,
    folder: str,
    images: dict[str, Any],
    name: str,
    order: Sequence[str] | None = None,
    **more: Any,
) -> VideoSource:
    """`order`: the images as they are played; None: as their names count, or as the time stamps in them say."""
    if order is None:
        order = sorted(images, key=_counting)
        if stamps := stamps_s(order):
            order = [path for _, path in sorted(zip(stamps, order, strict=True))]
    content = json.dumps([(posixpath.basename(path), _content(images[path])) for path in order])
    frames = [posixpath.relpath(path, folder) for path in order]
    uri = _uri(fs, folder)
    if uri.startswith("file://") or not all(map(_is_unicode, frames)):
        uri, frames = _quoted(folder), [quote(os.fsencode(frame)) for frame in frames]
    return VideoSource(
        video_id=_printable(name),
        uri=uri,
        kind="frames",
        content_id=hashlib.sha256(content.encode()).hexdigest()[:32],
        size_bytes=sum(info["size"] for info in images.values()),
        frames=tuple(frames),
        **more,
    )


def _manifest(fs: AbstractFileSystem, path: str, archive: str, store: Store) -> Iterator[VideoSource]:
    base = posixpath.dirname(_uri(fs, path))
    for where, row in _rows(fs, path, archive):
        if row.get("id") in (None, "") or not row.get("uri"):
            filled = ", ".join(str(name) for name, value in row.items() if value not in (None, "")) or "none"
            raise BadConfig(f"{archive}, {where}: expected values for `id` and `uri`, got values for: {filled}")
        video_id, uri = str(row["id"]), str(row["uri"])
        if not _is_plain(video_id):
            raise BadConfig(
                f"{archive}, {where}: id {video_id!r} is not allowed; expected a relative name of at most 512 "
                "characters without `..` and control characters"
            )
        if re.search("[\ud800-\udc7f\udd00-\udfff]", uri):
            raise BadConfig(f"{archive}, {where}: uri {uri!r} is no text that a file can be named by")
        source_fs, source = store.open_source(uri if "://" in uri or os.path.isabs(uri) else f"{base}/{uri}")
        with store.guard(uri):
            yield _named(source_fs, source).model_copy(update={"video_id": video_id})


def _named(fs: AbstractFileSystem, path: str) -> VideoSource:
    """A file or a folder of frames that a manifest names, whether it is there or not."""
    if fs.isdir(path):
        inside = {info["name"]: info for info in fs.ls(path, detail=True) if info["type"] != "directory"}
        frames = _one_of_each([name for name in inside if _suffix(name) in IMAGES])
        return _frames(fs, path, {name: inside[name] for name in frames}, "")
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
            rows = pq.read_table(pa.BufferReader(data)).to_pylist()
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
            if not _is_plain(name):
                raise BadConfig(f"{archive}, video {video_id}: file name {name!r} leaves the folder of the frames")
    if FRAMES_KEY in content:
        fs, images = store.open_source(str(content[FRAMES_KEY]))
    else:
        images = image_folder(fs, path, [name for _, names, _, _ in listed for name in names], form.root)
    found = fs.find(images, detail=True)
    for video_id, names, height, width in listed:
        order = [f"{images}/{name}" for name in names]
        paths = {path: found.get(path, {"size": 0}) for path in order}
        folder = posixpath.commonpath([posixpath.dirname(path) for path in order]) if order else images
        try:
            yield _frames(fs, folder, paths, video_id, order, listed=True, height=height, width=width)
        except ValidationError as error:
            wrong = error.errors()[0]
            where = f"{archive}, video {video_id}, {wrong['loc'][0]}"
            raise BadConfig(f"{where}: {wrong['msg']}, got {wrong['input']!r}") from error


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


def _content(info: dict[str, Any]) -> str:
    tag = info.get("ETag") or info.get("mtime", "missing")
    return f"{info['size']}-{str(tag).strip(chr(34))}"


def _uri(fs: AbstractFileSystem, path: str) -> str:
    if "s3" in fs.protocol:
        return f"s3://{path}"
    return path if _is_unicode(path) else _quoted(path)


def _quoted(path: str) -> str:
    return f"file://{quote(os.fsencode(path))}"


def _is_unicode(name: str) -> bool:
    return re.search("[\ud800-\udfff]", name) is None


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].removeprefix(".").lower()


def _counting(name: str) -> list[tuple[int, int | str]]:
    """Sorts `frame_2` before `frame_10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part)) if part.isdigit() and part.isascii() else (0, part) for part in parts] + [(0, name)]


def _printable(name: str) -> str:
    """Control characters and bytes that are no UTF-8, which no table can hold, as %XX."""
    name = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"%{ord(found[0]):02X}", name)
    name = re.sub("[\udc80-\udcff]", lambda found: f"%{ord(found[0]) - 0xDC00:02X}", name)
    return re.sub("[\ud800-\udfff]", lambda found: quote(found[0], errors="surrogatepass"), name)


def _is_plain(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return len(name) <= 512 and name == _printable(name) and not name.startswith(("/", "\\")) and ".." not in parts
