"""The answer to a question as a file or on the terminal: a printed table, CSV, JSON or Parquet."""

import csv
import errno
import io
import json
import math
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from vis_models.config import BadConfig

WIDEST = 48
"""Characters of a value in a printed table, unless all are asked for."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def form_of(named: str | None, output: Path | None) -> str:
    """The format that is named, else the one that the ending of the file stands for, else a table.

    Raises:
        BadConfig: there is none of this name, or with this ending.
    """
    if named in FORMS:
        return str(named)
    if named is not None:
        raise BadConfig(f"unknown format {named!r}, expected one of {', '.join(FORMS)}")
    ending = output.suffix.lower() if output else ""
    if ending not in ENDINGS:
        raise BadConfig(f"{output}: no format has the ending {ending}, name one with --format: {', '.join(FORMS)}")
    return ENDINGS[ending]


@contextmanager
def create(output: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole; what is no regular file (a FIFO, /dev/stdout) is written as it is.

    Raises:
        BadConfig: it cannot be written.
    """
    if output.is_dir():
        raise BadConfig(f"{output} is a folder, expected the name of a file")
    regular = not output.exists() or stat.S_ISREG(output.stat().st_mode)
    target = output.resolve() if regular else output
    arriving = target.with_name(f".{target.name}.{uuid.uuid4().hex}") if regular else output
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = arriving.open("wb")
    except OSError as error:
        raise BadConfig(f"{output} cannot be written: {error.strerror}. Name another place with --output") from error
    try:
        with file:
            yield file
        if regular:
            os.replace(arriving, target)
    except OSError as error:
        if error.errno in FULL:
            raise BadConfig(f"{output} cannot be written to its end: {error.strerror}") from error
        raise
    finally:
        if regular:
            arriving.unlink(missing_ok=True)


def write(answer: pa.Table, form: str, target: BinaryIO, *, wide: bool = False, footer: Sequence[str] = ()) -> None:
    """The answer as `table`, `csv`, `json` (a list of objects) or `parquet`.

    Masks are text in CSV and JSON, as pycocotools takes them, and only their size in a printed table. Lists and
    structures are JSON in all three.

    Args:
        wide: a printed table shows each value whole.
        footer: lines under a printed table.

    Raises:
        BadConfig: another form, or a type that it cannot hold.
    """
    if form == "table":
        _write_table(answer, target, wide, footer)
    elif form in FORMS:
        FORMS[form](answer, target)
    else:
        raise BadConfig(f"unknown format {form!r}, expected one of {', '.join(FORMS)}")


def _write_table(answer: pa.Table, target: BinaryIO, wide: bool = False, footer: Sequence[str] = ()) -> None:
    cells = [[_shown(value) for value in row] for row in _rows(answer)]
    cut = not wide and any(len(cell) > WIDEST for row in cells for cell in row)
    if cut:
        cells = [[cell if len(cell) <= WIDEST else cell[: WIDEST - 1] + "…" for cell in row] for row in cells]
    names = [_printable(name) for name in answer.column_names]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    numbers = [_is_number(field.type) for field in answer.schema]
    for row in (names, ["-" * width for width in widths], *cells):
        line = (
            value.rjust(width) if number else value.ljust(width)
            for value, width, number in zip(row, widths, numbers, strict=True)
        )
        target.write(("  ".join(line).rstrip() + "\n").encode())
    said = [f"({len(cells)} row{'s' if len(cells) != 1 else ''})", *map(_printable, footer)]
    if cut:
        said.append(f"values of more than {WIDEST} characters are cut: --wide shows them whole")
    target.write(("\n".join(said) + "\n").encode())


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return f"{value:.6g}" if isinstance(value, float) else _printable(_cell(value))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _write_csv(answer: pa.Table, target: BinaryIO) -> None:
    text = io.TextIOWrapper(target, "utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.column_names)
    writer.writerows([_cell(value) for value in row] for row in _rows(answer))
    text.detach()


def _write_json(answer: pa.Table, target: BinaryIO) -> None:
    separator = "[\n"
    for row in _rows(answer):
        target.write((separator + _json(dict(zip(answer.column_names, row, strict=True)))).encode())
        separator = ",\n"
    target.write(b"\n]\n" if answer.num_rows else b"[]\n")


def _write_parquet(answer: pa.Table, target: BinaryIO) -> None:
    try:
        pq.write_table(answer, target, compression="zstd")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise BadConfig(f"Parquet cannot hold this answer: {error}. Cast the column to another type") from error


def _rows(answer: pa.Table) -> Iterator[tuple[Any, ...]]:
    """By position, each a tuple; maps are dictionaries."""
    for batch in answer.to_batches(max_chunksize=4096):
        yield from zip(*(column.to_pylist(maps_as_pydicts="lossy") for column in batch.columns), strict=True)


def _cell(value: Any) -> str:
    """A value as text; what has no simpler form is JSON."""
    if value is None:
        return ""
    return _json(value) if isinstance(value, bool | list | dict) else str(_text(value))


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    """What JSON can say: numbers are numbers, those that are none are null."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and not value.as_tuple().exponent else float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else _text(value)


def _text(value: Any) -> Any:
    """COCO counts are ASCII; other bytes become hexadecimal."""
    if not isinstance(value, bytes):
        return value
    return value.decode() if value.isascii() else value.hex()


FORMS: dict[str, Callable[[pa.Table, BinaryIO], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
ENDINGS = {"": "table", ".txt": "table", ".csv": "csv", ".json": "json", ".parquet": "parquet"}
