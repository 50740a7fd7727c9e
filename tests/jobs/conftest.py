"""A small S3 server, a store, a local Ray, films with a model for them, and a labelled data set with its tables."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from jobs import tables
from jobs.archives.archive import list_videos
from jobs.cluster import cluster
from jobs.segmentation import segment as segmenting
from jobs.segmentation.plans import Unit, write_listing
from jobs.settings import Settings
from jobs.store import Store
from tests import published
from tests.jobs import barcode
from tests.jobs.barcoded import LENGTHS
from tests.jobs.here import here
from vis_models import masks


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 server in memory; it accepts any credentials."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(s3_server: str, request: pytest.FixtureRequest) -> Settings:
    """Settings of a store in a fresh bucket."""
    bucket = f"bucket-{abs(hash(request.node.nodeid))}"
    client = boto3.client(
        "s3", endpoint_url=s3_server, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket=bucket)
    return Settings(
        store=f"s3://{bucket}/lake", s3_endpoint=s3_server, s3_access_key="key", s3_secret_key="a-secret-value"
    )


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`segment` plays videos in the process of the test."""
    monkeypatch.setattr(segmenting, "_pool", here)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same test on a folder and on S3."""
    if request.param == "folder":
        return Store.open(Settings(store=str(tmp_path / "lake")))
    return Store.open(request.getfixturevalue("s3_settings"))


@dataclass(frozen=True)
class LabelledLake:
    """A data set of four drawn videos and the published tables of a made-up model that saw them."""

    settings: Settings
    data: Path
    """`val.json`; frames beside it."""
    results: list[dict]
    """The same tracks as a results file."""

    @property
    def store(self) -> Store:
        return Store.open(self.settings)

    def write(self, name: str, content: object) -> str:
        """A JSON file beside the labels."""
        path = self.data.parent / name
        path.write_text(json.dumps(content))
        return str(path)

    def labels(self) -> dict:
        return json.loads(self.data.read_text())


FRAMES, HEIGHT, WIDTH = 6, 48, 64
OBJECTS = {1: ["square"], 2: ["square", "disc"], 3: ["disc"], 4: ["square"]}
"""Category of each object of each video; the frames of video 4 are lost."""


@pytest.fixture
def labelled_lake(tmp_path: Path) -> LabelledLake:
    """Video 1 is segmented perfectly, the disc of video 2 in half of the frames, 3 mistaken, 4 unreadable."""
    return _draw_lake(tmp_path)


@pytest.fixture
def draw_lake(tmp_path: Path) -> Callable[..., LabelledLake]:
    """The same with other words, or in another store."""
    return partial(_draw_lake, tmp_path)


def _draw_lake(
    folder: Path,
    disc: str = "disc",
    error: str = "video 4 is not there",
    settings: Settings | None = None,
    min_score: float = 0,
    also_square: float | None = None,
) -> LabelledLake:
    """`also_square`: the score with which every disc may be a square, too."""
    categories = {1: "square", 2: disc}
    labels: dict = {
        "videos": [],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in categories.items()],
    }
    results, rows = [], {name: [] for name in tables.SCHEMAS}
    for video, shapes in OBJECTS.items():
        names = [f"{video:04d}/{frame:05d}.jpg" for frame in range(FRAMES)]
        labels["videos"].append({"id": video, "height": HEIGHT, "width": WIDTH, "file_names": names})
        bitmaps = np.stack([_draw(shape, 4 + 24 * n) for n, shape in enumerate(shapes)])
        for n, shape in enumerate(shapes):
            label = {"id": len(labels["annotations"]) + 1, "video_id": video, "category_id": 1 + (shape == "disc")}
            rles = masks.encode(bitmaps[n])
            areas, segmentations = [int(area) for area in bitmaps[n].sum((1, 2))], [_coco(rle) for rle in rles]
            labels["annotations"].append(label | {"iscrowd": 0, "areas": areas, "segmentations": segmentations})
        if video == 4:
            rows["errors"].append(_error_row(video, error))
        else:
            _write_frames(folder / "val" / "JPEGImages", names, bitmaps)
            for n, shape in enumerate(shapes):
                seen = bitmaps[n].copy()
                if shape == "disc":
                    seen = np.roll(seen, 20, axis=1) if video == 3 else seen & (np.arange(FRAMES) < 3)[:, None, None]
                track = _track_rows(video, n + 1, 1 + (shape == "disc"), categories, 0.9 - 0.2 * n - 0.1 * video, seen)
                rows["tracks"].append(track[0])
                rows["masks"] += track[1]
                segmentations = [None] * FRAMES
                for row in track[1]:
                    segmentations[row["frame_idx"]] = _coco(row["rle"])
                score = float(np.float32(track[0]["score"]))
                result = {"video_id": video, "category_id": track[0]["category_id"], "score": score}
                results.append(result | {"segmentations": segmentations})
                if also_square and shape == "disc":
                    track[0]["other_classes"] = [("square", also_square)]
                    other = {"category_id": 1, "score": float(np.float32(also_square))}
                    results.append(result | other | {"segmentations": segmentations})
        rows["videos"].append(_video_row(video, len(shapes)))
    data = folder / "val.json"
    data.write_text(json.dumps(labels))
    settings = settings or Settings(store=str(folder / "lake"))
    _publish(Store.open(settings), str(data), categories, rows, min_score)
    return LabelledLake(settings, data, results)


def _draw(shape: str, left: int) -> np.ndarray:
    """(T, H, W) a shape of 16 px that moves down, 2 px a frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    squares = [(abs(y - 14 - 2 * t) < 8) & (abs(x - left - 8) < 8) for t in range(FRAMES)]
    discs = [(y - 14 - 2 * t) ** 2 + (x - left - 8) ** 2 < 64 for t in range(FRAMES)]
    return np.stack(discs if shape == "disc" else squares)


