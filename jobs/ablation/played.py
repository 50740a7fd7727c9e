"""Rows for which nothing is trained: one model under other rules, or its detections linked by other trackers; and rows
of other weights, played by models that were trained so.

Rows of one model see the same encoded frames, which are made once for all. Videos are played in groups whose tracks are
kept as they come: what was interrupted goes on with the next group.
"""

import copy
import gzip
import json
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch

from jobs.ablation.results import Asked, Run, figures_of, truth_of
from jobs.models import find
from jobs.segmentation.true_objects import TrueObjects
from jobs.settings import Settings
from jobs.store import Store
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import how_trained, rows_of, trained_anew, with_row
from jobs.training.validation import Encode, picture, play
from jobs.workers import share
from vis_models.cards import ModelCard
from vis_models.checkpoints import load_model
from vis_models.config import BadConfig
from vis_models.data.annotations import AnnotatedVideo, Category, VideoSet
from vis_models.metrics.oracle import true_identities
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.progress import Progress
from vis_models.rows import BASE, Row
from vis_models.trackers.config import LinkedConfig
from vis_models.trackers.linked import Linked
from vis_models.types import Frames
from vis_models.types import Rows as Encoded

GROUP = 25
"""Videos whose encoded frames are in memory at a time."""
FRAMES = 16
"""Of a video, encoded at once."""

Entry = dict[str, Any]
"""Of a results file."""


def run_rows(
    asked: Asked, store: Store, settings: Settings, report: Progress
) -> Iterator[tuple[Run, dict[str, Any], list[Entry]]]:
    """The runs, when all videos have been played: which, its figures, its results.

    Raises:
        BadConfig: a model is of another kind than the recipe's, or has classes that the labels have not; or no model
            has the weights of a row.
    """
    val_set, device = asked.sets[1], share(settings, torch.cuda.device_count()).device
    rows = rows_of(asked.base.recipe)
    kind, other_kinds = {asked.base.model}, {row.model for row in rows.values() if row.model}
    detector, *others = asked.models
    models = [_loaded(detector, asked.base, kind, store, device)]
    models += [_loaded(name, asked.base, kind | other_kinds, store, device) for name in others]
    played_by = {name: _with_weights_of(name, asked.base, models) for name, _ in asked.waiting}
    truth = truth_of(val_set)
    found: dict[str, list[Entry]] = {name: [] for name in played_by}
    started = time.perf_counter()
    for first in range(0, len(val_set.videos), GROUP):
        key = f"{asked.folder}/played/{first}.json.gz"
        kept = json.loads(gzip.decompress(store.read_bytes(key))) if store.exists(key) else {}
        for number, (net, card) in enumerate(models):
            missing = {name: rows[name] for name, by in played_by.items() if by == number and name not in kept}
            if missing:
                players = Players(net, missing, truth, _categories(card, val_set))
                kept |= players.play(val_set.videos[first : first + GROUP])
                store.write_bytes(key, gzip.compress(json.dumps(kept).encode()))
        for name in found:
            found[name] += kept[name]
        report("play", min(first + GROUP, len(val_set.videos)), len(val_set.videos), {})
    minutes = round((time.perf_counter() - started) / 60 / len(found), 2)
    for which in asked.waiting:
        entries = found[which[0]]
        said = {"loss": float("nan"), "iterations": 0, "minutes": minutes}
        yield which, figures_of(val_set, entries) | said, entries


def _loaded(name: str, base: TrainJob, kinds: Set[str], store: Store, device: str) -> tuple[Any, ModelCard]:
    net, card = load_model(store.local_copy(find(store, name)), device)
    if card.model not in kinds:
        raise BadConfig(
            f"{name} is of the kind {card.model!r}, the recipe {base.recipe} of {base.model!r}, whose rows are "
            "another table: take a model of that kind, or another recipe (--recipe)"
        )
    return net, card


def _with_weights_of(name: str, base: TrainJob, models: Sequence[tuple[Any, ModelCard]]) -> int:
    """Which model a row is played by: the first one that was trained as the row says."""
    wanted, kind = with_row(base.recipe, name, apart=True).config, rows_of(base.recipe)[name].model
    fields = () if kind else trained_anew(base.recipe)
    for number, (net, card) in enumerate(models):
        if card.model != (kind or base.model) or (kind and not _same_detector(net, models[0][0])):
            continue
        if all(getattr(net.config, field) == getattr(wanted, field) for field in fields):
            return number
    if kind:
        raise BadConfig(
            f"the row {name!r} is played by a model of the kind {kind!r} over the detector of {models[0][1].name}, as "
            f"none of {', '.join(card.name for _, card in models)} is. {how_trained(base.recipe, name)}; or name other "
            "rows (--row)"
        )
    trained_as = ", ".join(f"{field}={getattr(wanted, field)}" for field in fields)
    raise BadConfig(
        f"the row {name!r} is of weights that were trained with {trained_as}, unlike those of "
        f"{', '.join(card.name for _, card in models)}. {how_trained(base.recipe, name)}"
    )


