"""Results for a benchmark's server: published tables or a results file -> a checked zip; and what the server said.

vis/v1/submissions/<sha256 of the zip>.json      where a zip came from
vis/v1/evaluations/<id>.parquet                  a server's score, as every score: `rules` says so
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from jobs.evaluation import evaluations
from jobs.evaluation.predictions import data_file, from_plan
from jobs.results_files import read_json, read_results
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, code_version, now
from vis_models.config import BadConfig, Config
from vis_models.data.dialects import VideoId
from vis_models.metrics.submission import as_sent
from vis_models.metrics.youtube_vis import Entry, Listing, as_tracks
from vis_models.progress import Progress

FOLDER = f"{LAYOUT}/submissions"
INSIDE = "results.json"
ERRORS_SHOWN = 5
COUNTED = 100
"""Predictions of a video and category that the server's evaluator looks at."""


class SubmissionJob(Config):
    """What is sent."""

    data: str
    """The server's YouTube-VIS JSON (`valid.json`, `test.json`), with or without labels."""
    plan: str | None = None
    """Plan whose published tables are sent; by default the newest one made from `data`."""
    results: str | None = None
    """A results.json (plain or .gz) to send instead of tables."""
    out: Path = Path("submission.zip")
    command: str = ""
    """What was typed, for the record."""


class Submission(Config):
    """A zip that the server will understand."""

    path: Path
    sha256: str
    size_bytes: int
    tracks: int
    videos: int
    """Of `videos_in_all`, how many have a track."""
    videos_in_all: int
    notes: tuple[str, ...]


def write_submission(job: SubmissionJob, settings: Settings, progress: Progress | None = None) -> Submission:
    """Check every entry, write the zip, remember where it came from. The same tracks give the same bytes.

    Raises:
        BadConfig: entries that the server would not understand, the first ones are named; no zip is left.
    """
    if job.plan and job.results:
        raise BadConfig(f"plan {job.plan} and {job.results}: one of them is sent, name one")
    if job.out.is_dir():
        raise BadConfig(f"{job.out} is a folder, expected the name of a zip to write")
    store = Store.open(settings)
    path = data_file(store, job.data)
    content, digest = read_json(store, path)
    listing = Listing(content, path)
    origin, entries, notes = _entries(store, job, path, listing)
    made_at, arriving = now(), job.out.with_name(f".{job.out.name}.{os.getpid()}")
    counted: dict[tuple[VideoId, int], int] = {}
    try:
        job.out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(arriving, "w") as archive:
            info = zipfile.ZipInfo(INSIDE)  # the same time in every zip: 1980
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as file:
                _write(file, _checked(listing, entries, counted, progress))
        os.replace(arriving, job.out)
    except OSError as error:
        raise BadConfig(f"{job.out} cannot be written: {error.strerror}. Name another place with --out") from error
    finally:
        if os.path.lexists(arriving):
            arriving.unlink()
    if most := sum(each > COUNTED for each in counted.values()):
        notes += (f"{most} times more than {COUNTED} tracks of a category in one video: the server ignores the rest",)
    zipped = job.out.read_bytes()
    sha256 = hashlib.sha256(zipped).hexdigest()
    record = {"made_at": made_at, "data": path, "data_sha256": digest, "commit": code_version()} | origin
    if not store.exists(f"{FOLDER}/{sha256}.json"):
        store.write_json(f"{FOLDER}/{sha256}.json", record | {"command": job.command})
    return Submission(
        path=job.out.resolve(),
        sha256=sha256,
        size_bytes=len(zipped),
        tracks=sum(counted.values()),
        videos=len({video for video, _ in counted}),
        videos_in_all=len(listing.videos),
        notes=notes,
    )


class ServerScore(Config):
    """What was written down."""

    uri: str
    figures: dict[str, float]
    """As fractions."""
    data: str
    subject: str
    """The model or results file that was sent."""


