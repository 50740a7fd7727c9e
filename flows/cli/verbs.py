"""What all verbs of `vis` share: the app, the settings that stand before or behind each of them."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Literal

import typer


class Verbs(typer.Typer):
    """Every verb takes the options of `vis` itself, too: people type them behind it."""

    def command(self, name: str | None = None, **kwargs: Any) -> Callable[[Callable], Callable]:  # type: ignore[override]
        register = super().command(name, **kwargs)

        def add(run: Callable) -> Callable:
            register(with_settings(run))
            return run

        return add


app = Verbs(
    help="Archives of video into queryable tables of objects: a class, a mask in each frame, one identity.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


TYPED: set[str] = set()
"""Settings that were given on the command line."""


ModelOption = Annotated[
    str | None, typer.Option("--model", help="Registered name, folder or s3:// address; default: the newest.")
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Root of everything written: a folder or s3://...", rich_help_panel="Settings"),
]


DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option("--device", help="Where models run.", rich_help_panel="Settings"),
]


WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Of a job; 0: as many as GPUs, or one.", min=0, rich_help_panel="Settings"),
]


def _say_version(wanted: bool) -> None:
    if wanted:
        from jobs.store import code_version

        commit = code_version()
        print(f"vislake {version('vislake')}" + (f", commit {commit}" if commit != version("vislake") else ""))
        raise typer.Exit


@app.callback()
def every_verb(
    store: StoreOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Show version and commit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Settings that every verb takes; more of them in the environment (VIS_*) and in vis.toml."""
    from flows.surroundings import check_working_folder, reach_loopback

    check_working_folder()
    reach_loopback()
    TYPED.clear()
    set_for_all(store=store, device=device, workers=workers)


def set_for_all(**given: Any) -> None:
    """Settings of the command line, remembered as such."""
    for name, value in given.items():
        if value is not None:
            if value == "":
                raise typer.BadParameter(f"--{name} is empty")
            os.environ[f"VIS_{name.upper()}"] = str(value)  # where flows, jobs and their workers look
            TYPED.add(name)


def with_settings(run: Callable) -> Callable:
    """A verb that takes the settings behind its name, and checks all of them before it begins."""
    options = inspect.signature(every_verb).parameters
    own = {name: options[name] for name in ("store", "device", "workers")}

    @functools.wraps(run)
    def verb(**given: Any) -> None:
        set_for_all(**{name: given.pop(name) for name in own})
        from jobs.settings import Settings, strangers

        Settings()
        for name in strangers():
            print(f"vis: {name} is no setting and not used; `vis settings` lists all", file=sys.stderr)
        run(**given)

    parameters = [*inspect.signature(run).parameters.values(), *own.values()]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {each.name: each.annotation for each in parameters}
    return verb
