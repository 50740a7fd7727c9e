"""`vis models`, `vis settings`, `vis up`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.verbs import (
    TYPED,
    DeviceOption,
    StoreOption,
    Verbs,
    WorkersOption,
    app,
    set_for_all,
    with_settings,
)
from flows.cli.words import changes_of, in_words, short
from flows.terminal import print_table, typed

models_app = Verbs()


app.add_typer(models_app, name="models")


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    recipes: Annotated[bool, typer.Option("--recipes", help="List what can be trained.")] = False,
    store: StoreOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
) -> None:
    """List the registered models with their figures, oldest first; link a model's detector with another tracker."""
    if context.invoked_subcommand:
        set_for_all(store=store, device=device, workers=workers)
    else:
        with_settings(_list_recipes if recipes else _list_models)(store=store, device=device, workers=workers)


def _list_recipes() -> None:
    from jobs.training.recipes.catalogue import every_recipe, measured, published_ap

    print(f"{'recipe':42}{'published':>10}{'measured':>10}   AP x 100; published on YouTube-VIS 2019 valid")
    for name, recipe in every_recipe().items():
        published, ours = published_ap(name), measured(name)
        figures = f"{'' if published is None else published:>10}{'' if ours is None else f'{100 * ours:.1f}':>10}"
        print(f"{name:42}{figures}   {(recipe.__doc__ or '').splitlines()[0]}")


def _list_models() -> None:
    from jobs.models import damaged, registered
    from jobs.settings import Settings
    from jobs.store import LAYOUT, Store

    store = Store.open(Settings())
    rows = [("model", "kind", "registered", "state", "data", "figures", "source and licence")]
    for name, card in registered(store).items():
        when = f"{card.created_at:%Y-%m-%d %H:%M}"
        origin = "; ".join(filter(None, (card.source, card.licence)))
        rows.append((name, card.kind, when, "whole", short(card.data), in_words(card.metrics), origin))
    rows += [(name, "", "", "damaged", "", why, "") for name, why in damaged(store).items()]
    print_table(rows)
    print(f"models      {store.uri(f'{LAYOUT}/models')}")


@models_app.command()
def link(
    model: Annotated[str, typer.Argument(help="Model whose detector is taken: registered name, folder or s3://...")],
    tracker: Annotated[str, typer.Option(help="greedy, iou, propagation, deepsort or seq.")] = "iou",
    name: Annotated[str | None, typer.Option(help="Of the new model; default: MODEL-TRACKER.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of the tracker: match_iou=0.5", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Register the detector of a model with a tracker that needs no training."""
    from jobs.settings import Settings
    from jobs.store import LAYOUT, Store
    from jobs.training.linking import link

    store = Store.open(Settings())
    card = link(store, model, tracker, name, changes_of(change or []), typed())
    print(f"model       {store.uri(f'{LAYOUT}/models/{card.name}')}, {card.kind}")


TrackerOption = Annotated[
    str | None,
    typer.Option("--tracker", help="greedy, iou, propagation, deepsort or seq; default: its own, if it has one."),
]


@models_app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="A .pth or .safetensors file, or its s3:// address.")],
    classes: Annotated[
        str, typer.Option(help="What it was trained on: coco, ytvis2019, ytvis2021, ovis, or a file of names.")
    ] = "",
    tracker: TrackerOption = None,
    name: Annotated[str | None, typer.Option(help="Of the new model; default: that of the file.")] = None,
    partly: Annotated[bool, typer.Option("--partly", help="Take what fits; the rest keeps fresh weights.")] = False,
) -> None:
    """Register a published checkpoint as a model: torchvision, mmdetection, MaskTrack R-CNN, YOLACT or RGNN."""
    from jobs.settings import Settings
    from jobs.store import LAYOUT, Store
    from jobs.training.importing import import_file

    store = Store.open(Settings())
    card, report = import_file(store, file, classes, name, tracker, partly, typed())
    print(f"loaded      {report}")
    print(f"model       {store.uri(f'{LAYOUT}/models/{card.name}')}, {card.kind}, {len(card.classes)} classes")


@models_app.command()
def fetch(
    published: Annotated[str | None, typer.Argument(help="Name of a listed checkpoint; none: list them.")] = None,
    tracker: TrackerOption = None,
    name: Annotated[str | None, typer.Option(help="Of the new model; default: that of the checkpoint.")] = None,
) -> None:
    """Fetch a published checkpoint from where its authors put it, and register its model."""
    from flows.progress import at_terminal
    from jobs.settings import Settings
    from jobs.store import LAYOUT, Store
    from jobs.training.fetching import PUBLISHED
    from jobs.training.importing import fetch_model

    if published is None:
        print_table(
            [("name", "what", "licence"), *((key, each.about, each.licence) for key, each in PUBLISHED.items())]
        )
        return
    store = Store.open(Settings())
    with at_terminal() as progress:
        path, card, said = fetch_model(store, published, name, tracker, typed(), progress)
    print(f"fetched     {path}")
    print(f"            {said}")
    if card:
        print(f"model       {store.uri(f'{LAYOUT}/models/{card.name}')}, {card.kind}, {len(card.classes)} classes")
    else:
        print(f"            a backbone: vis train --init {path}")


@app.command()
def settings() -> None:
    """Show each setting and where its value comes from: default, vis.toml, environment, command line."""
    from jobs.settings import Settings, origins

    given = Settings()
    rows = [("setting", "value", "from")]
    for name, origin in origins().items():
        value, variable = getattr(given, name), f"VIS_{name.upper()}"
        shown = "-" if value is None else "***" if hasattr(value, "get_secret_value") else str(value)
        if origin == "environment":
            origin = f"command line, --{name}" if name in TYPED else f"environment, {variable}"
        rows.append((name, shown, origin))
    print_table(rows)


@app.command()
def up(
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    home: Annotated[Path, typer.Option(help="Database and logs of the server.")] = Path(".vis/prefect"),
) -> None:
    """Start a local Prefect server, a worker and the deployments, until Ctrl-C."""
    from flows.up import up
    from jobs.settings import Settings

    up(host, port, home, Settings(), say=lambda line: print(line, flush=True))
