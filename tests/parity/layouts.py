"""Keys and shapes of published checkpoints, written out from their descriptions and not from our models."""

import re
from itertools import pairwise

Shapes = dict[str, tuple[int, ...]]

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet_shapes(depth: int) -> Shapes:
    """torchvision's ResNet-50 or 101 with its classifier of 1000 classes."""
    shapes = _conv("conv1", 64, 3, 7) | _norm("bn1", 64)
    last = 64
    for stage, count in enumerate(BLOCKS[depth]):
        width = 64 * 2**stage
        for index in range(count):
            block = f"layer{stage + 1}.{index}"
            for number, (inside, out, kernel) in enumerate(
                ((last, width, 1), (width, width, 3), (width, 4 * width, 1)), start=1
            ):
                shapes |= _conv(f"{block}.conv{number}", out, inside, kernel) | _norm(f"{block}.bn{number}", out)
            if not index:
                shapes |= _conv(f"{block}.downsample.0", 4 * width, last, 1) | _norm(f"{block}.downsample.1", 4 * width)
            last = 4 * width
    return shapes | {"fc.weight": (1000, last), "fc.bias": (1000,)}


def yolact_shapes(depth: int, classes: int) -> Shapes:
    """The authors' YOLACT with 3 priors a cell and 32 prototypes; lists of the pyramid are stored coarsest first."""
    shapes: Shapes = {}
    for key, shape in resnet_shapes(depth).items():
        if key.startswith("layer"):
            key = f"layers.{int(key[5]) - 1}{key[6:]}"
        if not key.startswith("fc."):
            shapes[f"backbone.{key}"] = shape
    for index, inside in enumerate((2048, 1024, 512)):
        shapes |= _biased(f"fpn.lat_layers.{index}", 256, inside, 1)
        shapes |= _biased(f"fpn.pred_layers.{index}", 256, 256, 3)
    for index in range(2):
        shapes |= _biased(f"fpn.downsample_layers.{index}", 256, 256, 3)
    for index in (0, 2, 4, 8):
        shapes |= _biased(f"proto_net.{index}", 256, 256, 3)
    shapes |= _biased("proto_net.10", 32, 256, 1)
    head = {"upfeature.0": 256, "bbox_layer": 3 * 4, "conf_layer": 3 * (classes + 1), "mask_layer": 3 * 32}
    for name, out in head.items():
        shapes |= _biased(f"prediction_layers.0.{name}", out, 256, 3)
    return shapes | _biased("semantic_seg_conv", classes, 256, 1)


def rgnn_detector_shapes(depth: int) -> Shapes:
    """The authors' RGNN without its tracker: torchvision's names under `backbone.`, YOLACT's under `detector.`."""
    shapes = {f"backbone.{key}": shape for key, shape in resnet_shapes(depth).items() if not key.startswith("fc.")}
    head = {key: shape for key, shape in yolact_shapes(depth, 40).items() if not key.startswith("backbone.")}
    return shapes | {f"detector.{key}": shape for key, shape in head.items()}


def rgnn_shapes(depth: int) -> Shapes:
    """The authors' whole RGNN: two blocks of the graph network with a residual stage after each."""
    shapes = rgnn_detector_shapes(depth)
    shapes |= _biased("appnet.feat_nets.bb_feats_s8.0", 256, 1024, 1)
    shapes |= _biased("appnet.feat_nets.bb_feats_s16.0", 256, 2048, 1)
    shapes |= _bottleneck("detection_descriptor_extractor.appearance_layers", 512, (128, 128))
    matcher = "track_detection_matcher"
    for stage in (0, 2):
        block = f"{matcher}.layers.{stage}"
        detection, edge, empty_edge = (128, 128, 128) if stage else (45, 2, 1)
        shapes |= _linear(f"{block}.bkgdet.out.0", 128, 128 + detection + empty_edge)
        shapes |= _linear(f"{block}.trkdet.out.0", 128, 128 + detection + edge)
        if not stage:
            shapes |= _bottleneck(f"{block}.bkgdet.out.2", 128, (32,)) | _bottleneck(
                f"{block}.trkdet.out.2", 128, (32,)
            )
        for node, inside in (("bkg", 128), ("trk", 128), ("det", detection)):
            shapes |= _linear(f"{block}.{node}.out.0", 128, inside + 128)
        for gate in ("bkg.bkgdet", "trk.trkdet", "det.bkgdet", "det.trkdet"):
            shapes |= _linear(f"{block}.{gate}_sigmoid.0", 32, 128) | _linear(f"{block}.{gate}_sigmoid.2", 128, 32)
        for part in ("bkgdet", "trkdet", "bkg", "trk", "det"):
            shapes |= _bottleneck(f"{matcher}.layers.{stage + 1}.{part}.out", 128, (32,))
    shapes |= _linear(f"{matcher}.score_layers.trkdet", 1, 128) | _linear(f"{matcher}.score_layers.bkgdet", 1, 128)
    shapes |= {"track_descriptor.init_var": (512,), "track_descriptor.init_var_background": (512,)}
    for memory in ("tracks", "background"):
        for source in ("x", "prev_out"):
            shapes |= _linear(f"track_descriptor.memory_layers.{memory}.{source}", 512, 128)
    for head, out in {"lbscores": 41, "mean_eta": 1, "var_eta": 1, "var_new": 1}.items():
        shapes |= _linear(f"track_descriptor.out_layers.{head}", out, 128)
    shapes |= _biased("track_module.seg_layers.0", 16, 18, 3) | _biased("track_module.seg_layers.2", 1, 16, 3)
    return shapes | _linear("track_module.embedding_to_seg_layers.0", 16, 128)


