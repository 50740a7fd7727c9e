"""What holds for every model and tracker of the house, which are in `entrants.py`: no test here knows what one is made
of."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pycocotools import mask as coco
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jobs.training.descent import Losses, LossTerms, descend, optimizer_of
from jobs.training.recipes.base import Stage
from jobs.training.stages import load_state, save_state
from tests.tiny_model import install
from vis_models.cards import ModelCard
from vis_models.checkpoints import initialise, load_model, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.masks import encode
from vis_models.types import Clips, Frames, Tracks, VideoInfo

from .drawn import HEIGHT, WIDTH, moving_squares
from .entrants import LEARNS_OTHER_CLASSES, TRAINED, Entrant, every_model, every_part, fresh

pytestmark = pytest.mark.unit


# ---- a film ----------------------------------------------------------------------------------------------------


def film(frames: int, seed: int) -> Tensor:
    """(T, 3, H, W) squares of random colours that glide over noise."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (frames, 3, HEIGHT, WIDTH), generator=random, dtype=torch.uint8)
    for _ in range(3):
        x, y, side = (
            int(torch.randint(low, high, (1,), generator=random)) for low, high in ((0, 60), (0, 40), (8, 24))
        )
        colour = torch.randint(90, 256, (3, 1, 1), generator=random, dtype=torch.uint8)
        for t in range(frames):
            pixels[t, :, y : y + side, (x + t) % 70 : (x + t) % 70 + side] = colour
    return pixels


def played(model: Any, films: list[Tensor], state: Any = None) -> tuple[list[list[Tracks]], Any]:
    """What the model says of every frame of films that are played side by side, and its state after it."""
    if state is None:
        state = model.start([VideoInfo(str(n), HEIGHT, WIDTH) for n in range(len(films))])
    said = []
    for frame in range(len(films[0])):
        tracks, state = model.step(model.encode(Frames(torch.stack([one[frame] for one in films]))), state)
        said.append(tracks)
    return said, state


@dataclass(frozen=True, eq=False)
class Alike:
    """A coded mask, and those that differ in a few pixels: on some processors a frame's numbers are summed up in
    another order beside others, which turns a logit that is next to zero."""

    rle: bytes
    most_px: int = 5

    def __eq__(self, other: object) -> bool:
        one, two = ({"size": [HEIGHT, WIDTH], "counts": rle} for rle in (self.rle, other))
        union, both = (int(coco.area(coco.merge([one, two], intersect=both))) for both in (False, True))
        return union - both <= self.most_px


def words(tracks: Tracks) -> list[Any]:
    """Everything that is said, fit to be compared."""
    return [
        [(s.frame, s.track_ids, [Alike(rle) for rle in s.masks.rles()]) for s in tracks.sightings],
        [(v.track_id, v.category) for v in tracks.verdicts],
        [pytest.approx(score, abs=1e-4) for s in tracks.sightings for score in s.scores],
        [pytest.approx(v.score, abs=1e-4) for v in tracks.verdicts],
        tracks.dropped_births,
    ]


def plain(tracks: Tracks) -> list[Any]:
    """As `words`, with numbers."""
    scores = [score for s in tracks.sightings for score in s.scores], [v.score for v in tracks.verdicts]
    sightings = [(s.frame, s.track_ids, s.masks.rles()) for s in tracks.sightings]
    return [sightings, words(tracks)[1], *scores, tracks.dropped_births]


def test_masks_that_differ_in_more_than_a_few_pixels_are_not_alike():
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[10:30, 20:40] = True
    moved, nicked = mask.roll(1, 1), mask.clone()
    nicked[10, 20:25] = False
    coded, *others = encode(torch.stack([mask, nicked, moved]).numpy())
    assert [Alike(coded) == other for other in others] == [True, False]


@every_model
def test_something_is_seen_in_these_films_or_the_others_prove_nothing(entrant: Entrant):
    model = fresh(entrant)
    said, state = played(model, [film(5, seed=0)])
    said.append(model.finish(state))
    assert sum(len(sighting.track_ids) for tracks in said for sighting in tracks[0].sightings) > 3


