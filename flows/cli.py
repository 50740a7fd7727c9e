"""The command `vis`: each verb is one call into a flow or a job.

Nothing heavy is imported before a verb needs it, so that `vis --help` answers at once.
"""

import functools
import inspect
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.terminal import as_interrupt, open_closed_streams, print_table, unwritten

MENDABLE_EXIT = 2
"""Exit code where the user can mend it, as for a wrong option. 1 is a result: no video could be read."""


SEGMENTING = frozenset({"flows.segment", "flows.evaluate"})
"""Flows in which a model runs."""


class Verbs(typer.Typer):
    """Every verb takes the options of `vis` itself, too: people type them behind it."""

    def command(self, name: str | None = None, **kwargs: Any) -> Callable[[Callable], Callable]:  # type: ignore[override]
        register = super().command(name, **kwargs)

        def add(run: Callable) -> Callable:
            register(_with_settings(run))
            return run

        return add


app = Verbs(
    help="Archives of video into queryable tables of objects: a class, a mask in each frame, one identity.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ORACLE_HELP = (
    "What would the score be if one thing were perfect? No score of the model. "
    "identity: the predicted masks, in each frame linked to the labelled object that they cover best (IoU >= 0.5). "
    "frame: the same under its other name. "
    "clip: the same for pieces of 5 frames, inside which the predicted identities stay. "
    "image: the model's tracker gets the labelled boxes, masks and classes in place of its own detections."
)

TYPED: set[str] = set()
"""Settings that were given on the command line."""
DATA_SHOWN = 32
"""Letters of a data set's address in lists."""


def _rate(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"expected frames per second over 0, got {value}")
    return value


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


def main() -> None:
    open_closed_streams()
    signal.signal(signal.SIGTERM, as_interrupt)
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # of `--output /dev/stdout | head -1`, which click makes a 1
            sys.exit(0)
        if lost := unwritten():
            print(f"vis: the answer could not be written: {lost.strerror}", file=sys.stderr)
            sys.exit(MENDABLE_EXIT)
        raise
    except Exception as error:
        from vis_models.config import BadConfig  # brings pydantic, so not before something went wrong

        if not isinstance(error, BadConfig):
            raise
        print(f"vis: {error}", file=sys.stderr)
        sys.exit(MENDABLE_EXIT)


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
    _set(store=store, device=device, workers=workers)


def _set(**given: Any) -> None:
    """Settings of the command line, remembered as such."""
    for name, value in given.items():
        if value is not None:
            if value == "":
                raise typer.BadParameter(f"--{name} is empty")
            os.environ[f"VIS_{name.upper()}"] = str(value)  # where flows, jobs and their workers look
            TYPED.add(name)


def _with_settings(run: Callable) -> Callable:
    """A verb that takes the settings behind its name, and checks all of them before it begins."""
    options = inspect.signature(every_verb).parameters
    own = {name: options[name] for name in ("store", "device", "workers")}

    @functools.wraps(run)
    def verb(**given: Any) -> None:
        _set(**{name: given.pop(name) for name in own})
        from jobs.settings import Settings, strangers

        Settings()
        for name in strangers():
            print(f"vis: {name} is no setting and not used; `vis settings` lists all", file=sys.stderr)
        run(**given)

    parameters = [*inspect.signature(run).parameters.values(), *own.values()]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {each.name: each.annotation for each in parameters}
    return verb


