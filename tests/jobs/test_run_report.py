"""The page about a training run, from what the run wrote."""

import json
import re
from pathlib import Path

import pytest

from jobs.reporting.run_report import Chart, RunReportJob, write_run_report
from jobs.settings import Settings
from jobs.store import Store
from jobs.training.recipes.catalogue import build
from jobs.training.run_files import CURVE, RUNS
from jobs.training.train import freeze
from vis_models.config import BadConfig
from vis_models.data.world import WorldConfig, write_youtube_vis

pytestmark = pytest.mark.unit

POINTS = [
    {"iteration": 10, "loss": 4.0, "class": 3.0, "box": 1.0, "learning_rate": 0.001},
    {"iteration": 20, "loss": 2.0, "class": 1.5, "box": 0.5, "learning_rate": 0.001, "mask_ap": 0.25},
]


def begun(store: Store, folder: Path) -> None:
    """A run with the curve of its first stage."""
    write_youtube_vis(WorldConfig(height=32, width=48, frames=10), folder, 3, 1)
    changes = {"data": str(folder), "stages.0.iterations": 40, "stages.1.iterations": 6}
    freeze(build("rgnn_r18_world_tiny", changes), store, "r")
    store.write_bytes(f"{RUNS}/r/detector/{CURVE}", "\n".join(json.dumps(point) for point in POINTS).encode())


def text_of(uri: str) -> str:
    """What a person reads, on one line."""
    body = Path(uri).read_text().split("</style>")[1]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_a_chart_spans_the_stage_and_the_values_from_zero():
    chart = Chart.of("loss", POINTS, 40)
    assert (chart.bottom, chart.top, chart.last) == (0.0, 4.0, 2.0)
    assert chart.path == "M0.2500,0.0000 L0.5000,0.5000 L0.5000,0.5000"
    below = Chart.of("gap", [{"iteration": 10, "gap": -1.0}, {"iteration": 40, "gap": 3.0}], 40)
    assert (below.bottom, below.path) == (-1.0, "M0.2500,1.0000 L1.0000,0.0000 L1.0000,0.0000")


def test_the_page_of_a_run_shows_loss_terms_score_samples_and_every_field(tmp_path: Path):
    settings = Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch")
    store = Store.open(settings)
    begun(store, tmp_path / "data")
    page = write_run_report(RunReportJob(run="r", command="vis report r"), settings)
    text = text_of(page.uri)
    assert "0 of 40 iterations of the part detector" in text
    for chart in ("loss 2 4 0", "mask_ap 0.25 0.25 0", "class 1.5 3 0", "box 0.5 1 0", "learning_rate 0.001"):
        assert chart in text
    assert "tracker 0 of 6 iterations of the part whole" in text
    assert "No curve was written" in text
    assert len(re.findall("sample [0-2] ", text)) == 6  # three of each stage
    assert "sample 0 1 frame of 160x96 px" in text
    assert "sample 0 10 frames of 160x96 px" in text
    assert "stages.0.iterations 40" in text


def test_a_run_whose_data_are_gone_still_has_its_curves(tmp_path: Path):
    settings = Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch")
    store = Store.open(settings)
    begun(store, tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    text = text_of(write_run_report(RunReportJob(run="r"), settings).uri)
    assert "loss 2 4 0" in text
    assert re.search(r"Samples None are shown: \S*data does not exist", text)
    with pytest.raises(BadConfig, match="no run 'ghost'"):
        write_run_report(RunReportJob(run="ghost"), settings)
