import pickle
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vis_models.checkpoints import (
    ModelCard,
    build,
    initialise,
    load_model,
    read_card,
    save_model,
    take_detector,
)
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.rgnn.config import RgnnConfig
from vis_models.rgnn.layouts import RGNN_BLOCK, RGNN_NAMES, RGNN_RESIDUAL
from vis_models.rgnn.model import Rgnn
from vis_models.tensor_files import read_tensors
from vis_models.yolact.config import YolactConfig
from vis_models.yolact.model import Yolact

from ..parity.layouts import resnet_shapes, yolact_shapes
from .drawn import small_config

pytestmark = pytest.mark.unit


def card(classes: int = 3) -> ModelCard:
    return ModelCard(
        name="run",
        model="rgnn",
        config=small_config().model_dump(mode="json"),
        classes=tuple(Category(id=n + 1, name=f"class {n}") for n in range(classes)),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, Rgnn(small_config()), card())
    return tmp_path


def test_a_model_comes_back_from_its_folder_weight_for_weight(tmp_path: Path):
    model = Rgnn(small_config())
    saved = save_model(tmp_path, model, card())
    loaded, read = load_model(tmp_path)
    assert read == saved
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert not loaded.training


def test_weights_that_are_not_those_of_the_card_are_refused(folder: Path):
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(BadConfig, match=r"sha256 .* not from the same model"):
        load_model(folder)


def test_weights_with_numbers_that_are_none_are_refused_with_the_tensor(tmp_path: Path):
    model = Rgnn(small_config())
    with torch.no_grad():
        model.detector.backbone.conv1.weight[0, 0, 0, 0] = float("nan")
    save_model(tmp_path, model, card())
    with pytest.raises(BadConfig, match=r"1 of \d+ tensors hold numbers that are none.*detector.backbone.conv1.weight"):
        load_model(tmp_path)


def test_a_class_list_of_another_length_is_refused(tmp_path: Path):
    save_model(tmp_path, Rgnn(small_config()), card(classes=5))
    with pytest.raises(BadConfig, match="the config has 3 classes, the class list 5"):
        load_model(tmp_path)


def test_a_folder_without_a_card_is_no_model(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"not a model folder.*`vis models`"):
        read_card(tmp_path)


def test_an_unknown_config_key_is_named():
    with pytest.raises(BadConfig, match=r"tracksss: Extra inputs are not permitted, got 3"):
        build("rgnn", {"tracksss": 3})


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(
        BadConfig, match=r"unknown model 'yolact', expected one of idol, linked, mask_prop, masktrack_rcnn, rgnn, vis"
    ):
        build("yolact", {})


def test_torchvision_weights_fill_the_backbone(tmp_path: Path):
    donor = Yolact(small_config().detector)
    state = {key: torch.full_like(value, 0.5) for key, value in donor.backbone.state_dict().items()}
    torch.save(state | {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}, tmp_path / "resnet.pth")
    detector = Yolact(small_config().detector)
    report = initialise(detector, tmp_path / "resnet.pth")
    assert (report.layout, report.loaded, report.unexpected) == ("torchvision ResNet", len(state), [])
    assert (detector.backbone.layer3[0].conv1.weight == 0.5).all()
    assert "fpn.lat_layers.0.weight" in report.missing


def yolact_names(detector: Yolact) -> dict[str, torch.Tensor]:
    names = {}
    for key, value in detector.state_dict().items():
        for stage in (1, 2, 3, 4):
            key = key.replace(f"backbone.layer{stage}.", f"backbone.layers.{stage - 1}.")
        names[key.replace("head.", "prediction_layers.0.")] = value
    return names


def test_yolact_weights_fill_the_detector_except_where_the_class_count_differs(tmp_path: Path):
    config = small_config().detector
    donor = Yolact(config.model_copy(update={"num_classes": 80}))
    torch.save({"state_dict": {f"module.{k}": v for k, v in yolact_names(donor).items()}}, tmp_path / "yolact.pth")
    detector = Yolact(config)
    report = initialise(detector, tmp_path / "yolact.pth")
    assert report.layout == "YOLACT"
    assert sorted(report.reshaped) == [
        "head.conf_layer.bias", "head.conf_layer.weight", "semantic_seg_conv.bias", "semantic_seg_conv.weight",
    ]  # fmt: skip
    assert report.missing == report.unexpected == []
    assert torch.equal(detector.proto_net[10].weight, donor.proto_net[10].weight)


