"""Thousands of damaged tar and zip files: each is listed, its members are played or refused, and none hangs."""

import random
from collections import Counter
from pathlib import Path

import pytest

from jobs.archives.archive import read_archive
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode
from tests.jobs.test_members import deflated, played, stored, tar
from vis_models.config import BadConfig

SEEDS = 1000
"""Of each kind."""
VALUES = (0, 255, ord("0"), ord("7"), 0x80)
"""What counts in headers: ends of text, digits of sizes, the mark of a size in binary."""


@pytest.mark.parametrize(("write", "name"), [(tar, "a.tar"), (stored, "b.zip"), (deflated, "c.zip")])
def test_no_damage_of_an_index_hangs_or_surprises(tmp_path: Path, write, name: str):
    film = barcode.write_film(tmp_path / "x.mp4", 1, 5).read_bytes()
    image = (barcode.write_frames(tmp_path / "walk", 2, [0]) / "00000.jpg").read_bytes()
    parts = {"a/" * 40 + "x.mp4": film, "one.mp4": film, "walk/0.jpg": image, "é" * 60 + ".mp4": film}
    whole = write(tmp_path / name, parts).read_bytes()
    store = Store.open(Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch"))
    codes: Counter[str] = Counter()
    for seed in range(SEEDS):
        path = tmp_path / f"m{name}"
        path.write_bytes(mutate(whole, name, random.Random(seed)))
        try:
            for source in read_archive(str(path), store).videos:
                answer = played(source, store)
                codes[answer if isinstance(answer, str) else "played"] += 1
        except BadConfig:
            codes["no video"] += 1
    print(name, dict(codes))
    assert codes["played"] > SEEDS
    assert not {"unexpected", "unreadable"} & set(codes)


def mutate(whole: bytes, name: str, chance: random.Random) -> bytes:
    """Some bytes of headers changed, with a right checksum; one in five is cut off as well."""
    data = bytearray(whole)
    blocks = range(0, len(data), 512)
    is_tar = name.endswith(".tar")
    headers = list(blocks) if is_tar else [place for place in range(len(data) - 2) if data[place : place + 2] == b"PK"]
    for _ in range(chance.randint(1, 10)):
        place = chance.choice(headers) + chance.randint(0, 511 if is_tar else 60)
        data[place % len(data)] = chance.choice((*VALUES, chance.randrange(256)))
    for block in blocks if is_tar else ():
        if data[block + 257 : block + 262] == b"ustar":
            total = sum(data[block : block + 148]) + 8 * ord(" ") + sum(data[block + 156 : block + 512])
            data[block + 148 : block + 156] = b"%06o\0 " % total
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)
