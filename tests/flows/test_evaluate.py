import json

import pytest

from flows import evaluate
from flows.evaluate import evaluate_youtube_vis
from vis_models.data.world import WorldConfig, write_youtube_vis

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": None}, "nothing to score against"),
        ({"categories": [{"id": 99, "name": "cat"}]}, "that would make the score meaningless"),
    ],
)
def test_labels_are_checked_before_a_model_works(tmp_path, monkeypatch, change, says):
    monkeypatch.setenv("VIS_STORE", str(tmp_path / "lake"))
    worked = []
    monkeypatch.setattr(evaluate, "launch", lambda job, *_: worked.append(job.__name__))
    write_youtube_vis(WorldConfig(height=64, width=96, frames=2), tmp_path / "world", 0, 1)
    labels = tmp_path / "world/val.json"
    labels.write_text(json.dumps(json.loads(labels.read_text()) | change))
    ended = evaluate_youtube_vis.fn(data=str(labels))
    assert (ended.name, worked) == ("BadConfig", [])
    assert says in ended.message


def test_the_score_of_an_oracle_cannot_be_asked_to_be_accepted(tmp_path):
    ended = evaluate_youtube_vis.fn(data=str(tmp_path), oracle="identity", accept=True)
    assert "cannot be accepted" in ended.message
