"""From a published checkpoint to a model folder: its tensors tell which network it is, and with which settings it ran.

Nothing is trained, and nothing is guessed: a network of which a tensor is missing, left over or of another shape is
refused, unless that is asked for. Layouts are those of the `layouts.py` of the models.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from vis_models.cards import ModelCard
from vis_models.checkpoints import COUNTER, LoadReport, build, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.data.class_lists import NAMES, class_list
from vis_models.data.json_entries import load_json
from vis_models.idol import layouts as idol_layouts
from vis_models.idol.config import IdolConfig
from vis_models.layers.backbone_layouts import told_resnet
from vis_models.mask_rcnn import layouts
from vis_models.mask_rcnn.config import MaskRcnnConfig, MaskRcnnDetectorConfig
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.rgnn import layouts as rgnn_layouts
from vis_models.rgnn.config import RgnnConfig
from vis_models.tensor_files import read_tensors
from vis_models.trackers.config import LinkedConfig
from vis_models.yolact.config import YolactConfig, YolactDetectorConfig

KNOWN = (
    "torchvision Mask R-CNN (v1, v2), mmdetection and detectron2 Mask R-CNN, MaskTrack R-CNN (original, mmtracking), "
    "YOLACT, RGNN and IDOL as their authors released them"
)
MASKTRACK = ("original MaskTrack R-CNN", "mmtracking MaskTrack R-CNN")
"""Layouts of Mask R-CNN that bring a tracker."""
OVIS_CLASSES = 25
"""By which weights for OVIS are known, whose authors test on larger frames."""


class Network(NamedTuple):
    """What a checkpoint holds."""

    layout: str
    model: str
    """In the zoo."""
    config: Any
    tensors: dict[str, Tensor]
    """Under our names."""


def import_weights(
    path: Path,
    target: Path,
    classes: str,
    *,
    name: str,
    tracker: str | None = None,
    partly: bool = False,
    **more: str,
) -> tuple[ModelCard, LoadReport]:
    """Write the model folder `target` from a checkpoint.

    Args:
        classes: what the network was trained on: a name of `class_lists.NAMES`, a JSON with `categories`, or a text
            file with a name a line.
        tracker: of rules, in the place of the one that the checkpoint brings; needed where it brings none.
        partly: keep fresh weights for what does not fit.
        more: fields of the card.

    Raises:
        BadConfig: an unknown layout, a backbone alone, a list of another length, or tensors that do not fit.
    """
    found = recognise(path, tracker)
    listed = categories(classes, found.config.classes)
    model = build(found.model, found.config.model_dump(mode="json"))
    ours = model.state_dict()
    fitting = {key: value for key, value in found.tensors.items() if key in ours and ours[key].shape == value.shape}
    report = LoadReport(
        found.layout,
        loaded=len(fitting),
        missing=[key for key in ours if key not in found.tensors and not key.endswith(COUNTER)],
        unexpected=[key for key in found.tensors if key not in ours],
        reshaped=[key for key in found.tensors if key in ours and key not in fitting],
    )
    odd = {"missing": report.missing, "left over": report.unexpected, "of another shape": report.reshaped}
    if any(odd.values()) and not partly:
        what = "; ".join(f"{len(keys)} {why}, such as {keys[0]}" for why, keys in odd.items() if keys)
        raise BadConfig(
            f"{path} is no whole {found.layout}: {what}. Bring the whole file, or take what there is: --partly"
        )
    model.load_state_dict(fitting, strict=False)
    config = found.config.model_dump(mode="json")
    given = {"data": f"published, {found.layout}", "created_at": datetime.now(UTC)} | more
    card = ModelCard(name=name, model=found.model, config=config, classes=listed, **given)
    return save_model(target, model, card), report


def recognise(path: Path, tracker: str | None = None) -> Network:
    """Which network a checkpoint is. Raises BadConfig: none that is known, or one that needs a tracker."""
    state = read_tensors(path)
    layout, tensors = layouts.renamed(state) or (None, {})
    of_idol, named = idol_layouts.renamed(state) or (None, {})
    if layout is not None and "ResNet" not in layout:
        network = _mask_rcnn(layout, tensors)
    elif of_idol == "IDOL":
        network = _idol(path, named)
    elif of_idol in idol_layouts.BEGINNINGS:
        raise BadConfig(f"{path} holds a {of_idol}, {idol_layouts.BEGINNINGS[of_idol]}: vis train --init")
    else:
        layout, tensors = rgnn_layouts.renamed(state) or (None, {})
        if layout not in ("YOLACT", "RGNN"):
            kind = f"holds a {layout}" if layout else f"is of no known layout (keys such as {sorted(state)[0]})"
            hint = "a backbone starts a training: vis train --init" if layout else f"known are {KNOWN}"
            raise BadConfig(f"{path} {kind}, expected a whole detector; {hint}")
        network = _yolact(layout, tensors)
    if tracker is None:
        if network.model == "linked":
            raise BadConfig(f"{path} is a {network.layout}, which finds objects and links none: name a --tracker")
        return network
    if not hasattr(network.config, "as_detector"):
        raise BadConfig(
            f"{path} is an {network.layout}, whose detector no other tracker can take: leave --tracker {tracker} out"
        )
    config = LinkedConfig.model_validate({"detector": network.config.as_detector, "tracker": {"name": tracker}})
    own = {key: value for key, value in network.tensors.items() if key.startswith("detector.")}
    return Network(network.layout, "linked", config, own)


def categories(classes: str, outputs: int) -> tuple[Category, ...]:
    """Raises BadConfig: no such list, or one of another length than the network has outputs."""
    if not classes:
        raise BadConfig(
            f"the network tells {outputs} classes apart and names none: --classes {'|'.join(NAMES)}, or a file"
        )
    path = Path(classes)
    if not path.is_file():
        return class_list(classes, outputs)
    if path.suffix == ".json":
        try:
            entries = load_json(path, "a JSON with categories", "categories")["categories"]
            listed = tuple(Category(id=entry["id"], name=entry["name"]) for entry in entries)
        except (KeyError, TypeError, ValueError):
            raise BadConfig(f"{path}: expected `categories`, a list of objects with `id` and `name`") from None
    else:
        words = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        listed = tuple(Category(id=number, name=word) for number, word in enumerate(words, start=1))
    if len(listed) != outputs:
        raise BadConfig(f"{path} lists {len(listed)} classes, the network tells {outputs} apart")
    return listed


def _mask_rcnn(layout: str, tensors: dict[str, Tensor]) -> Network:
    own = {key if key.startswith("track_head.") else f"detector.{key}": value for key, value in tensors.items()}
    classes = len(tensors["box_predictor.cls_score.weight"]) - 1
    backbone = told_resnet(tensors, "backbone.")
    if layout in MASKTRACK:
        code = "original" if layout.startswith("original") else "mmtracking"
        whole = MaskTrackConfig.released(code)  # type: ignore[arg-type]
        detector = whole.detector.model_copy(update={"num_classes": classes, "backbone": backbone})
        return Network(layout, "masktrack_rcnn", whole.model_copy(update={"detector": detector}), own)
    if layout.startswith("torchvision"):
        base = MaskRcnnConfig.torchvision(2 if layout.endswith("v2") else 1)
    elif layout.startswith("detectron2"):
        base = MaskRcnnConfig.detectron2()
        if backbone.groups > 1:
            base = base.model_copy(update={"std_rgb": MaskRcnnConfig().std_rgb})
        else:
            backbone = backbone.model_copy(update={"stride_first": True})
    else:  # its tests' settings, where MaskTrack R-CNN of the same code has others
        tested = {"shorter_px": 800, "longer_most_px": 1333, "min_score": 0.05}
        tested |= {"proposals_per_level": 1000, "proposals": 1000}
        base = MaskTrackConfig.released("mmtracking").detector.model_copy(update=tested)
    given = base.model_dump() | {"num_classes": classes, "backbone": backbone.model_dump()}
    config = LinkedConfig(detector=MaskRcnnDetectorConfig.model_validate(given))
    return Network(layout, "linked", config, own)


def _idol(path: Path, tensors: dict[str, Tensor]) -> Network:
    told = idol_layouts.told(tensors)
    lacking = sorted({"num_classes", "queries", "backbone"} - set(told))
    if lacking:
        raise BadConfig(f"{path} is no whole IDOL: no tensor tells its {', '.join(lacking)}. Bring the whole file")
    base = IdolConfig.released(data="ovis" if told["num_classes"] == OVIS_CLASSES else "ytvis")
    config = IdolConfig.model_validate(base.model_dump() | told)
    return Network("IDOL", "idol", config, {f"network.{key}": tensor for key, tensor in tensors.items()})


def _yolact(layout: str, tensors: dict[str, Tensor]) -> Network:
    depth: Any = told_resnet(tensors, "detector.backbone.").depth
    ratios = 3
    classes = len(tensors["detector.head.conf_layer.weight"]) // ratios - 1
    if layout == "RGNN":
        return Network(layout, "rgnn", RgnnConfig.released(depth).with_classes(classes), tensors)
    given = YolactConfig.released(depth).model_dump() | {"num_classes": classes}
    config = LinkedConfig(detector=YolactDetectorConfig.model_validate(given | {"detections": 100, "min_score": 0.05}))
    return Network(layout, "linked", config, tensors)
