"""Reading of prepared files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stream.staging import FileUpload
from stream.staging.upload import parse_iso_time
from stream.values.codec import decode, encode
from tests.staging.uploads import aws, azure, gcp, local, reply


def test_expirations() -> None:
    """Each provider tells the end of its credentials in its own place."""
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
def test_times(text: str) -> None:
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
