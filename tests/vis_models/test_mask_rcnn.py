"""Mask R-CNN and its layers: against slow loops, hand-made cases, and the shapes of published files."""

from collections.abc import Callable
from math import ceil, floor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.layouts import detectron2_shapes, mask_rcnn_shapes, masktrack_shapes
from vis_models.checkpoints import initialise
from vis_models.config import BadConfig
from vis_models.layers import anchors, rpn
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.layers.backbones import ResNet
from vis_models.layers.box_nms import nms_in_groups
from vis_models.layers.paste_masks import paste
from vis_models.layers.roi_align import align_own, pyramid_level, roi_align
from vis_models.mask_rcnn import layouts
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.mask_rcnn.model import MaskRcnn
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.masktrack_rcnn.model import MaskTrackRcnn
from vis_models.types import Frames, VideoInfo

pytestmark = pytest.mark.unit


# ---- RoIAlign --------------------------------------------------------------------------------------------------


def bilinear(image: Tensor, y: float, x: float) -> float:
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = floor(y), floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
    bottom = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
    return float(top * (1 - (y - y0)) + bottom * (y - y0))


def slow(image: Tensor, box: list[float], stride: float, cells: int, alignment: str, samples: int | None) -> Tensor:
    """One map, one box, one sample after the other."""
    x0, y0, x1, y1 = box
    if alignment == "plus_one":
        x1, y1 = x1 + 1, y1 + 1
    x0, y0, x1, y1 = (value / stride for value in (x0, y0, x1, y1))
    least = {"legacy": 1.0, "plus_one": 0.0, "aligned": -float("inf")}[alignment]
    wide, tall = max(x1 - x0, least), max(y1 - y0, least)
    if alignment == "aligned":
        x0, y0 = x0 - 0.5, y0 - 0.5
    across, down = (samples or max(ceil(side / cells), 0) for side in (wide, tall))
    out = torch.zeros(cells, cells)
    for row in range(cells):
        for column in range(cells):
            values = [
                bilinear(image, y0 + (row + (i + 0.5) / down) * tall / cells, x0 + (column + (j + 0.5) / across) * wide
                         / cells)
                for i in range(down) for j in range(across)
            ]  # fmt: skip
            out[row, column] = sum(values) / max(len(values), 1)
    return out


@pytest.mark.parametrize("alignment", ["legacy", "aligned", "plus_one"])
@pytest.mark.parametrize("samples", [1, 2, 3, None])
def test_features_under_boxes_are_those_of_a_slow_loop(alignment: str, samples: int | None):
    torch.manual_seed(3)
    levels = [torch.randn(2, 1, 9, 12), torch.randn(2, 1, 5, 6)]
    inside = torch.rand(6, 4) * 20
    inside[:, 2:] += inside[:, :2]
    odd = [[0, 0, 48, 36], [10, 10, 10, 10], [-30, -20, -5, -4], [-8, -6, 20, 50], [40, 30, 90, 80], [7, 3, 7.5, 30],
           [60, 60, 70, 70], [47, 35, 48, 36]]  # fmt: skip
    boxes = torch.cat([inside, torch.tensor(odd)])
    frame, level = torch.arange(len(boxes)) % 2, (torch.arange(len(boxes)) // 2) % 2
    found = roi_align(levels, boxes, frame, level, [4.0, 8.0], 3, alignment, samples)  # type: ignore[arg-type]
    for box, f, k, ours in zip(boxes.tolist(), frame.tolist(), level.tolist(), found[:, 0], strict=True):
        expected = slow(levels[k][f, 0], box, (4.0, 8.0)[k], 3, alignment, samples)
        assert torch.allclose(ours, expected, atol=1e-5), box


def test_no_boxes_give_no_features():
    nothing = torch.zeros(0, dtype=torch.long)
    assert roi_align([torch.rand(1, 5, 4, 4)], torch.zeros(0, 4), nothing, nothing, [4.0], 7).shape == (0, 5, 7, 7)


def test_a_mask_within_its_own_box_is_the_share_that_it_covers():
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:6, 2:4] = 1
    share = align_own(mask, torch.tensor([[2.0, 2.0, 6.0, 6.0]]), 2, "aligned")
    assert share[0].tolist() == [[pytest.approx(1.0), pytest.approx(0.0)]] * 2


