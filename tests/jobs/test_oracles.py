import json
from pathlib import Path

import pytest

from jobs import tables
from jobs.evaluation import evaluations
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store, now
from tests.jobs import barcode
from tests.vis_models.drawn import small_config
from vis_models.checkpoints import ModelCard, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category, read_youtube_vis
from vis_models.data.world import WorldConfig, write_youtube_vis
from vis_models.trackers.config import LinkedConfig
from vis_models.trackers.linked import Linked


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Drawn videos whose ids are names, as in data sets of one's own."""
    write_youtube_vis(WorldConfig(height=64, width=96, frames=8), tmp_path / "world", 1, 3)
    path = tmp_path / "world/val.json"
    labels = json.loads(path.read_text())
    for key, part in (("videos", "id"), ("annotations", "video_id")):
        labels[key] = [entry | {part: f"clip_{entry[part]}"} for entry in labels[key]]
    path.write_text(json.dumps(labels))
    return path


def untrained(folder: Path, classes: tuple[Category, ...], tracker: str = "greedy") -> str:
    """A tracker of rules behind a detector that finds nothing of use."""
    detector = small_config().as_detector.model_copy(update={"num_classes": len(classes)})
    config = LinkedConfig.model_validate({"detector": detector.model_dump(), "tracker": {"name": tracker}})
    config_json = config.model_dump(mode="json")
    card = ModelCard(name="untrained", model="linked", config=config_json, classes=classes, created_at=now())
    save_model(folder, Linked(config), card)
    return str(folder)


def test_the_image_oracle_runs_the_tracker_on_the_labelled_objects(world: Path, tmp_path: Path):
    settings = Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1)
    classes = read_youtube_vis(world).categories
    model = untrained(tmp_path / "model", classes)
    own = segment(SegmentJob(archive=str(world), model=model, min_score=0), settings)
    job = SegmentJob(archive=str(world), model=model, min_score=0, labels=str(world))
    given = segment(job, settings)
    assert own.plan_id != given.plan_id

    plain = evaluate(EvaluateJob(data=str(world), plan=own.plan_id), settings)
    perfect = evaluate(EvaluateJob(data=str(world), plan=given.plan_id, oracle="image"), settings)
    assert plain.figures["AP50"] < 0.1 < 0.7 < perfect.figures["AP50"]
    assert perfect.rules.endswith("image oracle")
    assert perfect.notes[0].startswith("image oracle, no score of a model: the model's tracker got the labelled")

    # Nobody takes its tables for predictions, nor its score for one of the model.
    store = Store.open(settings)
    assert [snapshot.plan_id for snapshot in tables.choose(store)] == [own.plan_id]
    assert [snapshot.plan_id for snapshot in tables.choose(store, "latest")] == [own.plan_id]
    assert evaluate(EvaluateJob(data=str(world)), settings).figures == plain.figures
    assert evaluations.find(store, plan_id=given.plan_id) is None
    with pytest.raises(BadConfig, match=r"holds no predictions.*--oracle image"):
        evaluate(EvaluateJob(data=str(world), plan=given.plan_id), settings)

    labels = json.loads(world.read_text())
    labels["annotations"] = labels["annotations"][:1]
    world.write_text(json.dumps(labels))
    assert segment(job, settings).plan_id not in (own.plan_id, given.plan_id)


def test_a_model_that_takes_no_objects_from_outside_is_named(world: Path, tmp_path: Path):
    model = barcode.write_model(tmp_path / "model")
    with pytest.raises(BadConfig, match=r"no image oracle: the tracker of .* takes no objects from outside"):
        segment(
            SegmentJob(archive=str(world), model=str(model), labels=str(world)),
            Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1),
            load=barcode.load,
        )
