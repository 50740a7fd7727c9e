"""A video -> its frames with their times, decoded and resized where they are used.

Whatever happens inside a video leaves this file as a `BadVideo`, so that it ends that video and no other.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from jobs.archives.bad_videos import AGAIN, REMEDIES, bad_video, no_file, timed_out
from jobs.archives.deadlines import Hung, Task, decoders
from jobs.archives.film import film_container, film_of
from jobs.archives.frame_folder import FrameFolder
from jobs.archives.listing import entry_at, open_seekable
from jobs.archives.members import open_member, read_member
from jobs.archives.sources import VideoSource, has_changed
from jobs.archives.video import DecodedFrame, Video
from jobs.store import Store
from vis_models.config import BadVideo


@contextmanager
def open_video(source: VideoSource, store: Store) -> Iterator[Video]:
    """Opens a video and decodes its first frame.

    Raises:
        BadVideo: whatever happened; here or while its frames are walked.
    """
    with ExitStack() as closing:
        try:
            video = _open(source, store, closing)
        except Exception as error:
            raise bad_video(error, source, 0) from error
        yield video


def frames_in_time(source: VideoSource, store: Store, size: tuple[int, int]) -> Iterator[DecodedFrame]:
    """The frames of one video for a reader that shows them, none of which may take longer than the settings say.

    Raises:
        BadVideo: as `open_video` and `Video.frames` do, and with the code `timeout`.
    """
    closing = ExitStack()
    kept = 0
    shown = source if source.spans else replace(source, content_id="")  # a film that was touched is shown, too

    def opened(_: Task[Any]) -> Iterator[DecodedFrame]:
        return closing.enter_context(open_video(shown, store)).frames(size)

    with decoders(1, store.settings.decode_timeout_s) as pool:
        try:
            frames = pool.result(pool.submit(opened))

            def decoded(_: Task[Any], held: ExitStack = closing) -> DecodedFrame | None:
                return next(frames, None)  # a thread that hangs holds the video, so that nobody closes it under it

            while frame := pool.result(pool.submit(decoded)):
                kept += 1
                yield frame
        except Hung as hung:
            raise timed_out(source, hung.seconds, kept) from hung
        except BaseException:
            closing.close()
            raise
        closing.close()


def _open(source: VideoSource, store: Store, closing: ExitStack) -> Video:
    if source.problem:
        code, _, why = source.problem.partition(": ")
        raise BadVideo(f"{why}. {REMEDIES.get(code, AGAIN)}", code=code)
    fs, path = store.open_source(source.place)
    if source.spans:
        archive = closing.enter_context(open_seekable(fs, path))
        _check_unchanged(source, fs, path, archive)
        if source.kind == "frames":
            return FrameFolder(source, lambda place: read_member(archive, source.spans[place]))
        try:
            film = open_member(archive, source.spans[0], store.settings.scratch, closing)
        except BadVideo as bad:
            raise BadVideo(f"{source.uri} {bad}. {REMEDIES.get(bad.code, AGAIN)}", code=bad.code) from bad
        return film_of(source, lambda: closing.enter_context(film_container(source, film, None)))
    if source.kind == "frames":
        return FrameFolder(source, _reader(source, fs, path))
    return film_of(source, lambda: closing.enter_context(_open_film(source, fs, path, store.settings.scratch)))


@contextmanager
def _open_film(source: VideoSource, fs: AbstractFileSystem, path: str, scratch: Path) -> Iterator[Any]:
    if odd := no_file(fs, path):
        raise BadVideo(f"{source.uri} {odd[0]}. Leave it out of the archive", code=odd[1])
    with open_seekable(fs, path, scratch=scratch) as file:
        _check_unchanged(source, fs, path, file)
        with film_container(source, file, path if isinstance(fs, LocalFileSystem) else None) as container:
            yield container


def _check_unchanged(source: VideoSource, fs: AbstractFileSystem, path: str, file: Any) -> None:
    """Raises BadVideo: it is no longer what was listed, so that what is seen would stand under a wrong name."""
    before = source.content_id.rpartition("#")[0] if source.spans else source.content_id
    now = entry_at(fs, path, getattr(file, "details", None))
    if now and has_changed(before, now.content):
        raise BadVideo(
            f"{source.uri} changed since it was listed (then {before}, now {now.content}). Nothing is kept; the same "
            "command again lists it anew",
            code="changed",
        )


def _reader(source: VideoSource, fs: AbstractFileSystem, folder: str) -> Callable[[int], bytes]:
    """Reads the frames of a folder by their places."""
    names = source.frame_names

    def read(place: int) -> bytes:
        path = f"{folder}/{names[place]}"
        if odd := no_file(fs, path):
            raise BadVideo(odd[0], code=odd[1])
        return fs.cat_file(path)  # type: ignore[no-any-return]

    return read
