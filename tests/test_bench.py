"""What `make bench` measures with runs, at its smallest: its figures mean nothing here."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from tests import bench, bench_idol
from tests.vis_models.drawn import small_config
from vis_models.checkpoints import ModelCard, save_model
from vis_models.data.annotations import Category
from vis_models.idol.config import IdolConfig
from vis_models.idol.network import IdolNetwork
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.rgnn.model import Rgnn

pytestmark = pytest.mark.unit


def test_films_are_measured_at_their_own_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store, config = Store.open(Settings(store=str(tmp_path))), small_config()
    classes = tuple(Category(id=number, name=str(number)) for number in range(3))
    card = ModelCard(
        name="m", model="rgnn", config=config.model_dump(mode="json"), classes=classes, created_at=datetime.now(UTC)
    )
    save_model(Path(store.path(f"{LAYOUT}/models/m")), Rgnn(config), card)
    bench.large_films(store, ["96x160"], films=2, frames=2)
    bench.long_films(store, minutes=(0.02,))
    said = capsys.readouterr().out
    assert re.search(r"^  96x160 +[\d.]+ +[\d.]+ +\d+% +\d+% +\d+% +\d+%$", said, re.MULTILINE)
    assert re.search(r"^  rgnn +0.02 min +12 +\d+ +\d+ MiB +\d+% +\d+% +\d+% +\d+%$", said, re.MULTILINE)


def test_the_parts_of_idol_s_network_take_no_longer_than_the_whole():
    small = IdolConfig(
        backbone=ResNetConfig(depth=18, width=8), queries=12, channels=32, heads=4, norm_groups=4, hidden=8,
        encoder_layers=1, decoder_layers=1,
    )  # fmt: skip
    took = bench_idol.frame(IdolNetwork(small).eval(), (64, 64), time.perf_counter, runs=2)
    apart = ("backbone", "encoder", "decoder", "mask branch", "masks of ten")
    assert 0 < sum(took[name] for name in apart) <= took["frame"]
    assert 0 < took["deformable attention"] < took["encoder"] + took["decoder"]
    assert bench_idol.cores(small, 0, (64, 64), time.perf_counter, runs=1).keys() == {"defined", "gathered"}
