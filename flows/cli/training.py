"""`vis train`, `vis ablate`, `vis runs`."""

from typing import Annotated, Any

import typer

from flows.cli.running import run_flow
from flows.cli.verbs import DeviceOption, StoreOption, Verbs, WorkersOption, app, set_for_all, with_settings
from flows.cli.words import changes_of, in_words, short
from flows.terminal import held_signals, print_table, typed


@app.command()
def train(
    recipe: Annotated[str | None, typer.Option(help="`vis models --recipes` lists them.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set in the YouTube-VIS format: folder or s3://...")] = None,
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: a published file, or a model.", metavar="FILE|MODEL")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="Take this model's detector and train the tracker alone.", metavar="MODEL")
    ] = None,
    cache_encodings: Annotated[
        int | None, typer.Option(help="Augmented copies of each video that the tracker's stage is trained from.", min=0)
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue this run as it was begun; `vis runs` lists them.", metavar="RUN")
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", help="Begin a new run from this one's checkpoint, with fields changed.", metavar="RUN"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the run and its model; default: made from the recipe.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: stages.0.iterations=500", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Train the model of a recipe, stage by stage, and register it. Without options it draws the easy world first."""
    changes = changes_of(change or [])
    if cache_encodings is not None:
        changes["stages.-1.cached_copies"] = cache_encodings
    given: dict[str, Any] = {"recipe": recipe, "data": data, "init": init, "detector": detector, "changes": changes}
    given |= {"resume": resume, "origin": origin, "name": name}
    _check_training(given)
    trained = run_flow("flows.train", "train", **{name: value for name, value in given.items() if value})
    print("  ".join(f"{name} {value:.3f}" for name, value in trained["metrics"].items()))
    print(f"model       {trained['uri']}")


@app.command()
def ablate(
    detector: Annotated[str, typer.Option(help="Model whose weights every row shares.", metavar="MODEL")],
    recipe: Annotated[str | None, typer.Option(help="The proposed approach; default: that of the hard world.")] = None,
    other: Annotated[
        list[str] | None, typer.Option(help="Plays rows of its weights, also of another kind.", metavar="MODEL")
    ] = None,
    data: Annotated[str | None, typer.Option(help="As of vis train, for recipes that draw no world.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="A row of the tables; default: all.")] = None,
    seeds: Annotated[int, typer.Option(help="Of trained rows with a published gap of 3 AP or more.", min=1)] = 3,
    iterations: Annotated[int | None, typer.Option(help="Of each trained row; default: the recipe's.", min=1)] = None,
) -> None:
    """Make the tables of a model's paper again: each row on the same weights and films, against the whole approach.

    RGNN's rows are trained on one detector; those of MaskTrack R-CNN are rules and trackers that need no training.
    Where rows differ in what the weights learned, as IDOL's do, each is played by the model that was trained so.
    """
    from jobs import models
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.recipes.catalogue import hard_world, with_row
    from vis_models.cards import read_card
    from vis_models.rows import BASE

    store = Store.open(Settings())
    if not recipe:
        recipe = hard_world(read_card(store.local_copy(models.find(store, detector))).model)
    for each in row or [BASE]:
        with_row(recipe, each, apart=bool(other))
    for each in (detector, *(other or ())):
        models.find(store, each)
    with held_signals():
        from flows.progress import at_terminal
        from jobs.ablation.ablate import AblationJob, ablate

    rows = tuple(row) if row else None
    job = AblationJob(
        recipe=recipe,
        detector=detector,
        others=tuple(other or ()),
        data=data,
        seeds=tuple(range(seeds)),
        iterations=iterations,
        rows=rows,
    )
    with at_terminal() as progress:
        done = ablate(job, Settings(), progress, typed())
    print(done.table)
    print(f"ablation    {done.uri}")


runs_app = Verbs()


app.add_typer(runs_app, name="runs")


RunArgument = Annotated[str, typer.Argument(help="Name of a training run.", metavar="RUN")]


@runs_app.callback(invoke_without_command=True)
def runs(
    context: typer.Context, store: StoreOption = None, device: DeviceOption = None, workers: WorkersOption = None
) -> None:
    """List the training runs, newest last; show, compare or delete them."""
    if context.invoked_subcommand:
        set_for_all(store=store, device=device, workers=workers)
    else:
        with_settings(_list_runs)(store=store, device=device, workers=workers)


def _list_runs() -> None:
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.runs import RUNS, runs

    store = Store.open(Settings())
    rows = [("run", "last written", "state", "stage", "iteration", "disk", "data", "figures")]
    for run in runs(store):
        at = f"{run.iteration} of {run.iterations}" if run.stage else ""
        when = f"{run.written_at.astimezone():%Y-%m-%d %H:%M}"
        size = f"{run.size_bytes / 1e6:.1f} MB"
        rows.append((run.name, when, run.state, run.stage or "", at, size, short(run.data), in_words(run.metrics)))
    print_table(rows)
    print(f"runs        {store.uri(RUNS)}")


@runs_app.command()
def show(run: RunArgument) -> None:
    """What is known of one training run, and how to go on with it."""
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.runs import RUNS, run_of

    store = Store.open(Settings())
    found = run_of(store, run)
    at = f", iteration {found.iteration} of {found.iterations} of stage {found.stage}" if found.stage else ""
    print(f"run         {found.name}")
    print(f"state       {found.state}{at}")
    if found.reason:
        print(f"reason      {found.reason}")
    print(f"recipe      {found.recipe}")
    print(f"data        {found.data}")
    print(f"started     {found.started_at.astimezone():%Y-%m-%d %H:%M:%S %z}")
    print(f"written     {found.written_at.astimezone():%Y-%m-%d %H:%M:%S %z}")
    print(f"disk        {found.size_bytes / 1e6:.1f} MB in {found.files} files, {store.uri(f'{RUNS}/{run}')}")
    for name, value in found.metrics.items():
        print(f"            {name} {value:.4g}")
    if found.state in ("stopped", "failed to start"):
        print(f"go on       vis train --resume {found.name}")
    print(f"page        vis report {found.name}")


@runs_app.command()
def compare(one: RunArgument, other: RunArgument) -> None:
    """What is different between two training runs: fields of their recipes, and how they ended."""
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.runs import compared

    rows = compared(Store.open(Settings()), one, other)
    print_table([("", one, other), *rows])
    if not rows:
        print(f"{one} and {other} have the same recipe and the same figures")


@runs_app.command()
def delete(
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what a training run wrote: checkpoints and curves. A model that it registered stays."""
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.runs import delete, run_of

    store = Store.open(Settings())
    found = run_of(store, run)
    if not yes:
        typer.confirm(
            f"Delete {found.files} files, {found.size_bytes / 1e6:.1f} MB, of {run} ({found.state})?", abort=True
        )
    delete(store, found)
    print(f"deleted     {run}, {found.files} files, {found.size_bytes / 1e6:.1f} MB")


def _check_training(given: dict[str, Any]) -> None:
    """What can be known without torch, Ray and Prefect; the flow asks again. Raises BadConfig."""
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.runs import asked_for

    store = Store.open(Settings())
    asked_for(store, **given)
    store.check_writable()