@app.command()
def world(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    level: Literal["easy", "hard"] = "easy",
    seed: int = 0,
    train: Annotated[int, typer.Option(help="Videos in train.json.", min=0)] = 100,
    val: Annotated[int, typer.Option(help="Videos in val.json.", min=0)] = 50,
    archive: Annotated[int, typer.Option(help="Films instead of a data set: so many mp4 files.", min=0)] = 0,
    height: Annotated[int, typer.Option(help="Pixels.")] = 96,
    width: Annotated[int, typer.Option(help="Pixels.")] = 160,
    frames: Annotated[int, typer.Option(help="Of a video.")] = 16,
) -> None:
    """Draw videos whose truth is known: a data set in the YouTube-VIS format, or an archive of films."""
    from flows.progress import at_terminal
    from vis_models.data.world import WorldConfig, write_archive, write_youtube_vis

    with _given_by_user():
        config = WorldConfig(level=level, seed=seed, height=height, width=width, frames=frames)
    with at_terminal() as progress:
        if archive:
            write_archive(config, folder, archive, progress)
        else:
            write_youtube_vis(config, folder, train, val, progress)
    print(f"world       {folder.resolve()}")


@app.command()
def train(
    recipe: Annotated[str | None, typer.Option(help="`vis models --recipes` lists them.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set in the YouTube-VIS format: folder or s3://...")] = None,
    init: Annotated[
        str | None, typer.Option(help="Checkpoint to start from: torchvision ResNet, YOLACT, RGNN.")
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
    name: Annotated[str | None, typer.Option(help="Of the run and its model; default: made from the recipe.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: stages.0.iterations=500", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Train the model of a recipe, stage by stage, and register it. Without options it draws the easy world first."""
    changes = _changes(change or [])
    if cache_encodings is not None:
        changes["stages.-1.cached_copies"] = cache_encodings
    given: dict[str, Any] = {"recipe": recipe, "data": data, "init": init, "detector": detector, "changes": changes}
    given |= {"resume": resume, "name": name}
    _check_training(given)
    trained = _run("flows.train", "train", **{name: value for name, value in given.items() if value})
    print("  ".join(f"{name} {value:.3f}" for name, value in trained["metrics"].items()))
    print(f"model       {trained['uri']}")


@app.command()
def ablate(
    detector: Annotated[str, typer.Option(help="Model whose detector every row shares.", metavar="MODEL")],
    recipe: Annotated[str, typer.Option(help="The proposed approach.")] = "rgnn_r18_world_hard",
    row: Annotated[list[str] | None, typer.Option(help="A row of the tables; default: all.")] = None,
    seeds: Annotated[int, typer.Option(help="Of rows with a published gap of 3 AP or more.", min=1)] = 3,
    iterations: Annotated[int | None, typer.Option(help="Of each row; default: the recipe's.", min=1)] = None,
) -> None:
    """Train every row of the RGNN paper's tables on one detector, and compare each with the proposed approach."""
    from jobs import models
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.recipes.catalogue import with_row

    for each in row or ["proposed"]:
        with_row(recipe, each)
    models.find(Store.open(Settings()), detector)
    from flows.progress import at_terminal
    from flows.steps import command
    from jobs.training.ablation import AblationJob, ablate

    given = {"rows": tuple(row)} if row else {}
    job = AblationJob(recipe=recipe, detector=detector, seeds=tuple(range(seeds)), iterations=iterations, **given)
    with at_terminal() as progress:
        done = ablate(job, Settings(), progress, command())
    print(done.table)
    print(f"ablation    {done.uri}")


@app.command()
def segment(
    archive: Annotated[str, typer.Argument(help="Folder, glob, film, manifest, YouTube-VIS JSON, or s3:// of these.")],
    model: ModelOption = None,
    min_score: Annotated[float, typer.Option(help="Tracks under this score are counted only.", min=0, max=1)] = 0.05,
    frame_folder_fps: Annotated[
        float | None, typer.Option(help="Frames per second of frame folders.", callback=_rate)
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Draw films with the masks on them.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Try every video with an error again, not only those worth it.")
    ] = False,
) -> None:
    """Segment and track every video of an archive; publish the tables videos, tracks, masks, errors."""
    from jobs import models
    from jobs.archives.archive import check_archive
    from jobs.settings import Settings
    from jobs.store import Store

    place = Store.open(Settings())
    check_archive(archive, place)
    models.find(place, model)
    place.check_writable()
    done = _run(
        "flows.segment",
        "segment_archive",
        archive=archive,
        model=model,
        min_score=min_score,
        frame_folder_fps=frame_folder_fps,
        retry_errors=retry_errors,
    )
    print(done["text"])
    if not done["videos"]["done"] + done["videos"]["partial"]:
        raise typer.Exit(1)
    if overlay:
        from flows.progress import at_terminal
        from jobs.reporting.overlay import draw_overlays
        from jobs.settings import Settings
        from jobs.store import Store

        with at_terminal() as progress:
            drawn = draw_overlays(Store.open(Settings()), done["plan_id"], progress)
        print(f"overlays    {len(drawn.films)} films{f', the first is {drawn.films[0]}' if drawn.films else ''}")
        for video_id, why in drawn.not_drawn.items():
            print(f"no overlay  of {video_id}: {why}")


CheckOption = Annotated[
    Literal["error", "warn"],
    typer.Option(help="Entries without meaning: refuse them, or score them as the reference does and say so."),
]


@app.command()
def evaluate(
    data: Annotated[
        str | None, typer.Argument(help="YouTube-VIS JSON with labels; default: the model's val.json.")
    ] = None,
    model: ModelOption = None,
    gt: Annotated[str | None, typer.Option(help="The same as the argument, beside --results.")] = None,
    results: Annotated[str | None, typer.Option(help="Score this results.json (.gz); no model runs.")] = None,
    plan: Annotated[str | None, typer.Option(help="Score the published tables of this plan; no model runs.")] = None,
    check: CheckOption = "error",
    class_agnostic: Annotated[bool, typer.Option("--class-agnostic", help="Ignore the categories.")] = False,
    limit: Annotated[int, typer.Option(help="Predictions of a video and category that count.", min=1)] = 100,
    crowd: Annotated[
        Literal["many", "once", "drop"], typer.Option(help="How often a crowd track is matched; drop: it is left out.")
    ] = "many",
    holdout: Annotated[
        str | None,
        typer.Option(help="Score only the held-out videos: rgnn (ids from 2019 of the 1280x720 ones), or a share."),
    ] = None,
    oracle: Annotated[Literal["identity", "frame", "clip", "image"] | None, typer.Option(help=ORACLE_HELP)] = None,
    tracking_min_score: Annotated[
        float, typer.Option(help="Tracks below take no part in HOTA, IDF1, MOTA; AP counts them all.", min=0, max=1)
    ] = 0.3,
    accept: Annotated[bool, typer.Option("--accept", help="Later scores are held against this one.")] = False,
) -> None:
    """Score tracks: those of a model on labelled videos, of a results file, or of a plan.

    AP, AP50, AP75, AR1, AR10 by the YouTube-VIS rules; HOTA, DetA, AssA, IDF1, MOTA, identity switches by TrackEval's.
    A folder with `results.json` beside its labels is scored as it is.
    """
    if data and gt:
        raise typer.BadParameter(f"the labels are named twice, {data} and --gt {gt}")
    labels = data or gt
    if (results or plan) and not labels:
        raise typer.BadParameter(f"{results or plan} is scored against labels: name them with --gt")
    if len(named := [each for each in (model, results, plan) if each]) > 1:
        raise typer.BadParameter(
            f"{' and '.join(named)}: a model, a results file or a plan is scored, name one of them"
        )
    if oracle and accept:
        raise typer.BadParameter(f"the score of the {oracle} oracle is none of the model: it cannot be accepted")
    chosen = {
        "holdout": holdout,
        "class_agnostic": class_agnostic,
        "limit": limit,
        "crowd": crowd,
        "check": check,
        "oracle": oracle,
        "tracking_min_score": tracking_min_score,
    }
    done = _score_files(labels, results, plan, chosen) if labels and (results or plan or not model) else None
    if done is None:
        _check_evaluation(labels, model, holdout, oracle if accept else None)
        done = _run("flows.evaluate", "evaluate_youtube_vis", data=labels, model=model, accept=accept, **chosen)
    for note in done["notes"]:
        print(f"note        {note}")
    from vis_models.metrics.uncertainty import with_interval

    sure = "95 %, " if done["error"] is not None else ""
    print(f"AP {with_interval(done['figures']['AP'], done['error'])}  ({sure}{done['rules']})")
    figures = {name: f"{value:.6f}" if value >= 0 else "-" for name, value in done["figures"].items()}
    for kind in ("AP", "AR"):
        print("  ".join(f"{name} {value}" for name, value in figures.items() if name.startswith(kind)))
    kept = "  ".join(f"{name} {done['tracking'][name]:.6f}" for name in ("HOTA", "DetA", "AssA", "IDF1", "MOTA"))
    print(f"{kept}  IDSW {done['tracking']['IDSW']:.0f}  (score >= {done['tracking']['tracking_min_score']:g})")
    if done["before_id"]:
        print(f"change      AP {done['change'].get('AP', 0):+.3f} since {done['before_id']}")
        print(f"            by chance? vis compare {done['evaluation_id']} {done['before_id']}")
    if done.get("verdict"):
        print(f"verdict     {done['verdict']}")
    print(f"evaluation  {done['uri']}")
    if accept and "verdict" not in done:
        from jobs.evaluation.acceptance import accept as make_the_measure
        from jobs.settings import Settings

        record = make_the_measure(done["evaluation_id"], Settings(), shlex.join(["vis", *sys.argv[1:]]))
        print(f"accepted    {record.evaluation_id}" + (f" instead of {record.instead_of}" if record.instead_of else ""))


def _score_files(labels: str, results: str | None, plan: str | None, chosen: dict[str, Any]) -> dict[str, Any] | None:
    """An evaluation of what is there already, without a model and without Prefect; None: there is nothing."""
    from flows.progress import at_terminal
    from jobs.evaluation.evaluate import EvaluateJob, evaluate
    from jobs.evaluation.predictions import data_file, results_file
    from jobs.settings import Settings
    from jobs.store import Store
    from vis_models.data.holdout import HoldOut

    store = Store.open(Settings())
    results = results or (None if plan else results_file(store, labels))
    if not results and not plan:
        return None
    rule = HoldOut.named(chosen["holdout"]) if chosen["holdout"] else None
    address = store.address(data_file(store, labels, rule))
    command = shlex.join(["vis", *sys.argv[1:]])
    job = EvaluateJob(data=address, results=results, plan=plan, command=command, **chosen | {"holdout": rule})
    with at_terminal() as progress:
        return evaluate(job, store.settings, progress).model_dump(mode="json")


@app.command()
def compare(
    one: Annotated[str, typer.Argument(help="Evaluation id, or with --gt a results.json (.gz).")],
    other: Annotated[str, typer.Argument(help="What it is compared with.")],
    gt: Annotated[str | None, typer.Option(help="YouTube-VIS JSON with labels, for results files.")] = None,
    check: CheckOption = "error",
    videos: Annotated[int, typer.Option(help="How many of the videos that changed most.", min=0)] = 10,
) -> None:
    """Is A better than B? Difference of AP on the same videos, its interval, how likely chance is, what changed."""
    from flows.progress import at_terminal
    from jobs.evaluation.compare import CompareJob, compare_two
    from jobs.settings import Settings
    from vis_models.metrics.uncertainty import with_interval

    with at_terminal() as progress:
        done = compare_two(CompareJob(one=one, other=other, gt=gt, check=check), Settings(), progress)
    for note in done.notes:
        print(f"note        {note}")
    for letter, side in (("A", done.one), ("B", done.other)):
        print(f"AP of {letter}     {with_interval(side.ap, side.error)}  {side.name}")
    print(f"A minus B   {done}  ({done.videos} videos{', interval 95 %' if done.error is not None else ''})")
    print("            p: how often swapping A and B by chance, video by video, gives as large a difference")
    print(f"{len(done.changed)} of {done.videos} videos differ" + (", most of all:" if videos and done.changed else ""))
    if done.changed and videos:
        print(f"  {'video':24}{'A':>7}{'B':>8}{'A - B':>9}   AP of the video alone")
    for video in done.changed[:videos]:
        print(f"  {video.video_id:24}{video.one:7.3f}{video.other:8.3f}{video.one - video.other:+9.3f}")


@app.command()
def submission(
    data: Annotated[str, typer.Argument(help="The server's YouTube-VIS JSON: valid.json, test.json.")],
    results: Annotated[str | None, typer.Option(help="Send this results.json (.gz) instead of tables.")] = None,
    plan: Annotated[str | None, typer.Option(help="Send the tables of this plan; default: the newest of DATA.")] = None,
    out: Annotated[Path, typer.Option(help="The zip.")] = Path("submission.zip"),
    server_score: Annotated[
        list[str] | None,
        typer.Option(
            help="Record what the server said of the zip --out: AP=35.3. Over 1: percent. No zip is written.",
            metavar="NAME=VALUE",
        ),
    ] = None,
) -> None:
    """Write the zip that a benchmark's server takes, every entry checked; later, record its score."""
    from flows.progress import at_terminal
    from jobs.evaluation.submission import SubmissionJob, record_server_score, write_submission
    from jobs.settings import Settings

    command = shlex.join(["vis", *sys.argv[1:]])
    if server_score:
        score = record_server_score(data, out, _figures(server_score), Settings(), command)
        print("recorded    " + "  ".join(f"{name} {value:.4f}" for name, value in score.figures.items()))
        print(f"            for {score.subject} on {score.data}")
        print(f"evaluation  {score.uri}")
        return
    with at_terminal() as progress:
        job = SubmissionJob(data=data, results=results, plan=plan, out=out, command=command)
        done = write_submission(job, Settings(), progress)
    for note in done.notes:
        print(f"note        {note}")
    print(f"tracks      {done.tracks} in {done.videos} of {done.videos_in_all} videos, every entry checked")
    print(f"submission  {done.path} ({done.size_bytes / 1e6:.1f} MB, sha256 {done.sha256[:16]})")


@app.command()
def report(
    evaluation: Annotated[str | None, typer.Option(help="Default: the newest of the plan, if there is one.")] = None,
    plan: Annotated[str | None, typer.Option(help="Default: that of the evaluation, else the newest.")] = None,
    videos: Annotated[int, typer.Option(help="How many of the best and of the worst.", min=0)] = 3,
) -> None:
    """Write one HTML page: figures with their origin, curves, errors, the best and worst videos in pictures."""
    done = _run("flows.report", "report", evaluation=evaluation, plan=plan, videos=videos)
    score = "".join(f"{name} {done['figures'][name]:.2f}  " for name in ("AP", "AP50", "AR10") if done["figures"])
    print(f"{score}report {done['uri']}")


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="Data set (folder), JSON with labels, or what `vis segment` takes.")],
    recipe: Annotated[str | None, typer.Option(help="Training that it is meant for.")] = None,
    seconds: Annotated[float, typer.Option(help="How long frames are decoded; 0: all of them.", min=0)] = 60,
    samples: Annotated[int, typer.Option(help="Videos drawn in the page.", min=0)] = 6,
) -> None:
    """Look before the cost: what is wrong with labels, frames or films, and how long they take; changes nothing."""
    from flows.progress import at_terminal
    from jobs.reporting.check import CheckJob
    from jobs.reporting.check import check as look
    from jobs.settings import Settings

    command = shlex.join(["vis", *sys.argv[1:]])
    with at_terminal() as progress:
        job = CheckJob(target=target, recipe=recipe, seconds=seconds, samples=samples, command=command)
        done = look(job, Settings(), progress)
    for finding in done.findings:
        print(finding)
    for name, value in done.figures.items():
        print(f"{name:24} {value}")
    print(f"page        {done.uri}")
    raise typer.Exit(done.exit_code)


@app.command()
def query(
    question: Annotated[
        str | None,
        typer.Argument(help="SQL over videos, tracks, masks, errors, plans, evaluations, switches; or a name."),
    ] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", help="Read the SQL from a file; -: from stdin.")] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="table, csv, json or parquet; default: by the ending of --output, else table."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A file instead of the terminal.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show each value of a table whole.")] = False,
    join: Annotated[
        list[str] | None,
        typer.Option(help="Own data as a view: CSV, Parquet, JSON or JSONL, a path or s3://.", metavar="NAME=FILE"),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="A plan, the beginning of its id, latest or all; default: one result of each video."),
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option(help="The predictions of an evaluation: its id, the beginning of one, or latest.")
    ] = None,
    named: Annotated[bool, typer.Option("--list", help="List the named queries.")] = False,
) -> None:
    """Ask the published tables and the evaluations in SQL."""
    from jobs.reporting.answers import create, form_of, write
    from jobs.reporting.query import NAMED_QUERIES, Scope, ask
    from jobs.settings import Settings
    from jobs.store import Store

    if named:
        for name, query in NAMED_QUERIES.items():
            print(f"{name:20}{query.asks}")
        return
    if bool(question) == bool(file):
        raise typer.BadParameter(
            "expected a SQL statement, a name (`vis query --list` shows them) or --file, and one of them"
        )
    sql = question or _text(str(file))
    form = form_of(form, output)
    scope = Scope(plan, evaluation, tuple(_pair(each, "--join", "labels=tags.csv") for each in join or []))
    with nullcontext(sys.stdout.buffer) if output is None else create(output) as target:
        answer = ask(sql, Store.open(Settings()), scope)
        footer = (*answer.read, *answer.notes)
        write(answer.table, form, target, wide=wide or answer.whole, footer=footer)
    for note in answer.notes if form != "table" else ():
        print(f"note        {note}", file=sys.stderr)
    if output is not None and output.is_file():
        print(f"answer      {output.resolve()}")