def published(shapes: dict[str, tuple[int, ...]], path: Path) -> int:
    """A checkpoint of one number, 0.5, in every key and shape of a published one."""
    torch.save({key: torch.full((), 0.5).expand(shape) for key, shape in shapes.items()}, path)
    return len(shapes)


def test_the_authors_checkpoint_of_80_classes_starts_rgnn_s_detector_of_40(tmp_path: Path):
    count = published(yolact_shapes(50, 80), tmp_path / "yolact.pth")
    detector = Yolact(YolactConfig())
    fresh = detector.head.conf_layer.weight.clone()
    report = initialise(detector, tmp_path / "yolact.pth")
    assert (report.loaded, len(report.reshaped)) == (count - 4, 4)
    assert report.missing == report.unexpected == []
    assert torch.equal(detector.head.conf_layer.weight, fresh)
    assert detector.semantic_seg_conv.out_channels == 40
    assert (detector.head.bbox_layer.weight == 0.5).all()


def test_a_checkpoint_says_what_is_missing_and_what_nothing_reads(tmp_path: Path):
    shapes = yolact_shapes(101, 80)
    del shapes["fpn.lat_layers.0.bias"]
    legacy = {"backbone.layer1.0.conv1.weight": (1,), "fpn.downsample_layers.2.weight": (1,)}
    count = published(shapes | legacy | {"maskiou_net.0.weight": (8, 1, 3, 3)}, tmp_path / "yolact.pth")
    report = initialise(Yolact(YolactConfig.released(101)), tmp_path / "yolact.pth")
    assert (report.missing, report.unexpected) == (["fpn.lat_layers.0.bias"], ["maskiou_net.0.weight"])
    assert (report.loaded, report.reshaped) == (count - 3, [])


@pytest.mark.parametrize("depth", [50, 101])
def test_every_key_of_torchvision_s_resnet_but_its_classifier_has_a_place(tmp_path: Path, depth: int):
    count = published(resnet_shapes(depth), tmp_path / "resnet.pth")
    small = {"channels": 8, "prototypes": 2, "prototype_channels": 8, "image_size": (64, 64)}
    detector = Yolact(YolactConfig(backbone=ResNetConfig(depth=depth), **small))
    report = initialise(detector, tmp_path / "resnet.pth")
    assert (report.loaded, report.unexpected, report.reshaped) == (count - 2, [], [])
    assert not [key for key in report.missing if key.startswith("backbone.")]


def their_name(key: str) -> str:
    """What the authors' RGNN calls one of our tensors: `rgnn_name` backwards."""

    def backwards(names: dict[str, str], key: str) -> str | None:
        found = [(theirs, ours) for theirs, ours in names.items() if key.startswith(ours)]
        return found[0][0] + key.removeprefix(found[0][1]) if found else None

    if block := re.match(r"blocks\.(\d+)\.", key):
        rest, number = key[block.end() :], 2 * int(block[1])
        residual = backwards(RGNN_RESIDUAL, rest)
        theirs = f"track_detection_matcher.layers.{number + bool(residual)}.{residual or backwards(RGNN_BLOCK, rest)}"
    else:
        theirs = backwards(RGNN_NAMES, key) or key
    twice = re.sub(r"(?<=\.layers\.)\d+(?=\.(weight|bias)$)", lambda index: str(2 * int(index[0])), theirs)
    return twice if "layers" in key else theirs


def published_rgnn(**changes) -> tuple[Rgnn, dict[str, torch.Tensor]]:
    """A small RGNN as the authors built theirs, and its weights under their keys."""
    model = Rgnn(small_config(**{"bottleneck_layers": 2} | changes))
    state = {their_name(key): value for key, value in model.state_dict().items()}
    for key in ("appnet.feat_nets.bb_feats_s8.0.weight", "appnet.feat_nets.bb_feats_s16.0.weight"):
        state[key] = state[key][..., None, None]  # a 1x1 convolution
    return model, state


