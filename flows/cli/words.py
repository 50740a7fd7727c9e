"""Words that were typed as values, and values in words."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

DATA_SHOWN = 32
"""Letters of a data set's address in lists."""


def rate(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"expected frames per second over 0, got {value}")
    return value


def seconds(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"expected seconds over 0, got {value}")
    return value


@contextmanager
def given_by_user() -> Iterator[None]:
    """Values out of range are a wrong option, not a bug."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors())
        raise typer.BadParameter("; ".join(wrong)) from None


def changes_of(given: list[str]) -> dict[str, Any]:
    """`stages.0.iterations=500` as a field and its value; what is no JSON is text."""
    changes = {}
    for change in given:
        key, equals, text = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {change}: expected KEY=VALUE, such as stages.0.iterations=500")
        try:
            changes[key] = json.loads(text)
        except ValueError:
            changes[key] = text
    return changes


def pair(given: str, option: str, such_as: str) -> tuple[str, str]:
    """`NAME=VALUE` as a name and a value."""
    name, equals, value = given.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"{option} {given}: expected NAME=FILE, such as {such_as}")
    return name, value


def text_of(file: str) -> str:
    """What a file holds, or what comes in where it is called `-`."""
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"--file {file}: no text in UTF-8") from None


def figures_of(given: list[str]) -> dict[str, float]:
    """`AP=35.3` as a name and a number."""
    try:
        return {name: float(value) for name, _, value in (each.partition("=") for each in given)}
    except ValueError:
        raise typer.BadParameter(f"--server-score {' '.join(given)}: expected NAME=VALUE, such as AP=35.3") from None


def in_words(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())


def short(data: str) -> str:
    """A data set in few letters: of an address the end, without the hash of its split."""
    place = data.partition(", split ")[0]
    return place if len(place) <= DATA_SHOWN else f"...{place[-DATA_SHOWN:]}"
