import hashlib
import shutil
from pathlib import Path

import pytest

from jobs import fetching
from jobs.fetching import Published, fetch
from jobs.settings import Settings
from tests.jobs.test_web import Web, web  # noqa: F401 - a fixture
from vis_models.config import BadConfig
from vis_models.data.class_lists import NAMES, class_list

pytestmark = pytest.mark.unit
CONTENT = bytes(range(256)) * 20_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch")


@pytest.fixture
def listed(web: Web, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A checkpoint on a server of this machine, under the name `net`."""
    name = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    (web.folder / name).write_bytes(CONTENT)
    monkeypatch.setitem(fetching.PUBLISHED, "net", Published(f"{web.url}/{name}", "coco", "MIT", "a net"))
    return web.folder / name


def test_a_checkpoint_is_fetched_once_and_goes_on_where_it_was_cut_off(listed: Path, settings: Settings, web: Web):  # noqa: F811
    part = settings.scratch / "checkpoints" / f"{listed.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1_000_000])
    told: list[tuple[int, int]] = []
    found = fetch("net", settings, lambda stage, done, total, info: told.append((done, total)))
    assert found.path.read_bytes() == CONTENT
    assert found.checked
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [asked for _, _, asked in web.asked] == ["bytes=1000000-"]
    assert not part.exists()
    assert fetch("net", settings).path == found.path
    assert len(web.asked) == 1, "it is there"


def test_a_server_without_ranges_sends_it_whole(listed: Path, settings: Settings, web: Web):  # noqa: F811
    web.ranges = False
    part = settings.scratch / "checkpoints" / f"{listed.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of another time")
    assert fetch("net", settings).path.read_bytes() == CONTENT


def test_another_file_than_its_name_says_is_refused_and_not_kept(listed: Path, settings: Settings):
    listed.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(BadConfig, match=r"expected one that begins with \w{8}: it is damaged"):
        fetch("net", settings)
    assert list((settings.scratch / "checkpoints").iterdir()) == []
    listed.write_bytes(CONTENT)
    assert fetch("net", settings).path.read_bytes() == CONTENT


def test_where_no_digest_is_known_that_of_the_first_one_counts(
    listed: Path,
    settings: Settings,
    web: Web,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    shutil.copy(listed, web.folder / "plain.pth")
    monkeypatch.setitem(fetching.PUBLISHED, "plain", Published(f"{web.url}/plain.pth", "coco", "MIT", "a net"))
    first = fetch("plain", settings)
    assert (first.checked, first.sha256) == (False, hashlib.sha256(CONTENT).hexdigest())
    first.path.unlink()
    (web.folder / "plain.pth").write_bytes(b"another")
    with pytest.raises(BadConfig, match=f"expected one that begins with {first.sha256}"):
        fetch("plain", settings)


def test_where_no_network_leads_there_it_is_said_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    nowhere = Published("http://127.0.0.1:9/net-01234567.pth", "ytvis2019", "MIT", "a net")
    monkeypatch.setitem(fetching.PUBLISHED, "net", nowhere)
    with pytest.raises(BadConfig, match=r"cannot be fetched .*vis models import FILE --classes ytvis2019"):
        fetch("net", settings)
    with pytest.raises(BadConfig, match="no published checkpoint 'resnet5' is listed, did you mean resnet50"):
        fetch("resnet5", settings)


def test_the_classes_of_a_data_set_are_as_many_as_the_network_tells_apart():
    assert [len(class_list(name, outputs)) for name, outputs in zip(NAMES, (80, 40, 40, 25), strict=True)]
    assert len(class_list("coco", 90)) == 90
    numbered = {category.id: category.name for category in class_list("coco", 80)}
    assert (numbered[1], numbered[13], numbered[90], 12 in numbered) == ("person", "stop sign", "toothbrush", False)
    assert class_list("ytvis2021", 40)[39].name == "zebra"
    with pytest.raises(BadConfig, match="coco has 80 or 90 classes, the network tells 40 apart"):
        class_list("coco", 40)
