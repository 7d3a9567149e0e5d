"""Reading of prepared files."""

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


def test_each_provider_has_its_own_end_of_credentials() -> None:
    """Each provider has the expiration of its credentials in another member."""
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
def test_times_are_read_in_several_iso_forms(text: str) -> None:
    """Times come in several ISO forms."""
    assert parse_iso_time(text) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_credentials_end_at_their_expiration() -> None:
    """Credentials are of no use from their expiration on."""
    upload = aws()
    assert not upload.expired(datetime(2100, 1, 2, 3, 4, 4, tzinfo=UTC))
    assert upload.expired(datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC))


def test_a_reply_without_parameters_is_refused() -> None:
    """A file that can't be uploaded to is an error of the reply."""
    with pytest.raises(ValueError, match='no upload parameters for provider "ftp"'):
        FileUpload.from_reply(reply("ftp", "ftpParams", {}))


def test_a_prepared_file_can_be_stored() -> None:
    """A prepared file survives being written and read again."""
    assert decode(FileUpload, encode(aws())) == aws()


def test_credentials_do_not_print() -> None:
    """The repr of a prepared file holds no secret."""
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
def test_where_a_file_can_be_read(provider: str, more: dict[str, Any], url: str) -> None:
    """The details of a file have the location in other members than its preparation."""
    reply = {"id": 7, "name": "n", "provider": provider, "region": "r", **more}
    upload = FileUpload.from_detail(reply)
    assert upload is not None
    assert (upload.id, location_of(upload).url("x")) == (7, url)
    assert FileUpload.from_detail({"id": 7, "provider": provider}) is None
