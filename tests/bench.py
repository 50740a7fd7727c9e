"""Speed and memory, measured side by side in one run: `make bench` (15 minutes on two cores, after `make demo`).

Prints one table per question; each states what it was measured on. Nothing here passes or fails.
`--sizes 720x1280 2160x3840` measures large films alone, at these sizes; `--long` films of 1 and 20 minutes.
"""

import argparse
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from jobs.archives.archive import list_videos
from jobs.archives.frames import open_video
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.models import find, registered
from jobs.segmentation.records import MaskSpill
from jobs.segmentation.segment import SegmentJob, segment
from jobs.segmentation.side_by_side import SideBySide
from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.data_sets import prepare_data
from jobs.training.runs import resumable
from tests import bench_evaluation
from vis_models.cards import read_card
from vis_models.checkpoints import load_model
from vis_models.data.world import WorldConfig, draw_video, write_archive, write_youtube_vis
from vis_models.trackers.linking import link


def drawing() -> None:
    print("\ndrawing, JPEG written, one core         frames/s")
    for level, height, width in (("easy", 96, 160), ("easy", 192, 320), ("hard", 192, 320)):
        config = WorldConfig(level=level, height=height, width=width)
        rates = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                started = time.process_time()
                write_youtube_vis(config, Path(folder), 20, 0)
                rates.append(20 * config.frames / (time.process_time() - started))
        print(f"  {level} {height}x{width:<25}{np.median(rates):10.0f}")
    started = time.process_time()
    for index in range(20):
        draw_video(WorldConfig(), index)
    print(f"  easy 96x160, drawn only{20 * 16 / (time.process_time() - started):16.0f}")


def association(store: Store) -> None:
    """The learned tracker and the greedy one, on the same detections of the same labelled videos."""
    name = list(registered(store))[-1]
    folder = Path(tempfile.mkdtemp()) / "greedy"
    card = link(store.local_copy(find(store, name)), folder, {"name": "greedy"})
    job = resumable(store, card.run_id)
    data = str(Path(prepare_data(job, store.settings, lambda *_: None).uri) / "val.json")
    scored, per_video = {}, {}
    for label, address in (("learned", find(store, name)), ("greedy", str(folder))):
        summary = segment(SegmentJob(archive=data, model=address, min_score=0), store.settings)
        done = evaluate(EvaluateJob(data=data, plan=summary.plan_id), store.settings)
        scored[label] = done.figures
        per_video[label] = video_scores(store, done.evaluation_id)
    print(f"\nassociation, {len(per_video['learned'])} videos    AP    AP50    AP75    AR10")
    for label, figures in scored.items():
        print(f"  {label:22}" + "".join(f"{figures[key]:8.3f}" for key in ("AP", "AP50", "AP75", "AR10")))
    shared = sorted(set(per_video["learned"]) & set(per_video["greedy"]))
    gain = np.array([per_video["learned"][video] - per_video["greedy"][video] for video in shared])
    error = gain.std(ddof=1) / len(gain) ** 0.5
    print(
        f"  per video, learned minus greedy: {gain.mean():+.3f} +- {1.96 * error:.3f} (mean, 95 %), {len(gain)} pairs"
    )


def video_scores(store: Store, evaluation_id: str) -> dict[str, float]:
    """AP of each video alone."""
    with store.arrow.open_input_file(store.path(f"{LAYOUT}/evaluations/{evaluation_id}.parquet")) as file:
        rows = pq.read_table(file).to_pylist()
    return {row["video_id"]: row["value"] for row in rows if row["video_id"] and row["metric"] == "AP"}


def long_films(store: Store, minutes: tuple[float, ...] = (1, 20)) -> None:
    """Memory over a film of twenty minutes, and where the time goes: the newest model of each kind that is there."""
    newest = {}
    for name in registered(store):
        folder = store.local_copy(find(store, name))
        newest[read_card(folder).model] = folder
    print("\none film, 10 frames/s           frames   frames/s   peak memory      decode encode step rle")
    for kind, folder in newest.items():
        for length in minutes:
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # memory is that of a process of its own
                speed, peak, shares = alone.submit(_play_long, folder, length, store).result()
            print(
                f"  {kind:16} {length:4} min {round(600 * length):8} {speed:10.0f} {peak:10.0f} MiB  {shares}",
                flush=True,
            )


def _play_long(model_folder: Path, minutes: float, store: Store) -> tuple[float, float, str]:
    """Frames per second, MiB, and the shares of the work."""
    with tempfile.TemporaryDirectory() as folder:
        frames = round(600 * minutes)
        write_archive(WorldConfig(frames=frames), Path(folder), 1)
        model, _ = load_model(model_folder, slot_recycling=True)
        stage = SideBySide(model, "cpu", store, videos_at_once=8, frames_per_batch=16, threads=2)
        started, spill = time.perf_counter(), MaskSpill()
        for _ in stage.play(list_videos(folder, store), spill):
            pass
        wall = time.perf_counter() - started
        spill.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return frames / wall, peak, _shares(stage)


def _shares(stage: SideBySide) -> str:
    busy = sum(stage.seconds[name] for name in ("decode", "encode", "step", "rle"))
    return "".join(f"{stage.seconds[name] / busy:7.0%}" for name in ("decode", "encode", "step", "rle"))


def large_films(store: Store, sizes: list[str], films: int = 8, frames: int = 6) -> None:
    """Films side by side at their own size, against the ceiling: decoding and scaling alone, CPU time of one core."""
    model, _ = load_model(store.local_copy(find(store)))
    height, width = model.config.detector.image_size
    print(f"\n{films} films side by side, CPU time       frames/s   decoding alone      shares: decode encode step rle")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            own = dict(zip(("height", "width"), map(int, size.split("x")), strict=True))
            write_archive(WorldConfig(frames=frames, **own), Path(folder), films)
            sources = list_videos(folder, store)
            began = time.process_time()
            for source in sources:
                with open_video(source, store) as video:
                    for _ in video.frames((height, width)):
                        pass
            alone = time.process_time() - began
            stage = SideBySide(model, "cpu", store, videos_at_once=films, frames_per_batch=16, threads=2)
            began, spill = time.process_time(), MaskSpill()
            for _ in stage.play(sources, spill):
                pass
            took = time.process_time() - began
            spill.close()
        print(f"  {size:33} {films * frames / took:10.1f} {films * frames / alone:16.1f}       {_shares(stage)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", metavar="HEIGHTxWIDTH", help="large films alone, at these sizes")
    parser.add_argument("--long", action="store_true", help="long films alone, of every kind of model that is there")
    given = parser.parse_args()
    sizes, store = given.sizes, Store.open(Settings())
    if given.long:
        long_films(store)
        return
    large_films(store, sizes or ["720x1280", "2160x3840"])
    if sizes:
        return
    long_films(store)
    association(store)
    drawing()
    bench_evaluation.main()


if __name__ == "__main__":
    main()
