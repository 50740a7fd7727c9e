import contextlib
import gc
import http.server
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.store import Part, Plan, Store, code_version, part_key
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


def part(run_id: str, shard: str) -> Part:
    names = dict.fromkeys(("plan_id", "lake", "archive", "model", "attempt", "created_at"), "x")
    return Part(run_id=run_id, shard=shard, units=("u",), files={}, counts={}, seconds={}, **names)


def plan(plan_id: str, created_at: str) -> Plan:
    names = dict.fromkeys(("archive", "model_sha256", "lake"), "x")
    empty: dict = {"lineage": {}, "counts": {}, "seconds": {}, "card": {}}
    return Plan(plan_id=plan_id, created_at=created_at, **names, **empty)


def test_what_is_written_is_read_back_and_listed(store: Store):
    store.write_json("vis/v1/a/one.json", {"name": "視频", "n": 1})
    store.write_bytes("vis/v1/b/two.bin", b"\x00\xff")
    assert store.read_json("vis/v1/a/one.json") == {"name": "視频", "n": 1}
    assert store.read_bytes("vis/v1/b/two.bin") == b"\x00\xff"
    assert store.list("vis/v1") == ["vis/v1/a/one.json", "vis/v1/b/two.bin"]
    assert store.list("vis/v1/nothing") == []
    assert store.exists("vis/v1/a/one.json")
    assert not store.exists("vis/v1/a/two.json")


def test_pyarrow_reads_through_the_same_client(store: Store):
    store.write_bytes("vis/v1/a", b"12345")
    with store.arrow.open_input_file(store.path("vis/v1/a")) as file:
        assert file.read_at(2, 3) == b"45"


def test_what_was_finished_is_known_until_it_is_forgotten(store: Store):
    assert store.finished() == []
    for run, shard in (("one", "0"), ("one", "1"), ("two", "0")):
        store.finish(part(run, shard))
    assert sorted((found.run_id, found.shard) for found in store.finished()) == [
        ("one", "0"),
        ("one", "1"),
        ("two", "0"),
    ]
    assert [found.shard for found in store.finished("two")] == ["0"]
    assert store.part("one", "1") == part("one", "1")
    assert store.part("one", "2") is None
    store.forget([part("one", "0"), part("one", "0"), part("two", "0")])
    assert store.finished() == [part("one", "1")]


def test_plans_come_oldest_first(store: Store):
    store.write_plan(plan("p1", "2026-02"))
    store.write_plan(plan("p2", "2026-01"))
    assert [s.plan_id for s in store.plans()] == ["p2", "p1"]
    assert store.plan("p1") == plan("p1", "2026-02")
    assert store.plan("p3") is None


def test_a_record_that_cannot_be_read_is_named_and_passed_over(store: Store, caplog: pytest.LogCaptureFixture):
    store.finish(part("run", "0"))
    store.write_plan(plan("whole", "2026"))
    for damaged in (b"", b'{"plan_id": "p', b"PAR1"):
        store.write_bytes(part_key("run", "damaged"), damaged)
        store.write_bytes("vis/v1/_plans/damaged/plan.json", damaged)
        assert store.finished() == [part("run", "0")]
        assert store.part("run", "damaged") is None
        assert [found.plan_id for found in store.plans()] == ["whole"]
    named = [record.getMessage() for record in caplog.records if record.name == "jobs.store"]
    assert all("vis/v1/_" in text and "cannot be read and is passed over" in text for text in named)
    assert {text.split("/_")[-1].split("/")[0] for text in named} == {"parts", "plans"}


def test_a_server_that_refuses_is_no_damage_of_what_it_keeps(store: Store):
    def refuse(key: str) -> None:
        raise BadConfig(f"{key}: refused")

    store.write_bytes("vis/v1/a", b"")
    with pytest.raises(BadConfig, match="vis/v1/a: refused"):
        list(store.readable(["vis/v1/a"], refuse))


def test_an_output_knows_its_size_and_digest(store: Store):
    with store.create("vis/v1/file") as output:
        output.write(b"ab")
        output.write(memoryview(b"c"))
    assert output.size_bytes == 3
    assert output.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256("abc")
    assert store.read_bytes("vis/v1/file") == b"abc"


