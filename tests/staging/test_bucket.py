"""Buckets and folders of operators, in local folders and in the object stores of other vendors."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.errors import UserError
from stream.staging import StagingError, bytes_chunks
from stream.staging.bucket import Bucket, BucketAddress, open_bucket, read_address
from tests.staging.servers import SERVERS, bucket_options, credentials_of, running_server

PART = 5 * 1024 * 1024
_FOLDER = "folder"


@pytest.fixture(scope="module", params=[_FOLDER, *(server.name for server in SERVERS)])
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bucket]:
    folder = tmp_path_factory.mktemp("bucket")
    if request.param == _FOLDER:
        yield open_bucket(read_address({"url": (folder / "made").as_uri()}), "")
        return
    (server,) = (each for each in SERVERS if each.name == request.param)
    with running_server(server, folder / "objects") as staging:
        yield open_bucket(
            read_address(bucket_options(staging, "some/prefix")), credentials_of(staging)
        )


@pytest.mark.parametrize("size", [0, 1000, 2 * PART + 7])
def test_an_object_is_read_as_it_was_stored(bucket: Bucket, size: int) -> None:
    """An object is stored in one part or in several, and replaces an older one."""
    body = random.Random(size).randbytes(size)
    for content in (b"older", body):
        assert bucket.put("a/b-1/object", bytes_chunks(content)) == len(content)
    assert b"".join(bucket.chunks("a/b-1/object")) == body


def test_an_aborted_object_does_not_exist(bucket: Bucket) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(PART + 1)
        raise StagingError("the disk is gone")

    with pytest.raises(StagingError):
        bucket.put("broken/object", broken)
    assert bucket.read("broken/object") is None


def test_a_cancelled_upload_ends(bucket: Bucket) -> None:
    with pytest.raises(StagingError, match="was cancelled"):
        bucket.put("given-up/object", bytes_chunks(bytes(100)), lambda: True)
    assert bucket.read("given-up/object") is None


def test_a_folder_is_deleted(bucket: Bucket) -> None:
    """Objects outside the folder are kept, and a missing folder is no error."""
    for name in ("x/1/a", "x/1/b/c", "x/12/a"):
        bucket.put_bytes(name, b"content")
    below = list(bucket.names("x/1"))
    assert sorted(below) == ["x/1/a", "x/1/b/c"]
    for _ in range(2):
        bucket.remove(below)
    assert list(bucket.names("x")) == ["x/12/a"]
    bucket.remove(["x/12/a"])
    assert list(bucket.names("x")) == []


def test_reading_a_missing_object_fails(bucket: Bucket) -> None:
    assert bucket.read("none") is None
    with pytest.raises(StagingError, match=r'cannot read ".*none"'):
        list(bucket.chunks("none"))


def test_a_wrong_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    address = BucketAddress(scheme="s3", bucket="b", credential_file=str(tmp_path / "keys"))
    with pytest.raises(UserError, match="readable by the service"):
        address.credentials()
    (tmp_path / "keys").write_text('{"secret": "s3cret-of-mine"}')
    with pytest.raises(UserError) as raised:
        address.credentials()
    assert "accessKeyId and secretAccessKey" in str(raised.value)
    assert "s3cret-of-mine" not in str(raised.value)


def test_an_invalid_service_account_key() -> None:
    """The error doesn't contain the key."""
    address = read_address({"url": "gs://bucket"})
    with pytest.raises(UserError) as raised:
        open_bucket(address, json.dumps({"private_key": "s3cret-of-mine"}))
    assert "s3cret-of-mine" not in str(raised.value)
