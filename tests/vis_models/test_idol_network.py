"""IDOL's network against slow loops, arithmetic, and itself on pictures that are padded, shuffled or alone."""

from itertools import product
from math import floor

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vis_models.idol.config import IdolConfig
from vis_models.idol.network import IdolNetwork, IdolOutput
from vis_models.idol.transformer import DeformableTransformer, Levels
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.layers.backbones import recompute
from vis_models.layers.deformable import DeformableAttention, deformable_attention, gathered_attention
from vis_models.layers.dynamic_masks import HIDDEN, PARAMETERS, dynamic_masks
from vis_models.layers.mlp import Mlp
from vis_models.layers.norm import freeze
from vis_models.layers.positions import sine_positions

pytestmark = pytest.mark.unit

SMALL = IdolConfig(
    num_classes=3,
    backbone=ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1)),
    queries=5,
    channels=32,
    heads=4,
    points=2,
    encoder_layers=2,
    decoder_layers=2,
    hidden=16,
    norm_groups=8,
)


def network(config: IdolConfig = SMALL, seed: int = 0) -> IdolNetwork:
    """With weights that let every part of it speak: at the start boxes and points do not move."""
    torch.manual_seed(seed)
    made = IdolNetwork(config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "bbox_embed" in name or "sampling_offsets" in name or "attention_weights" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def padded(picture: Tensor, height: int, width: int) -> Tensor:
    return nn.functional.pad(picture, [0, width - picture.shape[2], 0, height - picture.shape[1]])


def answers(model: IdolNetwork, output: IdolOutput, frame: int) -> dict[str, Tensor]:
    """All that is said of a frame; masks within the picture."""
    queries = torch.arange(output.logits.shape[2])
    height, width = (int(-(-side // 4)) for side in output.sizes_px[frame])
    return {
        "logits": output.logits[:, frame],
        "boxes": output.boxes[:, frame],
        "embedding": model.embed(output.queries[-1, frame]),
        "masks": model.masks(output, -1, torch.full_like(queries, frame), queries)[:, :height, :width],
    }


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, values in ours.items():
        torch.testing.assert_close(values, theirs[name], rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


# ---- deformable attention --------------------------------------------------------------------------------------------


def test_a_point_on_the_middle_of_a_cell_returns_that_cell():
    image = torch.arange(12.0).view(1, 1, 1, 3, 4)
    at = torch.tensor([2.5 / 4, 1.5 / 3]).view(1, 1, 1, 1, 1, 2)
    out = deformable_attention([image], at, torch.ones(1, 1, 1, 1, 1))
    assert out.item() == pytest.approx(6.0)  # row 1, column 2 of 0..11


def by_loop(levels: list[Tensor], points: Tensor, weights: Tensor) -> Tensor:
    """Eq. (3), a number at a time; outside of a map it is zero."""
    batch, queries, heads, _, count, _ = points.shape
    channels = levels[0].shape[2]
    found = torch.zeros(batch, queries, heads, channels, dtype=torch.float64)
    for b, q, g, (level, value), k in product(
        range(batch), range(queries), range(heads), enumerate(levels), range(count)
    ):
        height, width = value.shape[-2:]
        x, y = (points[b, q, g, level, k].double() * torch.tensor([width, height]) - 0.5).tolist()
        for column, row in product((floor(x), floor(x) + 1), (floor(y), floor(y) + 1)):
            if 0 <= column < width and 0 <= row < height:
                share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[b, q, g, level, k].double()
                found[b, q, g] += share * value[b, g, :, row, column].double()
    return found.flatten(2).float()


def test_the_definition_the_gather_of_rows_and_a_plain_loop_read_the_same_within_and_beyond_the_picture():
    torch.manual_seed(0)
    sizes, heads = [(5, 3), (2, 4), (1, 1)], 3
    values = torch.randn(2, sum(h * w for h, w in sizes), heads, 4)
    points = torch.rand(2, 4, heads, len(sizes), 2, 2) * 2 - 0.5  # half of them beyond the picture
    weights = torch.rand(2, 4, heads, len(sizes), 2)
    parts = values.split([h * w for h, w in sizes], 1)
    levels = [part.unflatten(1, size).permute(0, 3, 4, 1, 2) for part, size in zip(parts, sizes, strict=True)]
    expected = by_loop(levels, points, weights)
    torch.testing.assert_close(deformable_attention(levels, points, weights), expected)
    torch.testing.assert_close(gathered_attention(values, sizes, points, weights), expected)


def test_values_and_points_of_different_numbers_of_levels_are_refused():
    with pytest.raises(ValueError, match="2 levels of values and points on 1"):
        deformable_attention([torch.zeros(1, 1, 1, 2, 2)] * 2, torch.zeros(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))


def test_at_the_start_each_head_looks_in_its_own_direction_and_each_point_a_cell_further():
    attention = DeformableAttention(8, heads=4, levels=1, points=2)
    attention.reset()
    places, weights = attention.points(torch.randn(1, 1, 8), torch.full((1, 1, 1, 2), 0.5), [(10, 10)])
    cells = ((places[0, 0, :, 0] - 0.5) * 10).round(decimals=3)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    torch.testing.assert_close(cells, torch.stack([directions, 2 * directions], 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5))


# ---- padding ---------------------------------------------------------------------------------------------------------


def test_positions_of_a_picture_do_not_change_with_its_padding():
    bare = sine_positions(torch.zeros(1, 3, 4, dtype=torch.bool), 16)
    padding = torch.ones(1, 5, 7, dtype=torch.bool)
    padding[:, :3, :4] = False
    torch.testing.assert_close(sine_positions(padding, 16)[..., :3, :4], bare)


def test_the_transformer_sees_nothing_of_the_padding():
    torch.manual_seed(0)
    transformer = DeformableTransformer(SMALL).eval()
    heads = [Mlp(32, 32, 32, 4) for _ in range(SMALL.decoder_layers)]
    sizes, larger = [(6, 5), (3, 3), (2, 2), (1, 1)], [(9, 8), (5, 4), (3, 2), (2, 1)]
    maps = [torch.randn(1, 32, *size) for size in sizes]
    bare = Levels.of(maps, [torch.zeros(1, *size, dtype=torch.bool) for size in sizes])
    filled, paddings = [], []
    for values, size in zip(maps, larger, strict=True):
        height, width = values.shape[-2:]
        filled.append(100 * torch.randn(1, 32, *size))
        filled[-1][..., :height, :width] = values
        paddings.append(torch.ones(1, *size, dtype=torch.bool))
        paddings[-1][:, :height, :width] = False
    content, position = torch.randn(2, 5, 32)
    with torch.no_grad():
        alone, within = (
            transformer.decode(transformer.encode(levels), content, position, heads)
            for levels in (bare, Levels.of(filled, paddings))
        )
    torch.testing.assert_close(within.queries, alone.queries, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(within.boxes, alone.boxes, rtol=1e-4, atol=1e-5)


def test_a_picture_that_is_padded_more_or_lies_beside_larger_ones_is_answered_as_it_is_alone():
    model = network()
    torch.manual_seed(1)
    small, large = torch.randn(3, 40, 50), torch.randn(3, 70, 90)
    with torch.no_grad():
        alone = model(padded(small, 64, 64)[None], torch.tensor([[40, 50]]))
        more = model(padded(small, 128, 96)[None], torch.tensor([[40, 50]]))
        both = model(
            torch.stack([padded(large, 96, 128), padded(small, 96, 128), padded(large, 96, 128)]),
            torch.tensor([[70, 90], [40, 50], [70, 90]]),
        )
        large_alone = model(padded(large, 96, 96)[None], torch.tensor([[70, 90]]))
        expected = answers(model, alone, 0)
        same(answers(model, more, 0), expected)
        same(answers(model, both, 1), expected)
        for frame in (0, 2):
            same(answers(model, both, frame), answers(model, large_alone, 0))


def test_frames_of_one_batch_are_answered_in_their_order_as_each_is_alone():
    model = network()
    images, sizes = torch.randn(3, 3, 64, 96), torch.tensor([[64, 96]]).expand(3, 2)
    with torch.no_grad():
        together = model(images, sizes)
        for frame in range(3):
            alone = model(images[[frame]], sizes[:1])
            same(answers(model, together, frame), answers(model, alone, 0))


# ---- queries, boxes, masks -------------------------------------------------------------------------------------------


def test_queries_in_another_order_are_the_same_answers_in_that_order():
    model, order = network(), torch.tensor([3, 0, 4, 1, 2])
    image, sizes = torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]])
    with torch.no_grad():
        first = model(image, sizes)
        model.query_embed.weight.copy_(model.query_embed.weight[order])
        second = model(image, sizes)
    torch.testing.assert_close(second.logits, first.logits[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.boxes, first.boxes[:, :, order], rtol=1e-4, atol=1e-5)


def test_each_layer_is_given_the_box_of_the_one_before_which_learns_nothing_from_it():
    model = network()
    output = model(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]))
    torch.testing.assert_close(output.references[1], output.boxes[0, ..., :2])
    output.boxes[1].sum().backward()
    assert not any(parameter.grad.any() for parameter in model.bbox_embed[0].parameters())
    assert all(parameter.grad.any() for parameter in model.bbox_embed[1].parameters())


def test_at_the_start_every_class_has_a_chance_of_one_in_a_hundred_and_no_box_is_off():
    torch.manual_seed(0)
    model = IdolNetwork(SMALL).eval()
    for head in model.class_embed:
        nn.init.zeros_(head.weight)
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]))
    torch.testing.assert_close(output.logits.sigmoid(), torch.full_like(output.logits, 0.01))
    torch.testing.assert_close(output.boxes[0], output.boxes[1])
    torch.testing.assert_close(output.boxes[0, ..., :2], output.references[0])