@every_model
@pytest.mark.parametrize("cut", [1, 3])
def test_a_film_that_is_cut_anywhere_and_gone_on_with_gives_the_same_answer(entrant: Entrant, cut: int):
    model, whole = fresh(entrant), film(5, seed=1)
    said, state = played(model, [whole])
    first, between = played(model, [whole[:cut]])
    second, end = played(model, [whole[cut:]], between)
    assert [plain(tracks[0]) for tracks in said] == [words(tracks[0]) for tracks in first + second]
    assert plain(model.finish(state)[0]) == words(model.finish(end)[0])


@every_model
def test_neighbours_and_the_place_among_them_change_nothing(entrant: Entrant):
    model, films = fresh(entrant), [film(4, seed) for seed in (2, 3, 4)]
    together, state = played(model, films)
    turned, turned_state = played(model, films[::-1])
    for place, one in enumerate(films):
        alone, end = played(model, [one])
        for said, neighbours in ((together, place), (turned, len(films) - 1 - place)):
            assert [plain(tracks[0]) for tracks in alone] == [words(tracks[neighbours]) for tracks in said]
        assert plain(model.finish(end)[0]) == words(model.finish(state)[place])
        assert plain(model.finish(end)[0]) == words(model.finish(turned_state)[len(films) - 1 - place])


@every_model
def test_a_film_of_many_shots_goes_on_finding_objects_and_its_memory_stays_as_it_is(entrant: Entrant):
    model = fresh(replace(entrant, make=entrant.restless or entrant.make))
    said, state = played(model, [film(3, seed=10)])
    size = bytes_of(state)
    for shot in range(11, 25):
        more, state = played(model, [film(3, seed=shot)], state)
        said += more
        assert waiting(state) <= entrant.late_frames
    assert bytes_of(state) == size
    frames = len(said)
    told = [sighting for tracks in [*said, model.finish(state)] for sighting in tracks[0].sightings]
    late = {track for sighting in told[-9:] for track in sighting.track_ids}
    assert late
    if entrant.slots:
        assert max(late) >= 2 * entrant.slots  # ids count births: it has long held more objects than it has slots
    assert [sighting.frame for sighting in told] == list(range(frames))


def bytes_of(state: Any) -> int:
    tensors = (getattr(state, field.name) for field in fields(state))
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def waiting(state: Any) -> int:
    """Frames of the one video whose masks a state holds, if it holds any."""
    held = [getattr(state, field.name)[0] for field in fields(state) if isinstance(getattr(state, field.name), tuple)]
    return max(map(len, held), default=0)


@every_model
@pytest.mark.parametrize("grey", [0, 255])
def test_frames_of_one_colour_are_no_error(entrant: Entrant, grey: int):
    model = fresh(entrant)
    said, state = played(model, [torch.full((3, 3, HEIGHT, WIDTH), grey, dtype=torch.uint8)])
    assert len(said) == 3
    assert len(model.finish(state)) == 1


@every_model
def test_masks_have_the_size_of_the_video_and_scores_are_shares(entrant: Entrant):
    model = fresh(entrant)
    state = model.start([VideoInfo("large", 2 * HEIGHT + 1, 3 * WIDTH)])
    for picture in film(3, seed=5):
        (tracks,), state = model.step(model.encode(Frames(picture[None])), state)
        for sighting in tracks.sightings:
            assert sighting.masks.whole().shape == (len(sighting.track_ids), 2 * HEIGHT + 1, 3 * WIDTH)
            assert all(0 <= score <= 1 for score in sighting.scores)
    for verdict in model.finish(state)[0].verdicts:
        assert 0 <= verdict.score <= 1
        assert 0 <= verdict.category < 3


# ---- training --------------------------------------------------------------------------------------------------


def clips(entrant: Entrant, count: int = 2) -> Clips:
    """Squares that move; each clip is twice as bright as the one before."""
    drawn = moving_squares(clips=count, length=entrant.clip_length)
    gain = 0.5 ** torch.arange(count - 1, -1, -1)[:, None, None, None, None]
    return replace(drawn, frames=(drawn.frames * gain).to(torch.uint8))


def without_objects(given: Clips) -> Clips:
    objects = given.objects
    return replace(given, objects=replace(objects, masks=objects.masks & False, visible=objects.visible & False))