def record_server_score(
    data: str, sent: Path, figures: Mapping[str, float], settings: Settings, command: str = ""
) -> ServerScore:
    """Add what the server said of a zip to the evaluations.

    Args:
        data: what the zip was written for.
        figures: as the server printed them: fractions, or all of them percent where one is over 1.

    Raises:
        BadConfig: the zip was not written here or for other data, or no server gives such a figure.
    """
    store = Store.open(settings)
    if not sent.is_file():
        raise BadConfig(f"{sent} is not there: name the zip that was sent with --out")
    sha256 = hashlib.sha256(sent.read_bytes()).hexdigest()
    key = f"{FOLDER}/{sha256}.json"
    if not store.exists(key):
        raise BadConfig(f"{sent} was not written by `vis submission` into {store.uri(FOLDER)}: nobody knows its model")
    fractions = _fractions(figures)
    origin, created_at = store.read_json(key), now()
    if read_json(store, data_file(store, data))[1] != origin["data_sha256"]:
        raise BadConfig(
            f"{sent} was written for {origin['data']}, not for {data}: name the zip that was sent with --out"
        )
    provenance = {name: origin.get(name) for name in evaluations.PROVENANCE} | {
        "evaluation_id": evaluations.new_id(created_at),
        "created_at": created_at,
        "rules": evaluations.SERVER,
        "command": command or None,
    }
    if not provenance["results"]:
        provenance |= {"results": str(sent.resolve()), "results_sha256": sha256}
    notes = [f"typed from the page of the server, for the zip {sha256} that was written at {origin['made_at']}"]
    rows = ({"metric": name, "value": value} for name, value in fractions.items())
    uri = evaluations.write(store, provenance, notes, rows)
    subject = f"model {origin['model_name']}" if origin.get("model_name") else str(provenance["results"])
    return ServerScore(uri=uri, figures=fractions, data=origin["data"], subject=subject)


def _fractions(figures: Mapping[str, float]) -> dict[str, float]:
    if unknown := [name for name in figures if name not in evaluations.FIGURES]:
        raise BadConfig(f"{unknown[0]} is no figure of the server, expected some of {', '.join(evaluations.FIGURES)}")
    scale = 100 if any(value > 1 for value in figures.values()) else 1
    if wrong := [f"{name}={value:g}" for name, value in figures.items() if not 0 <= value <= scale]:
        raise BadConfig(f"{wrong[0]}: expected a fraction of 1, or percent")
    if figures.get("AP50", 100) < figures.get("AP", 0):
        raise BadConfig(f"AP50={figures['AP50']:g} is less than AP={figures['AP']:g}: are both percent, or fractions?")
    return {name: value / scale for name, value in figures.items()}


def _entries(
    store: Store, job: SubmissionJob, path: str, listing: Listing
) -> tuple[dict[str, Any], Iterator[Entry], tuple[str, ...]]:
    """(where they come from, the entries, notes)."""
    if job.results:
        results, digest = read_results(store, job.results)
        tracks, notes = as_tracks(listing, results, job.results)
        return {"results": job.results, "results_sha256": digest}, iter(tracks), (*listing.notes, *notes)
    predictions = from_plan(store, job.plan, path, listing)
    entries = (
        {
            "video_id": video,
            "category_id": track.category,
            "score": track.score,
            "segmentations": [rle and {"size": rle["size"], "counts": rle["counts"].decode()} for rle in track.rles],
        }
        for video, tracks in predictions.by_video
        for track in tracks
    )
    return {**predictions.provenance}, entries, (*listing.notes, *predictions.notes)


def _checked(
    listing: Listing, entries: Iterator[Entry], counted: dict[tuple[VideoId, int], int], progress: Progress | None
) -> Iterator[Entry]:
    """The entries as they are sent, once each of them is sound; `counted` is filled by video and category."""
    wrong, seen = [], set()
    for n, entry in enumerate(entries):
        try:
            sent = as_sent(listing, entry)
        except BadConfig as error:
            wrong.append(f"results[{n}], video {entry.get('video_id')}: {error}")
            continue
        place = entry["video_id"], entry["category_id"]
        counted[place] = counted.get(place, 0) + 1
        if progress and entry["video_id"] not in seen:
            seen.add(entry["video_id"])
            progress("submission", len(seen), len(listing.videos), {})
        yield sent
    if wrong:
        first = "\n  ".join(wrong[:ERRORS_SHOWN])
        raise BadConfig(
            f"{len(wrong)} entries would fail on the server or be scored as something else, the first are\n  {first}\n"
            "Mend them; no zip was written."
        )
    if not counted:
        raise BadConfig("there is no track to send, and the server's evaluator crashes on an empty list")


def _write(file: IO[bytes], entries: Iterator[Entry]) -> None:
    separator = b"["
    for entry in entries:
        file.write(separator + json.dumps(entry, separators=(",", ":"), allow_nan=False).encode())
        separator = b",\n"
    file.write(b"]")
