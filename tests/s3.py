"""A real S3 server for tests: OpenStack Swift with its s3api, which checks signatures and keeps objects on disk.

It runs from an environment of its own (its packages fight with ours), made once and kept in the user's cache folder.
Recipe: one ring each for accounts, containers and objects, one device, no replicas, tempauth for the one user.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

import boto3
from botocore.config import Config

SWIFT = "2.38.3"
START_S = 60

SERVERS = ("account", "container", "object")
SWIFT_CONF = "[swift-hash]\nswift_hash_path_suffix = tests\n"
STORAGE_CONF = Template("""
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 0
mount_check = false
fallocate_reserve = 0
devices = $folder
swift_dir = $folder
log_level = ERROR
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
""")
PROXY_CONF = Template("""
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 0
swift_dir = $folder
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:s3api]
use = egg:swift#s3api
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
""")


@dataclass(frozen=True)
class S3:
    """A running server and the one user it knows."""

    endpoint: str
    access_key: str = "test:tester"
    secret_key: str = "testing"

    def client(self, secret_key: str | None = None):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}),
        )

    def environment(self, store: str) -> dict[str, str]:
        """What makes `vis` use it."""
        return {
            "VIS_STORE": store,
            "VIS_S3_ENDPOINT": self.endpoint,
            "VIS_S3_ACCESS_KEY": self.access_key,
            "VIS_S3_SECRET_KEY": self.secret_key,
        }


@contextmanager
def swift(folder: Path) -> Iterator[S3]:
    """Objects and logs lie in `folder`, which must be new and on a file system with user attributes."""
    programs = _installed()
    (folder / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(SWIFT_CONF)
    proxy_port, *ports = _free_ports(1 + len(SERVERS))
    running = []
    try:
        for kind, port in zip(SERVERS, ports, strict=True):
            builder = programs / "swift-ring-builder", folder / f"{kind}.builder"
            for step in (("create", "4", "1", "0"), ("add", f"r1z1-127.0.0.1:{port}/d1", "1"), ("rebalance",)):
                subprocess.run([*builder, *step], check=True, capture_output=True, timeout=60)
            conf = STORAGE_CONF.substitute(kind=kind, port=port, folder=folder)
            running.append(_start(programs, kind, folder, conf))
        running.append(_start(programs, "proxy", folder, PROXY_CONF.substitute(port=proxy_port, folder=folder)))
        for port in (*ports, proxy_port):
            _wait(port, running, folder)
        yield S3(f"http://127.0.0.1:{proxy_port}")
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _installed() -> Path:
    """The folder of Swift's programs; the first call takes half a minute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vislake-tests"
    home = cache / f"swift-{SWIFT}-python{sys.version_info.major}.{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            venv.create(home, clear=True, with_pip=True)
            pip = [home / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, f"swift=={SWIFT}"], check=True, timeout=600)
            (home / "complete").touch()
    return home / "bin"


def _start(programs: Path, kind: str, folder: Path, conf: str) -> subprocess.Popen:
    file = folder / f"{kind}.conf"
    file.write_text(conf)
    with (folder / f"{kind}.log").open("wb") as log:
        command = [programs / f"swift-{kind}-server", file, "--verbose"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _wait(port: int, running: list[subprocess.Popen], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and all(process.poll() is None for process in running):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    logs = "".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(folder.glob("*.log")))
    raise RuntimeError(f"Swift did not start within {START_S} s:\n{logs}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
