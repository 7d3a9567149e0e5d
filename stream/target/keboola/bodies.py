"""Request bodies of the Storage API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "METADATA_SINK_ID",
    "METADATA_SOURCE_ID",
    "QUARANTINE_TAG",
    "bucket_body",
    "file_body",
    "import_body",
    "metadata_body",
    "quarantine_file_body",
    "table_body",
    "token_body",
]

METADATA_SINK_ID = "KBC.stream.sink.id"
METADATA_SOURCE_ID = "KBC.stream.source.id"
QUARANTINE_TAG = "stream.quarantine"
_METADATA_PROVIDER = "stream"
_BUCKET_PREFIX = "c-"


def bucket_body(bucket_id: str, *, server_adds_prefix: bool) -> dict[str, Any]:
    """Return the body for creating the bucket *bucket_id* (``in.c-name``).

    Raises ValueError: the ID doesn't consist of a stage and a name.

    :param server_adds_prefix: whether the server adds ``c-`` to the given name.
    """
    stage, dot, name = bucket_id.partition(".")
    if not dot or stage not in ("in", "out", "sys") or not name or "." in name:
        raise ValueError(f'invalid bucket id "{bucket_id}"')
    if server_adds_prefix:
        name = name.removeprefix(_BUCKET_PREFIX)
    return {"description": "", "stage": stage, "name": name}


def token_body(source_id: str, sink_id: str, bucket_id: str) -> dict[str, Any]:
    """Return the body for a sink's token, which may write to one bucket and read prepared files."""
    return {
        "description": f"[_internal] Stream Sink {source_id}/{sink_id}",
        "bucketPermissions": {bucket_id: "write"},
        "canManageBuckets": False,
        "canReadAllFileUploads": True,
        "canPurgeTrash": False,
    }


def table_body(name: str, columns: Sequence[str], primary_key: Sequence[str]) -> dict[str, Any]:
    """Return the body for creating a table in which every column is text."""
    return {
        "primaryKeysNames": list(primary_key),
        "columns": [{"name": column, "basetype": "STRING"} for column in columns],
        "name": name,
    }


def metadata_body(source_id: str, sink_id: str) -> dict[str, Any]:
    """Return the body that marks a table as written by a sink."""
    return {
        "provider": _METADATA_PROVIDER,
        "metadata": [
            {"key": METADATA_SINK_ID, "value": sink_id},
            {"key": METADATA_SOURCE_ID, "value": source_id},
        ],
    }


def file_body(source_id: str, sink_id: str, opened_at: datetime) -> dict[str, Any]:
    """Return the body for the staging file of the file opened at *opened_at*."""
    return {
        "name": f"{source_id}_{sink_id}_{opened_at.astimezone(UTC):%Y%m%d%H%M%S}",
        "federationToken": True,
        "isEncrypted": True,
        "isSliced": True,
        "tags": [f"stream.sourceID={source_id}", f"stream.sinkID={sink_id}"],
    }


def quarantine_file_body(source_id: str, sink_id: str, opened_at: datetime) -> dict[str, Any]:
    """Return the body for the file with refused rows, which is kept until a user deletes it."""
    body = file_body(source_id, sink_id, opened_at)
    return {
        **body,
        "name": f"{body['name']}_quarantine",
        "isPermanent": True,
        "tags": [*body["tags"], QUARANTINE_TAG],
    }


def import_body(file_id: int, columns: Sequence[str]) -> dict[str, Any]:
    """Return the body for importing a staging file whose slices have no header."""
    return {
        "dataFileId": file_id,
        "incremental": 1,
        "withoutHeaders": 1,
        "columns": list(columns),
    }
