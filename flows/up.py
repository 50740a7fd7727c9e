"""`vis up`: a local Prefect server, a worker and the deployments, until Ctrl-C.

The SQLite database and the logs of server and worker lie in `home`. A flow run is what `vis` would be, typed in the
folder in which `vis up` was started: the same vis.toml, the same VIS_* and relative paths. So settings travel in the
environment of the worker, and no secret enters the server's database.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from flows.embedded import load_prefect
from flows.surroundings import FOLDER, reach_loopback
from jobs.settings import Settings
from vis_models.config import BadConfig

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.schemas.objects import FlowRun

DEPLOYMENTS = Path(__file__).resolve().parent.parent / "infra/prefect.yaml"
WORK_POOL = "vislake"
WORKER = "vis-up"
"""Its runs carry this name, so that those of other workers and of `vis train` in another terminal stay untouched."""
START_S = 120
"""A first start migrates the database: some ten seconds, more on a busy machine."""
STOP_S = 30
"""How long a flow run may take to leave, which is what Prefect's worker gives it between SIGTERM and SIGKILL."""
LAST_WORDS_S = 15
"""How long after that the worker may take to hear of it and to tell the server."""

Say = Callable[[str], None]


def up(host: str, port: int, home: Path, settings: Settings, say: Say) -> None:
    """Starts everything, says where it is, and stops everything on Ctrl-C, SIGTERM or when the terminal closes.

    Raises:
        BadConfig: the port or the home is taken or cannot be used, Prefect cannot read its settings, this is no
            checkout, or server or worker do not answer or end by themselves, with the name of their log.
        RuntimeError: a command of Prefect failed, with what it said.
    """
    if not DEPLOYMENTS.is_file():
        raise BadConfig(f"there is no {DEPLOYMENTS}: `vis up` needs a checkout of vislake, installed with --editable")
    home = home.resolve()
    with _alone_in(home), _children(home, say) as children:
        address = free_address(host, port)
        reach_loopback(host)
        children.prepare(f"{address}/api")
        load_prefect()
        say(f"starting a Prefect server, database and logs in {home}")
        children.start("server", "server", "start", "--host", host, "--port", str(port))
        children.wait_for(f"{address}/api/health")
        _make_work_pool(children, say)
        children.run("--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS))
        for run in _under_way():
            say(f"left over     {_conclude(run, 'the `vis up` that ran it was killed', 'Crashed')}")
        children.start("worker", "worker", "start", "--pool", WORK_POOL, "--name", WORKER)
        say(f"store       {settings.store}")
        say(f"server      {address}")
        say(f"flows run   in {Path.cwd()}, with the settings of this command")
        say("in any other terminal:")
        say(f"    export PREFECT_API_URL={address}/api PREFECT_PLUGINS_ENABLED=1")
        say(f"    {_program()} deployment run train-rgnn")
        say("Ctrl-C cancels the runs and stops the worker and the server")
        children.watch()


def _program() -> str:
    """`prefect` as the next terminal may find it."""
    beside = Path(sys.executable).with_name("prefect")
    found = shutil.which("prefect")
    return "prefect" if found and Path(found).resolve() == beside.resolve() else str(beside)


def free_address(host: str, port: int) -> str:
    """Where the server will answer; raises BadConfig: not there."""
    try:
        (family, _, _, _, place), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except socket.gaierror as error:
        raise BadConfig(f"--host {host}: {error.strerror}; expected an address of this machine") from None
    except OSError as error:
        raise BadConfig(f"{host}:{port} is not free ({error.strerror}): stop what runs there or use --port") from None
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # every address of this machine, and one of them
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Two servers on one database would run everything twice.

    Raises:
        BadConfig: another `vis up` uses the home, or nothing can be written there.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("a+")
    except OSError as error:
        raise BadConfig(f"{home} cannot be written ({error.strerror}): choose another --home") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise BadConfig(
                f"another `vis up` (process {lock.read().strip()}) keeps its database in {home}: stop it, use it, or "
                "choose another --home"
            ) from None
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        yield


def _make_work_pool(children: "_Children", say: Say) -> None:
    """Once: whatever an operator sets there later, such as a limit, stays."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(WORK_POOL)
        except ObjectNotFound:
            children.run("work-pool", "create", WORK_POOL, "--type", "process")
            return
    if pool.is_paused:
        say(f"the work pool is paused, runs wait until `prefect work-pool resume {WORK_POOL}`")


# Flow runs, as the server knows them


def _under_way() -> list["FlowRun"]:
    """The runs that our worker has begun and not ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.states import StateType

    begun = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=begun)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
        )
    return [run for run in runs if run.labels.get("prefect.worker.name", WORKER) == WORKER]


def _set(run: "FlowRun", state: "State") -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, state, force=True)


