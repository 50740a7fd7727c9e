"""A small S3 server and a store, for tests of the jobs."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from jobs.settings import Settings
from jobs.store import Store


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


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same test on a folder and on S3."""
    if request.param == "folder":
        return Store.open(Settings(store=str(tmp_path / "lake")))
    return Store.open(request.getfixturevalue("s3_settings"))
