"""Where things are and with which keys: the one typed place for everything that depends on the machine.

Read from, later wins: `vis.toml` in the working folder, environment variables `VIS_*`, the command line.
Nothing here changes a result; what does belongs to a recipe or a job's config.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from vis_models.config import BadConfig, nearest

PREFIX = "VIS_"
FILE = Path("vis.toml")
NOT_SETTINGS = frozenset({"test_data", "up"})
"""Variables of the house that are no settings: where tests find their data, how `vis up` marks its processes."""
MISSPELT = 0.8
"""How alike an unknown variable and a setting are from which it is taken for that setting, misspelt; 1: the same."""
BUCKET = re.compile(r"[^:@]*|arn:[^@]*")
HOST = re.compile(r"([^:@]*|\[[^@\]]*\])(:\d+)?")
"""What stands before the first `/` of an address without keys. Keys themselves may hold a `/`."""
KEYS = (
    "an address must not hold keys (KEY:SECRET@...), which would end up in logs and tables: set VIS_S3_ACCESS_KEY and "
    "VIS_S3_SECRET_KEY, or use the usual AWS sources; those of a web server belong into ~/.netrc"
)
SIGNED = re.compile(r"(?i)\b(https?://)([^\s/?#'\"<>]*@)?([^\s?'\"<>]*)(\?[^\s'\"<>)]*)?")
"""A web address in a text: where keys may stand, what may be shown, and a query, which may be a signature."""


class Environment(EnvSettingsSource):
    """`VIS_*`, and among them the misspelt ones, so that they are refused as unknown keys of `vis.toml` are."""

    def __call__(self) -> dict[str, Any]:
        unknown = _unknown_variables(self.settings_cls)
        misspelt = {name: None for name in unknown if nearest(name, self.settings_cls.model_fields, MISSPELT)}
        return super().__call__() | misspelt


def _first_of(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


class Settings(BaseSettings):
    """Settings of this machine. `VIS_STORE=s3://bucket/prefix` and the like override each field."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        toml_file=FILE,
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    store: str = ".vis"
    """Root of everything written: a folder or `s3://bucket/prefix`."""
    s3_endpoint: str | None = Field(default_factory=lambda: _first_of("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    """URL of an S3-compatible server, as AWS_ENDPOINT_URL says where nothing else does; None for AWS."""
    s3_region: str = Field(default_factory=lambda: _first_of("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1")
    """As AWS_REGION says where nothing else does."""
    s3_access_key: SecretStr | None = None
    """None: the usual AWS sources (environment, profile, instance role)."""
    s3_secret_key: SecretStr | None = None
    launcher: Literal["local"] = "local"
    """Where a job runs: `local` is the flow's own process with a local Ray."""
    ray_address: str | None = None
    """A running Ray cluster: HOST:PORT, ray://HOST:PORT or `auto`. None: that of RAY_ADDRESS, which stands in every Ray
    job and pod, where it answers; else, as with `local`, this machine does the work, with a Ray of its own only where
    several workers do it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(0, ge=0)
    """Workers of a job; 0: as many as GPUs, or one."""
    cpus_per_worker: int = Field(0, ge=0)
    """CPU cores of a worker; 0: the machine's cores shared evenly between the workers."""
    worker_hour_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    """What an hour of one worker costs, in any currency: summaries and `vis plan` say then what the work costs."""
    decode_timeout_s: float = Field(120, gt=0)
    """Seconds that opening a video, or decoding one more frame of it, may take; then the video ends with the code
    `timeout`. A network gives up after 60."""
    scratch: Path = Path("~/.cache/vislake")
    """Local folder for copies of remote data sets and models."""

    def __init__(self, **given: Any) -> None:
        """Raises BadConfig: a value that cannot be, a name that is none, or a `vis.toml` that cannot be read."""
        try:
            if FILE.exists() and not FILE.is_file():
                raise BadConfig(f"{FILE.absolute()} is no file; expected one of settings, or nothing of that name")
            super().__init__(**given)
        except ValidationError as error:
            raise BadConfig("; ".join(_sentence(one, given) for one in error.errors())) from None
        except tomllib.TOMLDecodeError as error:
            raise BadConfig(f'{FILE.resolve()}: {error}; expected lines such as store = "s3://bucket/lake"') from None
        except UnicodeDecodeError as error:
            raise BadConfig(f"{FILE.resolve()}: no UTF-8 text, as TOML is (byte {error.start})") from None
        except OSError as error:
            raise BadConfig(f"{FILE.absolute()} cannot be read: {error.strerror}") from None

    @field_validator("store")
    @classmethod
    def _absolute(cls, store: str) -> str:
        """Workers run in folders of their own."""
        if not store:
            raise ValueError("it is empty, expected a folder or s3://bucket/prefix")
        if "://" in store:
            if store.startswith(("http://", "https://", "gs://")):
                raise ValueError("it is to be written to, expected a folder or s3://bucket/prefix")
            return without_keys(store)
        try:
            return os.path.abspath(os.path.expanduser(store))
        except FileNotFoundError:
            raise ValueError(
                f"{store!r} lies in the working folder, which is gone: change to another, or name a whole path"
            ) from None

    @field_validator("s3_endpoint", "ray_address")
    @classmethod
    def _is_of_a_server(cls, address: str | None) -> str | None:
        if address is not None and "@" in without_keys(address):
            raise ValueError(KEYS)
        return address

    @field_validator("s3_endpoint")
    @classmethod
    def _is_web_address(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"expected a URL such as https://s3.example.org, got {endpoint!r}")
        return endpoint

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls), TomlConfigSettingsSource(settings_cls)


def without_keys(uri: str) -> str:
    """`uri`. Raises ValueError, which does not repeat it, where keys stand in front of its host or bucket."""
    scheme, separator, rest = uri.partition("://")
    before_path = BUCKET if scheme == "s3" else HOST
    if separator and not before_path.fullmatch(rest.partition("/")[0]):
        raise ValueError(KEYS)
    return uri


def without_signature(text: str) -> str:
    """A text whose web addresses have lost their queries and keys."""
    return SIGNED.sub(r"\1\3", text) if "://" in text else text


def origins() -> dict[str, str]:
    """Where the value of each setting comes from: `default`, the path of `vis.toml`, or `environment`."""
    in_file = TomlConfigSettingsSource(Settings).toml_data
    return {
        name: "environment" if _variable(name) else str(FILE.resolve()) if name in in_file else "default"
        for name in Settings.model_fields
    }


def strangers() -> list[str]:
    """Environment variables `VIS_*` that are no settings, nor nearly. They may be another program's."""
    return [PREFIX + name.upper() for name in _unknown_variables(Settings)]


def _unknown_variables(settings: type[BaseSettings]) -> list[str]:
    names = (name.lower().removeprefix(PREFIX.lower()) for name in os.environ if name.upper().startswith(PREFIX))
    return sorted(name for name in names if name not in settings.model_fields and name not in NOT_SETTINGS)


def _variable(name: str) -> str | None:
    """The environment variable that sets a field, as it is spelt there; None: there is none, or it is empty."""
    return next((each for each, value in os.environ.items() if each.upper() == PREFIX + name.upper() and value), None)


def _is_secret(name: str) -> bool:
    return SecretStr in get_args(Settings.model_fields[name].annotation)


def _sentence(error: Any, given: dict[str, Any]) -> str:
    """What is wrong with a setting and where it was set. Never the value of a key, nor of an unknown name."""
    name = str(error["loc"][0])
    variable = _variable(name)
    where = name if name in given else variable or (f"{FILE.resolve()}: {name}" if FILE.is_file() else name)
    if name not in Settings.model_fields:
        meant = nearest(name, Settings.model_fields)
        meant = PREFIX + meant.upper() if meant and variable else meant
        return f"{where} is no setting{f', did you mean {meant}' if meant else ''}; `vis settings` lists all"
    if error["type"] == "value_error":  # ours: its text names the value where that is fit to be seen
        return f"{where}: {error['ctx']['error']}"
    return f"{where}: {error['msg']}" + ("" if _is_secret(name) else f", got {error['input']!r}")
