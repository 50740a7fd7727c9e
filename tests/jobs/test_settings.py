"""Where a value comes from, and the sentence that a wrong one ends with."""

import os
from pathlib import Path

import pytest

from jobs.archives.archive import list_videos
from jobs.settings import Settings, origins, strangers
from jobs.store import Store
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and nothing of the user's."""
    for name in [name for name in os.environ if name.upper().startswith("VIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal() -> str:
    with pytest.raises(BadConfig) as refused:
        Settings()
    return str(refused.value)


def test_the_environment_wins_over_the_file_and_both_over_the_default(folder: Path, monkeypatch):
    (folder / "vis.toml").write_text('workers = 2\ndevice = "cpu"\n')
    monkeypatch.setenv("VIS_WORKERS", "3")
    settings = Settings()
    assert (settings.workers, settings.device, settings.s3_region) == (3, "cpu", "us-east-1")
    came = origins()
    assert [came[name] for name in ("workers", "device", "s3_region")] == [
        "environment", str(folder / "vis.toml"), "default",
    ]  # fmt: skip


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("VIS_STORE", "")
    assert Settings().store == os.path.abspath(".vis")
    assert origins()["store"] == "default"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("store = lake", "Invalid value (at line 1, column 9); expected lines such as"),
        ("store", "(at end of document); expected lines such as"),
        ('stroe = "lake"', "stroe is no setting, did you mean store;"),
        ("[vis]\nworkers = 2", "vis is no setting; `vis settings` lists all"),
        ('workers = "two"', "workers: Input should be a valid integer"),
        ("workers = -1", "workers: Input should be greater than or equal to 0, got -1"),
        ('device = "tpu"', "device: Input should be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ('s3_endpoint = "s3.example.org"', "s3_endpoint: expected a URL such as https://"),
        ('store = ""', "store: it is empty, expected a folder"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(folder: Path, text: str, says: str):
    (folder / "vis.toml").write_text(text)
    assert refusal().startswith(f"{folder / 'vis.toml'}: ")
    assert says in refusal()


def test_a_folder_in_the_place_of_the_file_is_not_passed_over(folder: Path):
    (folder / "vis.toml").mkdir()
    assert refusal() == f"{folder / 'vis.toml'} is no file; expected one of settings, or nothing of that name"


def test_a_file_that_cannot_be_read_is_a_sentence(folder: Path):
    (folder / "vis.toml").write_bytes(b'store = "caf\xe9"')
    assert "no UTF-8 text, as TOML is (byte 12)" in refusal()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("VIS_STROE", "VIS_STORE"), ("vis_stor", "VIS_STORE"), ("VIS_S3_SECRET_KEEY", "VIS_S3_SECRET_KEY")],
)
def test_a_misspelt_variable_is_refused_with_the_right_name(monkeypatch, name: str, meant: str):
    monkeypatch.setenv(name, "hidden")
    assert refusal() == f"{name} is no setting, did you mean {meant}; `vis settings` lists all"


def test_variables_like_no_setting_are_passed_over_and_named(monkeypatch):
    for name in ("VIS_TEST_DATA", "VIS_UP", "VIS_CANVAS"):
        monkeypatch.setenv(name, "1")
    Settings()
    assert strangers() == ["VIS_CANVAS"]


@pytest.mark.parametrize(
    "line", ['s3_secret_keey = "hunter2"', "s3_secret_key = 42002", 's3_acess_key = "hunter2"', "s3_access_key = 42002"]
)
def test_a_key_is_never_shown(folder: Path, line: str):
    (folder / "vis.toml").write_text(line)
    assert line.split()[0] in refusal()
    assert "hunter2" not in refusal()
    assert "42002" not in refusal()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("VIS_STORE", "s3://ME:hunter2@lake"),
        ("VIS_STORE", "s3://ME:hunter2/With/Slashes@lake/prefix"),
        ("VIS_S3_ENDPOINT", "https://ME:hunter2@s3.org"),
        ("VIS_S3_ENDPOINT", "https://ME:hunter2/With/Slashes@s3.org"),
        ("VIS_S3_ENDPOINT", "ME:hunter2@s3.org"),
        ("VIS_RAY_ADDRESS", "ray://ME:hunter2@head:10001"),
        ("VIS_RAY_ADDRESS", "ME:hunter2@head:6379"),
    ],
)
def test_keys_in_an_address_are_refused_and_not_repeated(monkeypatch, name: str, address: str):
    monkeypatch.setenv(name, address)
    assert refusal().startswith(f"{name}: an address must not hold keys")
    assert "hunter2" not in refusal()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("VIS_STORE", "s3://lake/films@home/b:c"),
        ("VIS_STORE", "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/door/lake"),
        ("VIS_S3_ENDPOINT", "http://127.0.0.1:9000/path"),
        ("VIS_S3_ENDPOINT", "https://[::1]:9000"),
        ("VIS_RAY_ADDRESS", "ray://head:10001"),
        ("VIS_RAY_ADDRESS", "auto"),
    ],
)
def test_an_address_with_a_port_a_colon_or_an_at_in_its_path_holds_no_keys(monkeypatch, name: str, address: str):
    monkeypatch.setenv(name, address)
    assert getattr(Settings(), name.removeprefix("VIS_").lower()) == address


def test_keys_in_the_address_of_an_archive_are_refused_and_not_repeated(folder: Path):
    (folder / "films.jsonl").write_text('{"id": "a", "uri": "s3://ME:hunter2@films/a.mp4"}')
    (folder / "no-id.jsonl").write_text('{"uri": "s3://ME:hunter2@films/a.mp4"}')
    store = Store.open(Settings())
    for archive, says in {
        "s3://ME:hunter2@films/a": "must not hold keys",
        "s3://ME:hunter2/With/Slashes@films/a": "must not hold keys",
        "films.jsonl": "must not hold keys",
        "no-id.jsonl": "got values for: uri",
    }.items():
        with pytest.raises(BadConfig, match=says) as refused:
            list_videos(archive, store)
        assert "hunter2" not in str(refused.value)


def test_a_working_folder_that_is_gone_is_a_sentence(folder: Path, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert refusal().startswith("store: '.vis' lies in the working folder, which is gone")
    assert Settings(store="/lake").store == "/lake"
