"""An archive of a million videos is listed from a manifest within the memory and time of a small machine."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parents[2]
VIDEOS = 1_000_000
LIST = """
import json, resource, sys, time
from jobs.archives.archive import read_archive
from jobs.settings import Settings
from jobs.store import Store
store, began = Store.open(Settings(store=sys.argv[2])), time.process_time()
videos = read_archive(sys.argv[1], store).videos
print(json.dumps({"videos": len(videos), "cpu_s": time.process_time() - began,
                  "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
"""


def test_a_manifest_of_a_million_videos_is_listed(tmp_path: Path):
    names = [f"cam{number % 50:02d}/2026/clip_{number:07d}.mp4" for number in range(VIDEOS)]
    table = {
        "id": names,
        "uri": [f"/films/{name}" for name in names],
        "size": [10_000_000 + number for number in range(VIDEOS)],
        "etag": [f"{number:032x}" for number in range(VIDEOS)],
        "camera": [name[:5] for name in names],
    }
    pq.write_table(pa.table(table), tmp_path / "million.parquet")
    command = [sys.executable, "-c", LIST, str(tmp_path / "million.parquet"), str(tmp_path / "lake")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=550)
    figures = json.loads(done.stdout)
    print(figures)
    assert figures["videos"] == VIDEOS
    assert figures["cpu_s"] < 60
    assert figures["gb"] < 1.2
