"""Speed and memory, measured side by side in one run: `make bench` (15 minutes on two cores, after `make demo`).

Prints one table per question; each states what it was measured on. Nothing here passes or fails.
`--sizes 720x1280 2160x3840` measures large films alone, at these sizes.
"""

import argparse
import resource
import tempfile
import time
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


def long_film(store: Store) -> None:
    """Memory over a film of twenty minutes, and where the time goes."""
    model, _ = load_model(store.local_copy(find(store)), slot_recycling=True)
    print("\none film, 10 frames/s     frames   frames/s   peak memory      decode encode step rle")
    for minutes in (1, 2, 20):
        with tempfile.TemporaryDirectory() as folder:
            write_archive(WorldConfig(frames=600 * minutes), Path(folder), 1)
            stage = SideBySide(model, "cpu", store, videos_at_once=8, frames_per_batch=16, threads=2)
            started, spill = time.perf_counter(), MaskSpill()
            for _ in stage.play(list_videos(folder, store), spill):
                pass
            wall = time.perf_counter() - started
            spill.close()
        busy = sum(stage.seconds[name] for name in ("decode", "encode", "step", "rle"))
        shares = "".join(f"{stage.seconds[name] / busy:7.0%}" for name in ("decode", "encode", "step", "rle"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"  {minutes:3} min {600 * minutes:18} {600 * minutes / wall:10.0f} {peak:10.0f} MiB  {shares}")


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
        busy = sum(stage.seconds[name] for name in ("decode", "encode", "step", "rle"))
        shares = "".join(f"{stage.seconds[name] / busy:7.0%}" for name in ("decode", "encode", "step", "rle"))
        print(f"  {size:33} {films * frames / took:10.1f} {films * frames / alone:16.1f}       {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", metavar="HEIGHTxWIDTH", help="large films alone, at these sizes")
    sizes = parser.parse_args().sizes
    store = Store.open(Settings())
    large_films(store, sizes or ["720x1280", "2160x3840"])
    if sizes:
        return
    long_film(store)
    association(store)
    drawing()
    bench_evaluation.main()


if __name__ == "__main__":
    main()
