import gzip
import hashlib
import json
from pathlib import Path

import pytest

from jobs import results_files
from jobs.results_files import read_json, read_results
from jobs.settings import Settings
from jobs.store import Store
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit

ENTRIES = [
    {"video_id": n, "score": 0.5, "segmentations": [None, {"size": [4, 5], "counts": "]},{[" * n}]} for n in range(9)
]


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    return Store.open(Settings(store=str(tmp_path / "lake")))


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_entries_are_those_of_the_whole_file_wherever_it_is_cut(lake, tmp_path, monkeypatch, chunk, indent, pack):
    monkeypatch.setattr(results_files, "CHUNK", chunk)
    raw = pack(json.dumps(ENTRIES, indent=indent).encode())
    (tmp_path / "results.json").write_bytes(raw)
    entries, digest = read_results(lake, str(tmp_path / "results.json"))
    assert entries == ENTRIES
    assert digest == hashlib.sha256(raw).hexdigest()
    assert read_json(lake, str(tmp_path / "results.json")) == (ENTRIES, digest)


def test_masks_of_one_size_share_the_list_that_says_it(lake, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(ENTRIES))
    entries, _ = read_results(lake, str(tmp_path / "results.json"))
    assert len({id(entry["segmentations"][1]["size"]) for entry in entries}) == 1


def test_an_empty_list_has_no_entries(lake, tmp_path):
    (tmp_path / "results.json").write_text(" [ ] \n")
    assert read_results(lake, str(tmp_path / "results.json"))[0] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(ENTRIES)[:-1], "not a whole JSON file"),
        (json.dumps(ENTRIES)[:-40], "not a whole JSON file"),
        (json.dumps(ENTRIES) + "[]", "more behind the end"),
        ('[{"a": 1}, {"b" 2}]', "not a whole JSON file"),
        ('{"annotations": []}', "expected a list with one entry per track"),
        ('{"videos": [], "categories": [], "annotations": []}', "these are labels: they go where the labels are named"),
        ("1 1001 1 375 1242 WSV:2d;1O10000O\n2 1001 1 375 1242 WSV\n", "the text format of MOTS"),
        ("PK\x03\x04", "this is a zip archive: unpack it and name the JSON"),
        ("[1, 2]", r"results\[0\] is '1', expected an object"),
        ("", "expected a list"),
        ("\udcff", "expected a list|not a whole"),
    ],
)
def test_files_that_are_no_list_of_entries_are_refused(lake, tmp_path, content, message):
    (tmp_path / "results.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadConfig, match=message):
        read_results(lake, str(tmp_path / "results.json"))


def test_a_torn_gzip_is_refused(lake, tmp_path):
    (tmp_path / "results.json.gz").write_bytes(gzip.compress(json.dumps(ENTRIES).encode())[:-12])
    with pytest.raises(BadConfig, match="not a whole JSON file"):
        read_results(lake, str(tmp_path / "results.json.gz"))
