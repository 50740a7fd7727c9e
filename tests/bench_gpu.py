"""Speed of training and inference on a GPU: `make bench-gpu` (five minutes, it draws its own videos).

It needs torch, the models and no cluster: where `make` cannot install everything, `python -m tests.bench_gpu` does it
with torch, numpy, pyarrow, av, pycocotools, pydantic, safetensors, jaxtyping and pillow; whole films also need
pydantic-settings, fsspec, botocore and aiohttp, and are left out without them. `--compile` measures with
`Stage.compile`; `--tiny` walks the same road in small on any machine, and its numbers mean nothing.

Columns: `loaded` is what training reaches, with the drawn JPEG files (from the system's file cache) decoded and
augmented by a process for every core but one; `resident` is its ceiling, the same iterations on batches that lie on the
GPU already. Each is timed until so many iterations are done or so many seconds are over.
"""

import argparse
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.training.descent import Losses, compile_fusible, descend, load_batches, optimizer_of
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.recipes.catalogue import build
from tests.vis_models.drawn import small_config
from vis_models.data.annotations import VideoSet, read_youtube_vis
from vis_models.data.clips import ClipSet
from vis_models.data.world import CATEGORIES, WorldConfig, write_archive, write_youtube_vis
from vis_models.layers import norm
from vis_models.rgnn.config import RgnnConfig
from vis_models.rgnn.model import Rgnn
from vis_models.types import Clips, Frames, VideoInfo
from vis_models.zoo import model_class

OTHERS = ("masktrack_r50_ytvis2019", "idol_r50_ytvis2019", "visstg_r50_ytvis2019", "maskprop_r50_ytvis2019")
TINY_OTHERS = ("masktrack_r18_world_tiny", "idol_r18_world_tiny", "visstg_r18_world_tiny", "maskprop_r18_world_tiny")
SHARE = 0.4
"""Of the time of a stage of RGNN that another model is trained."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and on which sizes."""

    device: torch.device
    world: WorldConfig
    videos: int
    config: RgnnConfig
    stages: tuple[Stage, ...]
    window: int
    """Iterations of a stage that are timed, at most."""
    loaded_s: float
    """How long a stage is timed with data loading, at most."""
    resident_s: float
    """How long without."""
    warm_up: int
    inference_size: tuple[int, int]
    streams: int
    """Videos side by side."""
    frames: int
    """Of each of them."""
    films: int
    """That are segmented from file to coded masks, two of them drawn, the others copies."""
    film: WorldConfig
    processes: int
    compile: bool
    others: tuple[TrainJob, ...]
    """Recipes of the other models: each is trained and used in a shorter while."""


def full_plan(compile: bool) -> Plan:
    job = build("rgnn_r50_ytvis2019")
    return Plan(
        device=torch.device("cuda"),
        world=WorldConfig(height=720, width=1280, frames=12),
        videos=24,
        config=sized(job.config),
        stages=job.stages,
        window=500,
        loaded_s=40,
        resident_s=10,
        warm_up=10,
        inference_size=(384, 640),
        streams=32,
        frames=20,
        films=16,
        film=WorldConfig(height=720, width=1280, frames=48),
        processes=max((os.cpu_count() or 2) - 1, 1),
        compile=compile,
        others=tuple(build(name) for name in OTHERS),
    )


def tiny_plan() -> Plan:
    config = small_config()
    stages = []
    for stage in build("rgnn_r50_ytvis2019").stages:
        small = stage.augmentation.model_copy(update={"fit": (96, 160)})
        stages.append(stage.model_copy(update={"batch_size": 2, "augmentation": small}))
    stages[1] = stages[1].model_copy(update={"clip_length": 3})
    return Plan(
        device=torch.device("cpu"),
        world=WorldConfig(height=72, width=128, frames=4),
        videos=2,
        config=sized(config),
        stages=tuple(stages),
        window=2,
        loaded_s=60,
        resident_s=60,
        warm_up=1,
        inference_size=(48, 80),
        streams=2,
        frames=3,
        films=2,
        film=WorldConfig(height=72, width=128, frames=3),
        processes=0,
        compile=False,
        others=tuple(build(name, {"stages.0.batch_size": 2}) for name in TINY_OTHERS),
    )


def sized(config: RgnnConfig) -> RgnnConfig:
    """With the classes of the drawn world."""
    detector = config.detector.model_copy(update={"num_classes": len(CATEGORIES)})
    return config.model_copy(update={"detector": detector})


