r"""Names of frames as data sets write them, and the folders where the frames are looked for.

One frame is called `a/0.jpg`, `.\a\0.jpg`, `JPEGImages/a/0.jpg` or `train/JPEGImages/a/0.jpg`, by who wrote the JSON on
which system. All of them mean `a/0.jpg` below the folder of the frames: that is the name that is kept, so that a video
is the same one in every release.
"""

import posixpath
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

FRAMES_FOLDER = "JPEGImages"
"""Where YouTube-VIS, OVIS and DAVIS keep the frames of all videos."""
UNUSUAL = re.compile(r"\\|//|(?:^|/)\.(?:/|$)|/$")


def plain(name: str) -> str:
    r"""With `/` between folders and nothing before the first: `.\a\0.jpg` is `a/0.jpg`."""
    return str(PurePosixPath(name.replace("\\", "/"))) if UNUSUAL.search(name) else name


def stays_inside(name: str) -> bool:
    """Whether a file name of a JSON from outside leads to a place below the folder it is relative to."""
    path = PurePosixPath(plain(name))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]


def shared_root(names: Iterable[str]) -> str:
    """What every name of a data set begins with up to `JPEGImages`: that, `train/JPEGImages`, or mostly nothing."""
    roots = {_root(plain(name)) for name in names}
    return roots.pop() if len(roots) == 1 else ""


def below(name: str, root: str) -> str:
    """The plain name of a frame below `shared_root`."""
    return plain(name).removeprefix(f"{root}/") if root else plain(name)


def places(json_path: str, root: str = "") -> list[str]:
    """Folders in which a data set's frames are looked for, the usual one of the releases first.

    Args:
        json_path: path of the data set's JSON, with `/` between folders.
        root: the `shared_root` of its names, already taken off them.
    """
    parent, stem = posixpath.dirname(json_path), posixpath.basename(json_path).split(".")[0]
    folders = [f"{stem}/{FRAMES_FOLDER}", FRAMES_FOLDER, stem, "", *([root] if root else [])]
    return [posixpath.join(parent, folder) if folder else parent for folder in dict.fromkeys(folders)]


def _root(name: str) -> str:
    folders = name.split("/")[:-1] if FRAMES_FOLDER in name else []
    return "/".join(folders[: folders.index(FRAMES_FOLDER) + 1]) if FRAMES_FOLDER in folders else ""
