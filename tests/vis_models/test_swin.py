"""Swin transformer: who sees whom, by changing a cell; what training leaves out."""

import pytest
import torch
from pydantic import ValidationError

from vis_models.idol.config import IdolConfig
from vis_models.idol.network import IdolNetwork
from vis_models.layers.backbone_config import SwinConfig
from vis_models.layers.backbones import recompute
from vis_models.layers.swin import Block, Swin

pytestmark = pytest.mark.unit

TINY = SwinConfig(width=8, blocks=(1, 2, 1, 1), heads=(1, 2, 2, 2), window=2, drop_path=0.0)


def seen_by(block: Block, height: int, width: int, row: int, column: int) -> set[tuple[int, int]]:
    """Cells whose answer changes with a cell."""
    torch.manual_seed(0)
    x = torch.randn(1, height, width, 8)
    changed = x.clone()
    changed[0, row, column, 0] += 3
    with torch.no_grad():
        differs = ((block(x) - block(changed)).abs().amax(-1) > 1e-6)[0]
    return {(int(y), int(x)) for y, x in differs.nonzero()}


def cells(rows: range, columns: range) -> set[tuple[int, int]]:
    return {(row, column) for row in rows for column in columns}


def test_a_cell_is_seen_by_its_window_and_in_every_second_block_by_one_that_is_moved_by_half():
    still, moved = Block(8, 2, window=4, shift=0, drop_path=0.0), Block(8, 2, window=4, shift=2, drop_path=0.0)
    assert seen_by(still, 8, 8, 1, 5) == cells(range(4), range(4, 8))
    assert seen_by(moved, 8, 8, 3, 5) == cells(range(2, 6), range(2, 6))


def test_a_moved_window_that_holds_two_sides_of_the_picture_keeps_them_apart():
    moved = Block(8, 2, window=4, shift=2, drop_path=0.0)
    assert seen_by(moved, 8, 8, 0, 0) == cells(range(2), range(2))
    assert seen_by(moved, 8, 8, 7, 3) == cells(range(6, 8), range(2, 6))


def test_a_map_that_is_no_multiple_of_the_window_is_seen_to_its_edge():
    still = Block(8, 2, window=4, shift=0, drop_path=0.0)
    assert seen_by(still, 5, 6, 4, 5) == cells(range(4, 5), range(4, 6))


def test_maps_come_at_strides_of_8_16_and_32_of_any_picture():
    swin = Swin(TINY).eval()
    with torch.no_grad():
        maps = swin(torch.randn(1, 3, 61, 90))
    assert [tuple(values.shape[1:]) for values in maps] == [(16, 8, 12), (32, 4, 6), (64, 2, 3)]
    assert tuple(values.shape[1] for values in maps) == swin.channels


def test_training_leaves_a_block_out_of_some_frames_and_its_mean_is_what_is_seen_later():
    torch.manual_seed(0)
    block = Block(8, 2, window=2, shift=0, drop_path=0.5)
    x = torch.randn(1, 2, 2, 8).expand(4000, 2, 2, 8)
    with torch.no_grad():
        block.mlp.fc2.weight.zero_()  # of the two parts one alone
        block.mlp.fc2.bias.zero_()
        added = (block.train()(x) - x).abs().amax((1, 2, 3))
        mean = block(x).mean(0)
        expected = block.eval()(x[:1])[0]
    assert 1800 < int((added == 0).sum()) < 2200
    torch.testing.assert_close(mean, expected, atol=0.1, rtol=0.1)


def test_gradients_are_the_same_when_blocks_are_computed_again():
    images, found = torch.randn(1, 3, 32, 32), []
    for again in (False, True):
        torch.manual_seed(0)
        swin = Swin(TINY)
        if again:
            recompute(swin)
        swin(images)[2].square().sum().backward()
        found.append(swin.layers[0].blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(found[0], found[1])


def test_idol_takes_the_backbone_that_its_config_names():
    config = {"backbone": TINY.model_dump(mode="json"), "queries": 4, "channels": 32, "heads": 2, "norm_groups": 4,
              "encoder_layers": 1, "decoder_layers": 1, "hidden": 8}  # fmt: skip
    network = IdolNetwork(IdolConfig.model_validate(config)).eval()
    assert isinstance(network.backbone, Swin)
    with torch.no_grad():
        output = network(torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]]))
        masks = network.masks(output, 0, torch.tensor([0]), torch.tensor([2]))
    assert masks.shape == (1, 16, 24)


def test_heads_that_do_not_divide_the_channels_of_their_stage_are_refused():
    with pytest.raises(ValidationError, match="stage 1 has 384 channels and 7 heads: choose heads"):
        SwinConfig(heads=(6, 7, 24, 48))
