"""`vis plan`, `vis tables`: what is to be done, and the published tables as a whole."""

from typing import Annotated, Any

import typer

from flows.cli.archives import Choice, End, EveryS, FrameFolderFps, Keyframes, Name, Start, Stride, Verify
from flows.cli.verbs import ModelOption, Verbs, app
from flows.terminal import print_table

tables_app = Verbs(help="The published tables as a whole: their commits, merging, cleaning, taking rows out.")
app.add_typer(tables_app, name="tables")

DryRun = Annotated[bool, typer.Option("--dry-run/--yes", help="Say what would be done, or do it.")]


@app.command()
def plan(
    archive: Annotated[str, typer.Argument(help="What `vis segment` takes.")],
    model: ModelOption = None,
    min_score: Annotated[float, typer.Option(help="As for `vis segment`.", min=0, max=1)] = 0.05,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="As for `vis segment`.")] = False,
    frame_folder_fps: FrameFolderFps = None,
    start: Start = None,
    end: End = None,
    every_s: EveryS = None,
    stride: Stride = 1,
    keyframes: Keyframes = False,
    verify: Verify = False,
    name: Name = "",
    only: Choice = None,
    price: Annotated[
        float | None, typer.Option(help="Of an hour of one worker; or VIS_WORKER_HOUR_PRICE.", min=0)
    ] = None,
) -> None:
    """Say what `vis segment` would do: videos found, done before, to do, and how long it takes; nothing is decoded."""
    from jobs.segmentation.forecast import forecast
    from jobs.segmentation.segment import SegmentJob
    from jobs.settings import Settings
    from jobs.store import Store

    job = SegmentJob(
        archive=archive,
        model=model,
        min_score=min_score,
        retry_errors=retry_errors,
        frame_folder_fps=frame_folder_fps,
        start_s=start,
        end_s=end,
        every_s=every_s,
        stride=stride,
        keyframes=keyframes,
        verify=verify,
        name=name,
        only=only,
    )
    settings = Settings() if price is None else Settings(worker_hour_price=price)
    for heading, value in forecast(Store.open(settings), job).items():
        print(f"{heading:<12}{value}")


@tables_app.command()
def history() -> None:
    """List the commits of the archives' tables, newest last: what each added, for which run, at what cost."""
    from jobs.segmentation import upkeep

    rows: list[tuple[Any, ...]] = [("batch", "at", "what", "model", "units", "failed", "frames", "masks", "frames/s")]
    for row in upkeep.history(_store()).to_pylist():
        rate = f"{row['frames'] / row['wall_s']:.1f}" if row["wall_s"] else ""
        counts = [f"{row[name]}" for name in ("units", "failed", "frames", "masks")]
        rows.append((f"{row['number']}", row["created_at"][:19], row["what"][:40], row["model"], *counts, rate))
    print_table(rows)


@tables_app.command()
def compact(dry_run: DryRun = True) -> None:
    """Merge small files into large ones, sorted; no row changes. Happens by itself during `vis segment`."""
    from jobs.segmentation import upkeep

    for name, (before, after) in upkeep.compact(_store(), dry_run).items():
        print(f"{'would merge' if dry_run else 'merged':<12}{name}: {before} files into {after}")
    _say_dry(dry_run)


@tables_app.command()
def vacuum(
    hours: Annotated[
        float, typer.Option("--older-than", help="Hours; never less than a run takes that goes on now.", min=0)
    ] = 168,
    dry_run: DryRun = True,
) -> None:
    """Remove files that no table has named for so long. After it a glob of *.parquet reads the right rows, too."""
    from jobs.segmentation import upkeep

    gone = upkeep.vacuum(_store(), hours, dry_run)
    print(f"{'would go' if dry_run else 'removed':<12}{len(gone)} files")
    _say_dry(dry_run)


@tables_app.command()
def verify() -> None:
    """Check that files are there as the log says, and that every unit has its rows once."""
    from jobs.segmentation import upkeep

    wrong = upkeep.verify(_store())
    for sentence in wrong:
        print(f"wrong       {sentence}")
    if wrong:
        raise typer.Exit(1)
    print("verified    every file is as its log says, every unit has its rows once")


@tables_app.command()
def delete(
    where: Annotated[str | None, typer.Option(help="A condition in SQL on columns of videos.")] = None,
    video: Annotated[list[str] | None, typer.Option(help="Id of a video; as often as you like.")] = None,
    dry_run: DryRun = True,
) -> None:
    """Take videos out of all tables, with their tracks, masks and errors; files go with the next vacuum."""
    from jobs.segmentation import upkeep
    from vis_models.config import BadConfig

    if bool(where) == bool(video):
        raise BadConfig("name the videos: --where CONDITION, or --video ID")
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in video or ())
    gone = upkeep.delete(_store(), where or f"video_id IN ({quoted})", dry_run)
    counts = ", ".join(f"{count} {name}" for name, count in gone.items() if count) or "no rows"
    print(f"{'would go' if dry_run else 'deleted':<12}{counts}")
    if not dry_run:
        print(
            "            their files go with `vis tables vacuum`; what is still in an archive, `vis segment` does again"
        )
    _say_dry(dry_run)


@tables_app.command()
def migrate() -> None:
    """Bring the tables of a store of version 1 over; its own files stay."""
    from jobs.segmentation import upkeep

    said = list(upkeep.migrate(_store()))
    print("\n".join(said) if said else "brought     nothing: there is no plan of version 1 that is not here yet")


def _store() -> Any:
    from jobs.settings import Settings
    from jobs.store import Store

    return Store.open(Settings())


def _say_dry(dry_run: bool) -> None:
    if dry_run:
        print("            nothing was changed; do it with --yes")
