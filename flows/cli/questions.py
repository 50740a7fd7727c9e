"""`vis query`, `vis report`."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.running import run_flow
from flows.cli.verbs import app
from flows.cli.words import pair, text_of
from flows.surroundings import without_pandas


@app.command()
def report(
    run: Annotated[
        str | None, typer.Argument(help="A training run: its curves, samples, fields and data.", metavar="[RUN]")
    ] = None,
    evaluation: Annotated[str | None, typer.Option(help="Default: the newest of the plan, if there is one.")] = None,
    plan: Annotated[str | None, typer.Option(help="Default: that of the evaluation, else the newest.")] = None,
    videos: Annotated[int, typer.Option(help="How many of the best and of the worst.", min=0)] = 3,
) -> None:
    """Write one HTML page: figures with their origin, curves, errors, the best and worst videos in pictures."""
    if run:
        from jobs.settings import Settings
        from jobs.store import Store
        from jobs.training.runs import run_of

        run_of(Store.open(Settings()), run)
    done = run_flow("flows.report", "report", evaluation=evaluation, plan=plan, videos=videos, run=run)
    score = "".join(
        f"{name} {done['figures'][name]:.2f}  " for name in ("AP", "AP50", "AR10") if name in done["figures"]
    )
    print(f"{score}report {done['uri']}")


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
    sql = question or text_of(str(file))
    form = form_of(form, output)
    scope = Scope(plan, evaluation, tuple(pair(each, "--join", "labels=tags.csv") for each in join or []))
    with without_pandas(), nullcontext(sys.stdout.buffer) if output is None else create(output) as target:
        answer = ask(sql, Store.open(Settings()), scope)
        footer = (*answer.read, *answer.notes)
        write(answer.table, form, target, wide=wide or answer.whole, footer=footer)
    for note in answer.notes if form != "table" else ():
        print(f"note        {note}", file=sys.stderr)
    if output is not None and output.is_file():
        print(f"answer      {output.resolve()}")
