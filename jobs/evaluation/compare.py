"""Is model A better than model B? Two evaluations of the same videos -> their difference, and how sure it is."""

from collections.abc import Mapping

import numpy as np
from pydantic import PositiveInt

from jobs.evaluation import evaluations, outcomes
from jobs.evaluation.predictions import Check, data_file, from_results, labels
from jobs.settings import Settings
from jobs.store import Store
from vis_models.config import BadConfig, Config
from vis_models.data.dialects import VideoId
from vis_models.metrics.scenes import scenes
from vis_models.metrics.track_matching import Matches, match_video
from vis_models.metrics.uncertainty import REPLICATES, Outcome, Videos, compare, standard_error, weighted_ap
from vis_models.metrics.uncertainty import outcomes as outcomes_of
from vis_models.progress import Progress

SIGNIFICANT_P = 0.05
"""A difference that chance gives less often is one."""


class CompareJob(Config):
    """Which two."""

    one: str
    """An evaluation id, or with `gt` a results file."""
    other: str
    gt: str | None = None
    """YouTube-VIS JSON with labels, for results files."""
    check: Check = "error"
    """As in EvaluateJob, for results files."""
    replicates: PositiveInt = REPLICATES
    """How often the videos are drawn again, and how often the two are swapped."""


class Side(Config):
    """One of the two."""

    name: str
    ap: float
    error: float | None
    """Standard error; None: there are too few videos."""


class VideoChange(Config):
    """A video, scored alone; -1: it has no object."""

    video_id: str
    one: float
    other: float


class Compared(Config):
    """AP of A minus AP of B on the same videos."""

    one: Side
    other: Side
    videos: int
    difference: float
    error: float | None
    """Standard error from drawing the videos again, both sides on the same draws; None: too few videos."""
    p_value: float
    """How often swapping A and B in videos by chance gives a difference as large."""
    changed: tuple[VideoChange, ...]
    """Videos whose AP differs, the largest change first."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`-0.043 +- 0.013 (p 0.001)`, with the 95 % interval where there are enough videos for one."""
        interval = f" +- {1.96 * self.error:.3f}" if self.error is not None else ""
        return f"{self.difference:+.3f}{interval} (p {self.p_value:.3f})"

    @property
    def significant(self) -> bool:
        return self.p_value < SIGNIFICANT_P


def compare_two(job: CompareJob, settings: Settings, progress: Progress | None = None) -> Compared:
    """Compare two evaluations, or two results files, of the same labels.

    Raises:
        BadConfig: no such evaluation, or the two were not made from the same labels under the same rules.
    """
    store = Store.open(settings)
    notes: tuple[str, ...] = ()
    if job.gt:
        found = []
        for results in (job.one, job.other):
            each, said = _of_file(store, job.gt, results, job.check, progress)
            found.append(each)
            notes += tuple(note for note in said if note not in notes)
    else:
        _same_labels(store, job)
        found = [outcomes.read(store, name) for name in map(evaluations.id_of, (job.one, job.other))]
    one, other = ([*side.values()] for side in found)
    made = compare(one, other, job.replicates)
    return Compared(
        one=_side(job.one, one, job.replicates),
        other=_side(job.other, other, job.replicates),
        videos=len(one),
        difference=made.value,
        error=made.error,
        p_value=made.p_value,
        changed=_changed(*found),
        notes=notes,
    )


def _side(name: str, videos: Videos, replicates: int) -> Side:
    return Side(name=name, ap=_ap(videos), error=standard_error(videos, replicates))


def _ap(videos: Videos) -> float:
    return float(weighted_ap(videos, np.ones((1, len(videos))))[0])


def _changed(
    one: Mapping[str, Mapping[int, Outcome]], other: Mapping[str, Mapping[int, Outcome]]
) -> tuple[VideoChange, ...]:
    videos = [VideoChange(video_id=name, one=_ap([one[name]]), other=_ap([other[name]])) for name in one]
    return tuple(
        sorted((each for each in videos if each.one != each.other), key=lambda each: -abs(each.one - each.other))
    )


def _of_file(
    store: Store, gt: str, results: str, check: Check, progress: Progress | None
) -> tuple[dict[str, dict[int, Outcome]], tuple[str, ...]]:
    truth, _, notes = labels(store, data_file(store, gt), check)
    predictions = from_results(store, results, truth, check)
    kinds = [*truth.categories]
    matches: dict[VideoId, dict[int, Matches]] = {}
    for video, tracks in predictions.by_video:
        matches[video] = match_video(scenes(tracks, truth.truths(video), kinds))
        if progress:
            progress(f"score {results.rsplit('/', 1)[-1]}", len(matches), len(truth.videos), {})
    every = [matches.get(v) or match_video(scenes([], truth.truths(v), kinds)) for v in truth.video_ids()]
    return dict(zip(map(str, truth.video_ids()), outcomes_of(every), strict=True)), (*notes, *predictions.notes)


def _same_labels(store: Store, job: CompareJob) -> None:
    one, other = (evaluations.read(store, evaluations.id_of(name))[1] for name in (job.one, job.other))
    if evaluations.SERVER in (one["rules"], other["rules"]):
        raise BadConfig("the score of a server says nothing about single videos: it cannot be compared by them")
    for key, what in (("data_sha256", "labels"), ("rules", "rules")):
        if one[key] != other[key]:
            said = [
                f"{each['data']} (sha256 {str(each[key])[:12]})" if key != "rules" else each[key]
                for each in (one, other)
            ]
            raise BadConfig(
                f"{job.one} and {job.other} do not have the same {what}: {said[0]} and {said[1]}. Expected two "
                "evaluations of one labels file by one set of rules: evaluate one of them again."
            )
