"""What a command finds around it and was not meant for it: proxies of a company, a working folder that is gone."""

import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

from vis_models.config import BadConfig

LOOPBACK = ("localhost", "127.0.0.1", "::1")
FOLDER = "VISLAKE_FOLDER"
"""Names the folder in which the flows of a `vis up` run, with its vis.toml: the one where it was started."""


def reach_loopback(*also: str) -> None:
    """Nothing on this machine is asked through a proxy, by this process or its children; all else is, as before.

    Args:
        also: other addresses of this machine.

    Prefect's API, Ray and a local S3 server answer on the loopback, where no proxy can reach them. Programs disagree
    about upper and lower case, so both names are set. Without a proxy in the environment nothing is touched: on some
    systems these names would hide the proxy of the system itself.
    """
    proxies = urllib.request.getproxies_environment()
    if not proxies.keys() - {"no"}:
        return
    given = [host.strip() for name in ("no_proxy", "NO_PROXY") for host in os.environ.get(name, "").split(",")]
    hosts = list(dict.fromkeys([*filter(None, given), *LOOPBACK, *also]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in hosts else ",".join(hosts)


def check_working_folder() -> None:
    """Raises BadConfig: the working folder was deleted or cannot be entered, and nothing can be found from there."""
    try:
        os.getcwd()
    except OSError as error:
        raise BadConfig(
            f"the working folder {os.environ.get('PWD', '')} is gone ({error.strerror}): change to one that is there"
        ) from None


def enter_folder() -> None:
    """Goes where the flows of `vis up` run, if this is one. Raises BadConfig: the folder is gone."""
    if folder := os.environ.get(FOLDER):
        try:
            os.chdir(folder)
        except OSError as error:
            raise BadConfig(
                f"the folder {folder} where `vis up` was started is gone ({error.strerror}): start it again"
            ) from None


class _Absent(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=fullname)


@contextmanager
def without_pandas() -> Iterator[None]:
    """Inside, pandas counts as not installed.

    pyarrow imports it to see whether a list is one of its columns, which takes longer than most answers do.
    """
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)