def test_larger_boxes_are_taken_from_coarser_levels():
    sides = torch.tensor([10.0, 111, 112, 223, 224, 900])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], 1)
    assert pyramid_level(boxes, 4, 56.0, plus_one=False).tolist() == [0, 0, 1, 1, 2, 3]


# ---- anchors and proposals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("plus_one", [False, True])
def test_a_box_that_is_told_and_read_back_is_the_same(plus_one: bool):
    torch.manual_seed(1)
    boxes, own = (torch.rand(2, 50, 4) * 50).unbind(0)
    boxes[:, 2:] += boxes[:, :2] + 1
    own[:, 2:] += own[:, :2] + 1
    told = anchors.encode(boxes, own, (10.0, 10.0, 5.0, 5.0), plus_one)
    assert torch.allclose(anchors.decode(told, own, (10.0, 10.0, 5.0, 5.0), plus_one), boxes, atol=1e-3)


def test_an_anchor_stands_at_every_place_for_every_ratio():
    found = anchors.anchors((2, 3), (8, 8), 16.0, (1.0, 4.0))
    assert found.shape == (12, 4)
    assert found[0].tolist() == [-8, -8, 8, 8]
    assert found[1].tolist() == [-4, -16, 4, 16]
    assert found[2].tolist() == [0, -8, 16, 8]
    assert found[6].tolist() == [-8, 0, 8, 16]
    older = anchors.anchors((1, 1), (4, 4), 32.0, (1.0,), plus_one=True)
    assert older.tolist() == [[-14, -14, 17, 17]]  # 32 pixels, the last one inside


BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 30], [40, 40, 50, 50], [80, 80, 90, 90]])


def test_a_box_is_an_object_by_overlap_and_the_best_of_an_object_always():
    truth = torch.tensor([[0.0, 0, 10, 10], [40, 40, 80, 80]])
    matched, state = rpn.assign(BOXES, truth, torch.zeros(0, 4), 0.7, 0.3, best_too=True)
    assert state.tolist() == [1, 1, -1, 1, 0]  # overlaps of 1, 10/12, 1/3, 1/16 (its object's best) and none
    assert matched[[0, 1, 3]].tolist() == [0, 0, 1]
    _, without = rpn.assign(BOXES, truth, torch.zeros(0, 4), 0.7, 0.3, best_too=False)
    assert without.tolist() == [1, 1, -1, 0, 0]


def test_what_lies_in_a_crowd_is_no_negative():
    crowd = torch.tensor([[30.0, 30, 100, 60]])
    _, state = rpn.assign(BOXES, torch.zeros(0, 4), crowd, 0.7, 0.3, best_too=True)
    assert state.tolist() == [0, 0, 0, -1, 0]


def test_of_many_anchors_a_few_are_drawn_at_most_so_many_of_them_positive():
    state = torch.tensor([1] * 10 + [0] * 50 + [-1] * 40)
    chosen = rpn.sample(state, 16, 0.25)
    assert (int(chosen[:10].sum()), int(chosen[10:60].sum()), int(chosen[60:].sum())) == (4, 12, 0)
    few = rpn.sample(torch.tensor([1, 0, -1]), 16, 0.25)
    assert few.tolist() == [True, True, False]


def test_proposals_are_the_best_that_no_better_one_of_their_level_covers():
    own = [torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40], [-20, 5, -5, 9]]),
           torch.tensor([[0.0, 0, 10, 10]])]  # fmt: skip
    logits = [torch.tensor([[2.0, 3.0, 1.0, 9.0]]), torch.tensor([[2.5]])]
    found = rpn.Regions(logits, [torch.zeros(1, 4, 4), torch.zeros(1, 1, 4)], own)
    (proposals,) = rpn.propose(found, torch.tensor([[35, 50]]), per_level=4, most=10, nms_iou=0.7)
    assert proposals.tolist() == [[1, 0, 11, 10], [0, 0, 10, 10], [30, 30, 40, 35]]  # the last anchor has no pixel
    (first,) = rpn.propose(found, torch.tensor([[35, 50]]), per_level=4, most=1, nms_iou=0.7)
    assert first.tolist() == [[1, 0, 11, 10]]


