"""What `make bench` measures with runs, at its smallest: its figures mean nothing here."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from tests import bench
from tests.vis_models.drawn import small_config
from vis_models.checkpoints import ModelCard, save_model
from vis_models.data.annotations import Category
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
    assert re.search(r"^  96x160 +[\d.]+ +[\d.]+ +\d+% +\d+% +\d+% +\d+%$", capsys.readouterr().out, re.MULTILINE)
