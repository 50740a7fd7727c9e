import json
import os
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.archives import listing
from jobs.archives.archive import VideoSource, list_videos, read_archive
from jobs.archives.listing import find
from jobs.archives.verify import verified
from jobs.segmentation.plans import Unit, read_shard, write_shards
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode
from tests.jobs.test_members import WHOLE, parts, played, stored, tar  # noqa: F401
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store.open(Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch"))


class Asked:
    """Requests that a test's S3 server gets from here on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[tuple[str, str]] = []
        from aiobotocore.endpoint import AioEndpoint

        send = AioEndpoint._send_request

        async def count(endpoint, request, operation):
            self.requests.append((operation.name, request.get("url_path", "")))
            return await send(endpoint, request, operation)

        monkeypatch.setattr(AioEndpoint, "_send_request", count)

    def take(self) -> list[str]:
        names = [name for name, _ in self.requests]
        self.requests.clear()
        return names


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def client(settings: Settings):
    return boto3.client(
        "s3", endpoint_url=settings.s3_endpoint, aws_access_key_id="key", aws_secret_access_key="secret",
        region_name="us-east-1",
    )  # fmt: skip


def bucket_of(settings: Settings) -> str:
    return settings.store.split("/")[2]


def ids(sources: list[VideoSource]) -> list[str]:
    return [source.video_id for source in sources]


def test_rows_with_size_and_etag_ask_nobody(s3_settings: Settings, tmp_path: Path, asked: Asked):
    store, bucket = Store.open(s3_settings), bucket_of(s3_settings)
    rows = [
        {"id": str(n), "uri": f"s3://{bucket}/films/{n}.mp4", "size": 100 + n, "etag": f'"{n:032x}"', "camera": "east"}
        for n in range(300)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    asked.take()
    sources = list_videos(str(tmp_path / "m.parquet"), store)
    assert asked.take() == ["ListObjectsV2"], "once, whether the bucket may be read"
    assert ids(sources) == [str(n) for n in range(300)]
    last = sources[-1]
    assert (last.size_bytes, last.content_id, last.content_hash) == (399, f"399-{299:032x}", True)
    assert last.tags == {"camera": "east"}


def test_rows_without_them_are_listed_by_folder_or_asked_for_side_by_side(
    s3_settings: Settings, tmp_path: Path, asked: Asked
):
    store, bucket, s3 = Store.open(s3_settings), bucket_of(s3_settings), client(s3_settings)
    names = [f"many/{n}.mp4" for n in range(listing.WORTH_A_LISTING)] + [f"few/{n}/x.mp4" for n in range(5)]
    for name in names[1:]:
        s3.put_object(Bucket=bucket, Key=name, Body=name.encode())
    lines = [json.dumps({"id": name, "uri": f"s3://{bucket}/{name}"}) for name in names]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    asked.take()
    sources = list_videos(str(tmp_path / "m.jsonl"), store)
    requests = asked.take()
    assert len(requests) == 1 + 1 + 5, requests
    found = {source.video_id: source for source in sources}
    assert found["many/0.mp4"].content_id == "missing"
    assert all(source.content_id != "missing" for name, source in found.items() if name != "many/0.mp4")
    by_prefix = {source.uri: source.content_id for source in list_videos(f"s3://{bucket}/many", store)}
    assert by_prefix.items() <= {source.uri: source.content_id for source in sources}.items()


def test_a_bucket_that_is_not_there_is_said_once_and_by_name(s3_settings: Settings, tmp_path: Path):
    rows = [{"id": n, "uri": f"s3://no-such-bucket-here/{n}.mp4", "size": 1, "etag": "x"} for n in range(3)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadConfig, match=r"s3://no-such-bucket-here: .* has no bucket of this name"):
        list_videos(str(tmp_path / "m.jsonl"), Store.open(s3_settings))


def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(tmp_path: Path, here: Store):
    barcode.write_film(tmp_path / "x.mp4", 1, 5)
    for name, text in {
        "m.csv": "id,uri,site\r\na,x.mp4,north\r\n",
        "m.jsonl": '{"id": "a", "uri": "x.mp4", "site": "north"}\r\n\r\n',
    }.items():
        for mark in (b"", b"\xef\xbb\xbf"):
            (tmp_path / name).write_bytes(mark + text.encode())
            (source,) = list_videos(str(tmp_path / name), here)
            assert (source.video_id, source.tags) == ("a", {"site": "north"})
            assert len(played(source, here)) == 5
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# films\r\nx.mp4\r\n")
    assert ids(list_videos(str(tmp_path / "list.txt"), here)) == ["x.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "id,uri\na,x.mp4\nb,y.mp4\na,z.mp4\n", "id 'a' stands in line 2 and 4"),
        ("m.csv", "id,uri\na,x.mp4,more\n", "line 2 has more values than there are columns"),
        ("m.csv", "id,uri,start_s\na,x.mp4,soon\n", "line 2: start_s is 'soon', expected seconds"),
        ("m.csv", "id,uri,start_s,end_s\na,x.mp4,5,4\n", "line 2: end_s 4 is not after start_s 5"),
        ("m.csv", "id,uri,size,etag\na,x.mp4,-1,q\n", "line 2: size is '-1', expected a number of bytes"),
        ("m.csv", "id,uri\na,http://me:secret@host/x.mp4\n", "line 2: an address must not hold keys"),
        ("m.csv", "id,uri\na,gs://bucket/x.mp4\n", "line 2: gs:// addresses need the package gcsfs"),
        ("list.txt", "a.mp4\n# again\na.mp4\n", r"id 'a.mp4' stands in line 1 and 3"),
        ("m.parquet", "no parquet", "m.parquet is not a parquet manifest"),
    ],
)
def test_a_row_that_cannot_be_meant_stops_before_any_work(
    tmp_path: Path, here: Store, name: str, text: str, message: str
):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadConfig, match=message) as raised:
        list_videos(str(tmp_path / name), here)
    assert "secret" not in str(raised.value)


def test_time_ranges_and_tags_of_rows_reach_the_worker(tmp_path: Path, here: Store):
    barcode.write_film(tmp_path / "x.mp4", 1, 25)
    (tmp_path / "m.csv").write_text(
        "id,uri,start_s,end_s,weather\nearly,x.mp4,,0.2,rain\nlate,x.mp4,0.8,,\nall,x.mp4,,,sun\n"
    )
    sources = list(read_archive(str(tmp_path / "m.csv"), here).videos)
    write_shards(here, "run", {"0": [Unit(source.video_id, source) for source in sources]})
    frames = {
        source.video_id: played(source, here) for source in (unit.source for unit in read_shard(here, "run", "0"))
    }
    assert frames["early"] == [(1, frame) for frame in range(5)]
    assert frames["late"] == [(1, frame) for frame in range(20, 25)]
    assert len(frames["all"]) == 25
    assert {source.video_id: source.tags for source in sources} == {
        "early": {"weather": "rain"}, "late": {}, "all": {"weather": "sun"},
    }  # fmt: skip
    assert [unit.source for unit in read_shard(here, "run", "0")] == sources


def test_rows_name_members_and_lists_name_whole_archives(tmp_path: Path, here: Store, parts: dict[str, bytes]):  # noqa: F811
    tar(tmp_path / "a.tar", parts)
    stored(tmp_path / "sub/b.zip", parts)
    rows = ["two,a.tar#clips/two.mp4", "walk,sub/b.zip#walk", "gone,a.tar#three.mp4", "all,a.tar", "no,none.zip#x.mp4"]
    (tmp_path / "m.csv").write_text("\n".join(["id,uri", *rows]))
    found = {source.video_id: played(source, here) for source in list_videos(str(tmp_path / "m.csv"), here)}
    assert found == {
        "two": WHOLE["clips/two.mp4"], "walk": WHOLE["walk"], "gone": "missing", "all": "not_a_video", "no": "missing",
    }  # fmt: skip
    (tmp_path / "list.txt").write_text("a.tar\nsub/b.zip#one.mp4\n")
    assert ids(list_videos(str(tmp_path / "list.txt"), here)) == [
        "a.tar/clips/two.mp4", "a.tar/one.mp4", "a.tar/walk", "sub/b.zip#one.mp4",
    ]  # fmt: skip


def test_a_long_listing_goes_on_in_its_folders_and_misses_no_key(
    s3_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    store, bucket, s3 = Store.open(s3_settings), bucket_of(s3_settings), client(s3_settings)
    names = [f"{a}/{b}/{n}.mp4" for a in "abc" for b in "xy" for n in range(4)] + ["0.mp4", "a.mp4", "b/z.mp4", "z.mp4"]
    for name in names:
        s3.put_object(Bucket=bucket, Key=f"films/{name}", Body=b"x")
    fs, path = store.open_source(f"s3://{bucket}/films")
    whole = find(fs, path)
    assert sorted(whole) == sorted(names)
    monkeypatch.setattr(listing, "LONG_PAGES", 1)
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    assert find(fs, path) == whole


def test_a_touch_or_a_move_changes_nothing_where_bytes_are_read(tmp_path: Path, here: Store, parts: dict[str, bytes]):  # noqa: F811
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.mp4").write_bytes(parts["one.mp4"])
    barcode.write_frames(tmp_path / "a/walk", 1, range(3))
    tar(tmp_path / "a/t.tar", {"in.mp4": parts["one.mp4"]})

    def known(folder: str) -> dict[str, str]:
        sources = list(verified(list_videos(str(tmp_path / folder), here), here))
        assert all(source.content_hash for source in sources)
        return {source.video_id: source.content_id for source in sources}

    before = known("a")
    assert before["one.mp4"] == before["t.tar/in.mp4"], "the same bytes are the same video"
    os.utime(tmp_path / "a/one.mp4", (1, 1))
    os.utime(tmp_path / "a/walk/00001.jpg", (1, 1))
    (tmp_path / "a").rename(tmp_path / "b")
    assert known("b") == before
    (tmp_path / "b/one.mp4").write_bytes(parts["clips/two.mp4"])
    assert known("b")["one.mp4"] != before["one.mp4"]
    (tmp_path / "m.csv").write_text("id,uri\ngone,gone.mp4\n")
    assert [source.content_id for source in verified(list_videos(str(tmp_path / "m.csv"), here), here)] == ["missing"]
