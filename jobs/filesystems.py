"""Where addresses lead: a folder of this machine, a bucket or a web server, with the credentials of the settings, and
what it means when a server or a disk refuses.
"""

import errno
import importlib.util
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote

import fsspec
import pyarrow as pa
import pyarrow.fs
from botocore.exceptions import BotoCoreError, ClientError, ConfigParseError, NoCredentialsError, ProfileNotFound
from fsspec.implementations.local import LocalFileSystem

from jobs.settings import Settings, without_keys, without_signature
from vis_models.config import BadConfig

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""What the system says where nothing more can be written."""
BLOCK = 8 * 2**20
"""Bytes that are read at once from a bucket or a web server: s3fs would read 50 MiB ahead, films are read in steps."""
WEB = ("http", "https")
ELSEWHERE = ("s3", "gs", *WEB)
"""Schemes of addresses that are read over a network."""


def resolve(uri: str, settings: Settings) -> tuple[fsspec.AbstractFileSystem, str]:
    """(file system, path as it knows it) of a local path, `s3://...`, `gs://...` or `http(s)://...`.

    Raises BadConfig: none of these, or keys stand in it. A signature may; it is not repeated.
    """
    try:
        scheme, separator, rest = without_keys(uri).partition("://")
    except ValueError as error:
        raise BadConfig(str(error)) from None
    if not separator or scheme == "file":
        path = os.path.abspath(os.path.expanduser(unquote(rest, errors="surrogateescape") if separator else uri))
        return LocalFileSystem(auto_mkdir=True), path
    if scheme not in ELSEWHERE:
        raise BadConfig(
            f"{without_signature(uri)} begins with {scheme}://, expected a local path, s3://bucket/prefix, "
            "gs://bucket/prefix or https://host/path"
        )
    path = rest.strip("/")
    if not path:
        raise BadConfig(f"{uri} names no {'host' if scheme in WEB else 'bucket'}, expected {scheme}://bucket/prefix")
    if scheme in WEB:
        return _web(scheme), quote(uri, safe="%/:?#[]@!$&'()*+,;=~")
    return (_s3(settings) if scheme == "s3" else _gs()), path


def is_web(fs: fsspec.AbstractFileSystem) -> bool:
    """A web server, which has no folders; what a page links to is not looked for."""
    return "https" in fs.protocol


def _web(scheme: str) -> fsspec.AbstractFileSystem:
    import aiohttp  # takes a while, and few need it

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
    return fsspec.filesystem(
        scheme,
        block_size=BLOCK,
        encoded=True,  # a signature holds for these very characters
        client_kwargs={"timeout": timeout, "trust_env": True},  # proxies, ~/.netrc
    )


def _gs() -> fsspec.AbstractFileSystem:
    if importlib.util.find_spec("gcsfs") is None:
        raise BadConfig("gs:// addresses need the package gcsfs, which is not installed here: pip install gcsfs")
    return fsspec.filesystem("gs", use_listings_cache=False, default_block_size=BLOCK)


def _s3(settings: Settings) -> fsspec.AbstractFileSystem:
    config: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60}
    if settings.s3_endpoint:  # servers that are not AWS: no bucket in the host name, no checksums that came in 2025
        config |= {
            "s3": {"addressing_style": "path"},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
    key, secret = settings.s3_access_key, settings.s3_secret_key
    return fsspec.filesystem(
        "s3",
        key=key.get_secret_value() if key else None,
        secret=secret.get_secret_value() if secret else None,
        endpoint_url=settings.s3_endpoint,
        client_kwargs={"region_name": settings.s3_region},
        config_kwargs=config,
        use_listings_cache=False,  # others write at the same time
        default_block_size=BLOCK,
    )


def arrow_s3(settings: Settings) -> pa.fs.FileSystem:
    """What `_s3` opens, as Arrow's own client; it knows the same AWS sources, but must be told of a proxy."""
    endpoint = urllib.parse.urlsplit(settings.s3_endpoint or f"https://s3.{settings.s3_region}.amazonaws.com")
    proxies = {} if urllib.request.proxy_bypass(endpoint.netloc) else urllib.request.getproxies()
    key, secret = settings.s3_access_key, settings.s3_secret_key
    return pa.fs.S3FileSystem(
        access_key=key.get_secret_value() if key else None,
        secret_key=secret.get_secret_value() if secret else None,
        region=settings.s3_region,
        scheme=endpoint.scheme,
        endpoint_override=endpoint.netloc if settings.s3_endpoint else None,
        proxy_options=proxies.get(endpoint.scheme),
        connect_timeout=10,
        request_timeout=60,
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
    )


