"""The installed command `vis`, a store that it filled, and a server that it started."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

PROGRAMS = Path(sys.executable).parent
PATIENCE_S = 400
SECRET = "hunter2-of-the-store"
"""A key that stands in the settings of every command of the session, and belongs in nothing that is written."""
PROXIES = [name for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())]

SMALL = {  # a training that runs every step and takes a minute
    "stages.0.iterations": 60,
    "stages.0.checkpoint_every": 1000,
    "stages.1.iterations": 2,
    "world.train_videos": 8,
    "world.val_videos": 4,
    "stages.0.gate_frames": 4,
}
TRAIN = ["train", "--recipe", "rgnn_r18_world_tiny", *(f"--set={key}={value}" for key, value in SMALL.items())]


def processes(mark: str) -> list[str]:
    """Command lines of all processes with `mark` (NAME=value) in their environment: children inherit it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone, or not ours
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Those in which a reader finds it; of Parquet, which is compressed, its values and key-values are read."""

    def holds(path: Path) -> bool:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            return secret in f"{table.to_pydict()} {table.schema.metadata}"
        return secret.encode() in path.read_bytes()

    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if holds(path)]


@dataclass(frozen=True)
class Program:
    """An installed command with an environment of its own."""

    name: str
    environment: dict[str, str]
    folder: Path

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PROGRAMS / self.name, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs to the end and must end with this exit code."""
        with self.start(*arguments, **environment) as process:
            try:
                out, err = process.communicate(timeout=PATIENCE_S)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode == code, f"{self.name} {arguments} ended with {process.returncode}:\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, code, out, err)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing of the user's: no Prefect profile, no settings, a store and a cache of the session."""
    home = tmp_path_factory.mktemp("home")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("VIS_", "PREFECT_", "RAY_"))}
    return inherited | {
        "COLUMNS": "160",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_HOME": str(home / "prefect"),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "VIS_S3_ACCESS_KEY": f"access-{SECRET}",
        "VIS_S3_SECRET_KEY": f"secret-{SECRET}",
        "VIS_SCRATCH": str(home / "scratch"),
        "VIS_STORE": str(home / "lake"),
    }


@pytest.fixture(scope="session")
def vis(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program("vis", environment, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def films(vis: Program) -> Path:
    """Three drawn films, one that is none, and a folder of frames with damage."""
    folder = vis.folder / "films"
    vis("world", folder, "--archive", 3, "--frames", 8)
    (folder / "text.mp4").write_text("no film")
    (folder / "frames").mkdir()
    for number in range(4):
        Image.new("RGB", (160, 96), (0, 60 * number, 0)).save(folder / f"frames/{number:05d}.jpg")
    (folder / "frames/00003.jpg").write_bytes(b"")
    return folder


@dataclass(frozen=True)
class Trained:
    """What a training said that was stopped with Ctrl-C and resumed."""

    run: str
    stopped: str
    listed: str
    """By `vis runs`, between the two."""
    resumed: str


@pytest.fixture(scope="session")
def trained(vis: Program) -> Trained:
    """A store with a registered model."""
    before = ""
    with vis.start(*TRAIN, "--name", "first-steps") as process:
        while process.poll() is None and not re.search(r"train detector: [1-9]", before):
            before += process.stderr.readline()  # type: ignore[union-attr]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything in it
        out, stopped = process.communicate(timeout=PATIENCE_S)
    stopped = before + stopped
    assert process.returncode == 130, out + stopped
    run = re.search(r"vis train --resume (\S+)`", stopped)
    assert run, stopped
    listed = vis("runs").stdout
    done = vis("train", "--resume", run[1])
    return Trained(run[1], stopped, listed, done.stderr + done.stdout)


@dataclass(frozen=True)
class Server:
    """A running `vis up`."""

    api_url: str
    process: subprocess.Popen[str]
    said: str
    prefect: Program
    """The command `prefect` in a folder of no meaning, with the environment that `vis up` said is needed."""
    mark: str
    """Stands in the environment of every process that it started, directly or not."""
    home: Path
    folder: Path
    """Where it was started."""


def start_server(vis: Program, home: Path, folder: Path) -> Server:
    """Behind a proxy that nobody answers at, as in a company whose proxy does not know this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    around = {"STARTED_BY": str(home)} | dict.fromkeys(PROXIES, "http://127.0.0.1:9")
    process = Program("vis", vis.environment | around, folder).start("up", "--port", port, "--home", home)
    said = ""
    for line in process.stdout:  # type: ignore[union-attr]
        said += line
        if "Ctrl-C" in line:
            break
    assert "Ctrl-C" in said, said + process.communicate()[1]
    exported = re.search(r"export (.*)", said)
    assert exported, said
    given = dict(each.split("=", 1) for each in exported[1].split())
    elsewhere = home.with_name(f"{home.name}-elsewhere")
    elsewhere.mkdir(exist_ok=True)
    prefect = Program("prefect", vis.environment | given, elsewhere)
    return Server(given["PREFECT_API_URL"], process, said, prefect, f"STARTED_BY={home}", home, folder)


@pytest.fixture(scope="session")
def server(vis: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Far from the checkout, with a vis.toml beside it and folders that are called as ours."""
    folder = tmp_path_factory.mktemp("up")
    (folder / "vis.toml").write_text('s3_endpoint = "http://127.0.0.1:9"\n')
    for ours in ("flows", "jobs"):
        (folder / ours).mkdir()
        (folder / ours / "__init__.py").write_text("raise SystemExit('this is another house')")
    server = start_server(vis, tmp_path_factory.mktemp("server"), folder)
    yield server
    server.process.send_signal(signal.SIGINT)
    server.process.wait(PATIENCE_S)
