"""What ends a video, and no other: the sentence and the code of its row in the table `errors`."""

import os
import stat
import traceback

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from jobs.archives.listing import READ_ERRORS
from jobs.archives.sources import VideoSource
from jobs.settings import without_signature
from vis_models.config import BadVideo

UNEXPECTED = "unexpected"
"""Code of what nobody thought of: a fault of ours until it is known to be one of the file."""
RETRYABLE = frozenset({"missing", "denied", "unreadable", "timeout", "changed"})
"""Codes of errors whose reason lies outside of the file."""
AGAIN = "If many rows carry this reason, copy the archive again"
REMEDIES = {
    "link_member": "Pack the file itself in its place",
    "unsafe_member": "Pack it again under a name below the archive",
    "bomb": "If it is meant, unpack it beside the archive",
}
"""Of members of tar and zip files that are whole and not read."""


def keeps(frames: int) -> str:
    """What becomes of the frames before, and what to do."""
    return (
        f"The {frames} frames before it are kept (status partial). {AGAIN}" if frames else f"Nothing is kept. {AGAIN}"
    )


def bad_video(error: Exception, source: VideoSource, kept: int) -> BadVideo:
    """The one boundary of a video: whatever happened inside it, as a row of the table errors."""
    if isinstance(error, BadVideo):
        return error
    if isinstance(error, FileNotFoundError):
        what, code = "is not there, expected a film. Check the manifest", "missing"
    elif isinstance(error, PermissionError):
        what, code = "may not be read by this user. Change its permissions", "denied"
    elif isinstance(error, READ_ERRORS):
        what, code = f"cannot be read ({type(error).__name__}: {words(error)}). {keeps(kept)}", "unreadable"
    else:
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}"
        what = f"met what nobody thought of: {type(error).__name__}: {error} ({where}). {keeps(kept)}"
        code = UNEXPECTED
    return BadVideo(f"{source.uri} {without_signature(what)}", code=code, frames_kept=kept)


def timed_out(source: VideoSource, seconds: float, kept: int) -> BadVideo:
    """What ends a video whose decoder, disk or network hangs."""
    return BadVideo(
        f"{source.uri} gave no frame for {seconds:g} s: its decoder, disk or network hangs. {keeps(kept)}. "
        "If it is only slow, raise VIS_DECODE_TIMEOUT_S",
        code="timeout",
        frames_kept=kept,
    )


def no_file(fs: AbstractFileSystem, path: str) -> tuple[str, str] | None:
    """(what, code) of a pipe, socket or device, which might give bytes for ever or never."""
    if isinstance(fs, LocalFileSystem) and not stat.S_ISREG(os.stat(path).st_mode):
        return "is a pipe, socket, device or folder, expected a regular file", "not_a_file"
    return None


def known_impostor(head: bytes) -> tuple[str, str] | None:
    """(what, code) of files that only look like media."""
    if not head:
        return "is 0 bytes, expected an image or a film", "empty_file"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git-LFS pointer, not the file itself: run `git lfs pull` where it was checked out", "lfs_pointer"
    return None


def words(error: BaseException) -> str:
    """What an error says, at least its kind."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