def _conclude(run: "FlowRun", why: str, name: str) -> str:
    """Ends a run whose process is gone, unless it came to an end of its own; returns what became of it."""
    from prefect import states
    from prefect.client.orchestration import get_client

    from flows.steps import goes_on

    with get_client(sync_client=True) as client:
        now = client.read_flow_run(run.id)
    if now.state and (now.state.is_completed() or now.state.is_failed()):
        return f"{now.name} had ended: {now.state_name}"
    going_on = goes_on(now.name, now.parameters, str(now.id))
    _set(now, getattr(states, name)(message=f"{why}; {going_on}"))
    return f"{now.name} is {name}; {going_on}"


class _Children:
    """Prefect commands, each in a session of its own so that Ctrl-C reaches this process alone.

    They run in `home`, and flows go from there to the folder of this process when they begin: Prefect imports a flow
    with its working folder in front, where a folder `flows` of the user's would be taken for ours.
    """

    def __init__(self, home: Path, say: Say) -> None:
        self.home = home
        self._say = say
        self.mark = f"VIS_UP={home}"  # inherited by every process that anything here starts
        self.running: dict[str, subprocess.Popen] = {}

    def prepare(self, api_url: str) -> None:
        """This process and what it starts belong to the server."""
        if profile := os.environ.pop("PREFECT_PROFILE", None):
            self.say(f"PREFECT_PROFILE={profile} is left aside: this server has its settings in {self.home}")
        os.environ |= {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_PLUGINS_ENABLED": "1",
            "PYTHONSAFEPATH": "1",
            FOLDER: os.getcwd(),
            "VIS_UP": str(self.home),
        }

    def say(self, line: str) -> None:
        with suppress(OSError):  # the terminal may be closed, which is no reason to stop half-way
            self._say(line)

    def start(self, name: str, *arguments: str) -> None:
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(command, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"prefect {' '.join(arguments)} failed:\n{done.stdout.decode()}{done.stderr.decode()}")

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def wait_for(self, url: str) -> None:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(OSError), direct.open(url, timeout=5):
                return
            self.check()
            time.sleep(0.2)
        raise BadConfig(
            f"no answer from {url} within {START_S} s, see {self.log('server')}: start it again where the machine was "
            "only busy"
        )

    def check(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                raise BadConfig(f"the {name} ended with code {process.returncode}, see {self.log(name)}")

    def watch(self) -> NoReturn:
        while True:
            self.check()
            time.sleep(0.5)

    def stop(self) -> None:
        """The runs first, then the worker, both while the server still takes their last words."""
        try:
            begun = self._cancel_runs() if "worker" in self.running and self._runs("server") else []
            self._end("worker")
            self.kill_left(but=self.running.get("server"))
            if self._runs("server"):
                for run in begun:
                    self.say(f"ended       {_conclude(run, '`vis up` was stopped', 'Cancelled')}")
        finally:
            self._end("worker")
            self._end("server")
            self.kill_left()

    def _cancel_runs(self) -> list["FlowRun"]:
        """The worker ends a run that is to be cancelled with SIGTERM, and after STOP_S with SIGKILL."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import WorkPoolUpdate
        from prefect.states import Cancelling

        if not (begun := _under_way()):
            return []
        self.say(f"stopping {', '.join(run.name for run in begun)}: {STOP_S} s at most")
        with get_client(sync_client=True) as client:
            was_paused = client.read_work_pool(WORK_POOL).is_paused
            client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=True))  # nothing else begins meanwhile
            try:
                deadline = time.monotonic() + STOP_S + LAST_WORDS_S
                while (left := _under_way()) and self._runs("worker") and time.monotonic() < deadline:
                    for run in left:
                        if not run.state or not run.state.is_cancelling():
                            _set(run, Cancelling(message="`vis up` is being stopped"))
                            begun += [run] if run.id not in {each.id for each in begun} else []
                    time.sleep(0.5)
            finally:
                client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=was_paused))
        return begun

    def _runs(self, name: str) -> bool:
        return name in self.running and self.running[name].poll() is None

    def _end(self, name: str) -> None:
        if process := self.running.get(name):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)

    def kill_left(self, but: subprocess.Popen | None = None) -> None:
        """Whatever was started below us, or below a `vis up` of this home that was killed, and still runs."""
        spared = {os.getpid(), but.pid if but else None}
        deadline = time.monotonic() + STOP_S
        while (left := [pid for pid in self._marked() if pid not in spared]) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)  # what it held, such as the port, is free when it is gone

    def _marked(self) -> Iterator[int]:
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark.encode() in environ.read_bytes().split(b"\0"):
                    yield int(environ.parent.name)


@contextmanager
def _children(home: Path, say: Say) -> Iterator[_Children]:
    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    children = _Children(home, say)
    children.kill_left()
    ending = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
    before = [signal.signal(each, interrupt) for each in ending]
    try:
        yield children
    finally:
        for each in ending:  # stopping takes a moment; a second Ctrl-C must not cut it short
            signal.signal(each, signal.SIG_IGN)
        try:
            children.stop()
        finally:
            for each, handler in zip(ending, before, strict=True):
                signal.signal(each, handler)
