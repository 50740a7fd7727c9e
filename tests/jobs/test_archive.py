import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.archives.archive import IMAGES, VideoSource, list_videos, read_archive
from jobs.settings import Settings
from jobs.store import Store
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store.open(Settings(store=str(tmp_path / "lake")))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two films, one in a subfolder, a folder of frames, and files that are no videos."""
    root = tmp_path / "archive"
    for name in [
        "film_10.mp4",
        "film_2.mp4",
        "deep/er/film.MOV",
        "deep/er/poster.jpg",
        "walk/10.jpg",
        "walk/9.jpg",
        "walk/Thumbs.db",
        "readme.txt",
        ".hidden.mp4",
        "._film_2.mp4",
        ".trash/film.mp4",
    ]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def ids(sources: list[VideoSource]) -> list[str]:
    return [source.video_id for source in sources]


def test_a_folder_lists_films_and_frame_folders_in_counting_order(archive: Path, here: Store):
    sources = list_videos(str(archive), here)
    assert ids(sources) == ["deep/er/film.MOV", "film_2.mp4", "film_10.mp4", "walk"]
    walk = sources[-1]
    assert (walk.kind, walk.frames, walk.uri) == ("frames", ("9.jpg", "10.jpg"), str(archive / "walk"))
    assert sources[1].uri == str(archive / "film_2.mp4")
    assert sources[1].size_bytes == len("film_2.mp4")


def test_an_s3_prefix_lists_as_a_folder_does(archive: Path, here: Store, s3_settings: Settings):
    remote = Store.open(s3_settings)
    remote.fs.put(str(archive), f"{remote.root}/archive", recursive=True)
    sources = list_videos(remote.uri("archive"), remote)
    assert ids(sources) == ids(list_videos(str(archive), here))
    assert all(source.uri.startswith("s3://") for source in sources)
    again = list_videos(remote.uri("archive"), remote)
    assert [source.content_id for source in again] == [source.content_id for source in sources]


def test_a_folder_of_frames_is_one_video_named_like_it(archive: Path, here: Store):
    assert ids(list_videos(str(archive / "walk") + "/", here)) == ["walk"]


def test_a_film_is_an_archive_of_one(archive: Path, here: Store):
    assert ids(list_videos(str(archive / "film_2.mp4"), here)) == ["film_2.mp4"]


def test_a_glob_takes_what_it_names_and_searches_folders(archive: Path, here: Store):
    assert ids(list_videos(f"{archive}/*.mp4", here)) == ["film_2.mp4", "film_10.mp4"]
    assert ids(list_videos(f"{archive}/*/*", here)) == ["deep/er/film.MOV", "walk"]
    assert ids(list_videos(f"{archive}/r*", here)) == ["readme.txt"]


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path: Path, here: Store):
    (tmp_path / "cam[1]").mkdir()
    (tmp_path / "cam[1]/a.mp4").touch()
    assert ids(list_videos(str(tmp_path / "cam[1]"), here)) == ["a.mp4"]


def test_a_symbolic_link_to_a_film_is_a_film(archive: Path, here: Store):
    (archive / "link.mp4").symlink_to(archive / "film_2.mp4")
    assert "link.mp4" in ids(list_videos(str(archive), here))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_manifest_names_videos_beside_it_anywhere_and_missing(archive: Path, here: Store, kind: str):
    rows = [
        {"id": "zebra", "uri": "film_2.mp4", "tags": "x"},
        {"id": "walk", "uri": str(archive / "walk"), "tags": ""},
        {"id": "gone", "uri": "gone.mp4", "tags": ""},
    ]
    path = archive / f"manifest.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "uri", "tags"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    gone, walk, zebra = list_videos(str(path), here)
    assert (zebra.video_id, zebra.uri) == ("zebra", str(archive / "film_2.mp4"))
    assert (walk.video_id, walk.frames) == ("walk", ("9.jpg", "10.jpg"))
    assert (gone.video_id, gone.content_id) == ("gone", "missing")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"id": "a", "uri": "x.mp4"}\n{"id": "a", "uri": "y.mp4"}', "id 'a' stands in line 1 and 2"),
        ('{"id": "a"}', "line 1: expected values for `id` and `uri`"),
        ('{"id": "a", "uri": "x.mp4"}\n[1]', "line 2: expected values"),
        ('{"id": "a", "uri": "x.mp4"}\n{oops', "not a jsonl manifest"),
        ('{"id": "../../etc", "uri": "x.mp4"}', r"id '../../etc' is not allowed"),
        ('{"id": "/etc/x", "uri": "x.mp4"}', "is not allowed"),
        ('{"id": "a\\\\..\\\\b", "uri": "x.mp4"}', "is not allowed"),
        ('{"id": "a\\nb", "uri": "x.mp4"}', "is not allowed"),
        ('{"id": "a", "uri": "ftp://x/y.mp4"}', "begins with ftp://"),
        ("", "holds no video"),
    ],
)
def test_a_malformed_manifest_says_where_and_what(tmp_path: Path, here: Store, rows: str, message: str):
    path = tmp_path / "manifest.jsonl"
    path.write_text(rows)
    with pytest.raises(BadConfig, match=message):
        list_videos(str(path), here)


def ytvis(folder: Path, videos: list[dict], name: str = "val.json") -> Path:
    text = json.dumps({"videos": videos, "categories": [], "annotations": []}).encode()
    path = folder / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("frames", ["val/JPEGImages", "JPEGImages", "val", "."])
@pytest.mark.parametrize("name", ["val.json", "val.json.gz"])
def test_a_youtube_vis_data_set_lists_its_frames_at_its_sizes(tmp_path: Path, here: Store, frames: str, name: str):
    for number in (0, 5):
        image = tmp_path / frames / f"ab/{number:05d}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"123")
    names = ["ab/00000.jpg", "ab/00005.jpg", "ab/00010.jpg"]
    path = ytvis(tmp_path, [{"id": 7, "height": 90, "width": 160, "file_names": names}], name)
    (source,) = list_videos(str(path), here)
    assert (source.video_id, source.kind, source.listed) == ("7", "frames", True)
    assert source.uri == str((tmp_path / frames / "ab").resolve())
    assert source.frames == ("00000.jpg", "00005.jpg", "00010.jpg"), "one that is missing is a fault of the video"
    assert (source.height, source.width, source.size_bytes) == (90, 160, 6)


def test_the_frames_of_a_data_set_keep_its_order(tmp_path: Path, here: Store):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/b.jpg").touch()
    path = ytvis(tmp_path, [{"id": 1, "height": 1, "width": 1, "file_names": ["b.jpg", "a.jpg"]}])
    assert list_videos(str(path), here)[0].frames == ("b.jpg", "a.jpg")


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"id": 1, "height": 1, "width": 1}, "KeyError: 'file_names'"),
        ({"id": 1, "height": "tall", "width": 1, "file_names": ["a.jpg"]}, "video 1, height: .*integer.*, got 'tall'"),
        ({"id": 1, "height": 1, "width": 1, "file_names": ["../../a.jpg"]}, "leaves the folder"),
        ({"id": 1, "height": 1, "width": 1, "file_names": ["/etc/a.jpg"]}, "leaves the folder"),
        ({"id": 1, "height": 1, "width": 1, "file_names": ["other.jpg"]}, "expected its frames in"),
    ],
)
def test_a_malformed_data_set_says_where_and_what(tmp_path: Path, here: Store, video: dict, message: str):
    if "other" not in str(video):
        (tmp_path / "JPEGImages").mkdir()
        (tmp_path / "JPEGImages/a.jpg").touch()
    with pytest.raises(BadConfig, match=message):
        list_videos(str(ytvis(tmp_path, [video])), here)


def test_a_json_that_is_cut_off_is_refused(tmp_path: Path, here: Store):
    (tmp_path / "val.json").write_text('{"videos": [')
    with pytest.raises(BadConfig, match=r"val.json is not a data set in the YouTube-VIS format \(JSONDecodeError"):
        list_videos(str(tmp_path / "val.json"), here)


def test_an_archive_that_does_not_exist_is_refused(tmp_path: Path, here: Store, s3_settings: Settings):
    for missing in (str(tmp_path / "nowhere"), str(tmp_path / "film.mp4")):
        with pytest.raises(BadConfig, match=f"archive {missing} does not exist; expected a folder"):
            list_videos(missing, here)
    remote = Store.open(s3_settings)
    with pytest.raises(BadConfig, match=r"archive s3://.*/nowhere does not exist"):
        list_videos(remote.uri("nowhere"), remote)
    with pytest.raises(BadConfig, match="no bucket of this name"):
        list_videos("s3://no-such-bucket-here/x", remote)


@pytest.mark.parametrize("name", [".", "*.mp4"])
def test_an_empty_archive_is_refused(tmp_path: Path, here: Store, name: str):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        BadConfig, match=r"holds no video: expected films \(.*mp4.*\) or folders of bmp, .*webp frames.*Found: "
    ):
        list_videos(str(tmp_path / name), here)


def test_the_content_id_changes_with_the_file(archive: Path, here: Store):
    def content() -> dict[str, str]:
        return {source.video_id: source.content_id for source in list_videos(str(archive), here)}

    before = content()
    os.utime(archive / "film_2.mp4", (1, 1))
    (archive / "walk/9.jpg").write_text("other")
    changed = {name for name, value in content().items() if value != before[name]}
    assert changed == {"film_2.mp4", "walk"}


def test_names_that_no_table_can_hold_are_escaped(tmp_path: Path, here: Store):
    (tmp_path / "line\nbreak.mp4").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).touch()
    found = ids(list_videos(str(tmp_path), here))
    assert found == ["%FF.mp4", "line%0Abreak.mp4"]
    pa.array(found)  # would raise for what is no UTF-8


def test_the_real_archive_lists_its_four_films(shared_data: Path, here: Store):
    found = ids(list_videos(str(shared_data / "data/real/videos"), here))
    assert found == ["animal_dog.mp4", "indoor_kids_bedroom.mp4", "objects_cups.mp4", "street_cars.mp4"]


def test_frames_of_all_usual_kinds_are_frames(tmp_path: Path, here: Store):
    for kind in IMAGES:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"0.{kind.upper()}").touch()
    assert ids(list_videos(str(tmp_path), here)) == sorted(IMAGES)


def test_what_is_not_read_is_counted_by_kind(archive: Path, here: Store):
    (archive / "walk/8.HEIC").touch()
    (archive / "walk/7.heic").touch()
    (archive / "walk/9.png").touch()
    (archive / "no suffix").touch()
    (archive / "elsewhere").symlink_to(archive / "walk")
    found = read_archive(str(archive), here)
    assert ids(found.videos) == ["deep/er/film.MOV", "film_2.mp4", "film_10.mp4", "walk"]
    assert found.videos[-1].frames == ("9.jpg", "10.jpg"), "9.png is no frame between them"
    rows = {(row.why, row.kind): (row.files, row.first) for row in found.passed_over}
    assert rows == {
        ("hidden", "mp4"): (3, "._film_2.mp4"),
        ("no kind of film or frame", "heic"): (2, "walk/7.heic"),
        ("no kind of film or frame", "txt"): (1, "readme.txt"),
        ("no kind of film or frame", "db"): (1, "walk/Thumbs.db"),
        ("no kind of film or frame", "other"): (1, "no suffix"),
        ("beside films", "jpg"): (1, "deep/er/poster.jpg"),
        ("second image kind", "png"): (1, "walk/9.png"),
        ("link to a folder", "other"): (1, "elsewhere"),
    }


def test_a_glob_follows_the_links_that_it_names_and_counts_what_it_passes(archive: Path, here: Store):
    (archive / "elsewhere").symlink_to(archive / "walk")
    found = read_archive(f"{archive}/else*", here)
    assert ids(found.videos) == ["elsewhere"]
    assert [(row.kind, row.files) for row in found.passed_over] == [("db", 1)]


def test_frames_of_a_manifest_may_be_links(tmp_path: Path, here: Store):
    (tmp_path / "frames").mkdir()
    (tmp_path / "0.jpg").touch()
    (tmp_path / "frames/0.jpg").symlink_to(tmp_path / "0.jpg")
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "uri": "frames"}')
    assert list_videos(str(tmp_path / "manifest.jsonl"), here)[0].frames == ("0.jpg",)


def test_a_pipe_in_an_archive_is_a_video_and_none_by_itself(tmp_path: Path, here: Store):
    os.mkfifo(tmp_path / "x.mp4")
    assert ids(list_videos(str(tmp_path), here)) == ["x.mp4"]
    with pytest.raises(BadConfig, match="neither a file nor a folder but a pipe, socket or device"):
        list_videos(str(tmp_path / "x.mp4"), here)


def test_addresses_that_are_no_unicode_fit_into_tables_and_lead_to_the_files(tmp_path: Path, here: Store):
    folder = os.fsencode(tmp_path)
    os.makedirs(folder + b"/walk\xe9")
    os.makedirs(folder + b"/plain")
    for name in (b"film\xff %41.mp4", b"walk\xe9/a%b.jpg", b"plain/1.jpg", b"plain/2\xe9.jpg"):
        Path(os.fsdecode(folder + b"/" + name)).touch()
    film, plain, walk = list_videos(str(tmp_path), here)
    assert (film.video_id, plain.video_id, walk.video_id) == ("film%FF %41.mp4", "plain", "walk%E9")
    pa.array([text for source in (film, plain, walk) for text in (source.uri, *(source.frames or ()))])
    assert os.fsencode(here.open_source(film.uri)[1]) == folder + b"/film\xff %41.mp4"
    assert os.fsencode(here.open_source(walk.uri)[1]) == folder + b"/walk\xe9"
    assert walk.frame_names == ("a%b.jpg",)
    assert [os.fsencode(name) for name in plain.frame_names] == [b"1.jpg", b"2\xe9.jpg"]


@pytest.mark.parametrize(("escape", "found"), [(r"caf\udce9.mp4", True), (r"caf\ud800.mp4", False)])
def test_a_manifest_may_name_files_that_are_no_unicode(tmp_path: Path, here: Store, escape: str, found: bool):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).touch()
    path = tmp_path / "manifest.jsonl"
    path.write_text(f'{{"id": "a", "uri": "{escape}"}}')
    if found:
        assert list_videos(str(path), here)[0].content_id != "missing"
    else:
        with pytest.raises(BadConfig, match=r"line 1: uri .* is no text that a file can be named by"):
            list_videos(str(path), here)


def test_frames_named_by_time_come_in_the_order_of_time(tmp_path: Path, here: Store):
    names = ["1305031102.05.png", "1305031102.1.png", "1305031102.175304.png"]
    for name in names:
        (tmp_path / name).touch()
    assert list_videos(str(tmp_path), here)[0].frames == tuple(names)


def test_the_clock_of_frame_folders_is_that_of_the_user(archive: Path, here: Store):
    found = {source.video_id: source.fps for source in read_archive(str(archive), here, frame_folder_fps=2.5).videos}
    assert found == {"deep/er/film.MOV": None, "film_2.mp4": None, "film_10.mp4": None, "walk": 2.5}


def test_a_data_set_may_list_a_frame_twice(tmp_path: Path, here: Store):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/a.jpg").touch()
    path = ytvis(tmp_path, [{"id": 1, "height": 1, "width": 1, "file_names": ["a.jpg", "a.jpg"]}])
    assert list_videos(str(path), here)[0].frames == ("a.jpg", "a.jpg")


@pytest.mark.parametrize("name", ["val.json", "cocovid.json", "backslashes.json"])
def test_dialects_of_youtube_vis_are_archives_of_the_same_videos(
    shared_data: Path, tmp_path: Path, here: Store, name: str
):
    (tmp_path / "JPEGImages").symlink_to(shared_data / "data/trial/train_set/val/JPEGImages")
    (tmp_path / name).write_bytes((shared_data / "data/trial/train_set" / name).read_bytes())
    sources = list_videos(str(tmp_path / name), here)
    assert [(s.video_id, s.height, s.width, len(s.frames)) for s in sources] == [("1", 96, 160, 10), ("2", 96, 160, 10)]
    assert sources[0].uri == f"{tmp_path}/JPEGImages/000000"
    assert sources[0].frames[:2] == ("00000.jpg", "00001.jpg")


def test_a_json_of_another_format_is_named(shared_data: Path, here: Store):
    with pytest.raises(BadConfig, match=r"this is the meta.json of YouTube-VOS"):
        list_videos(str(shared_data / "data/trial/train_set/vos_meta.json"), here)
