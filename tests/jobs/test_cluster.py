import os
import subprocess
import sys

import pytest
import ray

from jobs.cluster import cluster
from jobs.settings import Settings
from tests.conftest import REPOSITORY
from vis_models.config import BadConfig

GPU_FREE = pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="counts workers of a machine without a GPU")


@GPU_FREE
@pytest.mark.parametrize(
    ("given", "count", "cpus"),
    [
        ({}, 1, os.cpu_count()),
        ({"workers": 2}, 2, max(1, (os.cpu_count() or 1) // 2)),
        ({"workers": 64}, 64, max(1, (os.cpu_count() or 1) // 64)),
        ({"workers": 3, "cpus_per_worker": 4}, 3, 4),
    ],
)
def test_the_cores_are_shared_between_the_workers(local_ray: None, given: dict, count: int, cpus: int):
    with cluster(Settings(**given)) as workers:
        assert (workers.count, workers.cpus, workers.device) == (count, cpus, "cpu")


def test_a_ray_that_runs_already_is_used_and_left_running(local_ray: None):
    node = ray.get_runtime_context().get_node_id()
    with cluster(Settings()):
        assert ray.get_runtime_context().get_node_id() == node
    assert ray.is_initialized()


@GPU_FREE
def test_a_gpu_that_is_not_there_is_refused(local_ray: None):
    with pytest.raises(BadConfig, match="Ray sees no GPU: set VIS_DEVICE=cpu"), cluster(Settings(device="cuda")):
        pass


@pytest.mark.unit
def test_an_address_where_no_ray_is_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(BadConfig, match=r"no Ray at 127.0.0.1:9: .*correct VIS_RAY_ADDRESS"),
        cluster(Settings(ray_address="127.0.0.1:9")),
    ):
        pass


def test_a_signal_to_end_is_answered_by_who_answered_before_ray_came():
    """In a process of its own: Ray's core answers SIGTERM with a dump of its stack and an abort."""
    code = (
        "import signal\n"
        "from flows.terminal import as_interrupt\n"
        "from jobs.cluster import cluster\n"
        "from jobs.settings import Settings\n"
        "signal.signal(signal.SIGTERM, as_interrupt)\n"
        "with cluster(Settings()):\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
    assert "SIGTERM received" not in done.stderr
