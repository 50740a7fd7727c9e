"""Tables with so many rows that whoever stops after the first leaves most of them unread."""

import os
from typing import Any

from jobs import tables
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.store import FileRef, Store
from tests import published

SEEN = {"x0_px": 0, "y0_px": 0, "x1_px": 9, "y1_px": 9, "category_id": 1, "score": 0.5}


def publish_long(store: Store, files: int, rows: int, plan: str = "long") -> None:
    """A plan with one video, of one track, in each of its files of masks."""
    refs: dict[str, list[FileRef]] = {name: [] for name in ("videos", "tracks", "masks")}
    for n in range(files):
        for name, content in _rows(plan, f"v{n}", rows).items():
            made: dict[str, FileRef] = {}
            filled = [published.filled(row, plan, "/films") for row in content]
            with tables.create(store, f"tables/{name}/part-{plan}-{n:05d}.parquet", name, {}, made) as writer:
                writer.write(tables.from_rows(name, filled))
            refs[name].append(made[name])
    published.stand(
        store, plan, refs, set(), archive="/films", model_sha256="m" * 64, created_at="2026-02-01T00:00:00+00:00",
        lineage={"class_map_json": '{"1": "square"}', "model_name": "m"},
        counts={"done": files, "partial": 0, "failed": 0, "frames": rows * files},
    )  # fmt: skip


def _rows(plan: str, video: str, frames: int) -> dict[str, list[dict[str, Any]]]:
    key = {"plan_id": plan, "video_id": video}
    counts = dict.fromkeys(["n_low_score_tracks", "n_dropped_births", "decode_ms", "infer_ms"], 0)
    seen = {"uri": f"/films/{video}", "content_id": video, "status": "done", "run_id": "run", "n_tracks": 1}
    track = {"category": "square", "score_mean": 0.5, "score_max": 0.5, "gap_count": 0, "stitched": False}
    track |= {"first_frame": 0, "last_frame": frames - 1, "n_obs": frames, "area_mean_px": 81, "area_max_px": 81}
    mask = key | SEEN | {"track_id": 1, "area_px": 81, "height_px": 9, "width_px": 9, "rle": os.urandom(100)}
    return {
        "videos": [key | counts | seen | {"n_frames": frames, "sampled_frames": frames}],
        "tracks": [key | SEEN | track | {"track_id": 1}],
        "masks": [mask | {"frame_idx": frame} for frame in range(frames)],
    }


def scored_twice(lake: Any) -> tuple[str, str]:
    """Ids of two evaluations of a labelled lake."""
    job = EvaluateJob(data=str(lake.data), plan="plan")
    one, other = (evaluate(job, lake.settings).evaluation_id for _ in range(2))
    return one, other
