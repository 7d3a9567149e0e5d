"""Creates or checks the bucket and the table of a sink, and deletes them on request."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from twisted.logger import Logger

from stream.definition.entity import Sink
from stream.errors import NestedError, UserError
from stream.target.keboola.client import StorageApi
from stream.target.keboola.errors import JobFailed, StorageApiError
from stream.target.keboola.values import Table
from stream.values.token import Token

__all__ = ["bucket_of", "delete_destinations", "ensure_bucket", "ensure_table"]

_log = Logger()

_SOURCE_MARK = "KBC.stream.source.id"
_SINK_MARK = "KBC.stream.sink.id"
_BUCKET_NOT_EMPTY = "deleteNotEmpty"
_ALREADY_EXISTS = "alreadyexists"


def bucket_of(table_id: str) -> str:
    """Return the bucket ID in a table ID: ``in.c-bucket`` for ``in.c-bucket.table``."""
    return table_id.rpartition(".")[0]


async def ensure_bucket(api: StorageApi, token: Token, branch_id: int, bucket_id: str) -> None:
    """Create the bucket unless it exists or another sink is creating it."""
    try:
        await api.get_bucket(token, branch_id, bucket_id)
        return
    except StorageApiError as error:
        if not error.is_not_found:
            raise error.during("cannot get bucket") from None
    try:
        await api.create_bucket(token, branch_id, bucket_id)
    except StorageApiError as error:
        if not _exists(error):
            raise error.during(f'cannot create bucket "{bucket_id}"') from None


async def ensure_table(api: StorageApi, token: Token, sink: Sink) -> None:
    """Create the sink's table, or check that it has the mapping's columns; then write its marks.

    Raises UserError: the columns or the primary key differ. An existing table is never altered.
    """
    branch_id, table_id = sink.key.branch_id, sink.table.table_id
    columns = [column.name for column in sink.table.mapping.columns]
    primary_key = [column.name for column in sink.table.mapping.columns if column.primary_key]
    table = await _get_or_create(api, token, branch_id, table_id, columns, primary_key)
    _check(table_id, table, columns, primary_key)
    if _marks(table) != (sink.key.source_id, sink.key.sink_id):
        await api.add_table_metadata(
            token,
            branch_id,
            table_id,
            source_id=sink.key.source_id,
            sink_id=sink.key.sink_id,
        )


async def _get_or_create(
    api: StorageApi,
    token: Token,
    branch_id: int,
    table_id: str,
    columns: Sequence[str],
    primary_key: Sequence[str],
) -> Table:
    try:
        return await api.get_table(token, branch_id, table_id)
    except StorageApiError as error:
        if not error.is_not_found:
            raise
    try:
        return await api.create_table(
            token, branch_id, table_id, columns=columns, primary_key=primary_key
        )
    except (StorageApiError, JobFailed) as error:
        if not _exists(error):
            raise
    return await api.get_table(token, branch_id, table_id)


def _exists(error: UserError) -> bool:
    """Return whether another sink has already created the object."""
    return error.name.lower().endswith(_ALREADY_EXISTS)


def _marks(table: Table) -> tuple[str | None, str | None]:
    """Return the IDs of the source and the sink that last wrote to the table."""
    return table.metadata_value(_SOURCE_MARK), table.metadata_value(_SINK_MARK)


def _check(table_id: str, table: Table, columns: Sequence[str], primary_key: Sequence[str]) -> None:
    for what, expected, found in (
        ("columns", columns, table.columns),
        ("primary key", primary_key, table.primary_key),
    ):
        if list(expected) != list(found):
            verb = "do" if what == "columns" else "does"
            raise UserError(
                f'{what} of the table "{table_id}" {verb} not match expected '
                f"{_listed(expected)}, found {_listed(found)}"
            )


def _listed(names: Sequence[str]) -> str:
    return orjson.dumps(list(names)).decode()


async def delete_destinations(api: StorageApi, token: str, sinks: Sequence[Sink]) -> None:
    """Delete the tables of *sinks*, and each bucket that is empty afterwards.

    A table without marks, or with the marks of another sink, has another owner and is kept.

    Raises NestedError: some objects could not be deleted. The error lists them; all others are
    deleted.
    """
    user = Token.of(token)
    problems: list[Exception] = []
    owners = {(sink.key.source_id, sink.key.sink_id) for sink in sinks}
    for branch_id, table_id in dict.fromkeys(
        (sink.key.branch_id, sink.table.table_id) for sink in sinks
    ):
        try:
            if _marks(await api.get_table(user, branch_id, table_id)) in owners:
                await api.delete_table(user, branch_id, table_id, force=True)
            else:
                _log.info("keeping table {table_id}: it has another owner", table_id=table_id)
        except UserError as error:
            if not _gone(error):
                problems.append(NestedError(f'cannot delete table "{table_id}"', [error]))
    for branch_id, bucket_id in dict.fromkeys(
        (sink.key.branch_id, bucket_of(sink.table.table_id)) for sink in sinks
    ):
        try:
            await api.delete_bucket(user, branch_id, bucket_id)
        except UserError as error:
            if not _gone(error) and not error.name.endswith(_BUCKET_NOT_EMPTY):
                problems.append(NestedError(f'cannot delete bucket "{bucket_id}"', [error]))
    if problems:
        raise NestedError(
            "source deleted, but some destination resources could not be removed", problems
        )


def _gone(error: UserError) -> bool:
    return isinstance(error, StorageApiError) and error.is_not_found