def test_weights_of_the_released_rgnn_find_their_places(tmp_path: Path):
    donor, state = published_rgnn()
    torch.save({"net": state}, tmp_path / "rgnn.pth")
    model = Rgnn(small_config(bottleneck_layers=2))
    report = initialise(model, tmp_path / "rgnn.pth")
    assert (report.layout, report.loaded) == ("RGNN", len(state))
    assert report.missing == report.unexpected == report.reshaped == []
    assert all(torch.equal(a, b) for a, b in zip(donor.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_detector_takes_its_part_of_the_released_rgnn(tmp_path: Path):
    donor, state = published_rgnn()
    torch.save({"net": state}, tmp_path / "rgnn.pth")
    report = initialise(Yolact(small_config().detector), tmp_path / "rgnn.pth")
    assert (report.layout, report.loaded, report.unexpected) == ("RGNN", len(donor.detector.state_dict()), [])


def test_the_initial_variances_are_the_only_gap_that_a_graph_network_may_have(tmp_path: Path):
    _, state = published_rgnn()
    old = {key: value for key, value in state.items() if "init_var" not in key}
    torch.save(old, tmp_path / "rgnn.pth")
    assert len(initialise(Rgnn(small_config(bottleneck_layers=2)), tmp_path / "rgnn.pth").missing) == 2
    lost = "track_descriptor.out_layers.lbscores.bias"
    torch.save({key: value for key, value in old.items() if key != lost}, tmp_path / "rgnn.pth")
    with pytest.raises(BadConfig, match=r"other switches.*1 not in it, such as class_head\.bias"):
        initialise(Rgnn(small_config(bottleneck_layers=2)), tmp_path / "rgnn.pth")


@pytest.mark.parametrize(
    ("switches", "named"),
    [
        ({}, r"bottleneck_layers=2, this model has bottleneck_layers=3"),
        ({"bottleneck_layers": 2, "gnn_blocks": 3}, r"gnn_blocks=2, this model has gnn_blocks=3"),
        ({"gnn": "limited"}, r"gnn=full, this model has gnn=limited"),
    ],
)
def test_weights_of_an_rgnn_of_other_switches_are_refused_with_the_ones_to_set(tmp_path: Path, switches, named):
    torch.save({"net": published_rgnn()[1]}, tmp_path / "rgnn.pth")
    with pytest.raises(BadConfig, match=named + r"\. Build the model with .*RgnnConfig\.released\(\)"):
        initialise(Rgnn(small_config(**switches)), tmp_path / "rgnn.pth")


@pytest.mark.parametrize(
    "switches",
    [
        {"gating": "simple"}, {"gating": "none"}, {"node_update": "mlp"}, {"appearance": "lstm"},
        {"appearance": "embedding"}, {"appearance": "none"}, {"appearance_channels": 16},
    ],
    ids=str,
)  # fmt: skip
def test_no_graph_network_is_taken_in_part(tmp_path: Path, switches):
    save_file(Rgnn(small_config()).state_dict(), tmp_path / "model.safetensors")
    model = Rgnn(small_config(**switches))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(BadConfig, match=r"is an RGNN of other switches, classes or sizes"):
        initialise(model, tmp_path / "model.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


CLASSES = card().classes


def changed(**detector) -> RgnnConfig:
    config = small_config()
    return config.model_copy(update={"detector": config.detector.model_copy(update=detector)})


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (changed(prior_denominator=100.0), r"detector\.prior_denominator 78\.\d+, this run 100"),
        (changed(image_size=(64, 64)), r"detector\.image_size"),
        (changed(channels=16), r"detector\.channels 32, this run 16"),
        (small_config(association="masktrack"), "config has association gnn, this run masktrack"),
        (small_config(scoring="majority"), "config has scoring learned, this run majority"),
    ],
)
def test_a_model_to_start_from_of_another_config_is_refused_with_the_field(
    folder: Path, config: RgnnConfig, field: str
):
    with pytest.raises(BadConfig, match=field):
        initialise(Rgnn(config), folder, CLASSES)


def test_dropout_and_the_weights_of_the_loss_may_differ_and_a_folder_stands_for_its_weights(folder: Path):
    report = initialise(Rgnn(changed(dropout=0.3, mask_weight=1.0)), folder, CLASSES)
    assert report.missing == report.unexpected == report.reshaped == []
    assert take_detector(Yolact(changed(dropout=0.3).detector), folder, CLASSES).missing == []


@pytest.mark.parametrize("names", [["class 1", "class 0", "class 2"], ["class 0", "class 1", "owl"], ["class 0"]])
def test_a_model_of_other_classes_is_refused_even_if_there_are_as_many(folder: Path, names: list[str]):
    classes = tuple(Category(id=n, name=name) for n, name in enumerate(names))
    with pytest.raises(BadConfig, match=r"its classes are another (order|list): 3 for \d"):
        take_detector(Yolact(small_config().detector), folder, classes)


def test_a_graph_network_that_knows_other_classes_is_refused(folder: Path):
    classes = tuple(Category(id=n, name=name) for n, name in enumerate(["class 1", "class 0", "class 2"]))
    with pytest.raises(BadConfig, match=r"is an RGNN of other switches, classes .* of other classes, such as "):
        initialise(Rgnn(small_config()), folder, classes)


def test_a_model_of_another_kind_is_called_so(folder: Path):
    of_queries = build("idol", {"backbone": {"depth": 18, "width": 16}, "queries": 4, "encoder_layers": 1})
    with pytest.raises(BadConfig, match=r"is a model of another kind, rgnn: take one of this kind"):
        initialise(of_queries, folder, CLASSES)


def test_a_detector_with_a_gap_is_refused(folder: Path):
    state = load_file(folder / "model.safetensors")
    del state["detector.head.bbox_layer.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BadConfig, match=r"1 of ours not in it.*head\.bbox_layer\.bias"):
        take_detector(Yolact(small_config().detector), folder, CLASSES)


class Foreign:
    """Of a model that somebody pickled whole."""

    def __repr__(self) -> str:
        return "a foreign object"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty, expected a checkpoint of tensors: copy or download it again"),
        (b"epoch,loss\n1,0.3\n", "is text, expected a checkpoint"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page.*the download was refused"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "is a pointer of Git LFS.*git lfs pull"),
        (b"\xff\xd8\xff\xe0 and so on", "is a picture or film"),
        ([torch.zeros(2)], "holds a list, expected a dictionary of tensors by name"),
        ({"epoch": 3}, "holds no tensors, only epoch"),
        ({"model": Foreign()}, r"pickled with code \(.*Foreign\), which is never run here.*state_dict"),
    ],
    ids=str,
)
def test_every_file_that_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, content, said: str):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(BadConfig, match=said):
        read_tensors(path)


