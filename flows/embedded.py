"""A Prefect API for one command: it starts beside the command and is gone with it.

Prefect would start one itself. This one starts while the command imports torch and Ray, has a database of its own so
that commands never wait for each other, is not hit by the Ctrl-C that a terminal sends to everything in it (the flow
has last words for the API), and does not outlive a command that was killed.
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
QUIET = {  # how a flow runs inside `vis` where the user did not say otherwise
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is raised here, and told once
}


@contextmanager
def prefect_api() -> Iterator[Callable[[], None]]:
    """Inside, flows find an API: the one that PREFECT_API_URL or the Prefect profile names, else one started here.

    Yields:
        a function that returns when the API answers.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    if PREFECT_API_URL.value():
        yield lambda: None
        return
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryFile() as log:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.embedded", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        listener.close()

        def wait() -> None:
            if server.stdout.readline().strip() != READY.encode():  # type: ignore[union-attr]
                log.seek(0)
                raise RuntimeError(f"the Prefect API of this command did not start:\n{log.read().decode()}")

        try:
            with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}):
                yield wait
        finally:
            EventsWorker.drain_all(timeout=STOP_S)  # what is still to be sent would hold up the end of this process
            _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.stdin.close()  # type: ignore[union-attr]
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


# In the process of the API


def serve(listener: socket.socket) -> None:
    """Answers on `listener` until stdin ends, which is when the command has ended, however it did."""
    with tempfile.TemporaryDirectory(prefix="vis-prefect-", ignore_cleanup_errors=True) as folder:
        database, template = Path(folder) / "prefect.db", _template()
        if template.exists():  # an empty database; making one takes ten seconds
            shutil.copy(template, database)
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
