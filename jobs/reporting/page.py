"""Pages of HTML that need nothing beside them: no script, no outside address. What came from outside is escaped."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2


def render(template: str, values: Mapping[str, Any], filters: Mapping[str, Any]) -> str:
    """A template of this folder with its values filled in; `filters` come on top of `count`, `tail` and `moment`."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files("jobs.reporting").joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "tail": tail, "moment": moment} | dict(filters)
    return environment.get_template(template).render(values)


def count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def tail(path: str) -> str:
    """The last two parts of a path, enough to know it by."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def moment(created_at: str) -> str:
    return f"{created_at[:10]} {created_at[11:16]} UTC"
