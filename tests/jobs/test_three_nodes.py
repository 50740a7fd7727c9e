"""A run on a Ray of three nodes, one of which is killed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from jobs.settings import Settings
from jobs.store import Store
from tests.conftest import REPOSITORY
from tests.jobs import barcode
from tests.jobs.barcoded import check_barcodes, many_films, read

NODE = {"num_cpus": 3, "object_store_memory": 2**27}
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
FILMS, FRAMES = 36, 8
RUN = """
import sys
from pathlib import Path

import ray

from jobs.segmentation import segment as segmenting
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from tests.jobs import barcode

films, model, lake, address, nodes = sys.argv[1:]
segmenting.SHARD_VIDEOS = 3


def load(folder, device, slot_recycling):
    model, card = barcode.load(folder, device, slot_recycling, delay_s=0.1)
    encode = model.encode

    def seen(frames):
        Path(nodes, ray.get_runtime_context().get_node_id()).touch()
        return encode(frames)

    model.encode = seen
    return model, card


settings = Settings(store=lake, ray_address=address, workers=3, cpus_per_worker=2)
summary = segment(SegmentJob(archive=films, model=model), settings, load=load)
assert summary.videos["done"] == summary.found, summary
"""


@pytest.fixture
def three_nodes() -> Iterator[Cluster]:
    head = NODE | {"include_dashboard": False, "_system_config": SOON}
    nodes = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        for _ in range(2):
            nodes.add_node(**NODE)
        yield nodes
    finally:
        nodes.shutdown()


def test_all_nodes_work_and_one_that_is_killed_costs_nothing(three_nodes: Cluster, tmp_path: Path):
    films, model = many_films(tmp_path / "films", FILMS, FRAMES), barcode.write_model(tmp_path / "barcode")
    seen = tmp_path / "nodes"
    seen.mkdir()
    command = [sys.executable, "-c", RUN, films, model, tmp_path / "lake", three_nodes.address, seen]
    with (tmp_path / "said").open("w") as said, subprocess.Popen(command, cwd=REPOSITORY, stderr=said) as run:
        try:
            deadline, at_work = time.monotonic() + 120, []
            while not at_work and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
                at_work = [node for node in three_nodes.worker_nodes if (seen / node.node_id).exists()]
            three_nodes.remove_node(at_work[0], allow_graceful=False)  # in the midst of its first shard
            ended = run.wait(timeout=180)
        finally:
            run.kill()
    assert ended == 0, (tmp_path / "said").read_text()[-3000:]
    assert len(list(seen.iterdir())) == 3, "every node plays shards"
    settings = Settings(store=str(tmp_path / "lake"))
    check_barcodes(read(settings), {f"{film}.mp4": FRAMES for film in range(FILMS)})
    begun = [key for key in Store.open(settings).list("vis/v1/_work") if key.endswith("started.json")]
    assert len(begun) == FILMS // 3 + 1, "one shard, that of the lost node, was begun twice"
