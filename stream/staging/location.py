"""The location of a staging file's objects: their keys, and their URLs in a manifest. Pure.

The key of an object is the file's key followed directly by the object's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import orjson

from stream.staging.errors import StagingError
from stream.staging.upload import FileUpload

__all__ = ["MANIFEST_NAME", "Location", "location_of", "manifest_body", "parse_connection_string"]

MANIFEST_NAME = "manifest"
_AZURE_HOST = "blob.core.windows.net"


@attrs.frozen
class Location:
    """The location of the objects of one file.

    :param container: URL of the bucket, container or folder, ending with ``/``.
    :param prefix: prefix of every object's key.
    """

    container: str
    prefix: str

    def key(self, name: str) -> str:
        """Return the key of the object *name*. Raises StagingError if *name* isn't a plain name."""
        if not name or "/" in name or name in (".", "..") or "\0" in name:
            raise StagingError(f'invalid object name "{name}"', retryable=False)
        return self.prefix + name

    def url(self, name: str) -> str:
        """Return the URL of the object *name*, as a manifest lists it."""
        return self.container + self.key(name)


def location_of(upload: FileUpload) -> Location:
    """Return the location for which *upload* was prepared. Raises StagingError if it is invalid."""
    parameters = upload.credentials
    try:
        match upload.provider:
            case "aws":
                return Location(f"s3://{parameters['bucket']}/", str(parameters["key"]))
            case "azure":
                account, container = parameters["accountName"], parameters["container"]
                return Location(
                    f"azure://{account}.{_AZURE_HOST}/{container}/", str(parameters["blobName"])
                )
            case "gcp":
                return Location(f"gs://{parameters['bucket']}/", str(parameters["key"]))
            case "local":
                return _local(parameters)
    except KeyError as missing:
        raise StagingError(f"upload parameter {missing} is missing", retryable=False) from None
    raise StagingError(f'unsupported provider "{upload.provider}"', retryable=False)


def _local(parameters: Mapping[str, Any]) -> Location:
    directory, key = Path(parameters["directory"]), str(parameters["key"])
    if not directory.is_absolute():
        raise StagingError(f'staging directory "{directory}" is not absolute', retryable=False)
    if key.startswith("/") or ".." in key.split("/"):
        raise StagingError(f'invalid file key "{key}"', retryable=False)
    return Location(f"file://{directory}/", key)


def manifest_body(upload: FileUpload, slice_names: Iterable[str]) -> bytes:
    """Return a JSON manifest that lists the file's slices *slice_names* in the given order."""
    location = location_of(upload)
    return orjson.dumps({"entries": [{"url": location.url(name)} for name in slice_names]})


def parse_connection_string(text: str) -> dict[str, str]:
    """Return the ``k=v`` pairs of a SAS connection string; values may contain ``=``.

    Raises StagingError: ``BlobEndpoint`` or ``SharedAccessSignature`` is missing.
    """
    pairs = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    for name in ("BlobEndpoint", "SharedAccessSignature"):
        if not pairs.get(name):
            raise StagingError(f"{name} is missing in the connection string", retryable=False)
    return pairs
