"""The base class of lake targets, which import each file in a separate process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import uuid_utils
from twisted.logger import Logger

from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey
from stream.definition.mappings import with_mapping
from stream.errors import UserError
from stream.mapping.columns import DatetimeColumn
from stream.staging import StagingError
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.store.prepared import PreparedFile
from stream.target.columns import ColumnRecord, columns_of
from stream.target.lake.frames import LakeUnusable
from stream.target.lake.records import FileRecord
from stream.target.lake.workers import Workers
from stream.target.protocol import Quarantine, TargetContext
from stream.target.staged_target import Declared, StagedRows, StagedTarget
from stream.target.unusable import refuses, unusable

__all__ = ["LakeTarget", "plain_columns"]

_log = Logger()
C = TypeVar("C", bound=Declared)


class LakeTarget(StagedTarget[C, FileRecord]):
    """A `stream.target.protocol.Target`.

    :param name: name of the target.
    :param places: members of a sink's table that specify its location; all are required except
        those in ``optional``.
    :param connections: connections by name.
    :param workers: all worker processes of the target.
    """

    def __init__(
        self,
        context: TargetContext,
        name: str,
        connections: Mapping[str, C],
        workers: Sequence[Workers],
        *,
        places: Sequence[str],
        optional: Sequence[str] = ("partitionBy",),
    ) -> None:
        super().__init__(context, name, connections, FileRecord)
        self._places = tuple(places)
        self._members = {"connection", *places, *optional}
        self.services = tuple(workers)

    what = "the store"
    """Subject of the error message if a connection can't be used."""

    # Implemented by each target.

    @abstractmethod
    def _check(
        self, connection: C, place: Mapping[str, str], columns: Sequence[ColumnRecord]
    ) -> None:
        """Check the definition of a table without reading it. Raises UserError."""

    @abstractmethod
    async def _ensure(
        self,
        connection: C,
        place: Mapping[str, str],
        columns: Sequence[ColumnRecord],
        owner: SinkKey,
    ) -> None:
        """Create the table if it is missing, or add missing columns.

        Raises UserError: all reasons why *columns* don't fit the table, and what to do.
        """

    @abstractmethod
    async def _has(self, connection: C, record: FileRecord) -> bool:
        """Return whether the complete file is in its table; create the table if it is missing."""

    @abstractmethod
    async def _import(
        self, connection: C, record: FileRecord, compression: str, rows: Sequence[StagedRows]
    ) -> None:
        """Import each row of the file once, even if several nodes import it concurrently."""

    @abstractmethod
    async def _drop(self, connection: C, place: Mapping[str, str], owner: SinkKey) -> bool:
        """Delete the table if it was created for the sink; return False if it is kept."""

    def _unusable(self, connection: C, reason: str) -> UserError:
        """Log *reason* and return the error for users of the *connection*."""
        shown, is_forbidden = refuses(reason, self.what)
        return unusable(
            _log,
            connection.declared.name,
            shown,
            reason,
            is_forbidden=is_forbidden,
            detail=f"an operator must check {self.what}, and the address and the credentials of "
            'the connection in the setting "target.connections"',
        )

    async def _worked(
        self,
        workers: Workers,
        connection: C,
        job: Mapping[str, Any],
        rows: Sequence[StagedRows] = (),
        *,
        project_id: int,
    ) -> dict[str, Any]:
        """Return the result of *job*. Raises UserError, including when the lake can't be used."""
        try:
            return await workers.run(job, rows, project_id=project_id)
        except LakeUnusable as problem:
            raise self._unusable(connection, str(problem)) from None

    # New files.

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        """Check the table only if a user makes the change, that is, if there is a *token*.

        So files can be rotated while the lake is down.
        """
        sink = await with_mapping(self._client, sink)
        connection = self._connection(sink)
        mapping = sink.table.mapping.mapping
        columns = columns_of(mapping)
        place = {name: sink.table.options[name] for name in self._places}
        place |= {"partitionBy": sink.table.options.get("partitionBy", "")}
        if token is not None:
            self._check_members(sink)
            self._check(connection, place, columns)
            await self._ensure(connection, place, columns, sink.key)
        times = [
            column.name
            for column in mapping.columns
            if isinstance(column, DatetimeColumn) and column.data_type == "timestamp"
        ]
        record = FileRecord(
            key=FileKey.of(sink.key, opened_at),
            import_id=str(uuid_utils.uuid7()),
            connection=connection.declared.name,
            place={name: place[name] for name in self._places},
            columns=columns,
            partition_by=place["partitionBy"],
            time_column=times[0] if times else "",
        )
        return self._prepared(sink, record)

    def _check_members(self, sink: Sink) -> None:
        options = sink.table.options
        for name in options:
            if name not in self._members:
                raise UserError(
                    f'a table of type "{self.name}" has no "{name}"', param=f"body.table.{name}"
                )
        for name in self._places:
            if not options.get(name):
                raise UserError(
                    f'a table of type "{self.name}" needs "{name}"', param=f"body.table.{name}"
                )

    # Coordinator.

    async def _import_staged(
        self, file: File, record: FileRecord, connection: C, rows: Sequence[StagedRows]
    ) -> tuple[bool, int]:
        if await self._has(connection, record):
            return False, 0
        try:
            await self._import(connection, record, file.staging.compression.type, rows)
        except StagingError:
            # Another node may have imported the file in the meantime and removed the staged
            # objects.
            if await self._has(connection, record):
                return False, 0
            raise
        return True, 0

    # API.

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """Return nothing, since the mapping checks all values and no row is refused."""
        return {}

    async def _drop_table(self, sink: Sink, connection: C) -> bool:
        place = {name: sink.table.options[name] for name in self._places}
        return await self._drop(connection, place, sink.key)


def plain_columns(columns: Sequence[ColumnRecord]) -> list[dict[str, Any]]:
    """Return *columns* as plain values for a job."""
    return [
        {"name": c.name, "type": c.type, "isKey": c.is_key, "isNullable": c.is_nullable}
        for c in columns
    ]
