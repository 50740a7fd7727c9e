"""`vis up`: a local Prefect server, a worker and the four deployments, until Ctrl-C.

The SQLite database and the logs of server and worker lie in `home`; flows run in the checkout.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from jobs.settings import Settings
from vis_models.config import BadConfig

CHECKOUT = Path(__file__).resolve().parent.parent
WORK_POOL = "vislake"
START_S = 120
"""A first start migrates the database: some ten seconds, more on a busy machine."""
STOP_S = 30
"""How long a flow run may take to leave after SIGTERM."""


def up(host: str, port: int, home: Path, settings: Settings, say: Callable[[str], None]) -> None:
    """Starts everything, says where it is, and stops everything on Ctrl-C or SIGTERM.

    Raises:
        BadConfig: the port is taken, or this is no checkout.
        RuntimeError: server or worker ended by itself; the message names its log.
    """
    if not (CHECKOUT / "infra/prefect.yaml").is_file():
        raise BadConfig(f"{CHECKOUT} holds no infra/prefect.yaml: `vis up` runs from a checkout of vislake")
    _refuse_taken_port(host, port)
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    with _children(home, f"http://{host}:{port}/api", settings.store) as children:
        say(f"starting a Prefect server, database and logs in {home}")
        children.start("server", "server", "start", "--host", host, "--port", str(port))
        children.wait_for(f"http://{host}:{port}/api/health")
        children.run("work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        children.run("--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml")
        children.start("worker", "worker", "start", "--pool", WORK_POOL)
        say(f"store       {settings.store}")
        say(f"server      http://{host}:{port}")
        say("in another terminal, in this folder:")
        say(f"    export PREFECT_API_URL=http://{host}:{port}/api")
        say("    prefect deployment run train-rgnn")
        say("Ctrl-C stops the server, the worker and its runs")
        children.watch()


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadConfig(
                f"{host}:{port} is not free ({error.strerror}): stop what runs there or use --port"
            ) from None


class _Children:
    """Prefect commands in the checkout, each in a session of its own so that Ctrl-C reaches this process alone."""

    def __init__(self, home: Path, api_url: str, store: str) -> None:
        self.home = home
        self.mark = f"VIS_UP={uuid.uuid4().hex}"  # inherited by every process that anything here starts
        self.running: dict[str, subprocess.Popen] = {}
        self.env = os.environ | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "VIS_STORE": store,
            "VIS_UP": self.mark.partition("=")[2],
        }

    def start(self, name: str, *arguments: str) -> None:
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=CHECKOUT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, env=self.env, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"prefect {' '.join(arguments)} failed:\n{done.stdout.decode()}{done.stderr.decode()}")

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def wait_for(self, url: str) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(url, timeout=5):
                return
            self.check()
            time.sleep(0.2)
        raise RuntimeError(f"no answer from {url} within {START_S} s, see {self.log('server')}")

    def check(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                raise RuntimeError(f"the {name} ended with code {process.returncode}, see {self.log(name)}")

    def watch(self) -> NoReturn:
        while True:
            self.check()
            time.sleep(0.5)

    def stop(self) -> None:
        """The worker with its runs first, while the server still takes their last words."""
        for name in ("worker", "server"):
            if process := self.running.get(name):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def left(self) -> Iterator[int]:
        """Whatever was started below us and still runs, its parent alive or not."""
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark.encode() in environ.read_bytes().split(b"\0"):
                    yield int(environ.parent.name)


@contextmanager
def _children(home: Path, api_url: str, store: str) -> Iterator[_Children]:
    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    children = _Children(home, api_url, store)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield children
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # stopping takes a moment; a second Ctrl-C must not cut it short
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        children.stop()
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
