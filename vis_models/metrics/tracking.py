"""Tracking metrics of a data set: HOTA, CLEAR and Identity beside each other, pooled and by category.

One road: scene -> `track_scene` -> counts and switches (small: no masks) -> sums. Objects and tracks are
compared within their category. Pooled: the counts of all categories are added. Class mean: the mean of the figures of
the categories that the ground truth shows; TrackEval's `cls_comb_cls_av` also counts absent ones, as 0.

These metrics know no score: a track is there or not. So a least score belongs to every figure. Crowd objects are left
out and what covers them is superfluous, for TrackEval has no rule for them here.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vis_models.metrics.clear import Clear, Switch, clear
from vis_models.metrics.hota import NOTHING, Hota, hota
from vis_models.metrics.identity import Identity, identity
from vis_models.metrics.scenes import Scene

AVERAGED = (
    *("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA", "OWTA"),
    *("MOTA", "MOTP", "IDF1", "IDR", "IDP"),
)
"""Figures that have a class mean; the others are counts."""


@dataclass(frozen=True)
class Tracking:
    """Counts of one category in one video, or sums of such."""

    hota: Hota = field(default_factory=lambda: NOTHING)
    clear: Clear = field(default_factory=Clear)
    identity: Identity = field(default_factory=Identity)

    def __add__(self, other: "Tracking") -> "Tracking":
        return Tracking(self.hota + other.hota, self.clear + other.clear, self.identity + other.identity)

    def figures(self) -> dict[str, float]:
        """Fractions (MOTA may be negative) and the counts IDSW, Frag, MT, PT, ML."""
        return self.hota.figures() | self.clear.figures() | self.identity.figures()

    @property
    def objects_seen(self) -> bool:
        """Whether the ground truth shows anything."""
        return self.clear.tp + self.clear.fn > 0


Video = Mapping[int, Tracking]
"""The counts of one video, by category."""


def track_scene(scene: Scene, min_score: float) -> tuple[Tracking, list[Switch]]:
    """Count one category of one video.

    Args:
        min_score: predictions below are dropped.

    Returns:
        Counts; switches by object and frame, in places of the lists of the scene.
    """
    objects = [n for n, truth in enumerate(scene.truths) if not truth.crowd]
    tracks = [n for n, track in enumerate(scene.predictions) if track.score >= min_score]
    if not objects:  # most categories that a model finds: nothing to compare with
        masks = sum(rle is not None for n in tracks for rle in scene.predictions[n].rles)
        return Tracking(replace(NOTHING, fp=NOTHING.fp + masks), Clear(fp=masks), Identity(fp=masks)), []
    sides = scene.between(objects, tracks), len(objects), len(tracks)
    cleared, switches = clear(*sides)
    switches = [replace(s, object=objects[s.object], before=tracks[s.before], after=tracks[s.after]) for s in switches]
    return Tracking(hota(*sides), cleared, identity(*sides)), switches


def pooled(video: Video) -> Tracking:
    """The sum over categories."""
    return sum(video.values(), Tracking())


def by_category(videos: Sequence[Video]) -> dict[int, Tracking]:
    """The sum over videos of each category."""
    sums: dict[int, Tracking] = defaultdict(Tracking)
    for video in videos:
        for category, counts in video.items():
            sums[category] = sums[category] + counts
    return dict(sorted(sums.items()))


def class_mean(categories: Mapping[int, Tracking]) -> dict[str, float]:
    """Mean of each fraction over the categories that the ground truth shows; empty if it shows none."""
    figures = [counts.figures() for counts in categories.values() if counts.objects_seen]
    return {name: float(np.mean([each[name] for each in figures])) for name in AVERAGED} if figures else {}