def test_the_mask_of_an_object_is_what_its_own_three_convolutions_make_of_places_and_features():
    torch.manual_seed(0)
    features, parameters = torch.rand(2, HIDDEN, 3, 5), torch.randn(2, PARAMETERS)
    centres = torch.tensor([[4.0, 12.0], [30.0, 1.0]])
    found = dynamic_masks(features, parameters, centres, stride=8)
    assert found.shape == (2, 6, 10)
    for n in range(2):
        convs = [nn.Conv2d(HIDDEN + 2, HIDDEN, 1), nn.Conv2d(HIDDEN, HIDDEN, 1), nn.Conv2d(HIDDEN, 1, 1)]
        given = list(parameters[n])
        with torch.no_grad():
            for leaf in ("weight", "bias"):
                for conv in convs:
                    target = getattr(conv, leaf)
                    target.copy_(torch.stack(given[: target.numel()]).view_as(target))
                    given = given[target.numel() :]
        assert not given
        x = torch.empty(1, HIDDEN + 2, 3, 5)
        x[0, 2:] = features[n]
        for row, column in product(range(3), range(5)):
            x[0, 0, row, column] = centres[n, 0] - (8 * column + 4)
            x[0, 1, row, column] = centres[n, 1] - (8 * row + 4)
        mask = convs[2](convs[1](convs[0](x).relu()).relu())[0, 0]
        # The middle of a cell is the corner of four finer ones, and the value there is that of the last of the four
        torch.testing.assert_close(found[n, 1::2, 1::2], mask, rtol=1e-4, atol=1e-3)