def _coco(rle: bytes) -> dict:
    return {"size": [HEIGHT, WIDTH], "counts": rle.decode()}


def _write_frames(folder: Path, names: list[str], bitmaps: np.ndarray) -> None:
    for t, name in enumerate(names):
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        pixels[::8] = 110
        for n, bitmap in enumerate(bitmaps):
            pixels[bitmap[t]] = [(200, 160, 60), (70, 120, 190)][n]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def _track_rows(
    video: int, track: int, category: int, names: dict[int, str], score: float, seen: np.ndarray
) -> tuple[dict, list[dict]]:
    key = {"plan_id": "plan", "video_id": str(video), "track_id": track, "category_id": category}
    visible = [t for t in range(FRAMES) if seen[t].any()]
    rles = masks.encode(seen[visible])
    boxes = masks.boxes_px(rles, HEIGHT, WIDTH)
    edges = ("x0_px", "y0_px", "x1_px", "y1_px")
    rows = [
        {
            **key,
            "category": names[category],
            "frame_idx": t,
            "score": score,
            "area_px": int(seen[t].sum()),
            "height_px": HEIGHT,
            "width_px": WIDTH,
        }
        | {"rle": rle}
        | dict(zip(edges, box.tolist(), strict=True))
        for t, rle, box in zip(visible, rles, boxes, strict=True)
    ]
    box = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
    areas = [row["area_px"] for row in rows]
    summary = {**key, "category": names[category], "score": score, "score_mean": score, "score_max": score}
    summary |= {"first_frame": visible[0], "last_frame": visible[-1], "n_obs": len(visible), "gap_count": 0}
    summary |= {"area_mean_px": float(np.mean(areas)), "area_max_px": max(areas), "stitched": False}
    return summary | {edge: float(value) for edge, value in zip(edges, box, strict=True)}, rows


def _video_row(video: int, tracks_: int) -> dict:
    row = {"plan_id": "plan", "video_id": str(video), "uri": f"/{video}", "content_id": str(video), "run_id": "run"}
    counts = {"n_low_score_tracks": 0, "n_dropped_births": 0, "decode_ms": 3, "infer_ms": 30}
    if video == 4:
        return row | counts | {"status": "failed", "n_frames": 0, "sampled_frames": 0, "n_tracks": 0}
    seen = {"container": "frames", "codec": "jpeg", "width": WIDTH, "height": HEIGHT, "n_tracks": tracks_}
    return row | counts | seen | {"status": "done", "n_frames": FRAMES, "sampled_frames": FRAMES}


def _error_row(video: int, detail: str) -> dict:
    row = {"plan_id": "plan", "video_id": str(video), "uri": f"/{video}", "stage": "open", "code": "missing"}
    return row | {"detail": detail, "attempt": 1, "retryable": True, "host": "here"}


def _publish(
    store: Store, archive: str, categories: dict[int, str], rows: dict[str, list[dict]], min_score: float
) -> None:
    lineage = {
        "plan_id": "plan",
        "run_id": "run",
        "model_name": "drawn",
        "model_sha256": "0123456789abcdef" * 4,
        "code_version": "c0ffee",
        "config_hash": "cafe",
        "command": "vis segment val.json",
        "config_json": json.dumps({"min_score": min_score}),
        "class_map_json": json.dumps(categories),
    }
    videos = list_videos(archive, store)
    write_listing(store, "plan", [Unit(f"plan/{video.video_id}", video) for video in videos])
    card = {"name": "drawn", "recipe": "by_hand", "run_id": "r", "commit": "beef", "data": "", "command": "vis train"}
    published.publish(
        store,
        "plan",
        rows,
        archive=archive,
        model_sha256=lineage["model_sha256"],
        card=card,
        created_at="2026-01-01T00:00:00+00:00",
        lineage=lineage,
        counts={"done": 3, "failed": 1, "frames": 18},
        seconds={"decode": 0.1, "encode": 0.6, "step": 0.2, "rle": 0.05, "write": 0.05},
    )


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for all tests; jobs find it and leave it running."""
    with cluster(Settings(workers=4, cpus_per_worker=1)):
        yield


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five whole videos, one that breaks off and two that do not open."""
    folder = tmp_path_factory.mktemp("films")
    for name, frames in LENGTHS.items():
        if name.endswith(".mp4"):
            barcode.write_film(folder / name, int(Path(name).stem), frames)
    barcode.write_frames(folder / "5", 5, range(9))
    barcode.write_frames(folder / "6", 6, range(7))
    (folder / "6/00004.jpg").write_bytes(b"\xff\xd8 no more")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no film")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return barcode.write_model(tmp_path_factory.mktemp("models") / "barcode")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One worker, which needs no Ray."""
    return Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1)


@pytest.fixture
def two_workers(settings: Settings, local_ray: None) -> Settings:
    """On Ray."""
    return settings.model_copy(update={"workers": 2})


@pytest.fixture(params=["settings", "two_workers"])
def either(request: pytest.FixtureRequest) -> Settings:
    return request.getfixturevalue(request.param)