def _same_detector(one: Any, other: Any) -> bool:
    if one.config.seen != other.config.seen:
        return False
    ours, theirs = one.detector.state_dict(), other.detector.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def _categories(card: ModelCard, val_set: VideoSet) -> list[Category]:
    """Of the labels, in the order of the model's classes. Raises BadConfig: the labels lack one."""
    by_name = {category.name: category for category in val_set.categories}
    if lacking := [own.name for own in card.classes if own.name not in by_name]:
        raise BadConfig(
            f"{card.name} has {len(lacking)} classes that {val_set.source} has not: {', '.join(lacking[:5])}. "
            "Its rows are compared on the labels that it was trained for."
        )
    return [by_name[own.name] for own in card.classes]


class Players:
    """The rows as models on the same weights.

    Args:
        categories: in the order of the model's classes.
    """

    def __init__(self, model: Any, rows: Mapping[str, Row], truth: GroundTruth, categories: Sequence[Category]) -> None:
        self.truth, self.categories = truth, categories
        self.objects = TrueObjects(truth, [category.name for category in categories])
        self.model = model
        self.sees: dict[str, list[str]] = {"own": [], "linked": [], "given": []}
        """Rows by what they read: the model's own encodings, a linked detector's, or those of the labelled objects; one
        that changes what is encoded reads its own."""
        self.players: dict[str, Any] = {}
        self.truly_linked = [name for name, row in rows.items() if row.oracle == "identity"]
        for name, row in {BASE: Row(0, "", None), **rows}.items() if self.truly_linked else rows.items():
            if row.oracle == "identity":
                continue
            kind = "linked" if row.tracker else "given" if row.oracle else "own"
            if any(path.split(".")[0] in model.config.encoded_by for path in row.changes):
                kind = name
            other = next((self.players[each] for each in self.sees["linked"]), None)
            self.players[name] = _linked(model, row.tracker, other) if row.tracker else _changed(model, row)
            self.sees.setdefault(kind, []).append(name)

    def play(self, videos: Sequence[AnnotatedVideo]) -> dict[str, list[Entry]]:
        """The tracks of every row in these videos."""
        found: dict[str, list[Entry]] = {}
        for kind, names in self.sees.items():
            seen = {video.video_id: self._encoded(kind, video) for video in videos} if names else {}

            def frames_of(batch: list[AnnotatedVideo], seen: dict[Any, Encoded] = seen) -> Encode:
                own: list[Any] = [seen[video.video_id] for video in batch]
                return lambda frame: type(own[0]).join([each[[frame]] for each in own])

            for name in names:
                found[name] = list(play(self.players[name], videos, self.categories, frames_of))
        for name in self.truly_linked:
            found[name] = [entry for video in videos for entry in truly_linked(self.truth, video, found[BASE])]
        return found

    @torch.no_grad()
    def _encoded(self, kind: str, video: AnnotatedVideo) -> Encoded:
        """All frames of a video."""
        parts: list[Any] = []
        device = next(self.model.parameters()).device
        for first in range(0, len(video.file_names), FRAMES):
            which = range(first, min(first + FRAMES, len(video.file_names)))
            frames = Frames(torch.stack([picture(self.model, video, frame) for frame in which])).to(device)
            first_of_them = self.players[self.sees[kind][0]]
            if kind == "linked":
                parts.append(first_of_them.detector.encode(frames, True))
            elif kind != "given":
                parts.append(first_of_them.encode(frames))
            else:
                size = (frames.pixels.shape[-2], frames.pixels.shape[-1])
                objects = self.objects.of([(str(video.video_id), frame) for frame in which], size)
                parts.append(self.model.encode_objects(frames, objects.to(device)))
        return type(parts[0]).join(parts)


def truly_linked(truth: GroundTruth, video: AnnotatedVideo, entries: Sequence[Entry]) -> Iterator[Entry]:
    """What was predicted in a video, under the identities of the labels."""
    own = [entry for entry in entries if entry["video_id"] == video.video_id]
    size = [video.height, video.width]
    for track in true_identities(truth.predictions(own), truth.truths(video.video_id)):
        yield {
            "video_id": video.video_id,
            "category_id": track.category,
            "score": track.score,
            "segmentations": [rle and {"size": size, "counts": _text(rle["counts"])} for rle in track.rles],
        }


def _text(counts: str | bytes) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def _changed(model: Any, row: Row) -> Any:
    """The model under other rules, on the same weights."""
    player = copy.copy(model)
    player.config = type(model.config).model_validate(model.config.model_dump() | row.changes)
    return player


def _linked(model: Any, tracker: str, other: Linked | None) -> Linked:
    """The model's detector under another tracker; weights are shared with the one that was made before."""
    config = {"detector": model.config.as_detector.model_dump(), "tracker": {"name": tracker}}
    linked = Linked(LinkedConfig.model_validate(config)).eval()
    if other:
        linked.detector = other.detector
    else:
        linked.detector.load_state_dict(model.detector.state_dict())
    return linked.to(next(model.parameters()).device)
