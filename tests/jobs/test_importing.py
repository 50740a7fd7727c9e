import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from jobs import models
from jobs.settings import Settings
from jobs.store import Store
from jobs.training import fetching
from jobs.training.fetching import Published, fetch
from jobs.training.importing import fetch_model, import_file
from tests.jobs.test_web import Web, web  # noqa: F401 - a fixture
from tests.parity.layouts import (
    detectron2_shapes,
    idol_shapes,
    mask_rcnn_shapes,
    masktrack_shapes,
    resnet_shapes,
    rgnn_shapes,
    yolact_shapes,
)
from vis_models.checkpoints import load_model
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


WHOLE = {
    "torchvision Mask R-CNN v2": (mask_rcnn_shapes(2), "coco", "iou", "mask_rcnn + iou", 90),
    "detectron2 Mask R-CNN": (detectron2_shapes(), "coco", "iou", "mask_rcnn + iou", 80),
    "mmtracking MaskTrack R-CNN": (masktrack_shapes(True), "ytvis2019", None, "masktrack_rcnn", 40),
    "original MaskTrack R-CNN": (masktrack_shapes(False), "ytvis2019", "seq", "mask_rcnn + seq", 40),
    "YOLACT": (yolact_shapes(101, 80), "coco", "greedy", "yolact + greedy", 80),
    "RGNN": (rgnn_shapes(50), "ytvis2019", None, "rgnn", 40),
    "IDOL": (idol_shapes(50, classes=25), "ovis", None, "idol", 25),
}


def write(shapes: dict[str, tuple[int, ...]], path: Path) -> Path:
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, path)  # a file of no size
    return path


@pytest.mark.parametrize("layout", WHOLE)
def test_a_published_checkpoint_becomes_a_model_that_loads(layout: str, settings: Settings, tmp_path: Path):
    shapes, classes, tracker, kind, count = WHOLE[layout]
    store = Store.open(settings)
    file = write(shapes, tmp_path / "net.v1.pth")
    card, report = import_file(store, str(file), classes, tracker=tracker, typed="vis models import net")
    assert (card.name, card.kind, len(card.classes)) == ("net", kind, count)
    assert report.startswith(f"{layout} checkpoint: ")
    assert "0 of another shape" in report
    assert card.source.startswith("net.v1.pth, sha256 ")
    model, read = load_model(store.local_copy(models.find(store, "net")))
    assert read.classes == card.classes
    assert model.config.classes == count


def test_what_is_no_whole_network_or_has_no_tracker_or_classes_is_refused(settings: Settings, tmp_path: Path):
    store = Store.open(settings)
    shapes = mask_rcnn_shapes(1)

    def refused(file: Path, says: str, classes: str = "coco", tracker: str | None = "iou", name: str = "net") -> None:
        with pytest.raises(BadConfig, match=says):
            import_file(store, str(file), classes, name, tracker)

    whole = write(shapes, tmp_path / "whole.pth")
    refused(whole, "finds objects and links none: name a --tracker", tracker=None)
    refused(whole, "tells 90 classes apart and names none: --classes coco", classes="")
    refused(whole, "ytvis2019 has 40 classes, the network tells 90 apart", classes="ytvis2019")
    refused(tmp_path / "nowhere.pth", "no checkpoint at")
    refused(whole, "--name: expected letters", name="a/b")
    half = {key: shape for key, shape in shapes.items() if "mask_head" not in key}
    refused(
        write(half, tmp_path / "half.pth"),
        r"no whole torchvision Mask R-CNN v1: \d+ missing, such as detector.mask_head",
    )
    odd = shapes | {"backbone.body.layer1.0.conv2.weight": (64, 64, 5, 5)}
    refused(write(odd, tmp_path / "odd.pth"), "1 of another shape, such as detector.backbone.layer1.0.conv2.weight")
    refused(write(resnet_shapes(50), tmp_path / "resnet.pth"), "a backbone starts a training: vis train --init")
    refused(write({"encoder.weight": (2, 2)}, tmp_path / "other.pth"), "is of no known layout")
    refused(write(idol_shapes(), tmp_path / "idol.pth"), "is an IDOL, whose detector no other tracker can take")
    refused(whole, "unknown tracker 'iuo', did you mean iou", tracker="iuo")
    other = tmp_path / "other.json"
    other.write_text('{"categories": [{"id": 1}]}')
    refused(whole, "expected `categories`, a list of objects", classes=str(other))
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    refused(whole, "names.txt lists 2 classes, the network tells 90 apart", classes=str(names))
    assert models.registered(store) == {}


def test_a_backbone_is_fetched_and_registers_nothing(listed: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(fetching.PUBLISHED, "net", fetching.PUBLISHED["net"]._replace(classes=""))
    store = Store.open(settings)
    path, card, said = fetch_model(store, "net")
    assert (path.read_bytes(), card) == (CONTENT, None)
    assert "MIT" in said
    assert models.registered(store) == {}


def test_a_listed_checkpoint_is_fetched_and_becomes_a_model_with_its_source_and_licence(
    settings: Settings,
    web: Web,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    write(masktrack_shapes(True), web.folder / "masktrack.pth")
    found = Published(f"{web.url}/masktrack.pth", "ytvis2019", "Apache-2.0", "MaskTrack R-CNN of a test")
    monkeypatch.setitem(fetching.PUBLISHED, "masktrack", found)
    _, card, said = fetch_model(Store.open(settings), "masktrack", name="first")
    assert card is not None
    assert (card.name, card.kind, card.licence) == ("first", "masktrack_rcnn", "Apache-2.0")
    assert card.source.startswith(f"{web.url}/masktrack.pth, sha256 ")
    assert "which its authors do not say" in said