@app.command()
def models(recipes: Annotated[bool, typer.Option("--recipes", help="List what can be trained.")] = False) -> None:
    """List the registered models with their figures, oldest first."""
    if recipes:
        from jobs.training.recipes.catalogue import RECIPES, measured, published_ap

        print(f"{'recipe':42}{'published':>10}{'measured':>10}   AP x 100; published on YouTube-VIS 2019 valid")
        for name, recipe in RECIPES.items():
            published, ours = published_ap(name), measured(name)
            figures = f"{'' if published is None else published:>10}{'' if ours is None else f'{100 * ours:.1f}':>10}"
            print(f"{name:42}{figures}   {(recipe.__doc__ or '').splitlines()[0]}")
        return
    from jobs.models import damaged, registered
    from jobs.settings import Settings
    from jobs.store import LAYOUT, Store

    store = Store.open(Settings())
    rows = [("model", "registered", "state", "data", "figures")]
    for name, card in registered(store).items():
        rows.append((name, f"{card.created_at:%Y-%m-%d %H:%M}", "whole", _short(card.data), _in_words(card.metrics)))
    rows += [(name, "", "damaged", "", why) for name, why in damaged(store).items()]
    print_table(rows)
    print(f"models      {store.uri(f'{LAYOUT}/models')}")