def stage(entrant: Entrant, part: str, **changes: Any) -> Stage:
    base = {"name": "s", "part": part, "iterations": 4, "batch_size": 2, "learning_rate": 1e-3, "precision": "fp32"}
    return Stage.model_validate(base | {"clip_length": entrant.clip_length} | changes)


@every_part
@pytest.mark.parametrize("seen", [True, False], ids=["with objects", "without objects"])
def test_every_parameter_that_is_trained_gets_a_gradient_and_no_other(entrant: Entrant, part: str, seen: bool):
    model = fresh(entrant)
    trained = model.part(part)
    given = clips(entrant) if seen else without_objects(clips(entrant))
    terms = trained.loss(given)
    torch.stack(list(terms.values())).sum().backward()
    own = {id(parameter) for parameter in trained.parameters() if parameter.requires_grad}
    assert own
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in own), name


@every_part
def test_what_a_part_does_not_train_stays_as_it_is(entrant: Entrant, part: str):
    model = fresh(entrant)
    trained = model.part(part)
    own = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = stage(entrant, part)
    for _ in descend(given, (0,), Losses(trained, trained.loss), optimizer_of(given, trained), [(clips(entrant),)]):
        pass
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved & own
    inside = {id(buffer) for buffer in trained.buffers()}
    buffers = {name for name, buffer in model.named_buffers() if id(buffer) in inside}
    assert moved <= own | buffers


@every_part
def test_a_run_that_is_resumed_ends_with_the_same_bits(entrant: Entrant, part: str, tmp_path: Path):
    given = stage(entrant, part)

    def run(stops: list[int]) -> dict[str, Tensor]:
        for start, stop in zip([0, *stops], [*stops, 4], strict=True):
            model = fresh(entrant)
            trained = model.part(part)
            optimizer = optimizer_of(given, trained)
            if start:
                assert load_state(tmp_path, model, optimizer) == start
            batches = [(clips(entrant),)] * (stop - start)
            for _ in descend(given, (0,), Losses(trained, trained.loss), optimizer, batches, first=start):
                torch.rand(3)  # whatever happens between two iterations
            save_state(tmp_path, model, optimizer, stop)
        return model.state_dict()

    whole, resumed = run([]), run([1, 3])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@every_part
def test_half_precision_gives_nearly_the_same_loss(entrant: Entrant, part: str):
    found = {}
    for precision in ("fp32", "bf16"):
        trained = fresh(entrant).part(part)
        given = stage(entrant, part, precision=precision)
        module = Losses(trained, trained.loss)
        (_, terms), *_ = descend(given, (0,), module, optimizer_of(given, trained), [(clips(entrant),)])
        found[precision] = {name: float(term) for name, term in terms.items()}
        assert all(term.dtype == torch.float32 for term in terms.values())
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.05, abs=0.05)


@every_part
def test_a_loss_that_breaks_is_named_with_its_iteration(entrant: Entrant, part: str):
    trained = fresh(entrant).part(part)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.fill_(torch.nan)
    given, watched = stage(entrant, part), LossTerms()
    module = Losses(trained, trained.loss)
    for done, terms in descend(given, (0,), module, optimizer_of(given, trained), [(clips(entrant),)]):
        watched.see(done, terms)
    with pytest.raises(BadConfig, match=r"stage s diverged: no finite number came out of the loss term .* iteration 1"):
        watched.require_finite(given)


# ---- two workers -----------------------------------------------------------------------------------------------


