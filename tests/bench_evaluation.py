"""Speed and memory of the evaluator: `python -m tests.bench_evaluation` (2 minutes, 1.5 GB of disk), or `make bench`.

Sets of three sizes are drawn from a seed and scored from tables and from JSON, each in a process of its own, whose
peak memory is that of the whole process. Beside it the plain evaluator of the tests, one pair of bitmaps at a time,
on a few predictions of a few videos; its time is scaled by the pairs of masks. Times are seconds of CPU, imports left
out.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.settings import Settings
from jobs.store import Store
from tests.drawn_results import SETS, write
from tests.vis_models.metrics.test_average_precision import may_match, plain_summary

CHILD = """
import json, sys, time
from pathlib import Path
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.evaluation.outcomes import read
from jobs.settings import Settings
from jobs.store import Store
from vis_models.metrics.uncertainty import standard_error

given, settings = json.loads(sys.argv[1]), Settings(store=sys.argv[2])
started = time.process_time()
done = evaluate(EvaluateJob(**given), settings)
seconds = time.process_time() - started
status = Path("/proc/self/status").read_text()  # what getrusage says would include the parent's memory at the fork
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
kept = [*read(Store.open(settings), done.evaluation_id).values()]
started = time.process_time()
standard_error(kept, 1000)
print(json.dumps([seconds, peak, time.process_time() - started, done.figures["AP"]]))
"""


def main() -> None:
    print(
        "\nevaluation                      file     from tables       from JSON        plain, scaled  ratio  1000 draws"
    )
    for name, drawing in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            lake = str(Path(folder) / "lake")
            labels, results = write(drawing, Path(folder), Store.open(Settings(store=lake)))
            size = results.stat().st_size / 2**20
            (tables, tables_mb, draws, ap), (file, file_mb, _, same) = (
                _score(lake, data=str(labels), **given) for given in ({"plan": "drawn"}, {"results": str(results)})
            )
            assert ap == same, "tables and JSON of the same tracks have different scores"
            plain = _plain(json.loads(labels.read_text()), results)
        print(
            f"  {name:28}{size:5.0f} MiB {tables:6.1f} s {tables_mb:4.0f} MiB {file:6.1f} s {file_mb:4.0f} MiB"
            f" {plain:12.0f} s {plain / tables:6.0f} {draws:8.1f} s"
        )


def _score(lake: str, **given: str) -> list[float]:
    """(seconds, peak MiB, seconds of 1000 draws, AP) of an evaluation in a process of its own."""
    command = [sys.executable, "-c", CHILD, json.dumps(given), lake]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _plain(truth: dict, results: Path, videos: int = 4, predictions: int = 6) -> float:
    """Seconds that the plain evaluator would need for all, from the first predictions of a few videos."""
    every = json.loads(results.read_text())
    few_ids = sorted({entry["video_id"] for entry in every})[:videos]
    few = [entry for video in few_ids for entry in [e for e in every if e["video_id"] == video][:predictions]]
    part = truth | {
        "videos": [video for video in truth["videos"] if video["id"] in few_ids],
        "annotations": [entry for entry in truth["annotations"] if entry["video_id"] in few_ids],
    }
    started = time.process_time()
    plain_summary(part, few)
    return (time.process_time() - started) * _pairs(truth, every) / _pairs(part, few)


def _pairs(truth: dict, results: list[dict]) -> int:
    """Pairs of tracks that may match."""
    by_video: dict[int, list[dict]] = {}
    for entry in truth["annotations"]:
        by_video.setdefault(entry["video_id"], []).append(entry)
    return sum(may_match(dt, gt) for dt in results for gt in by_video.get(dt["video_id"], ()))


if __name__ == "__main__":
    main()