def _bottleneck(key: str, channels: int, inner: tuple[int, ...]) -> Shapes:
    """Linears of a residual block; activations count as layers between them."""
    widths, shapes = (channels, *inner, channels), {}
    for index, (inside, out) in enumerate(pairwise(widths)):
        shapes |= _linear(f"{key}.layers.{2 * index}", out, inside)
    return shapes


def _linear(key: str, out: int, inside: int) -> Shapes:
    return {f"{key}.weight": (out, inside), f"{key}.bias": (out,)}


def _conv(key: str, out: int, inside: int, kernel: int) -> Shapes:
    return {f"{key}.weight": (out, inside, kernel, kernel)}


def _biased(key: str, out: int, inside: int, kernel: int) -> Shapes:
    return _conv(key, out, inside, kernel) | {f"{key}.bias": (out,)}


def _norm(key: str, channels: int) -> Shapes:
    vectors: Shapes = {f"{key}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{key}.num_batches_tracked": ()}


def mask_rcnn_shapes(version: int, old_names: bool = False) -> Shapes:
    """torchvision's maskrcnn_resnet50_fpn (1) and _v2 (2); `old_names`: as the file of 2019 has those of 1."""
    shapes = {f"backbone.body.{key}": shape for key, shape in resnet_shapes(50).items() if not key.startswith("fc.")}

    def conv(name: str, out: int, inside: int, kernel: int, norm: bool) -> Shapes:
        if not norm:
            return _biased(f"{name}.0", out, inside, kernel)
        return _conv(f"{name}.0", out, inside, kernel) | _norm(f"{name}.1", out)

    new = version == 2
    for index, inside in enumerate((256, 512, 1024, 2048)):
        shapes |= conv(f"backbone.fpn.inner_blocks.{index}", 256, inside, 1, new)
        shapes |= conv(f"backbone.fpn.layer_blocks.{index}", 256, 256, 3, new)
    for index in range(version):
        shapes |= _biased(f"rpn.head.conv.{index}.0", 256, 256, 3)
    shapes |= _biased("rpn.head.cls_logits", 3, 256, 1) | _biased("rpn.head.bbox_pred", 12, 256, 1)
    linears = {"fc6": (1024, 12544), "fc7": (1024, 1024)} if version == 1 else {"5": (1024, 12544)}
    for index in range(4):
        shapes |= conv(f"roi_heads.box_head.{index}", 256, 256, 3, True) if new else {}
        shapes |= conv(f"roi_heads.mask_head.{index}", 256, 256, 3, new)
    for name, shape in linears.items():
        shapes |= {f"roi_heads.box_head.{name}.weight": shape, f"roi_heads.box_head.{name}.bias": shape[:1]}
    for name, out in (("cls_score", 91), ("bbox_pred", 364)):
        shapes |= {
            f"roi_heads.box_predictor.{name}.weight": (out, 1024),
            f"roi_heads.box_predictor.{name}.bias": (out,),
        }
    shapes |= _biased("roi_heads.mask_predictor.conv5_mask", 256, 256, 2)
    shapes |= _biased("roi_heads.mask_predictor.mask_fcn_logits", 91, 256, 1)
    return {_name_of_2019(key): shape for key, shape in shapes.items()} if old_names else shapes