def test_only_boxes_of_one_group_suppress_each_other():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 4)
    scores, groups = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([0, 1, 0])
    assert nms_in_groups(boxes, scores, groups, 0.5, plus_one=False).tolist() == [1, 2]


# ---- masks -----------------------------------------------------------------------------------------------------


PLACES = torch.tensor([[10.0, 5, 30, 25], [-10, -10, 10, 10], [90, 40, 130, 80], [200, 200, 220, 220]])


@pytest.mark.parametrize("pasting", ["exact", "whole_pixels"])
def test_a_mask_fills_its_box_wherever_that_lies(pasting: str):
    masks = paste(torch.ones(4, 28, 28), PLACES, (50, 100), pasting)
    assert masks.whole().shape == (4, 50, 100)
    last = int(pasting == "whole_pixels")  # which then belongs to the box
    for mask, (x0, y0, x1, y1) in zip(masks.whole(), PLACES.int().tolist(), strict=True):
        expected = torch.zeros(50, 100, dtype=torch.bool)
        expected[max(y0, 0) : max(y1 + last, 0), max(x0, 0) : max(x1 + last, 0)] = True
        outline = 2 * int(expected.any(0).sum() + expected.any(1).sum())
        assert int((mask ^ expected).sum()) <= (outline if last else 0)
    assert all(part.numel() <= 25 * 25 for part in masks.parts)  # never the frame


def test_a_mask_that_is_pasted_exactly_is_what_was_cut_out_of_the_frame():
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    disc = ((rows + 0.5 - 31.2) ** 2 + (columns + 0.5 - 40.7) ** 2) < 17.0**2
    box = torch.tensor([[columns[disc].min(), rows[disc].min(), columns[disc].max() + 1, rows[disc].max() + 1]])
    within = align_own(disc[None].float(), box, 112, "aligned")
    again = paste(within, box, (60, 80)).whole()[0]
    assert int((again ^ disc).sum()) <= 0.01 * int(disc.sum())


# ---- frames and published files ------------------------------------------------------------------------------------


def small(**changes) -> MaskRcnnConfig:
    base = {"backbone": ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1)), "channels": 16, "box_width": 16}
    return MaskRcnnConfig.model_validate(base | {"mask_convs": 1, "min_score": 0.0} | changes)


def test_frames_keep_their_aspect_within_the_sides_that_are_given():
    model = MaskRcnn(small())
    assert model.frame_size(VideoInfo("wide", 720, 1280)) == (360, 640)
    assert model.frame_size(VideoInfo("very wide", 300, 1200)) == (160, 640)
    assert model.frame_size(VideoInfo("tall", 1280, 720)) == (640, 360)
    assert MaskRcnn(small(image_size=(96, 160))).frame_size(VideoInfo("any", 10, 20)) == (96, 160)


def test_detections_are_in_slots_best_first_and_their_masks_at_the_size_of_the_video():
    torch.manual_seed(0)
    model = MaskRcnn(small(num_classes=3, detections=4)).eval()
    encoded = model.encode(Frames(torch.randint(0, 255, (2, 3, 70, 90), dtype=torch.uint8)))
    assert encoded.boxes_px.shape == (2, 4, 4)
    assert encoded.class_scores.shape == (2, 4, 3)
    assert bool((encoded.scores.diff() <= 0).all())
    assert encoded.frame_px.tolist() == [[70, 90]] * 2
    assert float(encoded.boxes_px[..., 2].max()) <= 90
    assert model.masks_of(encoded, 1, [2, 0], (140, 200)).whole().shape == (2, 140, 200)


def write(shapes: dict[str, tuple[int, ...]], path: Path) -> Path:
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, path)  # a file of no size
    return path


