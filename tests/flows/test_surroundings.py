"""What is around a command: proxies of a company, folders and settings of Prefect's that cannot be used."""

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
import requests
from botocore.utils import should_bypass_proxies
from moto.server import ThreadedMotoServer

from flows.surroundings import reach_loopback
from jobs.settings import Settings
from jobs.store import Store
from tests.drawn_results import Drawing, write
from tests.flows.conftest import PROGRAMS, PROXIES, Program


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def proxied(address: str) -> dict[str, str]:
    return dict.fromkeys(PROXIES, address)


class Answers(BaseHTTPRequestHandler):
    """Says which path was asked for, as a server or, where a whole URL comes, as a proxy in front of any server."""

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies; what the test's code sets there is undone as well."""
    for name in [*PROXIES, "no_proxy", "NO_PROXY"]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.unit
@pytest.mark.parametrize("given", [{}, {"NO_PROXY": "intern.example"}, {"no_proxy": " a.example, b.example"}])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_reached_past_a_dead_proxy_and_all_else_is_not(server, surroundings, given, host):
    for name, value in {**proxied(f"http://127.0.0.1:{dead_port()}"), **given}.items():
        surroundings.setenv(name, value)
    reach_loopback()
    url = f"http://{host}:{server}/here"
    assert httpx.get(url).text == requests.get(url, timeout=30).text == "/here"
    with urllib.request.urlopen(url, timeout=120) as answer:
        assert answer.read() == b"/here"
    assert should_bypass_proxies(url)  # botocore's, which s3fs uses
    for host_given in filter(None, ",".join(given.values()).split(",")):
        assert should_bypass_proxies(f"http://{host_given.strip()}/")
    assert not should_bypass_proxies("https://s3.example.org/")
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://s3.example.org/")


@pytest.mark.unit
def test_all_else_still_goes_through_the_proxy(server, surroundings):
    for name, value in proxied(f"http://127.0.0.1:{server}").items():
        surroundings.setenv(name, value)
    reach_loopback()
    assert httpx.get("http://far.invalid/away").text == "http://far.invalid/away"


@pytest.mark.unit
@pytest.mark.parametrize("everything", [{}, {"http_proxy": "http://p:1", "NO_PROXY": "*"}])
def test_nothing_changes_where_there_is_no_proxy_or_none_is_to_be_used(surroundings, everything):
    for name, value in everything.items():
        surroundings.setenv(name, value)
    reach_loopback()
    assert {os.environ.get("no_proxy"), os.environ.get("NO_PROXY")} == ({"*"} if everything else {None})


class Forwards(Answers):
    """A proxy: only it knows the way to the server behind it."""

    protocol_version = "HTTP/1.1"  # S3 clients wait for `100 Continue` before they send a file
    behind = ""
    asked: tuple[str, ...] = ()

    def do_any(self) -> None:
        at = urlsplit(self.path)
        type(self).asked += (at.netloc,)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "expect")}
        url = f"{self.behind}{at.path}{'?' + at.query if at.query else ''}"
        with httpx.Client(trust_env=False, timeout=60) as client:
            answer = client.request(self.command, url, content=body, headers=headers)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "content-encoding"):
                self.send_header(name, value)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else len(answer.content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(answer.content)


for verb in ("GET", "PUT", "POST", "HEAD", "DELETE"):
    setattr(Forwards, f"do_{verb}", Forwards.do_any)


@pytest.fixture
def behind_a_proxy() -> Iterator[str]:
    """The address of a proxy; behind it, at http://s3.invalid, an S3 server with an empty bucket `lake`."""
    server = ThreadedMotoServer("127.0.0.1", dead_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    handler = type("Forwarder", (Forwards,), {"behind": f"http://{host}:{port}"})
    boto3.client(
        "s3",
        endpoint_url=handler.behind,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        region_name="us-east-1",
    ).create_bucket(Bucket="lake")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()
    server.stop()
    assert set(handler.asked) == {"s3.invalid"}, "something of this machine was asked through the proxy"


def test_a_flow_runs_behind_a_proxy_with_its_store_in_s3_beyond_it(environment, behind_a_proxy, tmp_path):
    labels, results = write(Drawing(2, 4, 2, 2, 6), tmp_path, Store.open(Settings(store=str(tmp_path / "lake"))))
    s3 = {
        "VIS_STORE": "s3://lake/store",
        "VIS_S3_ENDPOINT": "http://s3.invalid",
        "VIS_S3_ACCESS_KEY": "any",
        "VIS_S3_SECRET_KEY": "any",
    }
    vis = Program("vis", environment | s3 | proxied(behind_a_proxy), tmp_path)
    scored = vis("evaluate", "--gt", labels, "--results", results, "--oracle", "identity").stdout
    assert "s3://lake/store/vis/v1/evaluations/" in scored
    refused = vis("report", "--evaluation", "none-of-this-name", code=2).stderr  # a flow, with an API on the loopback
    assert "none-of-this-name" in refused
    assert refused.count("\n") == 1  # what a flow refuses is one message


WRONG = {
    "an API that does not answer": ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "answers at http://127.0.0.1:9/api"),
    "the same with a password": ({"PREFECT_API_URL": "http://ME:hunter2@127.0.0.1:9"}, "at http://***@127.0.0.1:9"),
    "a setting that is no number": ({"PREFECT_CLIENT_MAX_RETRIES": "hunter2"}, "(max_retries: Input should be a valid"),
    "a level that there is not": ({"PREFECT_LOGGING_LEVEL": "LOUD"}, "(level: Input should be 'DEBUG', 'INFO'"),
}


@pytest.mark.parametrize(("variables", "says"), WRONG.values(), ids=WRONG)
def test_what_prefect_cannot_use_is_said_in_a_sentence_without_its_keys(vis, variables, says):
    said = vis("report", code=2, **variables).stderr
    assert said.startswith("vis: ")
    assert len(said.splitlines()) == 1, said
    assert says in said
    assert "PREFECT_" in said
    assert "hunter2" not in said


def test_a_working_folder_that_is_gone_is_said_in_a_sentence(vis, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, PROGRAMS / "vis", "models"],
        cwd=gone,
        env=vis.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("vis: the working folder")


def test_a_flow_runs_where_home_and_scratch_cannot_be_written_and_a_folder_flows_is_in_the_way(vis, tmp_path):
    """/proc: nobody can write there, not even root."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__init__.py").write_text("raise SystemExit('not ours')")
    nowhere = {"HOME": "/proc", "PREFECT_HOME": "/proc/prefect", "VIS_SCRATCH": "/proc/scratch"}
    there = Program("vis", vis.environment | nowhere | {"VIS_STORE": str(tmp_path / "lake")}, tmp_path)
    refused = there("report", code=2).stderr
    assert "Traceback" not in refused
    assert refused.splitlines()[-1].startswith("vis: ")