def test_with_half_of_the_digits_places_are_still_told_in_all_of_them():
    model, images, sizes = network(), torch.randn(2, 3, 64, 96), torch.tensor([[60, 90], [64, 96]])
    with torch.no_grad():
        full = model(images, sizes)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images, sizes)
            masks = model.masks(half, -1, torch.tensor([0, 1]), torch.tensor([1, 2]))
            embedding = model.embed(half.queries)
    places = (half.logits, half.boxes, half.references, masks, embedding)
    assert {values.dtype for values in places} == {torch.float32}
    torch.testing.assert_close(half.boxes, full.boxes, atol=0.1, rtol=0)
    torch.testing.assert_close(half.logits, full.logits, atol=0.2, rtol=0)


# ---- sizes and training ----------------------------------------------------------------------------------------------


def test_the_small_form_for_drawn_worlds_tells_masks_at_every_second_pixel():
    config = IdolConfig(
        num_classes=6,
        image_size=(96, 160),
        backbone=ResNetConfig(depth=18, width=32, blocks=(1, 1, 1, 1), stem_pool=False),
        queries=40,
        channels=64,
        norm_groups=16,
        encoder_layers=2,
        decoder_layers=2,
        hidden=128,
    )
    model = network(config)
    with torch.no_grad():
        output = model(torch.randn(2, 3, 96, 160), torch.tensor([[96, 160], [96, 160]]))
        masks = model.masks(output, 0, torch.tensor([1, 0, 1]), torch.tensor([39, 0, 5]))
        none = model.masks(output, -1, torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
    assert output.logits.shape == (2, 2, 40, 6)
    assert output.boxes.shape == (2, 2, 40, 4)
    assert output.features.shape == (2, HIDDEN, 24, 40)
    assert masks.shape == (3, 48, 80)
    assert none.shape == (0, 48, 80)
    assert model.embed(output.queries).shape == (2, 2, 40, 64)


@pytest.mark.parametrize(("name", "value"), [("heads", 5), ("norm_groups", 7)])
def test_channels_that_cannot_be_divided_are_refused_with_the_field(name: str, value: int):
    with pytest.raises(ValidationError, match=f"channels 256 cannot be divided by {name} {value}"):
        IdolConfig.model_validate({name: value})


def test_gradients_are_the_same_when_layers_and_stages_are_computed_again():
    def gradients(again: bool) -> dict[str, Tensor]:
        model = network()
        freeze(model)
        if again:
            recompute(model)
        torch.manual_seed(2)
        output = model(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]))
        masks = model.masks(output, 1, torch.tensor([0, 0]), torch.tensor([1, 3]))
        (output.logits.square().mean() + output.boxes.sum() + masks.square().mean()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    kept, computed = gradients(again=False), gradients(again=True)
    assert kept.keys() == computed.keys()
    assert {name.split(".")[0] for name in kept} >= {"backbone", "transformer", "input_proj", "mask_head"}
    for name, gradient in kept.items():
        torch.testing.assert_close(computed[name], gradient, msg=lambda text, n=name: f"{n}: {text}")


def test_recomputed_layers_are_run_again_on_the_way_back():
    model = network().train()
    freeze(model)
    recompute(model)
    runs = []
    model.transformer.encoder.layers[0].register_forward_pre_hook(lambda *_: runs.append("encoder"))
    model.backbone.layer2.register_forward_pre_hook(lambda *_: runs.append("backbone"))
    output = model(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]))
    assert sorted(runs) == ["backbone", "encoder"]
    output.boxes.sum().backward()
    assert sorted(runs) == ["backbone", "backbone", "encoder", "encoder"]