runs_app = Verbs()
app.add_typer(runs_app, name="runs")
RunArgument = Annotated[str, typer.Argument(help="Name of a training run.", metavar="RUN")]


@runs_app.callback(invoke_without_command=True)
def runs(
    context: typer.Context, store: StoreOption = None, device: DeviceOption = None, workers: WorkersOption = None
) -> None:
    """List the training runs, newest last; show or delete one."""
    if context.invoked_subcommand:
        _set(store=store, device=device, workers=workers)
    else:
        _with_settings(_list_runs)(store=store, device=device, workers=workers)


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
        rows.append((run.name, when, run.state, run.stage or "", at, size, _short(run.data), _in_words(run.metrics)))
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
    """Start a local Prefect server, a worker and the four deployments, until Ctrl-C."""
    from flows.up import up
    from jobs.settings import Settings

    up(host, port, home, Settings(), say=lambda line: print(line, flush=True))


def _check_training(given: dict[str, Any]) -> None:
    """What can be known without torch, Ray and Prefect; the flow asks again. Raises BadConfig."""
    from jobs.settings import Settings
    from jobs.store import Store
    from jobs.training.runs import asked_for

    store = Store.open(Settings())
    asked_for(store, **given)
    store.check_writable()


def _check_evaluation(labels: str | None, model: str | None, holdout: str | None, accepted_oracle: str | None) -> None:
    """The same for an evaluation that runs a model."""
    from jobs import models
    from jobs.evaluation.predictions import data_file
    from jobs.settings import Settings
    from jobs.store import Store
    from vis_models.data.holdout import HoldOut

    store = Store.open(Settings())
    rule = HoldOut.named(holdout) if holdout else None
    if labels:
        data_file(store, labels, rule)
    models.find_to_score(store, model)
    if accepted_oracle:
        raise typer.BadParameter(f"the score of the {accepted_oracle} oracle is none of the model: not with --accept")
    store.check_writable()


