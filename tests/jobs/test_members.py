import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.archives import members
from jobs.archives.archive import Archive, VideoSource, list_videos, read_archive
from jobs.archives.frames import open_video
from jobs.segmentation.records import MaskSpill
from jobs.segmentation.side_by_side import SideBySide
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode
from vis_models.config import BadConfig, BadVideo

pytestmark = pytest.mark.unit
Write = Callable[[Path, dict[str, bytes]], Path]


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store.open(Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two films of 5 and 7 frames, and a folder of 4 frames."""
    root = tmp_path_factory.mktemp("parts")
    barcode.write_film(root / "one.mp4", 1, 5)
    barcode.write_film(root / "clips/two.mp4", 2, 7)
    barcode.write_frames(root / "walk", 3, range(4))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for info in more:
            archive.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def stored(path: Path, files: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def deflated(path: Path, files: dict[str, bytes]) -> Path:
    return stored(path, files, zipfile.ZIP_DEFLATED)


def link(name: str, kind: bytes, target: str = "one.mp4") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def played(source: VideoSource, store: Store) -> list[tuple[int, int]] | str:
    """(film, frame) of every frame as it is drawn in the pictures; or why there are none."""
    try:
        with open_video(source, store) as video:
            pixels = [frame.pixels for frame in video.frames((96, 128))]
    except BadVideo as error:
        return error.code
    codes = barcode.Barcode().encode(barcode.as_frames(pixels))
    return list(zip(codes.film.tolist(), codes.frame.tolist(), strict=True))


def by_id(archive: Archive) -> dict[str, VideoSource]:
    return {source.video_id: source for source in archive.videos}


def passed_over(archive: Archive) -> dict[str, str]:
    return {row.first: row.why for row in archive.passed_over}


WHOLE = {
    "clips/two.mp4": [(2, frame) for frame in range(7)],
    "one.mp4": [(1, frame) for frame in range(5)],
    "walk": [(3, frame) for frame in range(4)],
}


@pytest.mark.parametrize(("write", "name"), [(tar, "a.tar"), (stored, "a.zip"), (deflated, "A.ZIP")])
def test_the_members_of_a_tar_or_zip_are_played_where_they_lie(
    tmp_path: Path, here: Store, parts: dict[str, bytes], write: Write, name: str
):
    path = write(tmp_path / name, parts | {"notes.json": b"{}", "inner.zip": b"PK", "clips/.x.mp4": b""})
    found = read_archive(str(path), here)
    assert {source.video_id: played(source, here) for source in found.videos} == {
        f"{name}/{video}": frames for video, frames in WHOLE.items()
    }
    assert found.videos[0].uri == f"{path}#clips/two.mp4"
    assert passed_over(found) == {
        f"{name}/notes.json": "no kind of film or frame",
        f"{name}/inner.zip": "archive inside an archive",
        f"{name}/clips/.x.mp4": "hidden",
    }
    assert not list((tmp_path / "scratch").glob("*")), "nothing was unpacked into a folder"


def test_archives_lie_in_folders_beside_films_and_are_named_like_folders(
    tmp_path: Path, here: Store, parts: dict[str, bytes]
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/film.mp4").write_bytes(parts["one.mp4"])
    tar(
        tmp_path / "data/shards/000.tar", {"a.mp4": parts["one.mp4"], "a.json": b"{}", "a.jpg": parts["walk/00000.jpg"]}
    )
    tar(tmp_path / "data/shards/001.tar.gz", {"b.mp4": parts["one.mp4"]})
    found = read_archive(str(tmp_path / "data"), here)
    assert list(by_id(found)) == ["film.mp4", "shards/000.tar/a.mp4"]
    assert passed_over(found)["shards/001.tar.gz"] == "compressed as a whole: unpack it to a .tar"
    assert passed_over(found)["shards/000.tar/a.jpg"] == "beside films"
    assert [*by_id(read_archive(f"{tmp_path}/data/shards/*.tar", here))] == ["000.tar/a.mp4"]
    with pytest.raises(BadConfig, match=r"compressed as a whole: unpack it to a \.tar first"):
        read_archive(str(tmp_path / "data/shards/001.tar.gz"), here)


def test_one_member_or_a_folder_inside_is_an_archive(tmp_path: Path, here: Store, parts: dict[str, bytes]):
    path = tar(tmp_path / "a.tar", parts)
    assert [*by_id(read_archive(f"{path}#clips/two.mp4", here))] == ["a.tar/clips/two.mp4"]
    assert [*by_id(read_archive(f"{path}#walk", here))] == ["a.tar/walk"]
    with pytest.raises(BadConfig, match="no film and no frame of this name"):
        read_archive(f"{path}#three.mp4", here)
    odd = tar(tmp_path / "take.tar#2.tar", parts)
    assert len(read_archive(str(odd), here).videos) == 3, "a file may be called so"


def test_members_on_s3_are_read_by_ranges(tmp_path: Path, parts: dict[str, bytes], s3_settings: Settings):
    remote = Store.open(s3_settings)
    padding = {f"{number}.bin": os.urandom(2**20) for number in range(12)}
    for path in (tar(tmp_path / "a.tar", padding | parts), stored(tmp_path / "b.zip", padding | parts)):
        remote.fs.put(str(path), f"{remote.root}/data/{path.name}")
    found = by_id(read_archive(remote.uri("data"), remote))
    assert len(found) == 6
    for archive in ("a.tar", "b.zip"):
        assert played(found[f"{archive}/one.mp4"], remote) == WHOLE["one.mp4"]
        assert played(found[f"{archive}/walk"], remote) == WHOLE["walk"]
    assert found["a.tar/one.mp4"].content_hash, "an ETag of S3 says what the bytes are, wherever they lie"
    remote.fs.copy(f"{remote.root}/data/a.tar", f"{remote.root}/elsewhere/z.tar")
    moved = by_id(read_archive(remote.uri("elsewhere"), remote))
    assert moved["z.tar/one.mp4"].content_id == found["a.tar/one.mp4"].content_id


def test_an_archive_that_changed_since_it_was_listed_is_not_read_under_the_old_names(
    tmp_path: Path, here: Store, parts: dict[str, bytes]
):
    path = tar(tmp_path / "a.tar", parts)
    before = by_id(read_archive(str(path), here))
    tar(path, {"new.mp4": parts["clips/two.mp4"]} | parts)
    assert played(before["a.tar/one.mp4"], here) == "changed"
    after = by_id(read_archive(str(path), here))
    assert played(after["a.tar/one.mp4"], here) == WHOLE["one.mp4"]
    assert before["a.tar/one.mp4"].content_id != after["a.tar/one.mp4"].content_id


def test_what_a_tar_must_not_hold_is_a_row_of_errors_or_counted_and_the_rest_is_read(
    tmp_path: Path, here: Store, parts: dict[str, bytes]
):
    device = tarfile.TarInfo("device.mp4")
    device.type = tarfile.CHRTYPE
    bad = [link("symlink.mp4", tarfile.SYMTYPE, "/etc/passwd"), link("hardlink.mp4", tarfile.LNKTYPE), device]
    names = {"../../up.mp4": b"", "/etc/absolute.mp4": b"", "x/../../y.jpg": b"", "./one.mp4": parts["one.mp4"]}
    path = tar(tmp_path / "a.tar", names, *bad)
    found = read_archive(str(path), here)
    codes = {video_id.rpartition("/")[2]: played(source, here) for video_id, source in by_id(found).items()}
    assert codes == {
        "symlink.mp4": "link_member",
        "hardlink.mp4": "link_member",
        "device.mp4": "not_a_file",
        "up.mp4": "unsafe_member",
        "absolute.mp4": "unsafe_member",
        "one.mp4": WHOLE["one.mp4"],
    }
    assert passed_over(found) == {
        "a.tar/x/../../y.jpg": "its name leads out of the archive, expected a relative one without `..`"
    }


def test_what_a_zip_must_not_hold_is_a_row_of_errors(tmp_path: Path, here: Store, parts: dict[str, bytes]):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.mp4", parts["one.mp4"])
        archive.writestr("..\\up.mp4", b"")
        archive.writestr("C:/drive.mp4", b"")
        link_info = zipfile.ZipInfo("link.mp4")
        link_info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link_info, "/etc/passwd")
        archive.writestr("lzma.mp4", parts["one.mp4"], zipfile.ZIP_LZMA)
        archive.writestr("bomb.mp4", bytes(80 * 2**20), zipfile.ZIP_DEFLATED)
        archive.writestr("secret.mp4", parts["one.mp4"])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1  # the directory says that the last member is encrypted
    path.write_bytes(data)
    found = by_id(read_archive(str(path), here))
    assert {video_id.rpartition("/")[2]: played(source, here) for video_id, source in found.items()} == {
        "one.mp4": WHOLE["one.mp4"],
        "up.mp4": "unsafe_member",
        "drive.mp4": "unsafe_member",
        "link.mp4": "link_member",
        "lzma.mp4": "unknown_packing",
        "bomb.mp4": "bomb",
        "secret.mp4": "encrypted",
    }


def test_a_member_that_inflates_to_more_than_it_states_is_cut_short(tmp_path: Path, here: Store):
    path = deflated(tmp_path / "a.zip", {"x.mp4": bytes(40 * 2**20)})
    data = bytearray(path.read_bytes())
    for mark, size_at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = data.index(mark) + size_at
        data[place : place + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    (source,) = list_videos(str(path), here)
    assert source.size_bytes == 1000
    assert played(source, here) == "bomb"


def test_members_that_lie_over_one_another_are_a_bomb(tmp_path: Path, here: Store, parts: dict[str, bytes]):
    path = stored(tmp_path / "a.zip", {"a.mp4": parts["one.mp4"]})
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = data[start:end]
    copies = b"".join(entry.replace(b"a.mp4", f"{letter}.mp4".encode()) for letter in "abcdefgh")
    last = bytearray(data[end:])
    last[8:12] = (8).to_bytes(2, "little") * 2
    last[12:16] = len(copies).to_bytes(4, "little")
    path.write_bytes(data[:start] + copies + last)
    (source,) = list_videos(str(path), here)
    assert played(source, here) == "bomb"


def test_the_members_before_a_cut_are_read_and_the_cut_is_said(tmp_path: Path, here: Store, parts: dict[str, bytes]):
    path = tar(tmp_path / "a.tar", {"1.mp4": parts["one.mp4"], "2.mp4": parts["one.mp4"], "3.mp4": parts["one.mp4"]})
    whole = path.read_bytes()
    member = 512 + -(-len(parts["one.mp4"]) // 512) * 512
    two = {"1.mp4": WHOLE["one.mp4"], "2.mp4": WHOLE["one.mp4"]}
    for cut, codes in {
        2 * member + 600: two | {"3.mp4": "cut_off", "a.tar": "cut_off"},
        2 * member + 100: two | {"a.tar": "cut_off"},
        2 * member: two | {"a.tar": "cut_off"},
        3 * member + 1024: two | {"3.mp4": WHOLE["one.mp4"]},
    }.items():
        path.write_bytes(whole[:cut])
        found = by_id(read_archive(str(path), here))
        assert {video_id.rpartition("/")[2]: played(source, here) for video_id, source in found.items()} == codes
    path.write_bytes(whole[:member] + os.urandom(member) + whole[2 * member :])
    found = by_id(read_archive(str(path), here))
    assert found["a.tar"].problem == (
        f"damaged_archive: {path}: byte {member} is no header; the 1 members before it are read"
    )


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
@pytest.mark.parametrize("data", [b"", b"no archive at all" * 100, bytes(10)], ids=["empty", "text", "zeros"])
def test_what_only_looks_like_an_archive_is_a_row_of_errors(tmp_path: Path, here: Store, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    (source,) = list_videos(str(tmp_path), here)
    assert (source.video_id, played(source, here)) == (name, "damaged_archive")


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path, here: Store, parts: dict[str, bytes]):
    path = tar(tmp_path / "a.tar", {"./x.mp4": parts["one.mp4"], "x.mp4": parts["clips/two.mp4"]})
    found = read_archive(str(path), here)
    assert played(found.videos[0], here) == WHOLE["clips/two.mp4"]
    assert passed_over(found) == {"a.tar/x.mp4": "a later member has its name"}


def test_bad_archives_of_every_kind_in_one_folder_have_one_outcome_for_each_video(
    tmp_path: Path, here: Store, parts: dict[str, bytes]
):
    root, film = tmp_path / "data", parts["one.mp4"]
    (root / "plain").mkdir(parents=True)
    (root / "plain/one.mp4").write_bytes(film)
    tar(root / "cut.tar", {"1.mp4": film, "2.mp4": film})
    (root / "cut.tar").write_bytes((root / "cut.tar").read_bytes()[: 512 + 2048 + 700])
    tar(root / "links.tar", {"1.mp4": film}, link("2.mp4", tarfile.SYMTYPE))
    tar(root / "outside.tar", {"../1.mp4": film, "2.mp4": film})
    deflated(root / "bomb.zip", {"1.mp4": bytes(70 * 2**20), "2.mp4": film})
    stored(root / "broken.zip", {"1.mp4": film[:1000], "2.mp4": b"", "3.mp4": b"no film", "walk/0.jpg": b"no image"})
    stored(root / "none.zip", {"code.py": b""})
    (root / "text.tar").write_bytes(b"text")
    (root / "whole.tgz").write_bytes(b"\x1f\x8b")
    found = read_archive(str(root), here)
    stage = SideBySide(barcode.Barcode(blind=True), "cpu", here, videos_at_once=4, frames_per_batch=16, threads=2)
    outcomes = list(stage.play(found.videos, MaskSpill()))
    codes = {each.source.video_id: each.error.code if each.error else "done" for each in outcomes}
    assert len(outcomes) == len(codes) == len(found.videos)
    assert codes == {
        "plain/one.mp4": "done", "cut.tar": "cut_off", "cut.tar/1.mp4": "done", "cut.tar/2.mp4": "cut_off",
        "links.tar/1.mp4": "done", "links.tar/2.mp4": "link_member", "outside.tar/%2E%2E/1.mp4": "unsafe_member",
        "outside.tar/2.mp4": "done", "bomb.zip/1.mp4": "bomb", "bomb.zip/2.mp4": "done",
        "broken.zip/1.mp4": "no_video_stream", "broken.zip/2.mp4": "empty_file", "broken.zip/3.mp4": "not_a_video",
        "broken.zip/walk": "bad_image", "text.tar": "damaged_archive",
    }  # fmt: skip
    assert set(passed_over(found)) == {"none.zip/code.py", "whole.tgz"}


NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=40)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(NAMES.map(lambda name: name + ".mp4"), min_size=1, max_size=5, unique=True))
def test_members_may_be_called_anything_and_none_leads_out(tmp_path: Path, here: Store, names: list[str]):
    for write, file in ((tar, "a.tar"), (stored, "a.zip")):
        path = write(tmp_path / file, dict.fromkeys(["plain.mp4", *names], b"x"))
        with path.open("rb") as opened:
            index = members.read_index(opened, path.suffix[1:], path.stat().st_size)
        assert index.problem is None
        for member in index.members:
            inside = os.path.realpath(os.path.join("/here", member.name)).startswith("/here/")
            assert inside or member.problem
        for source in read_archive(str(path), here).videos:
            source.uri.encode()
            assert "\n" not in source.video_id


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_mutated_archives_are_listed_or_refused_and_end(tmp_path: Path, here: Store, parts: dict[str, bytes], data):
    write, name = data.draw(st.sampled_from([(tar, "a.tar"), (stored, "a.zip"), (deflated, "a.zip")]))
    path = write(tmp_path / name, parts)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        headers = [0, 100, 124, 156, len(content) - 22, max(0, content.find(b"PK\1\2"))]
        place = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 40))
        content[place % len(content)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))) :]
    path.write_bytes(content)
    try:
        found = read_archive(str(path), here)
    except BadConfig:
        return
    for source in found.videos:
        assert played(source, here) not in ("unexpected", "unreadable"), "the disk and we are not to blame"
