import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from jobs.cluster import cluster, listening
from jobs.settings import Settings
from jobs.workers import cores, own_ray_folder, ray_to_join
from tests.conftest import REPOSITORY
from vis_models.config import BadConfig

GPU_FREE = pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="counts workers of a machine without a GPU")


@GPU_FREE
@pytest.mark.parametrize(
    ("given", "count", "cpus"),
    [
        ({}, 1, cores()),
        ({"workers": 2}, 2, max(1, cores() // 2)),
        ({"workers": 4, "cpus_per_worker": 2}, 4, 2),
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
    with (
        pytest.raises(BadConfig, match="there is no GPU to be seen: set VIS_DEVICE=cpu"),
        cluster(Settings(device="cuda")),
    ):
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


@GPU_FREE
def test_workers_that_do_not_fit_are_refused_with_both_numbers(local_ray: None):
    limit = int(ray.cluster_resources()["CPU"])
    with (
        pytest.raises(BadConfig, match=rf"64 workers of 1 CPUs each do not fit: Ray has {limit} CPUs"),
        cluster(Settings(workers=64)),
    ):
        pass


def test_a_lost_board_does_not_fail_the_work_that_it_told_of(local_ray: None):
    with listening(lambda note: None) as board:
        ray.kill(board)


@pytest.fixture
def answering() -> str:
    """The address of something that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.unit
def test_the_ray_of_a_job_or_a_pod_is_joined_where_it_answers(monkeypatch: pytest.MonkeyPatch, answering: str):
    monkeypatch.setenv("RAY_ADDRESS", answering)
    address, said = ray_to_join(Settings())
    assert address == answering
    assert f"joined the Ray at RAY_ADDRESS={answering}" in said
    assert ray_to_join(Settings(ray_address="local")) == (None, "")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("given", "why"), [("127.0.0.1:9", "refused"), ("http://127.0.0.1:8265", "expected HOST:PORT"), ("", "")]
)
def test_a_ray_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, given: str, why: str):
    monkeypatch.setenv("RAY_ADDRESS", given)
    address, said = ray_to_join(Settings())
    assert address is None
    assert why in said
    assert bool(said) == bool(given)


@pytest.mark.unit
def test_a_ray_that_was_killed_and_left_its_address_behind_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:9")
    with pytest.raises(BadConfig, match=r"no Ray at auto: .*refused"):
        ray_to_join(Settings(ray_address="auto"))


@pytest.mark.unit
def test_ray_keeps_its_sockets_where_their_paths_are_short_enough_and_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert own_ray_folder() == ("/tmp/ray", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    folder, said = own_ray_folder()
    assert folder == "/tmp/ray"
    assert "too long for the sockets of Ray" in said
    monkeypatch.setenv("TMPDIR", "/proc")
    folder, said = own_ray_folder()
    assert folder == "/tmp/ray"
    assert said.startswith("the temporary folder /proc is not used by Ray: ")
