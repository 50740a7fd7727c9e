"""JSON from outside, read with suspicion: every complaint says where, what was expected, what came, what to do."""

from collections import Counter
from collections.abc import Container
from typing import Any

from vis_models.types import BadConfig

FORMAT_REMEDY = "The YouTube-VIS format is described at the top of vis_models/data/annotations.py."


def complaint(where: str, expected: str, got: str, remedy: str) -> BadConfig:
    return BadConfig(f"{where}: expected {expected}, got {got}. {remedy}")


class Entry:
    """A JSON object that knows where it stands, so that every complaint can say it."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise complaint(where, "an object", repr(value)[:60], FORMAT_REMEDY)
        self.value = value
        self.where = f"{where} (id {value['id']})" if "id" in value else where

    def _read(self, key: str, kind: type, words: str) -> Any:
        if key not in self.value:
            raise complaint(self.where, f"the key {key!r}", f"only {sorted(self.value)}", FORMAT_REMEDY)
        value = self.value[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise complaint(f"{self.where}, {key}", words, repr(value)[:60], FORMAT_REMEDY)
        return value

    def integer(self, key: str) -> int:
        return self._read(key, int, "a whole number")

    def text(self, key: str) -> str:
        return self._read(key, str, "text")

    def list(self, key: str) -> list[Any]:
        return self._read(key, list, "a list")

    def entries(self, key: str) -> "list[Entry]":
        return [Entry(value, f"{self.where}: {key}[{index}]") for index, value in enumerate(self.list(key))]

    def reference(self, key: str, known: Container[int]) -> int:
        """A number that names an entry of another list."""
        number = self.integer(key)
        if number not in known:
            remedy = "Add the entry it names, or drop this one."
            raise complaint(f"{self.where}, {key}", "the id of an entry of this file", str(number), remedy)
        return number


def unique(entries: list[Entry]) -> dict[int, Entry]:
    """The entries by their `id`; two with one id are an error."""
    counts = Counter(entry.integer("id") for entry in entries)
    for entry in entries:
        if counts[entry.value["id"]] > 1:
            got = f"{counts[entry.value['id']]} entries with it"
            raise complaint(entry.where, "an id of its own", got, "Number the entries anew, or drop the copies.")
    return {entry.value["id"]: entry for entry in entries}
