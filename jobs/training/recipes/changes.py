"""A recipe with fields changed by dotted path, and checked again."""

from typing import Any

from pydantic import ValidationError

from jobs.training.recipes.base import TrainJob
from vis_models.config import BadConfig, nearest


def changed(job: TrainJob, changes: dict[str, Any]) -> TrainJob:
    """A job with fields changed: `{"stages.0.iterations": 500}`.

    Raises:
        BadConfig: unknown field, or a value out of range.
    """
    fields = job.model_dump()
    for path, value in changes.items():
        _set(fields, path, value)
    try:
        return TrainJob.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"])[:-1]
        if first["type"] == "value_error":  # ours: its text says what came
            raise BadConfig(f"recipe {job.recipe}: {f'{where}: ' if where else ''}{first['ctx']['error']}") from None
        raise BadConfig(f"recipe {job.recipe}: {where}: {first['msg']}, got {first['input']!r}") from None


def _set(job: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place = job
    for part in parents:
        place = _member(place, part, path)
    if isinstance(place, tuple | list):
        raise BadConfig(f"{path}: name the field after the number, as in stages.0.iterations")
    if not isinstance(place, dict) or last not in place:
        raise _unknown(path, last, place)
    place[last] = value


def _member(place: Any, part: str, path: str) -> Any:
    if isinstance(place, dict) and part in place:
        return place[part]
    if isinstance(place, tuple | list) and part.lstrip("-").isdigit() and -len(place) <= int(part) < len(place):
        return place[int(part)]
    raise _unknown(path, part, place)


def _unknown(path: str, part: str, place: Any) -> BadConfig:
    meant = nearest(part, place) if isinstance(place, dict) else None
    if meant:
        return BadConfig(f"unknown config key {path!r}: {part!r} is no field, did you mean {meant}?")
    if isinstance(place, dict):
        return BadConfig(f"unknown config key {path!r}: {part!r} is not one of {', '.join(place)}")
    inside = f"of numbers 0 to {len(place) - 1}" if isinstance(place, tuple | list) and place else "without fields"
    return BadConfig(f"unknown config key {path!r}: {part!r} was looked for in a value {inside}")