LAYOUTS: dict[str, tuple[Callable[[], torch.nn.Module], dict]] = {
    "torchvision Mask R-CNN v1": (lambda: MaskRcnn(MaskRcnnConfig.torchvision(1)), mask_rcnn_shapes(1)),
    "torchvision Mask R-CNN v1, of 2019": (lambda: MaskRcnn(MaskRcnnConfig.torchvision(1)), mask_rcnn_shapes(1, True)),
    "torchvision Mask R-CNN v2": (lambda: MaskRcnn(MaskRcnnConfig.torchvision(2)), mask_rcnn_shapes(2)),
    "detectron2 Mask R-CNN": (lambda: MaskRcnn(MaskRcnnConfig.detectron2()), detectron2_shapes()),
    "original MaskTrack R-CNN": (lambda: MaskTrackRcnn(MaskTrackConfig.released("original")), masktrack_shapes(False)),
    "mmtracking MaskTrack R-CNN": (
        lambda: MaskTrackRcnn(MaskTrackConfig.released("mmtracking")),
        masktrack_shapes(True),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_file_loads_without_a_missing_or_a_left_over_key(layout: str, tmp_path: Path):
    make, shapes = LAYOUTS[layout]
    shapes = {key: shape for key, shape in shapes.items() if "2019" not in layout or "num_batches" not in key}
    with torch.device("meta"):
        shape_of = make()
    report = initialise(shape_of.to_empty(device="cpu"), write(shapes, tmp_path / "published.pth"))
    assert report.layout == layout.removesuffix(", of 2019")
    assert report.loaded == sum(not key.startswith(layouts.CONSTANTS) for key in shapes)
    assert report.missing == report.unexpected == report.reshaped == []


def test_background_that_a_file_counts_last_comes_first(tmp_path: Path):
    shapes = masktrack_shapes(mmtracking=True)
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    state["detector.roi_head.bbox_head.fc_cls.bias"] = torch.arange(41.0)
    state["detector.roi_head.bbox_head.fc_reg.bias"] = torch.arange(160.0)
    torch.save(state, tmp_path / "mmtracking.pth")
    model = MaskTrackRcnn(MaskTrackConfig.released("mmtracking"))
    initialise(model, tmp_path / "mmtracking.pth")
    assert model.detector.box_predictor.cls_score.bias.tolist() == [40, *range(40)]
    assert model.detector.box_predictor.bbox_pred.bias.tolist() == [0, 0, 0, 0, *range(160)]


def test_a_net_that_saw_blue_first_sees_red_first_and_the_same(tmp_path: Path):
    state = {key: torch.zeros(()).expand(shape) for key, shape in detectron2_shapes().items()}
    stem = torch.randn(64, 3, 7, 7)
    torch.save(state | {"backbone.bottom_up.stem.conv1.weight": stem}, tmp_path / "zoo.pth")
    model = MaskRcnn(MaskRcnnConfig.detectron2())
    initialise(model, tmp_path / "zoo.pth")
    frame = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8)
    theirs = F.conv2d(frame.flip(1) - torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1), stem, stride=2, padding=3)
    ours = model.backbone.conv1(model.normalised(frame, torch.tensor([[32, 32]])))
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_the_first_convolution_of_a_block_has_the_stride_where_that_is_said():
    blocks = [ResNet(ResNetConfig(width=8, stride_first=first)).layer2[0] for first in (True, False)]
    assert [(block.conv1.stride, block.conv2.stride) for block in blocks] == [((2, 2), (1, 1)), ((1, 1), (2, 2))]
    assert blocks[0](torch.zeros(1, 32, 8, 8)).shape == (1, 64, 4, 4)


def test_an_unknown_file_is_refused_with_the_layouts_that_are_known(tmp_path: Path):
    path = write({"encoder.weight": (2, 2)}, tmp_path / "other.pth")
    with pytest.raises(BadConfig, match=r"unknown layout, keys such as encoder.weight. Known: torchvision Mask R-CNN"):
        initialise(MaskRcnn(small()), path)
    shapes = mask_rcnn_shapes(1)
    shapes["roi_heads.box_predictor.cls_score.weight"] = (21, 1024)
    report = initialise(MaskRcnn(MaskRcnnConfig.torchvision(1)), write(shapes, tmp_path / "voc.pth"))
    assert report.reshaped == ["box_predictor.cls_score.weight"]


def test_a_pyramid_with_fewer_anchors_than_levels_is_refused():
    with pytest.raises(ValueError, match=r"anchor_px has 2 sides, the pyramid 5 levels \(from C2, and 1 extra\)"):
        MaskRcnnConfig(anchor_px=(8.0, 16.0))
