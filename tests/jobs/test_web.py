"""Archives on a web server: films by ranges where it gives them, and signatures that are opened and never shown."""

import csv
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from jobs.archives.archive import check_archive, list_videos, read_archive
from jobs.archives.frames import open_video
from jobs.archives.sources import VideoSource
from jobs.segmentation.plans import Unit, read_shard, write_shards
from jobs.settings import Settings, without_signature
from jobs.store import Store
from tests.jobs import barcode
from tests.jobs.test_members import played, stored, tar
from vis_models.config import BadConfig, BadVideo

pytestmark = pytest.mark.unit
SECRET = "X-Amz-Signature=5ec2e7"


@dataclass
class Web:
    """A server of one folder, which answers only what is signed where it is told to."""

    url: str
    folder: Path
    ranges: bool = True
    signed: bool = False
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "www"
    folder.mkdir()

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            place = urlsplit(self.path)
            asked = self.headers.get("Range")
            here.asked.append((self.command, place.path, asked))
            if here.signed and place.query != SECRET:
                return self.send_error(403)
            file = folder / unquote(place.path.lstrip("/"))
            if not file.is_file():
                return self.send_error(404)
            data = file.read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "") if here.ranges else None
            first, last = (int(found[1]), int(found[2] or len(data))) if found else (0, len(data))
            part = data[first : last + 1]
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", f'"{hash(data):x}"')
            if found:
                self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self.end_headers()
            if body:
                self.wfile.write(part)
            return None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    here = Web(f"http://127.0.0.1:{server.server_port}", folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch"))


FRAMES = [(1, frame) for frame in range(5)]


def test_a_film_a_tar_a_zip_and_a_manifest_of_a_web_server_are_archives(web: Web, store: Store):
    film = barcode.write_film(web.folder / "my film.mp4", 1, 5).read_bytes()
    tar(web.folder / "a.tar", {"x.mp4": film})
    stored(web.folder / "a.zip", {"x.mp4": film})
    (web.folder / "m.csv").write_text("id,uri\none,my%20film.mp4\ntwo,a.tar#x.mp4\ngone,gone.mp4\n")
    for name in ("my film.mp4", "a.tar", "a.zip", "a.zip#x.mp4"):
        (source,) = list_videos(f"{web.url}/{name}", store)
        assert played(source, store) == FRAMES
    gone, one, two = list_videos(f"{web.url}/m.csv", store)
    assert [played(each, store) for each in (gone, one, two)] == ["missing", FRAMES, FRAMES]
    with pytest.raises(BadConfig, match="does not exist"):
        list_videos(f"{web.url}/nothing.mp4", store)


def test_members_of_a_large_tar_on_the_web_take_a_few_small_ranges(web: Web, store: Store):
    film = barcode.write_film(web.folder / "film.mp4", 1, 5).read_bytes()
    tar(web.folder / "a.tar", {"padding.bin": bytes(30 * 2**20), "x.mp4": film})
    (source,) = list_videos(f"{web.url}/a.tar", store)
    assert played(source, store) == FRAMES
    ranges = [each for method, path, each in web.asked if method == "GET" and path == "/a.tar"]
    assert None not in ranges
    lengths = [int(last) - int(first) for first, last in (each.removeprefix("bytes=").split("-") for each in ranges)]
    assert sum(lengths) < 12 * 2**20


def test_a_server_without_ranges_gives_films_as_a_whole_and_no_members(web: Web, store: Store, tmp_path: Path):
    film = barcode.write_film(web.folder / "film.mp4", 1, 5).read_bytes()
    padding = 9 * 2**20
    (web.folder / "film.mp4").write_bytes(film + padding.to_bytes(4, "big") + b"free" + bytes(padding - 8))
    tar(web.folder / "a.tar", {"padding.bin": bytes(2**20), "x.mp4": film})
    web.ranges = False
    (source,) = list_videos(f"{web.url}/film.mp4", store)
    assert played(source, store) == FRAMES
    assert not list((tmp_path / "scratch").iterdir()), "its copy has no name"
    (source,) = list_videos(f"{web.url}/a.tar", store)
    with pytest.raises(BadVideo, match="its server gives no ranges of it; copy it"), open_video(source, store):
        pass


def test_signed_addresses_are_opened_and_shown_nowhere(web: Web, store: Store, tmp_path: Path):
    film = barcode.write_film(web.folder / "film.mp4", 1, 5).read_bytes()
    tar(web.folder / "a.tar", {"x.mp4": film})
    web.signed = True
    signed = [f"{web.url}/film.mp4?{SECRET}", f"{web.url}/a.tar?{SECRET}", f"{web.url}/gone.mp4?{SECRET}"]
    (tmp_path / "list.txt").write_text("# films of today\n" + "\r\n".join(signed) + "\r\n")
    sources = list_videos(str(tmp_path / "list.txt"), store)
    host = web.url.removeprefix("http://")
    assert [source.video_id for source in sources] == [f"{host}/a.tar/x.mp4", f"{host}/film.mp4", f"{host}/gone.mp4"]
    assert [played(source, store) for source in sources] == [FRAMES, FRAMES, "missing"]
    write_shards(store, "run", {"0": [Unit(source.video_id, source) for source in sources]})
    again = [unit.source for unit in read_shard(store, "run", "0")]
    assert [played(source, store) for source in again] == [FRAMES, FRAMES, "missing"], "the plan keeps how to open them"
    shown = json.dumps([[source.video_id, source.uri, source.content_id, source.problem] for source in sources])
    for source in sources:
        shown += repr(source)
        expired = VideoSource.of_row(source.row() | {"address": source.place.replace(SECRET, "X-Amz-Signature=old")})
        for each in (source, expired):
            try:
                with open_video(each, store):
                    pass
            except BadVideo as error:
                shown += str(error)
    assert "Signature" not in shown
    assert "?" not in shown


def test_one_address_that_is_refused_is_a_row_of_errors(web: Web, store: Store, tmp_path: Path):
    film = barcode.write_film(web.folder / "film.mp4", 1, 5).read_bytes()
    tar(web.folder / "a.tar", {"x.mp4": film})
    web.signed = True
    rows = {"good": f"film.mp4?{SECRET}", "old": "film.mp4?X-Amz-Signature=old", "tar": "a.tar?sig=old#x.mp4"}
    lines = [json.dumps({"id": name, "uri": f"{web.url}/{path}"}) for name, path in rows.items()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    sources = list_videos(str(tmp_path / "m.jsonl"), store)
    assert {source.video_id: played(source, store) for source in sources} == {
        "good": FRAMES, "old": "denied", "tar": "denied",
    }  # fmt: skip
    assert "old" not in str([source.problem for source in sources])


def test_a_signature_is_not_typed_where_it_is_kept(web: Web, store: Store):
    for check in (check_archive, read_archive):
        with pytest.raises(BadConfig, match=r"is kept in logs and tables. Write the address into a list") as raised:
            check(f"{web.url}/film.mp4?{SECRET}", store)
        assert "Signature" not in str(raised.value)
    assert without_signature(f"see '{web.url}/a.mp4?{SECRET}' now") == f"see '{web.url}/a.mp4' now"


def test_a_server_that_refuses_is_said_once(web: Web, store: Store, tmp_path: Path):
    barcode.write_film(web.folder / "film.mp4", 1, 5)
    web.signed = True
    with (tmp_path / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "uri"], *([str(n), f"{web.url}/film.mp4?sig=wrong"] for n in range(3))])
    with pytest.raises(BadConfig, match="its server answers 403") as raised:
        list_videos(str(tmp_path / "m.csv"), store)
    assert "wrong" not in str(raised.value)
    with pytest.raises(BadConfig, match="no answer from its server"):
        list_videos("http://127.0.0.1:9/film.mp4", store)


def test_a_store_is_not_on_the_web_and_google_needs_its_package():
    for place in ("https://example.org/lake", "gs://bucket/lake"):
        with pytest.raises(BadConfig, match="expected a folder or s3://"):
            Settings(store=place)
