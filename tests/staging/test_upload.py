"""Parsing of prepared files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stream.staging import FileUpload
from stream.staging.location import location_of
from stream.staging.upload import parse_iso_time
from stream.values.codec import decode, encode
from tests.staging.uploads import aws, azure, gcp, local, reply


def test_the_expiration_of_each_provider() -> None:
    """Each provider has the expiration of its credentials in a different member."""
    end = datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert aws().expiration == azure().expiration == local(Path("/d")).expiration == end
    assert gcp().expiration == datetime(2006, 1, 2, 16, 4, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05+0000",
        "2026-01-02T03:04:05Z",
        "2026-01-02T04:04:05+01:00",
        "2026-01-02T03:04:05",
    ],
)
def test_formats_of_times(text: str) -> None:
    """Times are parsed in several ISO formats."""
    assert parse_iso_time(text) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_credentials_expire_exactly() -> None:
    """Credentials are invalid from their expiration on."""
    upload = aws()
    assert not upload.expired(datetime(2100, 1, 2, 3, 4, 4, tzinfo=UTC))
    assert upload.expired(datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC))


def test_a_file_without_parameters_is_refused() -> None:
    """A prepared file without parameters for the upload is an error of the answer."""
    with pytest.raises(ValueError, match='no upload parameters for provider "ftp"'):
        FileUpload.from_reply(reply("ftp", "ftpParams", {}))


def test_a_prepared_file_can_be_stored() -> None:
    """A prepared file is the same after it is stored and loaded."""
    assert decode(FileUpload, encode(aws())) == aws()


def test_credentials_are_not_in_the_repr() -> None:
    """The repr of a prepared file contains no secret."""
    assert "secret" not in f"{aws()} {azure()} {gcp()}"


@pytest.mark.parametrize(
    ("provider", "more", "url"),
    [
        ("aws", {"s3Path": {"bucket": "b", "key": "k/1/"}, "credentials": {}}, "s3://b/k/1/x"),
        (
            "azure",
            {
                "absPath": {"container": "c", "name": "k/1/"},
                "absCredentials": {"SASConnectionString": "BlobEndpoint=https://acc.blob.x;a=b"},
            },
            "azure://acc.blob.core.windows.net/c/k/1/x",
        ),
        (
            "gcp",
            {"gcsPath": {"bucket": "b", "key": "k/1/"}, "gcsCredentials": {"access_token": "t"}},
            "gs://b/k/1/x",
        ),
        ("local", {"localPath": {"directory": "/d", "key": "1/"}}, "file:///d/1/x"),
    ],
)
def test_the_location_of_a_file(provider: str, more: dict[str, Any], url: str) -> None:
    """The details of a file have its location in other members than its preparation."""
    reply = {"id": 7, "name": "n", "provider": provider, "region": "r", **more}
    upload = FileUpload.from_detail(reply)
    assert upload is not None
    assert (upload.id, location_of(upload).url("x")) == (7, url)
    assert FileUpload.from_detail({"id": 7, "provider": provider}) is None
