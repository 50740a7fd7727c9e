"""The losses teach what they should: a model learns one clip by heart."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from vis_models import boxes
from vis_models import masks as mask_ops
from vis_models.idol.config import IdolConfig
from vis_models.idol.model import Idol
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.mask_prop.config import MaskPropConfig
from vis_models.mask_prop.model import MaskProp
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.masktrack_rcnn.model import MaskTrackRcnn
from vis_models.metrics.average_precision import average_precision
from vis_models.rgnn.model import Rgnn
from vis_models.types import Clips, Frames, Objects, VideoInfo
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.model import VisStg

from .drawn import HEIGHT, WIDTH, small_config

LENGTH = 5
SQUARES = ((8, 8, 20, 1), (60, 30, 24, -2), (30, 36, 20, 1))
"""x, y, side and speed of each object; the colour tells the class."""


def one_clip() -> Clips:
    frames = torch.full((1, LENGTH, 3, HEIGHT, WIDTH), 30, dtype=torch.uint8)
    masks = torch.zeros(1, LENGTH, len(SQUARES), HEIGHT, WIDTH, dtype=torch.bool)
    for t in range(LENGTH):
        for a, (x, y, side, speed) in enumerate(SQUARES):
            left = x + 2 * speed * t
            masks[0, t, a, y : y + side, left : left + side] = True
            masks[0, t, :a, y : y + side, left : left + side] = False  # the later object is in front
            frames[0, t, :, y : y + side, left : left + side] = 30
            frames[0, t, a, y : y + side, left : left + side] = 230
    labels = torch.arange(len(SQUARES))[None]
    crowd = torch.zeros(1, len(SQUARES), dtype=torch.bool)
    return Clips(frames, Objects(masks, boxes.of_masks(masks), masks.any(-1).any(-1), labels, crowd))


def descend(parameters: list, loss, iterations: int, learning_rate: float) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, iterations)
    for _ in range(iterations):
        optimizer.zero_grad()
        sum(loss().values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        schedule.step()


def labels_of(clip: Clips) -> dict:
    _, length, objects, height, width = clip.objects.masks.shape
    annotations = []
    for a in range(objects):
        rles = mask_ops.encode(clip.objects.masks[0, :, a].numpy())
        areas = mask_ops.measure_px(rles)[0].tolist()
        shown = zip(rles, areas, strict=True)
        segments = [{"size": [height, width], "counts": rle.decode()} if area else None for rle, area in shown]
        label = int(clip.objects.labels[0, a])
        annotations.append({"id": a + 1, "video_id": 1, "category_id": label + 1, "iscrowd": 0,
                            "segmentations": segments, "areas": [area or None for area in areas]})  # fmt: skip
    video = {"id": 1, "height": height, "width": width, "file_names": [str(t) for t in range(length)]}
    categories = [{"id": a + 1, "name": str(a)} for a in range(3)]
    return {"videos": [video], "annotations": annotations, "categories": categories}


def tracks_of(model: Any, clip: Clips) -> list[dict]:
    length, _, height, width = clip.frames.shape[1:]
    state, told, segments, results = model.start([VideoInfo("1", height, width)]), [], {}, []
    for t in range(length):
        (tracks,), state = model.step(model.encode(Frames(clip.frames[0, t : t + 1])), state)
        told.append(tracks)
    told += model.finish(state)
    for sighting in (each for tracks in told for each in tracks.sightings):
        for track_id, rle in zip(sighting.track_ids, sighting.masks.rles(), strict=True):
            code = {"size": [height, width], "counts": rle.decode()}
            segments.setdefault(track_id, [None] * length)[sighting.frame] = code
    for word in (each for tracks in told for each in tracks.verdicts):
        results.append({"video_id": 1, "category_id": word.category + 1, "score": word.score,
                        "segmentations": segments[word.track_id]})  # fmt: skip
    return results


def test_one_clip_is_learned_by_heart():
    torch.manual_seed(0)
    clip = one_clip()
    config = small_config()
    model = Rgnn(config.model_copy(update={"detector": config.detector.model_copy(update={"soft_masks": True})}))
    detector = model.detector
    detector.requires_grad_(True).train()
    descend(list(detector.parameters()), lambda: detector.loss(clip), iterations=200, learning_rate=4e-3)
    detector.requires_grad_(False)
    model.train()
    encoded, objects = model.encode_clips(clip)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    descend(trained, lambda: model.encoded_loss(encoded, objects), iterations=120, learning_rate=5e-3)
    score = average_precision(labels_of(clip), tracks_of(model.eval(), clip)).summary()
    assert score["AP"] >= 0.95


def small_mask_rcnn() -> MaskRcnnConfig:
    return MaskRcnnConfig(
        num_classes=3,
        image_size=(HEIGHT, WIDTH),
        backbone=ResNetConfig(depth=18, width=16, blocks=(1, 1, 1, 1), stem_pool=False),
        finest=3,
        channels=32,
        extra_levels=0,
        anchor_px=(16.0, 32.0, 64.0),
        unit_px=16.0,
        box_width=64,
        mask_convs=1,
        proposals_per_level=40,
        proposals=40,
        box_samples=24,
        positive_share=0.5,
        frozen_stages=0,
    )


def small_masktrack() -> MaskTrackRcnn:
    return MaskTrackRcnn(MaskTrackConfig(detector=small_mask_rcnn(), embedding=32, learn_reference=True))


def small_mask_prop() -> MaskProp:
    config = MaskPropConfig(
        detector=small_mask_rcnn(),
        reach=2,
        level=0,
        offset_channels=32,
        dilations=(1, 3),
        nobody=True,
        link_iou=0.3,
        learn_reference=True,
        refinement=None,
    )
    return MaskProp(config)


def small_idol() -> Idol:
    config = IdolConfig(
        num_classes=3,
        image_size=(HEIGHT, WIDTH),
        backbone=ResNetConfig(depth=18, width=16, blocks=(1, 1, 1, 1), stem_pool=False),
        queries=12,
        channels=32,
        heads=4,
        levels=3,
        encoder_layers=1,
        decoder_layers=2,
        hidden=64,
        norm_groups=8,
        dropout=0.0,
        frozen_stages=0,
        learn_reference=True,
    )
    return Idol(config)


def small_visstg() -> VisStg:
    config = VisStgConfig(
        num_classes=3,
        image_size=(HEIGHT, WIDTH),
        backbone=ResNetConfig(depth=18, width=16, blocks=(1, 1, 1, 1), stem_pool=False),
        frozen_stages=0,
        channels=32,
        level_px=(16.0, 32.0),
        head_convs=2,
        norm_groups=8,
        gnn_iterations=2,
        messages="mean",
        learn_reference=True,
    )
    return VisStg(config)


def learned(make: Callable[[], Any], clip: Clips, iterations: int, window: int = LENGTH) -> Any:
    """A model that knows pairs of frames of the clip, drawn from those at most `window` apart."""
    torch.manual_seed(0)
    model, frames = make(), range(clip.frames.shape[1])
    part: Any = model.part("whole")
    near = torch.tensor([(a, b) for a in frames for b in frames if 0 < abs(a - b) <= window])

    def loss() -> dict:
        pairs = near[torch.randint(len(near), (2,))]
        names = ("masks", "boxes_px", "visible")
        parts = [replace(clip.objects, **{n: getattr(clip.objects, n)[:, pair] for n in names}) for pair in pairs]
        return part.loss(Clips(torch.cat([clip.frames[:, pair] for pair in pairs]), Objects.join(parts)))

    descend([p for p in part.parameters() if p.requires_grad], loss, iterations, learning_rate=3e-3)
    return model.eval()


def by_heart(make: Callable[[], Any], iterations: int) -> dict[str, float]:
    """Its score on the clip that it learned."""
    clip = one_clip()
    return average_precision(labels_of(clip), tracks_of(learned(make, clip, iterations), clip)).summary()


def test_masktrack_rcnn_begins_to_learn_a_clip_from_pairs():
    """By heart in `tests/proofs/masktrack_by_heart.py`."""
    score = by_heart(small_masktrack, iterations=150)
    assert score["AP50"] >= 0.9
    assert score["AP"] >= 0.3


def test_mask_prop_begins_to_learn_a_clip_from_pairs():
    """By heart in `tests/proofs/maskprop_by_heart.py`."""
    score = by_heart(small_mask_prop, iterations=150)
    assert score["AP50"] >= 0.9
    assert score["AP"] >= 0.3


def test_idol_begins_to_learn_a_clip_from_pairs():
    """By heart in `tests/proofs/idol_by_heart.py`."""
    score = by_heart(small_idol, iterations=100)
    assert score["AP50"] >= 0.9
    assert score["AP"] >= 0.3


def test_visstg_begins_to_learn_a_clip_from_pairs():
    """By heart in `tests/proofs/visstg_by_heart.py`."""
    score = by_heart(small_visstg, iterations=150)
    assert score["AP50"] >= 0.9
    assert score["AP"] >= 0.3