def detectron2_shapes(classes: int = 80) -> Shapes:
    """Mask R-CNN on ResNet-50 of detectron2's model zoo, with the constants that its older files carry."""
    stages = {f"layer{n - 1}": f"res{n}" for n in (2, 3, 4, 5)}
    shapes: Shapes = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    for key, shape in resnet_shapes(50).items():
        if key.startswith("fc.") or "num_batches" in key:
            continue
        key = re.sub(r"^layer\d", lambda found: stages[found[0]], key).replace("downsample.0", "shortcut")
        key = re.sub(r"bn(\d)\.", r"conv\1.norm.", key.replace("downsample.1", "shortcut.norm"))
        shapes[f"backbone.bottom_up.{key if key.startswith('res') else f'stem.{key}'}"] = shape
    for level, inside in zip((2, 3, 4, 5), (256, 512, 1024, 2048), strict=True):
        shapes |= _biased(f"backbone.fpn_lateral{level}", 256, inside, 1)
        shapes |= _biased(f"backbone.fpn_output{level}", 256, 256, 3)
    for level in range(5):
        shapes[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = (3, 4)
    head = "proposal_generator.rpn_head"
    shapes |= _biased(f"{head}.conv", 256, 256, 3) | _biased(f"{head}.objectness_logits", 3, 256, 1)
    shapes |= _biased(f"{head}.anchor_deltas", 12, 256, 1)
    linears = {"box_head.fc1": (1024, 12544), "box_head.fc2": (1024, 1024)}
    linears |= {"box_predictor.cls_score": (classes + 1, 1024), "box_predictor.bbox_pred": (4 * classes, 1024)}
    for name, shape in linears.items():
        shapes |= {f"roi_heads.{name}.weight": shape, f"roi_heads.{name}.bias": shape[:1]}
    for index in range(1, 5):
        shapes |= _biased(f"roi_heads.mask_head.mask_fcn{index}", 256, 256, 3)
    shapes |= _biased("roi_heads.mask_head.deconv", 256, 256, 2)
    return shapes | _biased("roi_heads.mask_head.predictor", classes, 256, 1)


def _name_of_2019(key: str) -> str:
    """torchvision's key, before its convolutions were blocks."""
    key = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", key).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)


def masktrack_shapes(mmtracking: bool, classes: int = 40) -> Shapes:
    """MaskTrack R-CNN on ResNet-50, the original's names or mmtracking's."""
    before, roi = ("detector.", "detector.roi_head.") if mmtracking else ("", "")
    shapes = {f"{before}backbone.{key}": v for key, v in resnet_shapes(50).items() if not key.startswith("fc.")}
    for index, inside in enumerate((256, 512, 1024, 2048)):
        shapes |= _biased(f"{before}neck.lateral_convs.{index}.conv", 256, inside, 1)
        shapes |= _biased(f"{before}neck.fpn_convs.{index}.conv", 256, 256, 3)
    shapes |= _biased(f"{before}rpn_head.rpn_conv", 256, 256, 3)
    shapes |= _biased(f"{before}rpn_head.rpn_cls", 3, 256, 1) | _biased(f"{before}rpn_head.rpn_reg", 12, 256, 1)
    own = classes + (not mmtracking)
    track = "track_head.embed_head.fcs" if mmtracking else "track_head.fcs"
    linears = {
        f"{roi}bbox_head.shared_fcs.0": (1024, 12544),
        f"{roi}bbox_head.shared_fcs.1": (1024, 1024),
        f"{roi}bbox_head.fc_cls": (classes + 1, 1024),
        f"{roi}bbox_head.fc_reg": (4 * own, 1024),
        f"{track}.0": (1024, 12544),
        f"{track}.1": (1024, 1024),
    }
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for index in range(4):
        shapes |= _biased(f"{roi}mask_head.convs.{index}.conv", 256, 256, 3)
    return (
        shapes | _biased(f"{roi}mask_head.upsample", 256, 256, 2) | _biased(f"{roi}mask_head.conv_logits", own, 256, 1)
    )


def idol_shapes(depth: int, classes: int = 40, queries: int = 300) -> Shapes:
    """The authors' IDOL on detectron2's ResNet, whose norms are frozen."""
    backbone: Shapes = {}
    for key, shape in resnet_shapes(depth).items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            backbone[_detectron(key)] = shape
    return _idol(backbone, (512, 1024, 2048), classes, queries)


def idol_swin_shapes(width: int, blocks: tuple[int, ...], heads: tuple[int, ...], window: int) -> Shapes:
    """The authors' IDOL on a Swin transformer, of 40 classes."""
    return _idol(swin_shapes(width, blocks, heads, window), (2 * width, 4 * width, 8 * width), 40, 300)


def _idol(backbone: Shapes, given: tuple[int, ...], classes: int, queries: int) -> Shapes:
    shapes = {f"detr.detr.backbone.0.backbone.{key}": shape for key, shape in backbone.items()}
    heads = {"detr.controller": 169, "detr.reid_embed_head": 256}
    return shapes | _idol_head(given, classes, queries, "detr.detr.", heads)


def deformable_detr_shapes(classes: int = 91) -> Shapes:
    """The authors' Deformable DETR with iterative box refinement, on torchvision's ResNet-50 with frozen norms."""
    shapes: Shapes = {}
    for key, shape in resnet_shapes(50).items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            shapes[f"backbone.0.body.{key}"] = shape
    return shapes | _idol_head((512, 1024, 2048), classes, 300, "", {})


def _idol_head(given: tuple[int, ...], classes: int, queries: int, before: str, more: dict[str, int]) -> Shapes:
    """What both have after the backbone, and IDOL's own parts."""
    shapes: Shapes = {}
    for level, (inside, kernel) in enumerate([(inside, 1) for inside in given] + [(given[-1], 3)]):
        shapes |= _biased(f"{before}input_proj.{level}.0", 256, inside, kernel)
        shapes |= _scaled(f"{before}input_proj.{level}.1", 256)
    transformer = f"{before}transformer"
    shapes |= {f"{transformer}.level_embed": (4, 256)} | _linear(f"{transformer}.reference_points", 2, 256)
    for layer in range(6):
        for part, attention, norms in (("encoder", "self_attn", 2), ("decoder", "cross_attn", 3)):
            name = f"{transformer}.{part}.layers.{layer}"
            for leaf, out in (
                ("sampling_offsets", 256), ("attention_weights", 128), ("value_proj", 256), ("output_proj", 256)
            ):  # fmt: skip
                shapes |= _linear(f"{name}.{attention}.{leaf}", out, 256)
            for norm in range(norms):
                shapes |= _scaled(f"{name}.norm{norm + 1}", 256)
            shapes |= _linear(f"{name}.linear1", 1024, 256) | _linear(f"{name}.linear2", 256, 1024)
        own = f"{transformer}.decoder.layers.{layer}.self_attn"
        shapes |= {f"{own}.in_proj_weight": (768, 256), f"{own}.in_proj_bias": (768,)}
        shapes |= _linear(f"{own}.out_proj", 256, 256)
        shapes |= _linear(f"{before}class_embed.{layer}", classes, 256)
        for name in (f"{before}bbox_embed.{layer}", f"{transformer}.decoder.bbox_embed.{layer}"):
            shapes |= _mlp(name, 4)
    shapes |= {f"{before}query_embed.weight": (queries, 512)}
    for name, out in more.items():
        shapes |= _mlp(name, out)
    if more:
        for name, out, inside in (
            ("lay3", 256, 256), ("lay4", 256, 256), ("dcn", 256, 256), ("lay1", 64, 256), ("lay2", 8, 64)
        ):  # fmt: skip
            shapes |= _biased(f"detr.mask_head.{name}", out, inside, 3)
    return shapes


def swin_shapes(
    width: int, blocks: tuple[int, ...], heads: tuple[int, ...], window: int, of_pictures: bool = False
) -> Shapes:
    """Microsoft's Swin transformer, with a norm on each map; `of_pictures`: as it was trained to class pictures, with
    one norm, a head of 21841 classes, and what it works out from its window."""
    shapes = _biased("patch_embed.proj", width, 3, 4) | _scaled("patch_embed.norm", width)
    cells = window * window
    for stage, (count, own) in enumerate(zip(blocks, heads, strict=True)):
        channels = width * 2**stage
        for index in range(count):
            block = f"layers.{stage}.blocks.{index}"
            shapes |= _scaled(f"{block}.norm1", channels) | _scaled(f"{block}.norm2", channels)
            shapes |= {f"{block}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, own)}
            shapes |= {f"{block}.attn.relative_position_index": (cells, cells)}
            shapes |= {f"{block}.attn_mask": (4, cells, cells)} if of_pictures and index % 2 else {}
            shapes |= _linear(f"{block}.attn.qkv", 3 * channels, channels)
            shapes |= _linear(f"{block}.attn.proj", channels, channels)
            shapes |= _linear(f"{block}.mlp.fc1", 4 * channels, channels)
            shapes |= _linear(f"{block}.mlp.fc2", channels, 4 * channels)
        if stage < len(blocks) - 1:
            shapes |= _scaled(f"layers.{stage}.downsample.norm", 4 * channels)
            shapes |= {f"layers.{stage}.downsample.reduction.weight": (2 * channels, 4 * channels)}
        shapes |= {} if of_pictures else _scaled(f"norm{stage}", channels)
    last = width * 2 ** (len(blocks) - 1)
    return shapes | (_scaled("norm", last) | _linear("head", 21841, last) if of_pictures else {})


def _mlp(key: str, out: int) -> Shapes:
    return (
        _linear(f"{key}.layers.0", 256, 256)
        | _linear(f"{key}.layers.1", 256, 256)
        | _linear(f"{key}.layers.2", out, 256)
    )


def _scaled(key: str, channels: int) -> Shapes:
    return {f"{key}.weight": (channels,), f"{key}.bias": (channels,)}


def _detectron(key: str) -> str:
    """detectron2's name for a tensor of torchvision's ResNet."""
    key = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", key)
    key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    key = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", key)
    return re.sub(r"^(conv1|bn1)\.", lambda found: "stem.conv1." + "norm." * (found[1] == "bn1"), key)
