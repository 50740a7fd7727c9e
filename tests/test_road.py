"""The whole road on real servers: Prefect server and worker, its command line, Ray, and a store on OpenStack Swift."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs import tables
from jobs.reporting import query
from jobs.settings import Settings
from jobs.store import Store
from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.world import WorldConfig, write_archive

from .s3 import S3, swift

PROGRAMS = Path(sys.executable).parent
BUCKET = "lake"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with swift(tmp_path_factory.mktemp("swift") / "disk") as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@dataclass(frozen=True)
class Lake:
    """A running `vis up` on a store in S3."""

    settings: Settings
    run: Callable[..., subprocess.CompletedProcess[str]]
    """Runs `prefect ...` against the server, far from the checkout."""


@pytest.fixture(scope="module")
def lake(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    home = tmp_path_factory.mktemp("up")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | s3.environment(f"s3://{BUCKET}/store")
    environment |= {
        "VIS_SCRATCH": str(home / "scratch"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_PLUGINS_ENABLED": "1",
        "PREFECT_HOME": str(home / "prefect-home"),
        "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]),
    }
    up = subprocess.Popen(
        [PROGRAMS / "vis", "up", "--port", str(port), "--home", str(home / "prefect")],
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = ""
    for line in up.stdout:
        said += line
        if "Ctrl-C" in line:
            break
    assert up.poll() is None, said

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAMS / "prefect", *arguments],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=400,
        )

    yield Lake(
        Settings(
            store=f"s3://{BUCKET}/store",
            s3_endpoint=s3.endpoint,
            s3_access_key=s3.access_key,
            s3_secret_key=s3.secret_key,
            scratch=home / "scratch",
        ),
        run,
    )
    os.kill(up.pid, signal.SIGINT)
    up.wait(60)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server is still there after Ctrl-C"


@pytest.mark.timeout(900)
def test_four_deployments_turn_films_into_tables_scores_and_a_page(lake: Lake, s3: S3, tmp_path: Path):
    client = s3.client()
    write_archive(WorldConfig(), tmp_path / "films", 3)
    for film in sorted((tmp_path / "films").glob("*.mp4")):
        client.upload_file(str(film), BUCKET, f"films/{film.name}")
    client.put_object(Bucket=BUCKET, Key="films/letter.mp4", Body=b"Dear archive, I am not a film.")

    steps = {
        "train-rgnn": ["recipe=rgnn_r18_world_tiny"],
        "segment-archive": [f"archive=s3://{BUCKET}/films"],
        "evaluate-youtube-vis": [],
        "report": [],
    }
    for name, parameters in steps.items():
        given = [part for parameter in parameters for part in ("--param", parameter)]
        done = lake.run("deployment", "run", name, *given, "--watch")
        assert done.returncode == 0, f"{name}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    store = Store.open(lake.settings)
    films = next(snapshot for snapshot in store.plans() if snapshot.archive.endswith("films"))
    lake_tables = tables.open(store, films.plan_id)
    videos = {row["video_id"]: row for row in lake_tables["videos"].to_table().to_pylist()}
    assert {row["status"] for name, row in videos.items() if "letter" not in name} == {"done"}
    assert sorted(row["n_frames"] for row in videos.values()) == [0, 16, 16, 16]
    assert len(videos) == 4
    errors = query.run("SELECT video_id, code FROM errors", store, films.plan_id).to_pylist()
    assert [row["video_id"] for row in errors] == [name for name in videos if "letter" in name]
    rows = lake_tables["masks"].to_table().to_pylist()
    for row in rows:
        assert masks.decode(row["rle"], row["height_px"], row["width_px"]).sum() == row["area_px"]
    counted = query.run("SELECT count(*) AS n FROM masks", store, films.plan_id).to_pylist()
    assert counted == [{"n": len(rows)}]
    deadline = time.monotonic() + 300
    while len(query.run("score-history", store)) < 2:  # ours, and the one that the registered model set off
        assert time.monotonic() < deadline, "the model was registered, but not evaluated by itself"
        time.sleep(1)
    assert [key for key in store.list("vis/v1/reports") if key.endswith(".html")]


@pytest.mark.timeout(300)
def test_a_deployment_has_its_full_name_too_and_a_mistake_ends_in_a_sentence(lake: Lake):
    done = lake.run("deployment", "run", "train/train-rgnn", "--param", "recipe=rgnn_r19", "--watch")
    assert done.returncode != 0
    run_id = re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", done.stdout + done.stderr)
    assert run_id, done.stdout
    seen = lake.run("flow-run", "inspect", run_id[0])
    assert "unknown recipe 'rgnn_r19'" in re.sub(r"\s+", " ", seen.stdout)


def test_an_unknown_bare_name_is_refused_with_the_way_to_the_known_ones(lake: Lake):
    done = lake.run("deployment", "run", "train-rgn")
    assert done.returncode != 0
    assert "No deployment is called 'train-rgn'" in done.stdout + done.stderr


def test_a_store_that_refuses_credentials_says_so_and_keeps_the_secret(s3: S3):
    wrong = Settings(
        store=f"s3://{BUCKET}/store", s3_endpoint=s3.endpoint, s3_access_key=s3.access_key, s3_secret_key="not-testing"
    )
    with pytest.raises(BadConfig) as refused:
        Store.open(wrong)
    assert s3.endpoint in str(refused.value)
    assert "not-testing" not in str(refused.value)
