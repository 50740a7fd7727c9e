"""Checks of IDOL's network: deformable attention, positions, masks, and all of it, with padding and without."""

from collections.abc import Callable

import torch

from vis_models.idol import layouts
from vis_models.idol.config import IdolConfig
from vis_models.idol.masks import MaskBranch
from vis_models.idol.network import IdolNetwork
from vis_models.layers.deformable import DeformableAttention, deformable_attention, gathered_attention
from vis_models.layers.dynamic_masks import aligned_bilinear, dynamic_masks, layers_of, offsets
from vis_models.layers.mlp import Mlp
from vis_models.layers.positions import sine_positions

from .case import NETWORK, OPERATOR, Case
from .layouts import idol_shapes
from .weights import checkpoint, noise

ENCODER = "detr.detr.transformer.encoder.layers.0.self_attn."


def core(case: Case) -> None:
    sizes = [(int(height), int(width)) for height, width in case["in.spatial_shapes"]]
    lengths = [height * width for height, width in sizes]
    named = ("value", "sampling_locations", "attention_weights")
    for way in ("definition", "rows"):
        value, points, weights = (case[f"in.{name}"].clone().requires_grad_() for name in named)
        if way == "rows":
            found = gathered_attention(value, sizes, points, weights)
        else:
            parts = zip(value.split(lengths, 1), sizes, strict=True)
            levels = [part.unflatten(1, size).permute(0, 3, 4, 1, 2) for part, size in parts]
            found = deformable_attention(levels, points, weights)
        case.close("out.output", found, OPERATOR)
        found.backward(case["in.grad_output"])
        for name, tensor in zip(named, (value, points, weights), strict=True):
            case.close(f"out.grad_{name}", tensor.grad, OPERATOR)


def module(case: Case) -> None:
    attention = DeformableAttention(256, heads=8, levels=4, points=4)
    attention.reset()
    case.close("out.init_offset_bias", attention.sampling_offsets.bias, OPERATOR)
    shapes = {key: shape for key, shape in idol_shapes(50).items() if key.startswith(ENCODER)}
    state = checkpoint(shapes, case.overrides)
    attention.load_state_dict({key.removeprefix(ENCODER): tensor for key, tensor in state.items()})
    sizes = [(int(height), int(width)) for height, width in case["in.spatial_shapes"]]
    values, padding = case["in.input_flatten"], case["in.padding_mask"].bool()
    for form in ("ref2", "ref4"):
        queries, references = case["in.query"].clone().requires_grad_(), case[f"in.{form}"]
        points, weights = attention.points(queries, references, sizes)
        case.close(f"out.{form}.locations", points, OPERATOR)
        case.close(f"out.{form}.weights", weights, OPERATOR)
        found = attention(queries, references, values, sizes, padding)
        case.close(f"out.{form}.output", found, OPERATOR)
        found.square().sum().backward()
        case.close(f"out.{form}.grad_query", queries.grad, OPERATOR)
        with torch.no_grad():  # the other way to compute it
            case.close(f"out.{form}.output", attention(queries, references, values, sizes, padding), OPERATOR)


def positions(case: Case) -> None:
    case.close("out.position", sine_positions(case["in.mask"].bool(), case.shape("out.position")[1]), OPERATOR)