def delta_options(settings: Settings) -> dict[str, str]:
    """What delta-rs must know of the same server; the usual AWS sources it knows by itself."""
    key, secret = settings.s3_access_key, settings.s3_secret_key
    options = {"AWS_REGION": settings.s3_region, "AWS_CONDITIONAL_PUT": "etag", "timeout": "60s"}
    if settings.s3_endpoint:
        options |= {"AWS_ENDPOINT_URL": settings.s3_endpoint, "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"}
        options |= {"AWS_ALLOW_HTTP": "true"} if settings.s3_endpoint.startswith("http://") else {}
    if key and secret:
        options |= {"AWS_ACCESS_KEY_ID": key.get_secret_value(), "AWS_SECRET_ACCESS_KEY": secret.get_secret_value()}
    return options


@contextmanager
def refusals(uri: str, settings: Settings) -> Iterator[None]:
    """Server answers that a user can mend become BadConfig; its text never repeats what the server was sent."""
    if uri.startswith(tuple(f"{scheme}://" for scheme in WEB)):
        import aiohttp

        uri = without_signature(uri)
        try:
            yield
        except aiohttp.ClientResponseError as error:
            raise BadConfig(f"{uri}: its server answers {error.status} {error.message}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BadConfig(f"{uri}: no answer from its server ({type(error).__name__}); check the address") from None
        return
    if not uri.startswith("s3://"):
        try:
            yield
        except PermissionError as error:
            where = error.filename or uri
            raise BadConfig(
                f"{where}: permission denied; expected a place that this user may read and write"
            ) from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise BadConfig(
                f"{error.filename or uri}: {error.strerror}. Make room there, or set VIS_STORE to another disk; what "
                "is committed is kept, the same command goes on after it"
            ) from error
        return
    server = settings.s3_endpoint or f"AWS S3 ({settings.s3_region})"
    try:
        yield
    except NoCredentialsError:
        raise BadConfig(
            f"{uri}: no credentials for {server}; set VIS_S3_ACCESS_KEY and VIS_S3_SECRET_KEY, or the usual AWS sources"
        ) from None
    except PermissionError as error:
        raise BadConfig(
            f"{uri}: {server} refuses the credentials ({_reason(error)}); check VIS_S3_ACCESS_KEY, VIS_S3_SECRET_KEY "
            "and that they may list, read and write this bucket"
        ) from None
    except FileNotFoundError as error:
        if _reason(error) != "NoSuchBucket":
            raise
        raise BadConfig(f"{uri}: {server} has no bucket of this name; create it, or correct the name") from None
    except (ProfileNotFound, ConfigParseError) as error:
        raise BadConfig(
            f"{uri}: {str(error).rstrip('.')}; correct AWS_PROFILE and ~/.aws, or set VIS_S3_ACCESS_KEY and "
            "VIS_S3_SECRET_KEY and unset AWS_PROFILE"
        ) from None
    except BotoCoreError as error:
        raise BadConfig(
            f"{uri}: no answer from {server} ({type(error).__name__}); check VIS_S3_ENDPOINT and the network"
        ) from None


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    return cause.response["Error"]["Code"] if isinstance(cause, ClientError) else type(error).__name__


def without_folders(found: Any) -> Any:
    """S3 has no folders, but Arrow's client, as others, writes an empty object `folder/` for each that it makes."""
    if isinstance(found, dict):
        return {path: info for path, info in found.items() if not path.endswith("/")}
    return [path for path in found if not path.endswith("/")]
