"""`vis world`, `vis segment`, `vis check`: films, and what lies in an archive."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.running import run_segment
from flows.cli.verbs import ModelOption, app
from flows.cli.words import given_by_user, rate, seconds
from flows.terminal import typed

# What `vis segment` and `vis plan` both take

FrameFolderFps = Annotated[float | None, typer.Option(help="Frames per second of frame folders.", callback=rate)]
Start = Annotated[float | None, typer.Option(help="Seconds of each video before which nothing is read.", min=0)]
End = Annotated[float | None, typer.Option(help="Seconds of each video where it ends.", min=0)]
EveryS = Annotated[float | None, typer.Option(help="One frame in so many seconds.", callback=seconds)]
Stride = Annotated[int, typer.Option(help="One of so many frames.", min=1)]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Key frames of films only.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read every byte first: videos are known by content, wherever they lie.")
]
Name = Annotated[str, typer.Option(help="What the tables call the archive; default: its address.")]
Choice = Annotated[
    Literal["new", "errors", "missing"] | None,
    typer.Option(help="What was never done, what may go better, or what was not there; default: all."),
]


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
    from vis_models.config import BadConfig
    from vis_models.data.world import WorldConfig, write_archive, write_youtube_vis

    with given_by_user():
        config = WorldConfig(level=level, seed=seed, height=height, width=width, frames=frames)
    with at_terminal() as progress:
        try:
            if archive:
                write_archive(config, folder, archive, progress)
            else:
                write_youtube_vis(config, folder, train, val, progress)
        except OSError as error:
            where = error.filename or folder
            raise BadConfig(f"{where}: {error.strerror}; expected a folder that can be made and written") from None
    print(f"world       {folder.resolve()}")


@app.command()
def segment(
    archive: Annotated[
        str, typer.Argument(help="Folder, glob, film, tar, zip, manifest, list; s3:// or https:// of these.")
    ],
    model: ModelOption = None,
    min_score: Annotated[float, typer.Option(help="Tracks under this score are counted only.", min=0, max=1)] = 0.05,
    frame_folder_fps: FrameFolderFps = None,
    start: Start = None,
    end: End = None,
    every_s: EveryS = None,
    stride: Stride = 1,
    keyframes: Keyframes = False,
    verify: Verify = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Draw films with the masks on them.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Try every video with an error again, not only those worth it.")
    ] = False,
    name: Name = "",
    only: Choice = None,
    max_failed: Annotated[
        float,
        typer.Option(help="Share of the videos that may fail before the run ends, after the first 64.", min=0, max=1),
    ] = 0.5,
) -> None:
    """Segment and track every video of an archive; publish the tables videos, tracks, masks, errors."""
    from jobs import models
    from jobs.archives.archive import check_archive
    from jobs.archives.sampling import asked
    from jobs.settings import Settings
    from jobs.store import Store

    place = Store.open(Settings())
    asked(start, end, every_s, stride, keyframes)
    check_archive(archive, place)
    models.find(place, model)
    place.check_writable()
    done = run_segment(
        archive=archive,
        model=model,
        min_score=min_score,
        frame_folder_fps=frame_folder_fps,
        start_s=start,
        end_s=end,
        every_s=every_s,
        stride=stride,
        keyframes=keyframes,
        verify=verify,
        retry_errors=retry_errors,
        name=name,
        only=only,
        max_failed=max_failed,
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


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="Data set (folder), JSON with labels, or what `vis segment` takes.")],
    recipe: Annotated[str | None, typer.Option(help="Training that it is meant for.")] = None,
    seconds: Annotated[float, typer.Option(help="How long frames are decoded; 0: all of them.", min=0)] = 60,
    samples: Annotated[int, typer.Option(help="Videos drawn in the page.", min=0)] = 6,
) -> None:
    """Look before the cost: what is wrong with labels, frames or films, and how long they take; changes nothing."""
    from flows.progress import at_terminal
    from jobs.archives.archive import check_archive
    from jobs.settings import Settings
    from jobs.store import Store

    check_archive(target, Store.open(Settings()))
    from jobs.reporting.check import CheckJob  # brings torch, so not before a slip of the pen is told
    from jobs.reporting.check import check as look

    command = typed()
    with at_terminal() as progress:
        job = CheckJob(target=target, recipe=recipe, seconds=seconds, samples=samples, command=command)
        done = look(job, Settings(), progress)
    for finding in done.findings:
        print(finding)
    for name, value in done.figures.items():
        print(f"{name:24} {value}")
    print(f"page        {done.uri}")
    raise typer.Exit(done.exit_code)