@pytest.mark.parametrize("size", [3, 20 * 2**20], ids=["in one request", "in parts"])
def test_a_file_that_was_not_finished_leaves_what_was_there(store: Store, size: int):
    store.write_bytes("vis/v1/file", b"old")
    for key in ("vis/v1/file", "vis/v1/new"):
        with contextlib.suppress(ZeroDivisionError), store.create(key) as output:
            output.write(b"new" * (size // 3))
            output.write(1 // 0)
    gc.collect()  # a file that somebody forgot is closed at last
    assert store.list("vis/v1") == ["vis/v1/file"]
    assert store.read_bytes("vis/v1/file") == b"old"
    if store.is_local:
        assert [path.name for path in Path(store.path("vis/v1")).iterdir()] == ["file"]
    else:
        bucket = store.root.split("/")[0]
        assert not store.fs.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")


@pytest.mark.parametrize("key", ["/etc/passwd", "../outside", "vis/../../outside"])
def test_a_key_cannot_leave_the_store(store: Store, key: str):
    with pytest.raises(ValueError, match="leaves the store"):
        store.path(key)


def test_a_folder_that_cannot_be_made_is_named():
    with pytest.raises(BadConfig, match=r"/proc/absent/.* cannot be made: .*VIS_STORE"):
        Store.open(Settings(store="/proc/absent")).write_bytes("vis/v1/x", b"")


def test_a_store_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "lake").write_text("")
    with pytest.raises(BadConfig, match=r"lake is a file, expected a folder or s3://bucket/prefix"):
        Store.open(Settings(store=str(tmp_path / "lake")))


@pytest.mark.parametrize(("uri", "message"), [("ftp://b/p", "expected a local path, s3://"), ("s3://", "no bucket")])
def test_an_unknown_kind_of_store_is_refused(uri: str, message: str):
    with pytest.raises(BadConfig, match=message):
        Store.open(Settings(store=uri))


def test_a_missing_bucket_is_named(s3_settings: Settings):
    with pytest.raises(BadConfig, match=r"s3://no-such-bucket/x: .* has no bucket of this name; create it"):
        Store.open(s3_settings.model_copy(update={"store": "s3://no-such-bucket/x"}))


def test_a_server_that_does_not_answer_is_named(s3_settings: Settings):
    with pytest.raises(BadConfig, match=r"no answer from http://127.0.0.1:9 .*VIS_S3_ENDPOINT"):
        Store.open(s3_settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))


def test_the_usual_aws_variables_say_where_s3_is_until_a_setting_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    usual = Settings(s3_access_key="any", s3_secret_key="any")
    assert (usual.s3_endpoint, usual.s3_region) == ("http://127.0.0.1:9", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:8")
    monkeypatch.setenv("VIS_S3_REGION", "mars-1")
    assert (Settings().s3_endpoint, Settings().s3_region) == ("http://127.0.0.1:8", "mars-1")


def test_an_aws_profile_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(BadConfig, match=r"no-such-profile.*AWS_PROFILE"):
        Store.open(Settings(store="s3://lake/store"))


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_refused_credentials_are_a_clear_error_without_the_secret(refusing_server: str, code: str):
    settings = Settings(
        store=f"s3://{code.lower()}/lake",
        s3_endpoint=refusing_server,
        s3_access_key="the-key",
        s3_secret_key="a-secret-value",
    )
    with pytest.raises(BadConfig, match=rf"refuses the credentials \({code}\).*VIS_S3_SECRET_KEY") as refusal:
        Store.open(settings)
    assert "a-secret-value" not in repr(refusal.value)
    assert refusal.value.__suppress_context__, "a traceback would show what was sent"


def test_a_remote_folder_is_copied_once_and_again_when_it_changes(s3_settings: Settings, tmp_path: Path):
    store = Store.open(s3_settings.model_copy(update={"scratch": tmp_path}))
    store.write_bytes("vis/v1/models/m/card.json", b"{}")
    store.write_bytes("vis/v1/models/m/deep/weights", b"1")
    uri = store.uri("vis/v1/models/m")
    copy = store.local_copy(uri)
    assert copy.name == "m"
    assert (copy / "card.json").read_bytes() == b"{}"
    assert (copy / "deep/weights").read_bytes() == b"1"
    assert store.local_copy(uri) == copy
    store.write_bytes("vis/v1/models/m/deep/weights", b"2")
    assert (store.local_copy(uri) / "deep/weights").read_bytes() == b"2"


def test_a_copy_that_broke_off_leaves_nothing_behind_and_the_next_one_is_whole(
    s3_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Store.open(s3_settings.model_copy(update={"scratch": tmp_path}))
    for name in "abc":
        store.write_bytes(f"vis/v1/models/m/{name}", name.encode())
    fs, _ = store.open_source(store.uri("vis/v1/models/m"))
    get = fs.get_file

    def breaks(source: str, target: str) -> None:
        if source.endswith("c"):
            raise OSError("the network is gone")
        get(source, target)

    monkeypatch.setattr(fs, "get_file", breaks)  # one object of fsspec for all that have these credentials
    with pytest.raises(OSError, match="the network is gone"):
        store.local_copy(store.uri("vis/v1/models/m"))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    monkeypatch.undo()
    assert sorted(path.name for path in store.local_copy(store.uri("vis/v1/models/m")).iterdir()) == ["a", "b", "c"]


def test_of_several_that_need_a_copy_at_once_one_brings_it(
    s3_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Store.open(s3_settings.model_copy(update={"scratch": tmp_path}))
    store.write_bytes("vis/v1/models/m/card.json", b"{}")
    uri = store.uri("vis/v1/models/m")
    fs, _ = store.open_source(uri)
    get, brought = fs.get_file, []

    def counts(source: str, target: str) -> None:
        brought.append(source)
        time.sleep(0.2)  # long enough for the others to find nothing there yet
        get(source, target)

    monkeypatch.setattr(fs, "get_file", counts)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: store.local_copy(uri), range(4)))
    assert len(copies) == len(brought) == 1


def test_a_local_folder_needs_no_copy(tmp_path: Path):
    assert Store.open(Settings(store=str(tmp_path))).local_copy(str(tmp_path)) == tmp_path


def test_the_code_version_is_a_commit_or_a_release():
    assert len(code_version().removesuffix("-dirty")) == 40 or code_version()[0].isdigit()


@pytest.fixture(scope="module")
def refusing_server() -> Iterator[str]:
    """Refuses everything, with the error code that the bucket's name spells."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {code.lower(): code for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied")}
            code = known[self.path.split("/")[1].split("?")[0]]
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