def seconds(device: torch.device) -> float:
    """The time, when everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class Rates:
    resident: float
    """Iterations per second on batches that lie on the device."""
    loaded: float
    """Iterations per second with data loading."""
    waiting: float
    """Share of the loaded window in which the loop waited for a batch, 0 to 1."""
    iterations: int
    """Of the loaded window."""


def train(plan: Plan, stage: Stage, model: Any, videos: VideoSet, share: float = 1.0) -> Rates:
    """A stage as `jobs/training/train.py` runs it, first on four batches over and over, then through the loader.

    Args:
        share: of the plan's seconds.
    """
    part = model.part(stage.part)
    if stage.batch_norm == "frozen":
        norm.freeze(part)
    optimizer = optimizer_of(stage, part)
    losses = Losses(part, part.loss)
    clips = ClipSet(videos, stage.samples, model.config.frame_px, stage.augmentation, seed=0)
    count = plan.warm_up + plan.window
    numbers = [list(range(n * stage.batch_size, (n + 1) * stage.batch_size)) for n in range(count)]

    kept = [(batch,) for batch in load_batches(clips, numbers[:4], plan.device, 0)]
    resident = descend(stage, (0,), losses, optimizer, itertools.cycle(kept))
    done, took = timed(plan, resident, share * plan.resident_s)
    ceiling = done / took
    waited = Waited(load_batches(clips, numbers, plan.device, plan.processes), plan.warm_up)
    done, took = timed(plan, descend(stage, (0,), losses, optimizer, waited), share * plan.loaded_s)
    return Rates(ceiling, done / took, waited.seconds / took, done)


def timed(plan: Plan, iterations: Iterator[Any], limit_s: float) -> tuple[int, float]:
    """How many iterations were done after the warm-up, and how long they took."""
    for _ in itertools.islice(iterations, plan.warm_up):
        pass
    started = seconds(plan.device)
    done = 0
    for _ in itertools.islice(iterations, plan.window):
        done += 1
        if time.perf_counter() - started > limit_s:  # a GPU may lag behind by what it was told already
            break
    return done, seconds(plan.device) - started


class Waited:
    """Batches; how long they let the loop wait after the warm-up."""

    def __init__(self, batches: Iterator[Clips], warm_up: int) -> None:
        self.batches, self.warm_up, self.seconds = batches, warm_up, 0.0

    def __iter__(self) -> Iterator[tuple[Clips]]:
        for number in itertools.count():
            asked = time.perf_counter()
            batch = next(self.batches, None)
            if number >= self.warm_up:
                self.seconds += time.perf_counter() - asked
            if batch is None:
                return
            yield (batch,)


def small_model(plan: Plan, trained: Any) -> Rgnn:
    """The trained model at the size of inference."""
    detector = plan.config.detector.model_copy(update={"image_size": plan.inference_size})
    model = Rgnn(plan.config.model_copy(update={"detector": detector}))
    model.load_state_dict(trained.state_dict())
    return model.to(plan.device, memory_format=torch.channels_last).eval()


def infer(plan: Plan, model: Any, videos: VideoSet, size_px: tuple[int, int]) -> tuple[float, float, float]:
    """Frames per second of encode and step together, and of each alone; no decoding, no RLE."""
    height, width = size_px
    frames = [torch.tensor(v.read_frame(0)).permute(2, 0, 1)[None].float() for v in videos.videos]
    small = [torch.nn.functional.interpolate(frame, (height, width)).to(torch.uint8) for frame in frames]
    pixels = torch.cat(list(itertools.islice(itertools.cycle(small), plan.streams))).to(plan.device)
    infos = [VideoInfo(str(stream), height, width) for stream in range(plan.streams)]

    def play(count: int) -> tuple[float, float]:
        state = model.start(infos)
        encoding = stepping = 0.0
        with torch.autocast(plan.device.type, torch.bfloat16):
            for _ in range(count):
                before = seconds(plan.device)
                encoded = model.encode(Frames(pixels))
                between = seconds(plan.device)
                _, state = model.step(encoded, state)
                after = seconds(plan.device)
                encoding, stepping = encoding + between - before, stepping + after - between
        return encoding, stepping

    play(3)
    encoding, stepping = play(plan.frames)
    total = plan.frames * plan.streams
    return total / (encoding + stepping), total / encoding, total / stepping


def film_to_masks(plan: Plan, model: Rgnn, folder: Path) -> tuple[float, int, dict[str, float]]:
    """(frames per second, masks, share of each stage) of one worker: decode, encode, step, run-length coding."""
    from jobs.archives.archive import list_videos  # these need more packages than the models do
    from jobs.segmentation.records import MaskSpill
    from jobs.segmentation.side_by_side import SideBySide
    from jobs.settings import Settings
    from jobs.store import Store

    films = folder / "films"
    write_archive(plan.film, films, 2)
    for number in range(2, plan.films):
        shutil.copy(films / f"{number % 2:06d}.mp4", films / f"{number:06d}.mp4")
    store = Store.open(Settings(store=str(folder)))
    stage = SideBySide(
        model,
        plan.device.type,
        store,
        videos_at_once=plan.films,
        frames_per_batch=2 * plan.films,
        threads=max(plan.processes, 1),
    )
    spill = MaskSpill()
    started = seconds(plan.device)
    with torch.autocast(plan.device.type, torch.bfloat16):
        played = list(stage.play(list_videos(str(films), store), spill))
    took = seconds(plan.device) - started
    spill.close()
    frames = sum(outcome.record.frames for outcome in played if outcome.record)
    tallies = [outcome.record.tracks(0.0)[0] for outcome in played if outcome.record]
    masks = sum(tally.n_obs for tally in itertools.chain.from_iterable(each.values() for each in tallies))
    busy = sum(stage.seconds[name] for name in ("decode", "encode", "step", "rle"))
    return frames / took, masks, {name: stage.seconds[name] / busy for name in ("decode", "encode", "step", "rle")}


def report_other(plan: Plan, job: TrainJob, videos: VideoSet) -> None:
    """Training and inference of another model, a line each."""
    stage = next(stage for stage in job.stages if stage.part == "whole")
    torch.manual_seed(0)
    model = model_class(job.model)(job.config.with_classes(len(CATEGORIES)))
    model = model.to(plan.device, memory_format=torch.channels_last)
    rates = train(plan, stage, model, videos, SHARE)
    what = f"{job.recipe}, {stage.batch_size} pairs, {stage.precision}, {rates.iterations} iterations"
    print(f"{what:72}{rates.loaded:7.2f} it/s{rates.resident:7.2f} it/s{rates.waiting:10.0%}", flush=True)
    size = model.frame_size(VideoInfo("", plan.world.height, plan.world.width))
    fps, encode, step = infer(plan, model.eval(), videos, size)
    what = f"  inference {size[0]}x{size[1]}, bf16, {plan.streams} videos side by side, encode and step"
    print(f"{what:72}{fps:8.0f} f/s  (encode alone {encode:.0f}, step alone {step:.0f})", flush=True)


def report(plan: Plan) -> None:
    height, width = plan.config.detector.image_size
    with tempfile.TemporaryDirectory() as folder:
        print(f"drawing {plan.videos} videos of {plan.world.height}x{plan.world.width}", flush=True)
        write_youtube_vis(plan.world, Path(folder), plan.videos, 1)
        videos = read_youtube_vis(Path(folder) / "train.json")
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        model = Rgnn(plan.config).to(plan.device, memory_format=torch.channels_last)
        if plan.compile:
            compile_fusible(model)
        print(f"{'':72}{'loaded':>12}{'resident':>12}{'waiting':>10}")
        hours = []
        for stage in plan.stages:
            rates = train(plan, stage, model, videos)
            hours.append(stage.iterations / rates.loaded / 3600)
            what = f"stage {stage.name}, {stage.batch_size} x {stage.clip_length} frames {height}x{width}"
            what += f", {stage.precision}, {rates.iterations} iterations"
            print(f"{what:72}{rates.loaded:7.2f} it/s{rates.resident:7.2f} it/s{rates.waiting:10.0%}", flush=True)
        counts = " + ".join(str(stage.iterations) for stage in plan.stages)
        parts = " + ".join(f"{part:.1f}" for part in hours)
        print(f"{f'whole schedule, {counts} iterations at these speeds with loading':72}{sum(hours):10.1f} h ({parts})")
        small = small_model(plan, model)
        fps, encode, step = infer(plan, small, videos, plan.inference_size)
        size = "x".join(map(str, plan.inference_size))
        what = f"inference {size}, bf16, {plan.streams} videos side by side, encode and step"
        print(f"{what:72}{fps:8.0f} f/s  (encode alone {encode:.0f}, step alone {step:.0f})", flush=True)
        what = f"{plan.films} films {plan.film.height}x{plan.film.width}, file to coded masks, one worker, bf16"
        try:
            fps, masks, shares = film_to_masks(plan, small, Path(folder))
            parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            print(f"{what:72}{fps:8.0f} f/s  ({masks} masks; {parts})", flush=True)
        except ModuleNotFoundError as error:
            print(f"{what:72}not measured: {error}", flush=True)
        for job in plan.others:
            report_other(plan, job, videos)
        if plan.device.type == "cuda":
            print(f"{'most GPU memory':72}{torch.cuda.max_memory_allocated(plan.device) / 2**30:8.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU, to try the code")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    given = parser.parse_args()
    cores = os.cpu_count()
    if given.tiny:
        print(f"tiny sizes on the CPU, torch {torch.__version__}, {cores} cores: the numbers mean nothing")
        report(tiny_plan())
    elif torch.cuda.is_available():
        compiled = ", compiled" if given.compile else ""
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {cores} cores{compiled}")
        report(full_plan(given.compile))
    else:
        print("no GPU that torch can use: nothing was measured")


if __name__ == "__main__":
    main()