def _in_words(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _short(data: str) -> str:
    """A data set in few letters: of an address the end, without the hash of its split."""
    place = data.partition(", split ")[0]
    return place if len(place) <= DATA_SHOWN else f"...{place[-DATA_SHOWN:]}"


@contextmanager
def _given_by_user() -> Iterator[None]:
    """Values out of range are a wrong option, not a bug."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors())
        raise typer.BadParameter("; ".join(wrong)) from None


def _changes(given: list[str]) -> dict[str, Any]:
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


def _pair(given: str, option: str, such_as: str) -> tuple[str, str]:
    """`NAME=VALUE` as a name and a value."""
    name, equals, value = given.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"{option} {given}: expected NAME=FILE, such as {such_as}")
    return name, value


def _text(file: str) -> str:
    """What a file holds, or what comes in where it is called `-`."""
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"--file {file}: no text in UTF-8") from None


def _figures(given: list[str]) -> dict[str, float]:
    """`AP=35.3` as a name and a number."""
    try:
        return {name: float(value) for name, _, value in (each.partition("=") for each in given)}
    except ValueError:
        raise typer.BadParameter(f"--server-score {' '.join(given)}: expected NAME=VALUE, such as AP=35.3") from None


def _interruptible(flow: Any, run: Any, state: Any) -> None:
    """As a flow begins: Prefect has taken SIGTERM for itself, to crash the run without a word."""
    signal.signal(signal.SIGTERM, as_interrupt)


def _run(module: str, flow: str, **parameters: Any) -> dict[str, Any]:
    """Run a flow here and now.

    Raises:
        BadConfig: as the flow says.
        KeyboardInterrupt: Ctrl-C, which Ray Train turns into an exit without an error.
    """
    from flows.embedded import prefect_api
    from jobs.segmentation.child import started_early
    from jobs.settings import Settings
    from vis_models.config import BadConfig

    with started_early(Settings()) if module in SEGMENTING else nullcontext(), prefect_api() as wait:
        run = getattr(import_module(module), flow)  # brings Prefect while the API and the worker start
        wait()
        run = run.with_options(on_running=[_interruptible])
        try:
            state = run(**parameters, return_state=True)
        except SystemExit:
            raise KeyboardInterrupt from None
    result = state.result(raise_on_failure=False)
    if state.name == BadConfig.__name__:
        raise BadConfig(state.message)
    if isinstance(result, BaseException):
        raise result
    return result
