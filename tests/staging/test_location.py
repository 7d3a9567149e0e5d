"""Keys, URLs and manifests of objects."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from stream.staging import FileUpload, StagingError, manifest_body
from stream.staging.location import location_of, parse_connection_string
from tests.staging.uploads import aws, azure, gcp, local

SLICE = "2000-01-01T01:00:00.000Z_hdd-1.gz"


@pytest.mark.parametrize(
    ("upload", "url"),
    [
        (aws(), f"s3://buck/exp-2/1001/{SLICE}"),
        (azure(), f"azure://acc.blob.core.windows.net/cont/exp-2-1001-{SLICE}"),
        (gcp(), f"gs://buck/exp-2/1001/{SLICE}"),
        (local(Path("/data/staging")), f"file:///data/staging/1001/{SLICE}"),
    ],
)
def test_a_manifest_lists_the_slices_in_order(upload: FileUpload, url: str) -> None:
    """A manifest lists the URLs of the slices in order, each with key and name concatenated."""
    assert manifest_body(upload, [SLICE]).decode() == f'{{"entries":[{{"url":"{url}"}}]}}'


def test_an_empty_manifest() -> None:
    """A manifest can be empty."""
    assert manifest_body(aws(), []) == b'{"entries":[]}'


def test_unknown_provider() -> None:
    """An unknown provider is refused permanently."""
    with pytest.raises(StagingError, match='unsupported provider "ftp"') as caught:
        location_of(attrs.evolve(aws(), provider="ftp"))
    assert not caught.value.retryable


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a\0b"])
def test_invalid_names(name: str) -> None:
    """A name that isn't a plain file name is refused."""
    with pytest.raises(StagingError, match="invalid object name"):
        location_of(aws()).key(name)


@pytest.mark.parametrize("key", ["../x/", "/etc/", "a/../b/"])
def test_local_keys_stay_in_their_folder(key: str) -> None:
    """A file's key can't lead outside the staging folder."""
    with pytest.raises(StagingError, match="invalid file key"):
        location_of(local(Path("/data"), key=key))


def test_local_folders_are_absolute() -> None:
    """A relative staging folder would be a different folder for each process."""
    with pytest.raises(StagingError, match="not absolute"):
        location_of(local(Path("data")))


def test_missing_parameter() -> None:
    """The error names the missing parameter."""
    with pytest.raises(StagingError, match="'bucket' is missing"):
        location_of(attrs.evolve(aws(), credentials={"key": "k"}))


def test_connection_string() -> None:
    """Values of a connection string may contain the equals sign."""
    pairs = parse_connection_string("BlobEndpoint=https://h;SharedAccessSignature=a=1&b=2;X")
    assert pairs == {"BlobEndpoint": "https://h", "SharedAccessSignature": "a=1&b=2"}


@pytest.mark.parametrize("missing", ["BlobEndpoint", "SharedAccessSignature"])
def test_an_incomplete_connection_string(missing: str) -> None:
    """A connection string without endpoint or signature is refused without quoting it."""
    text = "BlobEndpoint=https://h;SharedAccessSignature=secret"
    with pytest.raises(StagingError, match=missing) as caught:
        parse_connection_string(text.replace(missing, "Other"))
    assert "secret" not in str(caught.value)
