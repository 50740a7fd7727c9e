"""Published checkpoints that IDOL is or starts from, by the keys and shapes of their descriptions."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from tests.parity.layouts import (
    Shapes,
    deformable_detr_shapes,
    idol_shapes,
    idol_swin_shapes,
    resnet_shapes,
    swin_shapes,
)
from vis_models.checkpoints import COUNTER, ModelCard, initialise, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.idol import layouts
from vis_models.idol.config import IdolConfig
from vis_models.idol.model import Idol
from vis_models.idol.network import IdolNetwork
from vis_models.layers.backbone_config import ResNetConfig, SwinConfig
from vis_models.published import recognise

pytestmark = pytest.mark.unit

SWIN_L = (192, (2, 2, 18, 2), (6, 12, 24, 48), 12)
WHOLE = {"r50": idol_shapes(50), "r101": idol_shapes(101), "swin_l": idol_swin_shapes(*SWIN_L)}
TINY = (8, (1, 2, 1, 1), (1, 2, 2, 2), 3)


def tiny(window: int = 3) -> SwinConfig:
    width, blocks, heads, _ = TINY
    return SwinConfig.model_validate({"width": width, "blocks": blocks, "heads": heads, "window": window})


def without_memory(config: IdolConfig) -> IdolNetwork:
    """Names and shapes of a network."""
    with torch.device("meta"):
        return IdolNetwork(config)


def write(shapes: Shapes, path: Path) -> Path:
    state = {key: torch.full((), 0.5).expand(shape) for key, shape in shapes.items()}  # a file of no size
    torch.save({"model": state, "iteration": 3}, path)
    return path


@pytest.mark.parametrize("backbone", WHOLE)
def test_every_tensor_of_the_authors_idol_has_its_place_and_every_place_its_tensor(backbone: str):
    network = without_memory(IdolConfig.released(backbone))  # type: ignore[arg-type]
    state = {key: torch.empty(shape, device="meta") for key, shape in WHOLE[backbone].items()}
    layout, tensors = network.from_published(state) or ("", {})
    assert layout == "IDOL"
    ours = {key: tensor.shape for key, tensor in network.state_dict().items() if not key.endswith(COUNTER)}
    assert {key: tensor.shape for key, tensor in tensors.items()} == ours


def test_the_tensors_of_the_authors_idol_tell_which_network_it_is(tmp_path: Path):
    found = recognise(write(idol_shapes(101, classes=25, queries=50), tmp_path / "ovis.pth"))
    assert (found.layout, found.model) == ("IDOL", "idol")
    expected = {"queries": 50, "backbone": ResNetConfig(depth=101)}
    assert found.config == IdolConfig.released("r101", "ovis").model_copy(update=expected)
    swin = recognise(write(idol_swin_shapes(*TINY), tmp_path / "swin.pth")).config.backbone
    assert swin == tiny()


def test_a_tensor_of_another_shape_or_missing_is_named(tmp_path: Path):
    shapes = idol_shapes(50) | {"detr.mask_head.dcn.weight": (256, 256, 1, 1)}
    del shapes["detr.controller.layers.1.bias"]
    report = initialise(IdolNetwork(IdolConfig.released()), write(shapes, tmp_path / "odd.pth"))
    assert report.reshaped == ["mask_head.dcn.weight"]
    assert report.missing == ["controller.layers.1.bias"]
    assert report.unexpected == []


def test_weights_of_other_classes_start_a_network_whose_class_heads_begin_anew(tmp_path: Path):
    network = IdolNetwork(IdolConfig(num_classes=3))
    fresh = network.class_embed[2].weight.clone()
    report = initialise(network, write(idol_shapes(50, classes=80), tmp_path / "coco.pth"))
    assert report.missing == report.unexpected == []
    assert report.reshaped == [f"class_embed.{layer}.{leaf}" for layer in range(6) for leaf in ("weight", "bias")]
    assert torch.equal(network.class_embed[2].weight, fresh)
    assert (network.reid_embed_head.layers[0].weight == 0.5).all()
    assert (network.backbone.bn1.running_mean == 0.5).all()


def test_weights_of_other_queries_or_layers_are_refused_with_both_numbers(tmp_path: Path):
    path = write(idol_shapes(50, queries=100), tmp_path / "fewer.pth")
    with pytest.raises(BadConfig, match=r"fewer.pth: the IDOL has queries 100, this model 300.*config.queries=100"):
        initialise(without_memory(IdolConfig()), path)
    with pytest.raises(BadConfig, match=r"has .*decoder_layers 6.*this model .*config.decoder_layers=6"):
        initialise(without_memory(IdolConfig(decoder_layers=5)), path)
    with pytest.raises(BadConfig, match=r"has points 4, this model 2"):
        initialise(without_memory(IdolConfig(points=2, queries=100)), path)


def test_deformable_detr_starts_all_but_classes_masks_and_embeddings(tmp_path: Path):
    network = IdolNetwork(IdolConfig())
    path = write(deformable_detr_shapes(), tmp_path / "r50_deformable_detr.pth")
    report = initialise(network, path)
    assert report.layout == "Deformable DETR"
    assert report.unexpected == []
    assert {key.split(".")[0] for key in report.missing} == {"mask_head", "controller", "reid_embed_head"}
    assert {key.split(".")[0] for key in report.reshaped} == {"class_embed"}
    assert "12 of another shape" in str(report)
    assert (network.query_embed.weight == 0.5).all()
    with pytest.raises(BadConfig, match="holds a Deformable DETR, which finds boxes and no masks"):
        recognise(path)


def test_backbones_trained_on_pictures_start_the_backbone_alone(tmp_path: Path):
    picture = write(swin_shapes(*TINY, of_pictures=True), tmp_path / "swin.pth")
    network = IdolNetwork(IdolConfig(backbone=tiny()))
    report = initialise(network, picture)
    assert (report.layout, report.unexpected, report.reshaped) == ("Swin", [], [])
    lacking = {key for key in report.missing if key.startswith("backbone.")}
    assert lacking == {f"backbone.norm{stage}.{leaf}" for stage in range(4) for leaf in ("weight", "bias")}
    with pytest.raises(BadConfig, match="holds a Swin, a backbone, expected a whole detector"):
        recognise(picture)
    resnet = write(resnet_shapes(50), tmp_path / "resnet50.pth")
    report = initialise(IdolNetwork(IdolConfig()), resnet)
    assert (report.layout, report.unexpected, report.reshaped) == ("torchvision ResNet", [], [])
    assert not [key for key in report.missing if key.startswith("backbone.")]


def test_a_whole_model_starts_from_a_published_file_or_from_a_folder_of_the_same_network(tmp_path: Path):
    config = IdolConfig(num_classes=2, backbone=tiny(), queries=4, channels=32, heads=4, norm_groups=4, hidden=8)
    file = write(swin_shapes(*TINY, of_pictures=True), tmp_path / "swin.pth")
    model = Idol(config)
    assert initialise(model, file).unexpected == []
    assert (model.network.backbone.layers[1].blocks[1].attn.qkv.weight == 0.5).all()
    classes = (Category(id=1, name="cat"), Category(id=2, name="dog"))
    card = ModelCard(name="net", model="idol", config=config.model_dump(mode="json"), classes=classes,
                     created_at=datetime(2026, 1, 1, tzinfo=UTC))  # fmt: skip
    save_model(tmp_path / "net", model, card)
    again = Idol(config)
    report = initialise(again, tmp_path / "net", classes)
    assert report.missing == report.unexpected == report.reshaped == []
    assert torch.equal(again.network.query_embed.weight, model.network.query_embed.weight)
    for field, value in (("queries", 5), ("heads", 2)):
        with pytest.raises(BadConfig, match=f"its config has {field} 4, this run {value}"):
            initialise(Idol(config.model_copy(update={field: value})), tmp_path / "net", classes)


def test_a_backbone_of_another_window_depth_or_kind_is_refused_by_name(tmp_path: Path):
    picture = write(swin_shapes(*TINY, of_pictures=True), tmp_path / "swin.pth")
    with pytest.raises(BadConfig, match=r"the Swin has backbone.window 3, this model 4.*config.backbone.window=3"):
        initialise(without_memory(IdolConfig(backbone=tiny(window=4))), picture)
    with pytest.raises(BadConfig, match="its backbone is a Swin transformer, this model has a residual network"):
        initialise(without_memory(IdolConfig()), picture)
    resnet = write(resnet_shapes(50), tmp_path / "resnet50.pth")
    with pytest.raises(BadConfig, match=r"the torchvision ResNet has backbone.depth 50, this model 18"):
        initialise(without_memory(IdolConfig(backbone=ResNetConfig(depth=18))), resnet)


def test_weights_with_numbers_that_are_none_are_refused_with_the_tensor(tmp_path: Path):
    state = {key: torch.zeros(()).expand(shape) for key, shape in idol_shapes(50).items()}
    state["detr.detr.class_embed.3.bias"] = torch.full((40,), float("nan"))
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(BadConfig, match=r"1 of \d+ tensors hold numbers that are none, such as .*class_embed.3.bias"):
        recognise(tmp_path / "broken.pth")


def test_what_is_of_no_known_layout_is_refused_with_those_that_are(tmp_path: Path):
    path = write({"encoder.weight": (2, 2)}, tmp_path / "other.pth")
    with pytest.raises(BadConfig, match=r"unknown layout, keys such as encoder.weight. Known: IDOL"):
        initialise(without_memory(IdolConfig(backbone=tiny())), path)
    assert layouts.renamed({"encoder.weight": torch.zeros(1)}) is None
