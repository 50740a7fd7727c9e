"""`segment-archive`: an archive of videos in, published tables out."""

from typing import Annotated, Any, Literal

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Failed
from pydantic import Field

from flows.progress import shown
from flows.steps import Address, command, launch, mendable
from jobs import tables
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store

ERRORS_SHOWN = 100


@flow(name="segment-archive", flow_run_name="segment-{archive}")
@mendable
def segment_archive(
    archive: Address,
    model: Address | None = None,
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.05,
    slot_recycling: bool | None = None,
    frame_folder_fps: Annotated[float | None, Field(gt=0)] = None,
    start_s: Annotated[float | None, Field(ge=0)] = None,
    end_s: Annotated[float | None, Field(gt=0)] = None,
    every_s: Annotated[float | None, Field(gt=0)] = None,
    stride: Annotated[int, Field(gt=0)] = 1,
    keyframes: bool = False,
    verify: bool = False,
    videos_at_once: Annotated[int, Field(gt=0)] = 8,
    frames_per_batch: Annotated[int, Field(gt=0)] = 16,
    retry_errors: bool = False,
    name: str = "",
    only: Literal["new", "errors", "missing"] | None = None,
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> dict[str, Any] | State:
    """Segment and track every video of an archive and publish the tables videos, tracks, masks, errors.

    Args:
        archive: Folder or S3 prefix of films, frame folders, tar and zip files, glob, manifest (JSONL, CSV, Parquet
            with id and uri), list of addresses (.txt), or a data set in the YouTube-VIS format (JSON).
        model: Registered name, model folder or its s3:// address; empty: the model that was registered last.
        min_score: Tracks under this video score are counted, not written.
        slot_recycling: Let tracks out of sight give up their slot; empty: in archives, not in data sets.
        frame_folder_fps: Frames per second of frame folders, which carry no clock; empty leaves their times empty.
        start_s: Frames before are left out, in seconds of each video; a row of a manifest may say otherwise.
        end_s: Frames from then on are left out.
        every_s: One frame in so many seconds.
        stride: One of so many frames.
        keyframes: Key frames of films only.
        verify: Read every byte beforehand, so that a video is known by its bytes wherever it lies.
        videos_at_once: Videos that a worker plays side by side; changes speed and memory, not results.
        frames_per_batch: Frames that the model encodes in one batch; changes speed and memory, not results.
        retry_errors: Try every video with an error again; those whose reason lies outside of the file always are.
        name: What the tables call the archive; empty: its address.
        only: What was never done (new), what may go better (errors), or what was not there (missing); empty: all.
        max_failed: Share of the videos that may fail before the run ends, after the first 64; 1 never ends it.
    """
    job = SegmentJob(
        archive=archive,
        model=model,
        min_score=min_score,
        slot_recycling=slot_recycling,
        frame_folder_fps=frame_folder_fps,
        start_s=start_s,
        end_s=end_s,
        every_s=every_s,
        stride=stride,
        keyframes=keyframes,
        verify=verify,
        videos_at_once=videos_at_once,
        frames_per_batch=frames_per_batch,
        retry_errors=retry_errors,
        name=name,
        only=only,
        max_failed=max_failed,
        command=command(),
    )
    summary = launch(segment, job)
    plan = f"plan {summary.plan_id}"
    with shown():
        create_markdown_artifact(key="segment-archive", markdown=str(summary), description=plan)
        if errors := _errors(summary.plan_id):
            create_table_artifact(key="segment-archive-errors", table=errors, description=f"errors, {plan}")
    result = summary.model_dump(mode="json") | {"text": str(summary)}
    if summary.exit_code:
        return Failed(message=f"no video of {archive} could be read", data=result)
    return result


def _errors(plan_id: str) -> list[dict[str, Any]]:
    """The first rows of the table `errors` of a plan."""
    table = tables.open(Store.open(Settings()), plan_id)["errors"]
    return table.head(ERRORS_SHOWN, columns=["video_id", "stage", "code", "detail"]).to_pylist()
