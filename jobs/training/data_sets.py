"""The data of a run: found or drawn, read, split, its classes joined by name, without the frames that were left out."""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.recipes.base import TrainJob
from jobs.training.run_files import DATA, LEFT_OUT, RUNS, SPEC
from jobs.training.runs import at_place, check_data
from jobs.training.stages import Sets
from vis_models.config import BadConfig, config_hash
from vis_models.data.annotations import VideoSet, hold_out
from vis_models.data.categories import counterparts
from vis_models.data.coco import read_in_categories, read_labels, translate
from vis_models.data.sameness import Fingerprint, differences, fingerprints
from vis_models.data.world import write_youtube_vis
from vis_models.progress import Progress

NAMED = 3
"""Videos that a message names."""


@dataclass(frozen=True)
class Data:
    """Where a run's data set lies, and its name in provenance."""

    uri: str
    name: str


def prepare_data(job: TrainJob, settings: Settings, progress: Progress) -> Data:
    """Find the data set, or draw it.

    A drawn world lies in the store when that is a folder, and else in the scratch folder, from where every worker
    of this machine reads it; the seed makes the same bytes anywhere.
    """
    check_data(job, Store.open(settings))
    if job.data:
        return Data(job.data, job.data)
    world = job.world
    assert world is not None  # as checked
    name = f"{world.world.level}-v{world.world.version}-{config_hash(world.model_dump())}"
    folder = world_folder(settings) / name
    write_youtube_vis(world.world, folder, world.train_videos, world.val_videos, progress)
    return Data(str(folder), f"world {name}")


def world_folder(settings: Settings) -> Path:
    """Where drawn data sets lie on this machine."""
    store = Store.open(settings)
    return Path(store.path(f"{LAYOUT}/worlds")) if store.is_local else settings.scratch.expanduser() / "worlds"


def read_data(job: TrainJob, data: Data, store: Store) -> tuple[VideoSet, VideoSet]:
    """Training and validation videos, checked."""
    folder = store.local_copy(data.uri)
    videos = read_labels(folder / "train.json")
    if job.hold_out:
        train_set, val_set = hold_out(videos, job.hold_out)
    else:
        train_set, val_set = videos, read_labels(folder / "val.json")
    for part in (train_set, val_set):
        part.require_labels()
    return train_set, in_categories_of(train_set, val_set)


def in_categories_of(train_set: VideoSet, val_set: VideoSet) -> VideoSet:
    """The validation videos in the categories of the training set, by name; says what only one of the two has."""
    if val_set.categories == train_set.categories:
        return val_set
    joined, dropped = translate(val_set, train_set.categories)
    ours, theirs = ([c.name for c in part.categories] for part in (train_set, val_set))
    notes = []
    for where, other, names in (
        (val_set, train_set, [name for name, pair in counterparts(theirs, ours).items() if pair is None]),
        (train_set, val_set, [name for name, pair in counterparts(ours, theirs).items() if pair is None]),
    ):
        if names:
            notes.append(f"only {where.source} has the categories {', '.join(names[:5])}, {other.source} has not")
    if dropped:
        notes.append(f"{sum(dropped.values())} objects of {val_set.source} are left out: {', '.join(dropped)}")
    if not joined.has_labels:
        raise BadConfig(f"{val_set.source} has no object of a category to train on: {'; '.join(notes)}")
    return replace(joined, notes=(*joined.notes, *notes))


def read_extra(job: TrainJob, main: VideoSet, store: Store) -> tuple[tuple[VideoSet, ...], str]:
    """The job's extra sets in the categories of the main one, and what was found and dropped, in words."""
    sets, words = [], []
    for part in job.extra:
        frames = store.local_copy(part.frames) if part.frames else None
        read, dropped = read_in_categories(store.local_copy(part.labels), main.categories, part.names, frames)
        read.require_labels()
        sets.append(read)
        words.append(
            f"{part.labels}: {sum(bool(video.tracks) for video in read.videos)} of {len(read.videos)} have labels"
            + "".join(f", {count} x {name} dropped" for name, count in sorted(dropped.items()))
        )
        words.extend(read.notes)
    return tuple(sets), "; ".join(words)


def read_sets(job: TrainJob, data: Data, store: Store, run_id: str, mixes: bool = True) -> tuple[Sets, str]:
    """The run's data without the frames that its preflight left out, and what was found in the extra sets, in words.

    Args:
        mixes: whether the extra sets are needed.
    """
    train_set, val_set = read_data(job, data, store)
    extra, found = read_extra(job, train_set, store) if mixes else ((), "")
    key = f"{RUNS}/{run_id}/{LEFT_OUT}"
    sets = Sets(train_set, val_set, extra)
    return sets.without(store.read_json(key)) if store.exists(key) else sets, found


def require_same_data(job: TrainJob, data: Data, sets: Sets, store: Store, run_id: str, progress: Progress) -> None:
    """Note what the data are when a run begins; when it goes on, hold them against that, wherever they lie now.

    Args:
        sets: without the frames that were left out.

    Raises:
        BadConfig: other labels or frames than the run began with, with the videos.
    """
    key, spec = f"{RUNS}/{run_id}/{DATA}", f"{RUNS}/{run_id}/{SPEC}"
    if not store.exists(key):
        found = {}
        for name, part in sets.by_name.items():

            def count(done: int, total: int, name: str = name) -> None:
                progress(f"note what {name} holds", done, total, {})

            found[name] = fingerprints(part, count)
        store.write_json(key, found)
        return
    before = store.read_json(key)
    for name, part in sets.by_name.items():
        other = differences(part, {video: Fingerprint(*each) for video, each in before.get(name, {}).items()})
        if first := list(islice(other, NAMED)):
            others = len(first) + sum(1 for _ in other)
            raise BadConfig(
                f"{part.source}: {others} of {len(part.videos)} videos are not what run {run_id} began with: "
                f"{'; '.join(first)}. A run goes on with its own data: bring them back, say where they are now "
                "(--data), or start a new run from its weights (--init)."
            )
    if job.data != store.read_json(spec)["data"]:
        store.write_json(
            spec, at_place(TrainJob.model_validate(store.read_json(spec)), data.uri).model_dump(mode="json")
        )
