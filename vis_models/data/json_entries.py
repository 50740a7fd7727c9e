"""JSON from outside, read with suspicion: every complaint says where, what was expected, what came, what to do."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Container
from pathlib import Path
from types import UnionType
from typing import Any

from vis_models.config import BadConfig
from vis_models.data.relatives import not_json

FORMAT_REMEDY = "The YouTube-VIS format is described at the top of vis_models/data/annotations.py."


def complaint(where: str, expected: str, got: str, remedy: str) -> BadConfig:
    return BadConfig(f"{where}: expected {expected}, got {got}. {remedy}")


def load_json(path: Path, kind: str, parts: str) -> dict[str, Any]:
    """The object in a .json or .json.gz file.

    Args:
        kind: what is expected, such as `a COCO JSON`.
        parts: what such an object holds.
    """
    again, start = "Copy the file again; it may be cut off.", b""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(256)
            content = json.loads(start + file.read())
    except FileNotFoundError as error:
        raise complaint(str(path), kind, "no such file", "Check the path.") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        if other := not_json(start):
            raise BadConfig(f"{path}: expected {kind}, {other}") from error
        raise complaint(str(path), kind, f"{type(error).__name__}: {error}", again) from error
    if not isinstance(content, dict):
        remedy = "A list is how results are written: give the annotation file."
        raise complaint(str(path), f"an object with {parts}", f"a {type(content).__name__}", remedy)
    return content


class Entry:
    """A JSON object that knows where it stands, so that every complaint can say it."""

    def __init__(self, value: Any, where: str, remedy: str = FORMAT_REMEDY) -> None:
        self.remedy = remedy
        if not isinstance(value, dict):
            raise complaint(where, "an object", repr(value)[:60], remedy)
        self.value = value
        self.where = f"{where} (id {value['id']})" if "id" in value else where

    def _read(self, key: str, kind: type | UnionType, words: str) -> Any:
        if key not in self.value:
            raise complaint(self.where, f"the key {key!r}", f"only {sorted(self.value)}", self.remedy)
        value = self.value[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise complaint(f"{self.where}, {key}", words, repr(value)[:60], self.remedy)
        return value

    def integer(self, key: str) -> int:
        return self._read(key, int, "a whole number")

    def identity(self, key: str) -> int | str:
        """An id that is a number or a text."""
        return self._read(key, int | str, "a whole number or a text")

    def text(self, key: str) -> str:
        return self._read(key, str, "text")

    def list(self, key: str) -> list[Any]:
        return self._read(key, list, "a list")

    def entries(self, key: str) -> "list[Entry]":
        return [
            Entry(value, f"{self.where}: {key}[{index}]", self.remedy) for index, value in enumerate(self.list(key))
        ]

    def reference(self, key: str, known: Container[int | str]) -> Any:
        """An id that names an entry of another list."""
        number = self.identity(key)
        if number not in known:
            remedy = "Add the entry it names, or drop this one."
            raise complaint(f"{self.where}, {key}", "the id of an entry of this file", repr(number), remedy)
        return number


def unique(entries: list[Entry]) -> dict[Any, Entry]:
    """The entries by their `id`, a number or a text; two with one id are an error."""
    counts = Counter(entry.identity("id") for entry in entries)
    for entry in entries:
        if counts[entry.value["id"]] > 1:
            got = f"{counts[entry.value['id']]} entries with it"
            raise complaint(entry.where, "an id of its own", got, "Number the entries anew, or drop the copies.")
    return {entry.value["id"]: entry for entry in entries}