def learned(entrant: Entrant, part: str, given: Clips, parallel: bool, steps: int = 1) -> dict[str, Tensor]:
    """Gradients of the last step, and the statistics after it."""
    trained = fresh(entrant).part(part)
    module: nn.Module = Losses(trained, trained.loss)
    if parallel:
        module = DistributedDataParallel(module)
    for _ in range(steps):  # a parameter without gradient is complained of when the next step begins
        trained.zero_grad()
        torch.manual_seed(0)
        torch.stack(list(module(given).values())).sum().backward()
    gradients = {name: p.grad for name, p in trained.named_parameters() if p.requires_grad and p.grad is not None}
    return gradients | {name: buffer for name, buffer in trained.named_buffers() if "running" in name}


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for number, (entrant, part) in enumerate(TRAINED):
        four = clips(entrant, 4)
        own = Clips(four.frames[2 * rank : 2 * rank + 2], four.objects[2 * rank : 2 * rank + 2])
        torch.save(learned(entrant, part, own, parallel=True), folder / f"{number} same {rank}.pt")
        uneven = without_objects(own) if rank else own
        torch.save(learned(entrant, part, uneven, parallel=True, steps=2), folder / f"{number} nothing {rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers learned, each of its half of four clips."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(worker, (folder,), 2)
    return folder


@every_part
def test_two_workers_with_two_clips_learn_what_one_learns_from_the_four(of_two: Path, entrant: Entrant, part: str):
    alone = learned(entrant, part, clips(entrant, 4), parallel=False)
    number = TRAINED.index((entrant, part))
    for rank in range(2):
        found = torch.load(of_two / f"{number} same {rank}.pt")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert float((found[name] - value).norm()) <= 0.03 * float(value.norm()) + 1e-6, name


@every_part
def test_a_worker_whose_clips_show_nothing_does_not_hold_up_the_other(of_two: Path, entrant: Entrant, part: str):
    number = TRAINED.index((entrant, part))
    one, other = (torch.load(of_two / f"{number} nothing {rank}.pt") for rank in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- weights ---------------------------------------------------------------------------------------------------


CLASSES = tuple(Category(id=n, name=name) for n, name in enumerate(("disc", "square", "star"), start=1))


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A folder with the model, its card changed."""
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    monkeypatch.syspath_prepend(site)

    def save(entrant: Entrant, **changes: Any) -> Path:
        model = fresh(entrant)
        card = {"name": "m", "model": entrant.name, "config": model.config.model_dump(mode="json"), "classes": CLASSES}
        card = ModelCard.model_validate(card | {"created_at": datetime.now(UTC)} | changes)
        save_model(tmp_path / "model", model, card)
        return tmp_path / "model"

    return save


@every_model
def test_it_comes_back_from_its_folder_and_says_the_same(entrant: Entrant, saved: Callable[..., Path]):
    back, card = load_model(saved(entrant), slot_recycling=True)
    assert card.model == entrant.name
    picture = [film(3, seed=7)]
    for ours, theirs in zip(played(fresh(entrant), picture)[0], played(back, picture)[0], strict=True):
        assert plain(ours[0]) == words(theirs[0])


@every_model
def test_weights_of_another_class_list_shape_or_switch_are_refused_by_name(
    entrant: Entrant, saved: Callable[..., Path]
):
    with pytest.raises(BadConfig, match=r"card.json: the config has 3 classes, the class list 2"):
        load_model(saved(entrant, classes=CLASSES[:2]))
    config = fresh(entrant).config
    with pytest.raises(BadConfig, match=r"(?s)model.safetensors does not fit its card: .*size mismatch"):
        load_model(
            saved(entrant, config=config.with_classes(4).model_dump(mode="json"), classes=(*CLASSES, CLASSES[0]))
        )
    with pytest.raises(BadConfig, match=rf"config of model '{entrant.name}': .*wings"):
        load_model(saved(entrant, config=config.model_dump(mode="json") | {"wings": 2}))
    with pytest.raises(BadConfig, match=r"unknown model 'absent'"):
        load_model(saved(entrant, model="absent"))


@pytest.mark.parametrize("names", ["star disc square", "disc square owl", "disc"])
@pytest.mark.parametrize("entrant", LEARNS_OTHER_CLASSES, ids=lambda entrant: entrant.title)
def test_of_other_classes_training_starts_with_all_that_does_not_depend_on_them(
    entrant: Entrant, names: str, saved: Callable[..., Path]
):
    classes = tuple(Category(id=n, name=name) for n, name in enumerate(names.split()))
    before, config = fresh(entrant), fresh(entrant).config.with_classes(len(classes))
    torch.manual_seed(1)
    model = type(before)(config)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = initialise(model, saved(entrant), classes)
    assert report.other_classes
    assert report.missing == report.unexpected == report.reshaped == []
    assert f"{len(report.other_classes)} start anew as the classes are others: " in str(report)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (own if name in report.other_classes else before.state_dict())[name])
