"""Connections to folders and buckets of Parquet files, as declared in the settings."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from stream.errors import UserError
from stream.settings.connections import Connection
from stream.staging.bucket import OPTIONS, BucketAddress, read_address
from stream.target.lake.options import MAX_WORKERS, whole_number

__all__ = ["CODECS", "Archive", "declared_archives"]

CODECS = ("zstd", "snappy", "gzip", "none")
_OWN = ("rowGroupRows", "compression", "workers")
_MAX_ROW_GROUP = 100_000_000


@attrs.frozen(kw_only=True)
class Archive:
    """A folder or bucket that sinks may write to.

    :ivar declared: the connection in the settings.
    :ivar row_group_rows: maximum number of rows in a row group.
    :ivar codec: compression of the files, one of `CODECS`.
    :ivar workers: maximum number of concurrent import processes on one node.
    """

    declared: Connection
    address: BucketAddress
    row_group_rows: int = 1_000_000
    codec: str = "zstd"
    workers: int = 2


def declared_archives(connections: list[Connection]) -> Mapping[str, Archive]:
    """Return the archives that *connections* declare, by name. Raises UserError with the reason."""
    return {connection.name: _archive(connection) for connection in connections}


def _archive(connection: Connection) -> Archive:
    options = connection.options
    where = f'the connection "{connection.name}" in "target.connections"'
    for option in options:
        if option not in (*OPTIONS, *_OWN):
            known = ", ".join(("type", "projects", *OPTIONS, *_OWN))
            raise UserError(f'{where} has an unknown option "{option}", known: {known}')
    try:
        address = read_address(options)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    codec = options.get("compression", "zstd")
    if codec not in CODECS:
        raise UserError(f'"compression" of {where} must be one of {", ".join(CODECS)}')
    return Archive(
        declared=connection,
        address=address,
        row_group_rows=whole_number(connection, "rowGroupRows", 1_000_000, _MAX_ROW_GROUP),
        codec=codec,
        workers=whole_number(connection, "workers", 2, MAX_WORKERS),
    )