def test_a_checkpoint_that_is_cut_off_is_said_to_be(tmp_path: Path):
    for name, save in (("a.pth", torch.save), ("a.safetensors", save_file)):
        save({"weight": torch.zeros(1000)}, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:2000])
        with pytest.raises(BadConfig, match="It may be cut off"):
            read_tensors(tmp_path / name)


def test_a_folder_without_weights_is_named(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"is a folder without model\.safetensors"):
        read_tensors(tmp_path)


def test_a_whole_model_starts_from_the_weights_of_another(tmp_path: Path):
    donor, model = Rgnn(small_config()), Rgnn(small_config())
    save_model(tmp_path, donor, card())
    report = initialise(model, tmp_path / "model.safetensors")
    assert (report.layout, report.missing, report.unexpected, report.reshaped) == ("vislake", [], [], [])
    assert torch.equal(model.match_head.weight, donor.match_head.weight)


def test_weights_saved_before_the_initial_variances_take_those_of_the_config():
    old = {key: value for key, value in Rgnn(small_config()).state_dict().items() if "initial_variance" not in key}
    model = Rgnn(small_config(initial_variance_logit=-3.0))
    model.load_state_dict(old)
    assert (model.empty_initial_variance_logit == -3).all()


def test_a_file_of_unknown_keys_is_refused_with_some_of_them(tmp_path: Path):
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(BadConfig, match=r"unknown layout, keys such as encoder.weight"):
        initialise(Yolact(small_config().detector), tmp_path / "other.pth")


def test_a_missing_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(BadConfig, match="no checkpoint at"):
        initialise(Yolact(small_config().detector), tmp_path / "none.pth")


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path(self.target),))


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_never_runs(tmp_path: Path):
    trap = Trap()
    trap.target = str(tmp_path / "ran")
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump({"layer1.0.conv1.weight": trap}, file)
    with pytest.raises(
        BadConfig, match=r"cannot be read as a checkpoint of tensors: .*code.* is never run here. Save .*"
    ):
        initialise(Yolact(small_config().detector), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_of_arrays_is_read_as_tensors(tmp_path: Path):
    content = {"model": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "__author__": "somebody"}
    for protocol in (2, 4):
        (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, protocol))
        assert read_tensors(tmp_path / "zoo.pkl")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


class Harm:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_code_in_a_pickle_of_arrays_is_not_run(tmp_path: Path):
    content = {"model": {"w": np.zeros(3), "x": Harm(tmp_path / "ran")}}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(BadConfig, match=r"cannot be read as a checkpoint of tensors"):
        read_tensors(tmp_path / "zoo.pkl")
    assert not (tmp_path / "ran").exists()
