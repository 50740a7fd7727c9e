"""A Prefect API for one command: it starts beside the command and is gone with it.

Prefect would start one itself. This one starts while the command imports torch and Ray, has a database of its own so
that commands never wait for each other, is not hit by the Ctrl-C that a terminal sends to everything in it (the flow
has last words for the API), and does not outlive a command that was killed.
"""

import gc
import io
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.settings import Settings
from vis_models.config import BadConfig

READY = "ready"
STOP_S = 10
ANSWER_S = 10
ROOM_BYTES = 32 * 2**20
"""What the database of one command may need."""
WHOLE = {  # of a database that is there: nothing is to be brought into it
    "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
}
QUIET = {  # how a flow runs inside `vis` where the user did not say otherwise
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is raised here, and told once
}


@contextmanager
def prefect_api() -> Iterator[Callable[[], None]]:
    """Inside, flows find an API: the one that PREFECT_API_URL or the Prefect profile names, else one started here.

    Yields:
        a function that returns when the API answers.

    Raises:
        BadConfig: the API that the user names does not answer, Prefect cannot read its settings, or there is no room
            for temporary files.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # our own imports what this imports, beside it
    server = None if "prefect" in sys.modules or named_elsewhere() else _Server()
    try:
        load_prefect()
        from prefect.events.worker import EventsWorker
        from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

        if url := PREFECT_API_URL.value():
            _check_answer(url)
            yield lambda: None
            return
        server = server or _Server()
        try:
            with temporary_settings({PREFECT_API_URL: server.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
                yield server.wait
        finally:
            EventsWorker.drain_all(timeout=STOP_S)  # what is still to be sent would hold up the end of this process
    finally:
        if server:
            server.stop()


def load_prefect() -> None:
    """Raises BadConfig: a variable PREFECT_*, a profile or a TOML file holds what Prefect does not take."""
    said = io.StringIO()  # Prefect prints such an error and raises it later
    try:
        with redirect_stderr(said):
            from prefect.settings import get_current_settings

            get_current_settings()
        print(said.getvalue(), end="", file=sys.stderr)
    except ValueError as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"  # without the value, which may be a key
        home = os.environ.get("PREFECT_HOME", "~/.prefect")
        raise BadConfig(
            f"Prefect does not start with its settings ({why}): look for it in the variables PREFECT_*, in "
            f"{home}/profiles.toml, and in the prefect.toml or pyproject.toml of this folder"
        ) from None


def _check_answer(url: str) -> None:
    """At once: Prefect itself tries for minutes."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_API_REQUEST_TIMEOUT: ANSWER_S, PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True) as client,
    ):
        if error := client.api_healthcheck():
            shown = re.sub("://.*@", "://***@", url)  # without the password
            why = str(error).splitlines()[0] or type(error).__name__
            raise BadConfig(
                f"no Prefect API answers at {shown} ({why}): start it, or correct PREFECT_API_URL or "
                "the Prefect profile; without them each command starts an API of its own"
            )


def _check_room() -> None:
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BadConfig(
            f"no temporary file can be written ({error.strerror}): set TMPDIR to a folder with room"
        ) from None
    if free < ROOM_BYTES:
        raise BadConfig(
            f"{folder} has {free / 2**20:.0f} MB left for temporary files, expected {ROOM_BYTES / 2**20:.0f}: "
            "make room, or set TMPDIR to another folder"
        )


def named_elsewhere() -> bool:
    """Whether an API may be named by the user. Prefect knows, but takes its time to import."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        return "PREFECT_API_URL" in os.environ or "PREFECT_API_URL" in profiles.read_text()
    except OSError:
        return False


class _Server:
    """The process of the API."""

    def __init__(self) -> None:
        """Raises BadConfig: there is no room for temporary files."""
        _check_room()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.embedded", str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
            )

    def wait(self) -> None:
        if self._process.stdout.readline().strip() != READY.encode():  # type: ignore[union-attr]
            self._log.seek(0)
            raise RuntimeError(f"the Prefect API of this command did not start:\n{self._log.read().decode()}")

    def stop(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._log.close()


# In the process of the API


def serve(listener: socket.socket) -> None:
    """Answers on `listener` until stdin ends, which is when the command has ended, however it did."""
    gc.disable()  # a fifth of the start went into looking for garbage among modules
    with tempfile.TemporaryDirectory(prefix="vis-prefect-", ignore_cleanup_errors=True) as folder:
        database, template = Path(folder) / "prefect.db", _template()
        if copied := _copy(template, database):
            os.environ |= WHOLE
        os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{database}"
        import uvicorn
        from prefect.server.api.server import create_app

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if not copied:
                    _keep(database, template)
                print(READY, flush=True)
                gc.freeze()
                gc.enable()

        app = create_app(ephemeral=True, final=True)
        server = Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2))
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
        server.run(sockets=[listener])


def _end_with_stdin(server: Any) -> None:
    sys.stdin.read()
    server.should_exit = True


def _template() -> Path:
    return Settings().scratch.expanduser() / f"prefect-{version('prefect')}.db"


def _copy(template: Path, database: Path) -> bool:
    """An empty database; making one takes ten seconds. False: there is none, or none that can be used."""
    try:
        shutil.copy(template, database)
        with closing(sqlite3.connect(database)) as copy:
            whole = copy.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            if whole and copy.execute("SELECT count(*) FROM alembic_version").fetchone()[0]:
                return True
    except (OSError, sqlite3.Error):
        pass
    database.unlink(missing_ok=True)
    return False


def _keep(database: Path, template: Path) -> None:
    """For the next command; where nothing can be kept, that one makes its own."""
    whole = template.with_suffix(f".{os.getpid()}")
    try:
        template.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(whole)) as target:
            source.backup(target)
        os.replace(whole, template)
    except (OSError, sqlite3.Error):
        with suppress(OSError):
            whole.unlink(missing_ok=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