def mask_head(case: Case) -> None:
    shapes = {key: shape for key, shape in idol_shapes(50).items() if not key.startswith("detr.detr.")}
    state = checkpoint(shapes, case.overrides)
    branch, controller, embedder = MaskBranch(256), Mlp(256, 256, 256, 169), Mlp(256, 256, 256, 256)
    for part, name in ((branch, "mask_head"), (controller, "controller"), (embedder, "reid_embed_head")):
        begins = f"detr.{name}."
        part.load_state_dict({key.removeprefix(begins): v for key, v in state.items() if key.startswith(begins)})
    sizes = [(int(height), int(width)) for height, width in case["in.spatial_shapes"]]
    lengths = [height * width for height, width in sizes]
    parts = zip(case["in.memory"].split(lengths, 1), sizes, strict=True)
    maps = [part.transpose(1, 2).unflatten(2, size) for part, size in parts]
    with torch.no_grad():
        parameters = controller(case["in.decoder_output"])
        features = branch(maps[:3])
        case.close("out.params", parameters, NETWORK)
        case.close("out.mask_features", features, NETWORK)
        case.close("out.embedding", embedder(case["in.decoder_output"]), NETWORK)
        weights, biases = layers_of(parameters)
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            case.close(f"out.w{number}", weight, NETWORK)
            case.close(f"out.b{number}", bias, NETWORK)
        counts = case["in.num_insts"]
        frame = torch.arange(len(counts)).repeat_interleave(counts)
        found = dynamic_masks(features[frame], parameters, case["in.reference_points_px"], stride=8)
    case.close("out.mask_logits", found, NETWORK)
    for factor in (2, 4):
        case.close(f"out.aligned_bilinear_x{factor}", aligned_bilinear(case["in.small_map"], factor), OPERATOR)
    height = next(
        rows for rows, columns in ((3, 4), (4, 3)) if rows * columns == case.shape("out.locations_stride8")[0]
    )
    middles = -offsets(torch.zeros(1, 2), (height, 12 // height), stride=8)[0].T
    case.close("out.locations_stride8", middles, OPERATOR)


def forward(case: Case) -> None:
    network = IdolNetwork(IdolConfig.released()).eval()
    state = checkpoint(idol_shapes(50), case.overrides)
    for key in state:  # the decoder names the box heads a second time
        if ".decoder.bbox_embed." in key:
            state[key] = state[key.replace("transformer.decoder.bbox_embed", "bbox_embed")]
    layout, tensors = layouts.renamed(state) or ("", {})
    assert layout == "IDOL"
    counters = {key for key in network.state_dict() if key.endswith("num_batches_tracked")}
    assert set(tensors) == set(network.state_dict()) - counters
    network.load_state_dict(tensors, strict=False)
    height, width = (int(side) for side in case["in.padded_size"])
    sizes = case["in.image_sizes"]
    images = noise(case["in.input_seed"], (len(sizes), 3, height, width))
    for image, (rows, columns) in zip(images, sizes.tolist(), strict=True):
        image[:, rows:] = 0
        image[:, :, columns:] = 0
    with torch.no_grad():
        levels = network.levels(images, sizes)
        for number, values in enumerate(levels.maps()):
            case.stats(f"out.proj{number}_stats", values, NETWORK)
        memory = network.transformer.encode(levels).values
        output = network(images, sizes)
        frames, queries = output.logits.shape[1:3]
        frame = torch.arange(frames).repeat_interleave(queries)
        masks = network.masks(output, -1, frame, torch.arange(queries).repeat(frames))
        embedding = network.embed(output.queries[-1])
    masks = masks.unflatten(0, (frames, queries))
    case.close("out.memory", memory[:, ::53], NETWORK)
    case.stats("out.memory_stats", memory, NETWORK)
    case.close("out.decoder_layers", output.queries[:, :, ::60], NETWORK)
    case.close("out.init_reference", output.references[0, :, ::7], NETWORK)
    case.close("out.layer_references", output.boxes[:, :, ::7], NETWORK)
    case.close("out.reference_points", output.references[-1, :, ::7], NETWORK)
    case.close("out.pred_logits", output.logits[-1, :, ::7], NETWORK)
    case.stats("out.pred_logits_stats", output.logits[-1], NETWORK)
    case.close("out.pred_boxes", output.boxes[-1], NETWORK)
    case.stats("out.pred_boxes_stats", output.boxes[-1], NETWORK)
    case.close("out.pred_embed", embedding[:, ::29], NETWORK)
    case.stats("out.pred_inst_embed_stats", embedding, NETWORK)
    case.close("out.pred_masks", masks[:, ::37], NETWORK)
    case.stats("out.pred_masks_stats", masks, NETWORK)


CHECKS: dict[str, Callable[[Case], None]] = {
    "msda_core": core,
    "msda_module": module,
    "idol_position_encoding": positions,
    "idol_mask_head": mask_head,
    "idol_forward": forward,
}
SLOW = ("idol_forward",)
