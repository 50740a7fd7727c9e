"""The held-out part of a labelled set as an archive of its own, so that only its videos are segmented.

A small YouTube-VIS file without labels under `vis/v1/splits/`, named by its split and its content: which videos they
are, and where their frames lie. The labels stay where they are.
"""

import hashlib
import json

from jobs.archives.archive import FRAMES_KEY, image_folder
from jobs.results_files import read_json
from jobs.store import LAYOUT, Store
from vis_models.data.holdout import HoldOut
from vis_models.metrics.youtube_vis import Listing

FOLDER = f"{LAYOUT}/splits"


def held_out(store: Store, data: str, rule: HoldOut) -> str:
    """Address of the archive of the videos that a rule holds out of a YouTube-VIS file.

    Raises:
        BadConfig: no such file, no frames beside it, or the rule holds nothing out.
    """
    content, _ = read_json(store, data)
    listing = Listing(content, data)
    listing.hold_out(rule)
    videos = [listing.videos[video_id] for video_id in listing.video_ids()]
    fs, path = store.open_source(data)
    with store.guard(data):
        names = [name for video in videos for name in video["file_names"]]
        frames = image_folder(fs, path, names, listing.root)
    part = {
        FRAMES_KEY: frames if "://" not in store.address(data) else f"s3://{frames}",
        "categories": listing.content["categories"],
        "videos": videos,
    }
    text = json.dumps(part, sort_keys=True).encode()
    key = f"{FOLDER}/{listing.split}-{hashlib.sha256(text).hexdigest()[:8]}.json"
    if not store.exists(key):
        store.write_bytes(key, text)
    return store.uri(key)
