"""A Prefect API for one command: it starts beside the command and is gone with it.

Prefect would start one itself. This one starts while the command imports Prefect, has a database of its own so that
commands never wait for each other, is not hit by the Ctrl-C that a terminal sends to everything in it (the flow has
last words for the API), and does not outlive a command that was killed.
"""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.settings import Settings

READY = "ready"
STOP_S = 10
WHOLE = {  # of a database that is there: nothing is to be brought into it
    "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
}


@contextmanager
def prefect_api() -> Iterator[Callable[[], None]]:
    """Inside, flows find an API: the one that PREFECT_API_URL or the Prefect profile names, else one started here.

    Yields:
        a function that returns when the API answers.
    """
    server = (
        None if "prefect" in sys.modules or _named_elsewhere() else _Server()
    )  # imports what this imports, beside it
    try:
        from prefect.events.worker import EventsWorker
        from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

        if PREFECT_API_URL.value():
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


def _named_elsewhere() -> bool:
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
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.embedded", str(listener.fileno())],
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
    with tempfile.TemporaryDirectory(prefix="vis-prefect-", ignore_cleanup_errors=True) as folder:
        database, template = Path(folder) / "prefect.db", _template()
        if template.exists():  # an empty database; making one takes ten seconds
            shutil.copy(template, database)
            os.environ |= WHOLE
        os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{database}"
        import uvicorn
        from prefect.server.api.server import create_app

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if not template.exists():
                    _keep(database, template)
                print(READY, flush=True)

        app = create_app(ephemeral=True, final=True)
        server = Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2))
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
        server.run(sockets=[listener])


def _end_with_stdin(server: Any) -> None:
    sys.stdin.read()
    server.should_exit = True


def _template() -> Path:
    return Settings().scratch.expanduser() / f"prefect-{version('prefect')}.db"


def _keep(database: Path, template: Path) -> None:
    template.parent.mkdir(parents=True, exist_ok=True)
    whole = template.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(whole)) as target:
        source.backup(target)
    os.replace(whole, template)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
