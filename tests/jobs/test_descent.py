"""What the two stages move, and what they leave as it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs.training.descent import FiniteTerms, Losses, compile_fusible, descend, load_batches, optimizer_of
from jobs.training.recipes.base import Stage
from jobs.training.stages import broken_tensors, load_state, save_state, trained_part
from jobs.training.watch import Stopwatch
from vis_models.config import BadConfig
from vis_models.rgnn import Rgnn
from vis_models.types import Clips

from ..vis_models.drawn import moving_squares, small_config

pytestmark = pytest.mark.unit


def stage(**changes) -> Stage:
    base = {"name": "s", "part": "whole", "iterations": 10, "batch_size": 2, "learning_rate": 1e-3}
    return Stage.model_validate(base | {"precision": "fp32"} | changes)


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def taught(part: torch.nn.Module, given: Stage, iterations: int = 2) -> list[dict[str, torch.Tensor]]:
    part.train()
    batches = [(moving_squares(),)] * iterations
    return [terms for _, terms in descend(given, (0, 0), Losses(part, part.loss), optimizer_of(given, part), batches)]


def test_the_first_stage_moves_all_of_the_detector_running_averages_included():
    model = Rgnn(small_config())
    model.detector.requires_grad_(True)
    before = state(model)
    taught(model.detector, stage(part="detector"))
    changed = moved(before, state(model))
    assert all(name.startswith("detector.") for name in changed)
    averages = {name for name in before if name.endswith(("running_mean", "running_var"))}
    assert averages
    assert averages <= changed
    assert "detector.backbone.conv1.weight" in changed


def test_the_second_stage_leaves_detector_and_running_averages_as_they_are():
    model = Rgnn(small_config(init_train_logit=-3.0))
    before = state(model)
    taught(model, stage())
    changed = moved(before, state(model))
    assert changed
    assert not any(name.startswith("detector.") for name in changed)


@pytest.mark.parametrize("part", ["detector", "whole"])
def test_half_precision_gives_nearly_the_same_loss(part: str):
    first = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = Rgnn(small_config(init_train_logit=-3.0))
        model.detector.requires_grad_(part == "detector")
        (terms,) = taught(model.detector if part == "detector" else model, stage(precision=precision), iterations=1)
        first[precision] = {name: float(term) for name, term in terms.items()}
        assert all(term.dtype == torch.float32 for term in terms.values())
    assert first["bf16"] == pytest.approx(first["fp32"], rel=0.05, abs=0.05)


def test_channel_dropout_is_the_detectors_in_stage_one_and_the_appearances_in_stage_two():
    clips = moving_squares()
    config = small_config(dropout=0.5)
    config = config.model_copy(update={"detector": config.detector.model_copy(update={"dropout": 0.5})})
    model = Rgnn(config)
    model.detector.train()
    pictures = clips.frames.flatten(0, 1)
    assert not torch.equal(model.detector(pictures).prototypes, model.detector(pictures).prototypes)
    model.train()
    assert torch.equal(model.detector(pictures).prototypes, model.detector(pictures).prototypes)
    encoded = model.describe(pictures)
    assert not torch.equal(model._appearances(encoded)[1], model._appearances(encoded)[1])


def test_an_iteration_is_the_same_after_a_resume():
    given = stage(clip_gradient=1.0)

    def run(stops: list[int]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = Rgnn(small_config(dropout=0.3)).train()
        optimizer = optimizer_of(given, model)
        for start, stop in zip([0, *stops], [*stops, 4], strict=True):
            batches = [(moving_squares(),)] * (stop - start)
            for _ in descend(given, (0, 0), Losses(model, model.loss), optimizer, batches, first=start):
                torch.rand(5)  # whatever happens between two iterations
        return state(model)

    assert not moved(run([]), run([1, 3]))


class Numbered:
    """Clips that say their number in their first pixel."""

    def __getitem__(self, n: int) -> Clips:
        clip = moving_squares(clips=1, length=1)
        clip.frames[0, 0, 0, 0, 0] = n
        return clip


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_come_in_order_whoever_prepares_them(processes: int):
    batches = load_batches(Numbered(), [[3, 1], [4, 15], [9, 2]], torch.device("cpu"), processes)
    assert [batch.frames[:, 0, 0, 0, 0].tolist() for batch in batches] == [[3, 1], [4, 15], [9, 2]]


def test_compiled_parts_keep_the_names_of_their_parameters():
    model = Rgnn(small_config())
    names = list(model.state_dict())
    compile_fusible(model)
    assert list(model.state_dict()) == names
    assert model.detector.backbone._compiled_call_impl is not None


def test_waiting_is_the_share_of_time_until_the_next_item_comes(monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr("jobs.training.watch.time.monotonic", lambda: clock[0])

    def slow() -> Iterator[int]:
        for number in range(3):
            clock[0] += 3.0
            yield number

    watch = Stopwatch()
    seen = []
    for number in watch.waits_for(slow()):
        clock[0] += 1.0
        seen.append(number)
    assert seen == [0, 1, 2]
    assert watch.waiting() == pytest.approx(9 / 12)
    assert watch.rate(3) == pytest.approx(3 / 12)


def test_the_term_that_broke_first_is_named_with_its_iteration_however_late_it_is_asked():
    watched = FiniteTerms()
    for done, box in enumerate([0.5, float("nan"), float("nan")], start=1):
        mask = float("inf") if done == 3 else 0.1
        watched.see(done, {"class": torch.tensor(1.0), "box": torch.tensor(box), "mask": torch.tensor(mask)})
        if done == 1:
            watched.require(stage())
    with pytest.raises(
        BadConfig, match=r"stage s diverged: no finite number came out of the loss term box in iteration 2\."
    ):
        watched.require(stage())


def test_weights_that_a_step_broke_are_found_and_named_before_they_are_saved():
    model = Rgnn(small_config(init_train_logit=-3.0))
    part = trained_part(model, stage())
    optimizer = optimizer_of(stage(), part)
    for _ in descend(stage(), (0, 0), Losses(part, part.loss), optimizer, [(moving_squares(),)]):
        assert broken_tensors(model, optimizer) == []
    model.gate.x.bias.data[3] = torch.nan
    optimizer.state[model.class_head.bias]["exp_avg"][0] = torch.inf
    assert broken_tensors(model, optimizer) == ["gate.x.bias", "class_head.bias (in the optimizer)"]


def test_frozen_norms_keep_their_statistics_scale_and_shift():
    model = Rgnn(small_config())
    given = stage(part="detector", batch_norm="frozen")
    part, before = trained_part(model, given), state(model)
    for _ in descend(given, (0, 0), Losses(part, part.loss), optimizer_of(given, part), [(moving_squares(),)] * 2):
        pass
    changed = moved(before, state(model))
    assert "detector.backbone.conv1.weight" in changed
    assert not [name for name in changed if ".bn" in name or "running" in name or ".downsample.1" in name]


def test_a_checkpoint_brings_weights_and_optimizer_back(tmp_path: Path):
    given, model = stage(), Rgnn(small_config(init_train_logit=-3.0))
    part = trained_part(model, given)
    optimizer = optimizer_of(given, part)
    for _ in descend(given, (0, 0), Losses(part, part.loss), optimizer, [(moving_squares(),)]):
        pass
    save_state(tmp_path, model, optimizer, 7)
    other = Rgnn(small_config())
    fresh = optimizer_of(given, trained_part(other, given))
    assert load_state(tmp_path, other, fresh) == 7
    assert not moved(state(model), state(other))
    moments = [memory["exp_avg"] for memory in optimizer.state.values()]
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(moments, fresh.state.values(), strict=True))
