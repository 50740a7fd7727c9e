"""Keys and shapes of published checkpoints, written out from their descriptions and not from our models."""

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


def _conv(key: str, out: int, inside: int, kernel: int) -> Shapes:
    return {f"{key}.weight": (out, inside, kernel, kernel)}


def _biased(key: str, out: int, inside: int, kernel: int) -> Shapes:
    return _conv(key, out, inside, kernel) | {f"{key}.bias": (out,)}


def _norm(key: str, channels: int) -> Shapes:
    vectors: Shapes = {f"{key}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{key}.num_batches_tracked": ()}
