"""Videos known by their bytes: sha256 in place of what a store says, so that a `touch` or a move changes nothing."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from jobs.archives.listing import READ_ERRORS, open_seekable, side_by_side
from jobs.archives.members import open_member, read_member
from jobs.archives.sources import MISSING, Span, VideoSource
from jobs.store import Store
from vis_models.config import BadVideo

READERS = 8
"""Videos that are read side by side."""
PIECE = 2**20


def verified(sources: Sequence[VideoSource], store: Store) -> Iterator[VideoSource]:
    """The same videos with a sha256 of their bytes as `content_id`; of frames, of them all in playing order.

    What cannot be read stays as it is: it will be a row of errors with its reason.
    """
    return side_by_side(partial(_verified, store), sources, READERS)


def _verified(store: Store, source: VideoSource) -> VideoSource:
    if source.problem or source.content_id == MISSING:
        return source
    digest = hashlib.sha256("\n".join(source.frames or ()).encode())  # names of frames may say when they were taken
    try:
        for piece in _pieces(store, source):
            digest.update(piece)
    except (*READ_ERRORS, BadVideo):
        return source
    return replace(source, content_id=f"sha256-{digest.hexdigest()}", content_hash=True)


def _pieces(store: Store, source: VideoSource) -> Iterator[bytes]:
    fs, path = store.open_source(source.place)
    if source.kind == "film" and not source.spans:
        with open_seekable(fs, path, scratch=store.settings.scratch) as file:
            while piece := file.read(PIECE):
                yield piece
    elif source.spans:
        with open_seekable(fs, path) as file:
            for span in source.spans:
                if source.kind == "frames":
                    yield hashlib.sha256(read_member(file, span)).digest()
                else:
                    yield from _of_member(store, file, span)
    else:
        for name in source.frame_names:
            yield hashlib.sha256(fs.cat_file(f"{path}/{name}")).digest()


def _of_member(store: Store, file: BinaryIO, span: Span) -> Iterator[bytes]:
    with ExitStack() as closing:
        member = open_member(file, span, store.settings.scratch, closing)
        while piece := member.read(PIECE):
            yield piece
