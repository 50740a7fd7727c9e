"""Where things are and with which keys: the one typed place for everything that depends on the machine.

Read from, later wins: `vis.toml` in the working folder, environment variables `VIS_*`, the command line.
Nothing here changes a result; what does belongs to a recipe or a job's config.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource


class Settings(BaseSettings):
    """Settings of this machine. `VIS_STORE=s3://bucket/prefix` and the like override each field."""

    model_config = SettingsConfigDict(
        env_prefix="VIS_",
        toml_file="vis.toml",
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    store: str = ".vis"
    """Root of everything written: a folder or `s3://bucket/prefix`."""
    s3_endpoint: str | None = None
    """URL of an S3-compatible server; None for AWS."""
    s3_region: str = "us-east-1"
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
    scratch: Path = Path("~/.cache/vislake")
    """Local folder for copies of remote data sets and models."""

    @field_validator("store")
    @classmethod
    def _absolute(cls, store: str) -> str:
        """Workers run in folders of their own."""
        return store if "://" in store else os.path.abspath(os.path.expanduser(store))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
