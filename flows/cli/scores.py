"""`vis evaluate`, `vis compare`, `vis submission`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli.running import run_flow
from flows.cli.verbs import ModelOption, app
from flows.cli.words import figures_of
from flows.surroundings import without_pandas
from flows.terminal import typed

ORACLE_HELP = (
    "What would the score be if one thing were perfect? No score of the model. "
    "identity: the predicted masks, in each frame linked to the labelled object that they cover best (IoU >= 0.5). "
    "frame: the same under its other name. "
    "clip: the same for pieces of 5 frames, inside which the predicted identities stay. "
    "image: the model's tracker gets the labelled boxes, masks and classes in place of its own detections."
)


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
        _check_evaluation(labels, model, holdout)
        done = run_flow("flows.evaluate", "evaluate_youtube_vis", data=labels, model=model, accept=accept, **chosen)
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

        record = make_the_measure(done["evaluation_id"], Settings(), typed())
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
    command = typed()
    job = EvaluateJob(data=address, results=results, plan=plan, command=command, **chosen | {"holdout": rule})
    with without_pandas(), at_terminal() as progress:
        return evaluate(job, store.settings, progress).model_dump(mode="json")


@app.command()
def compare(
    evaluations: Annotated[
        list[str],
        typer.Argument(help="Two evaluation ids or more, or with --gt results.json (.gz).", metavar="A B [C ...]"),
    ],
    gt: Annotated[str | None, typer.Option(help="YouTube-VIS JSON with labels, for results files.")] = None,
    check: CheckOption = "error",
    videos: Annotated[int, typer.Option(help="How many of the videos that changed most.", min=0)] = 10,
) -> None:
    """Is A better than B? Difference of AP on the same videos, its interval, how likely chance is, what changed.

    Of three or more a table, each against the first: figures, size and speed.
    """
    from flows.progress import at_terminal
    from jobs.evaluation.compare import CompareJob, compare_two
    from jobs.settings import Settings
    from vis_models.metrics.uncertainty import with_interval

    if len(evaluations) < 2:
        raise typer.BadParameter("one is there, nothing to compare it with: name two or more")
    if len(evaluations) > 2:
        from jobs.evaluation.standings import markdown, standings

        with at_terminal() as progress:
            print(markdown(standings(evaluations, Settings(), gt, check, progress)), end="")
        return
    one, other = evaluations
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

    command = typed()
    if server_score:
        score = record_server_score(data, out, figures_of(server_score), Settings(), command)
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


def _check_evaluation(labels: str | None, model: str | None, holdout: str | None) -> None:
    """What can be known without torch, Ray and Prefect of an evaluation that runs a model. Raises BadConfig."""
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
    store.check_writable()
