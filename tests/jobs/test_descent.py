"""What the two stages move, and what they leave as it is."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from jobs.store import Store
from jobs.training.descent import (
    Losses,
    LossTerms,
    RunningMean,
    compile_fusible,
    descend,
    learning_rate,
    load_batches,
    optimizer_of,
)
from jobs.training.recipes.base import Stage
from jobs.training.run_files import read_curve
from jobs.training.stages import broken_tensors, load_state, save_state, trained_part
from jobs.training.watch import Curve, Stopwatch
from tests.tiny_model import Tiny, TinyConfig
from vis_models.config import BadConfig
from vis_models.rgnn.model import Rgnn
from vis_models.types import Clips

from ..vis_models.drawn import HEIGHT, WIDTH, moving_squares, small_config

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
    watched = LossTerms()
    for done, box in enumerate([0.5, float("nan"), float("nan")], start=1):
        mask = float("inf") if done == 3 else 0.1
        watched.see(done, {"class": torch.tensor(1.0), "box": torch.tensor(box), "mask": torch.tensor(mask)})
        if done == 1:
            watched.require_finite(stage())
    with pytest.raises(
        BadConfig, match=r"stage s diverged: no finite number came out of the loss term box in iteration 2\."
    ):
        watched.require_finite(stage())


def test_the_loss_of_a_point_is_the_mean_of_its_iterations_also_when_a_run_goes_on_between_two_points(tmp_path: Path):
    model = Tiny(TinyConfig())
    optimizer = torch.optim.Adam(model.parameters())
    terms = LossTerms()
    for done, box in enumerate([1.0, 2.0, 6.0], start=1):
        terms.see(done, {"class": torch.tensor(0.5), "box": torch.tensor(box)})
    assert terms.so_far() == 3.5
    assert terms.means() == {"loss": 3.5, "class": 0.5, "box": 3.0}
    terms.see(4, {"class": torch.tensor(1.0), "box": torch.tensor(4.0)})
    save_state(tmp_path, model, optimizer, 4, terms=terms)
    resumed = LossTerms()
    load_state(tmp_path, model, optimizer, terms=resumed)
    for watched in (terms, resumed):
        watched.see(5, {"class": torch.tensor(2.0), "box": torch.tensor(8.0)})
        assert watched.means() == {"loss": 7.5, "class": 1.5, "box": 6.0}


def test_a_curve_goes_on_after_the_checkpoint_and_joins_what_belongs_to_one_iteration(store: Store):
    curve = Curve(store, "runs/r/detector", rank=0, first=0)
    for iteration in (20, 40, 60):
        curve.add(iteration, {"loss": float(iteration)})
    curve.add(60, {"mask_ap": 0.5})
    curve.save(last=True)
    assert read_curve(store, "runs/r/detector")[-1] == {"iteration": 60, "loss": 60.0, "mask_ap": 0.5}
    resumed = Curve(store, "runs/r/detector", rank=0, first=45)
    assert [point["iteration"] for point in resumed.points] == [20, 40]
    assert resumed.loss == 40.0
    resumed.add(60, {"loss": 61.0})
    resumed.save(last=True)
    assert read_curve(store, "runs/r/detector")[2:] == [{"iteration": 60, "loss": 61.0}]


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


def test_a_group_of_parameters_has_its_own_rate_and_decay_and_the_rest_those_of_the_stage():
    groups = [{"begins": ["backbone.conv1", "fpn."], "rate": 0.1}, {"begins": ["backbone."], "weight_decay": 0}]
    given = stage(part="detector", groups=groups, learning_rate=1e-2, weight_decay=0.3, optimizer="adamw")
    detector = Rgnn(small_config()).part("detector")
    optimizer = optimizer_of(given, detector)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    for _ in descend(given, (0,), Losses(detector, detector.loss), optimizer, [(moving_squares(),)]):
        pass
    first, second, rest = optimizer.param_groups
    assert {names[id(p)].split(".")[0] for p in first["params"]} == {"backbone", "fpn"}
    assert {names[id(p)].split(".")[0] for p in second["params"]} == {"backbone"}
    assert not {names[id(p)].split(".")[0] for p in rest["params"]} & {"backbone", "fpn"}
    rates = [group["lr"] / learning_rate(given, 0) for group in optimizer.param_groups]
    assert rates == pytest.approx([0.1, 1, 1])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0, 0.3]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_a_group_that_the_part_does_not_have_is_refused_with_what_it_has():
    given = stage(part="detector", groups=[{"begins": ["backbon."]}])
    with pytest.raises(
        BadConfig, match=r"no trained parameter .* begins with backbon\. .*they begin with backbone, fpn"
    ):
        optimizer_of(given, Rgnn(small_config()).part("detector"))


def test_a_batch_in_parts_is_the_batch():
    clips, learned = moving_squares(clips=4, length=2), []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        model = Tiny(TinyConfig(num_classes=3, image_size=(HEIGHT, WIDTH)))
        given = stage(accumulate=parts, batch_size=4)
        each = [Clips(f, clips.objects[range(n, n + 4 // parts)]) for n, f in zip(
            range(0, 4, 4 // parts), clips.frames.split(4 // parts), strict=True)]  # fmt: skip
        batches = [(part,) for _ in range(3) for part in each]
        steps = list(descend(given, (0,), Losses(model, model.loss), optimizer_of(given, model), batches))
        assert [done for done, _ in steps] == [1, 2, 3]
        learned.append((state(model), float(steps[-1][1]["pixels"])))
    whole, loss = learned[0]
    for weights, term in learned[1:]:
        assert term == pytest.approx(loss, rel=1e-5)
        assert all(torch.allclose(weights[name], value, atol=1e-6) for name, value in whole.items())
    with pytest.raises(ValidationError, match="batch_size 4 has no 3 equal parts"):
        stage(accumulate=3, batch_size=4)


def test_the_running_mean_is_that_of_arithmetic_and_takes_the_place_of_the_weights_for_a_while(tmp_path: Path):
    part = torch.nn.Linear(1, 1, bias=False)
    mean = RunningMean(part, decay=0.5)
    expected = part.weight.item()
    for done, value in enumerate((1.0, 2.0, 4.0, 8.0, *[3.0] * 20), start=1):
        part.weight.data.fill_(value)
        mean.update(done)
        decay = min(0.5, done / (done + 10))
        expected = decay * expected + (1 - decay) * value
    assert float(mean.mean["weight"]) == pytest.approx(expected)
    with contextlib.suppress(ZeroDivisionError), mean.in_place():
        assert part.weight.item() == pytest.approx(expected)
        _ = 1 // 0
    assert part.weight.item() == 3.0
    optimizer = torch.optim.Adam(part.parameters())
    save_state(tmp_path, part, optimizer, 24, mean)
    again = RunningMean(part, decay=0.5)
    assert load_state(tmp_path, part, optimizer, again) == 24
    assert torch.equal(again.mean["weight"], mean.mean["weight"])


def test_what_is_computed_again_is_not_kept_and_gives_the_same_gradients():
    found = {}
    for again in (False, True):
        torch.manual_seed(0)
        given = stage(part="detector", batch_norm="frozen", recompute=again)
        part, kept = trained_part(Rgnn(small_config()), given), []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = torch.stack(list(part.loss(moving_squares()).values())).sum()
        bytes_kept = sum(kept)
        loss.backward()
        found[again] = bytes_kept, [p.grad for p in part.parameters() if p.grad is not None]
    assert found[True][0] < 0.7 * found[False][0]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[False][1], found[True][1], strict=True))
    with pytest.raises(ValidationError, match="recompute would take the statistics of batch norms twice"):
        stage(recompute=True)
