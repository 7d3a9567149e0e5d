"""The target for Parquet files; see Note [Parquet imports] in `stream.target.parquet.work`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.ops.process.thread_pool import in_own_thread
from stream.staging import StagingError
from stream.staging.bucket import Bucket, open_bucket
from stream.target.columns import ColumnRecord
from stream.target.lake.partitions import TIME_TRANSFORMS, Partition, read_partitions
from stream.target.lake.records import FileRecord
from stream.target.lake.target import LakeTarget, plain_columns
from stream.target.lake.workers import Workers
from stream.target.owners import check_project
from stream.target.parquet.connections import Archive, declared_archives
from stream.target.parquet.layout import (
    TABLE,
    Description,
    check_path,
    manifest_name,
    pending_name,
)
from stream.target.protocol import TargetContext
from stream.target.staged_target import StagedRows
from stream.target.unusable import refuses

__all__ = ["NAME", "ParquetTarget"]

_log = Logger()

NAME = "parquet"
_WORK = "stream.target.parquet.work"
_PROBED = "_stream_probe"
"""Name of an object that doesn't exist, which is read to check whether the store answers."""
_LOCK_SECONDS = 30.0
_OWN = re.compile(
    r"(.*/)?(\.?[0-9a-f-]{36}-\d+\.parquet|_manifest/(pending/)?\.?[0-9a-f-]{36}\.json)(\.part)?"
)
"""Names of the objects below the path of a table that Stream has written or begun to write."""

T = TypeVar("T")


class ParquetTarget(LakeTarget[Archive]):
    """A `stream.target.protocol.Target`.

    Raises UserError: a configured connection can't be used.
    """

    def __init__(self, context: TargetContext) -> None:
        archives = declared_archives(list(context.settings.target.connections.of_type(NAME)))
        limit = max((archive.workers for archive in archives.values()), default=1)
        self._workers = Workers(context.reactor, _WORK, limit)
        super().__init__(context, NAME, archives, [self._workers], places=("path",))
        self._pool = context.pool
        self._session = context.session

    def _check(
        self, connection: Archive, place: Mapping[str, str], columns: Sequence[ColumnRecord]
    ) -> None:
        check_path(place["path"])
        for column in columns:
            if column.is_key:
                raise UserError(
                    f'column "{column.name}" can\'t be a primary key: rows are only added to '
                    'Parquet files; leave out "primaryKey", or use another type of table',
                    name="tableMisfit",
                    param="body.table.mapping",
                )
        _partitions(place["partitionBy"], columns)

    async def _ensure(
        self,
        connection: Archive,
        place: Mapping[str, str],
        columns: Sequence[ColumnRecord],
        owner: SinkKey,
    ) -> None:
        path = place["path"]
        partitions = _partitions(place["partitionBy"], columns)

        def ensure(bucket: Bucket) -> None:
            name = f"{path}/{TABLE}"
            found = bucket.read(name)
            if found is None:
                _check_alone(bucket, path)
                bucket.put_bytes(name, Description.of(columns, partitions, str(owner)).body())
                return
            described = _read(found, name)
            check_project(described.made_by, path, str(owner))
            problems = described.differences(columns, partitions)
            if problems:
                raise UserError(
                    f'the table "{path}" doesn\'t fit the mapping: {"; ".join(problems)}; change '
                    "the mapping, or use another path",
                    name="tableMisfit",
                )
            changed = described.with_columns(columns)
            if changed != described:
                bucket.put_bytes(name, changed.body())

        # Two sinks may describe the same table concurrently.
        lock = f"target.{NAME}.{connection.declared.name}.{path}"
        async with await self._session.lock(lock, timeout=_LOCK_SECONDS):
            await self._run(connection, ensure)

    async def _has(self, connection: Archive, record: FileRecord) -> bool:
        path = record.place["path"]

        def is_there(bucket: Bucket) -> bool:
            if bucket.read(manifest_name(path, record.import_id)) is not None:
                return True
            name = f"{path}/{TABLE}"
            owner = str(record.key.sink_key)
            found = bucket.read(name)
            if found is None:
                # The table was deleted after the file was opened, but the rows still need it.
                partitions = _partitions(record.partition_by, record.columns)
                bucket.put_bytes(name, Description.of(record.columns, partitions, owner).body())
            else:
                # Another project may have taken the path since then.
                check_project(_read(found, name).made_by, path, owner)
            return False

        return await self._run(connection, is_there)

    async def _import(
        self, connection: Archive, record: FileRecord, compression: str, rows: Sequence[StagedRows]
    ) -> None:
        job = {
            "address": attrs.asdict(connection.address),
            "credentials": await self._in_thread(connection.address.credentials),
            "path": record.place["path"],
            "importId": record.import_id,
            "file": str(record.key),
            "columns": plain_columns(record.columns),
            "partitionBy": record.partition_by,
            "timeColumn": record.time_column,
            "codec": connection.codec,
            "rowGroupRows": connection.row_group_rows,
            "compression": compression,
        }
        await self._worked(self._workers, connection, job, rows, project_id=record.key.project_id)

    async def _drop(self, connection: Archive, place: Mapping[str, str], owner: SinkKey) -> bool:
        path = place["path"]

        def drop(bucket: Bucket) -> bool:
            name = f"{path}/{TABLE}"
            found = bucket.read(name)
            if found is None or _read(found, name).made_by != str(owner):
                return False
            below = f"{path}/"
            names = list(bucket.names(path))
            inner = tuple(
                each.removesuffix(TABLE)
                for each in names
                if each.endswith(f"/{TABLE}") and each != name
            )
            bucket.remove(
                [
                    each
                    for each in names
                    if _OWN.fullmatch(each.removeprefix(below)) and not each.startswith(inner)
                ]
            )
            bucket.remove([name])  # last, since a retry must find it
            return True

        return await self._run(connection, drop)

    async def _abandoned(self, record: FileRecord, connection: Archive) -> None:
        path = record.place["path"]

        def remove(bucket: Bucket) -> None:
            name = pending_name(path, record.import_id)
            pending = bucket.read(name)
            if pending is None:
                return
            if bucket.read(manifest_name(path, record.import_id)) is None:
                bucket.remove(json.loads(pending)["objects"])
            bucket.remove([name])

        await self._run(connection, remove)

    async def prepare_probe(self, connection: str) -> None:
        """Do nothing, since there is no process to start."""

    async def probe(self, connection: str) -> None:
        address = self._connections[connection].address

        def read() -> None:
            open_bucket(address, address.credentials()).read(_PROBED)

        try:
            await in_own_thread(self._reactor, read)
        except (UserError, StagingError) as error:
            _log.info(
                'the connection "{connection}" does not answer: {reason}',
                connection=connection,
                reason=str(error),
            )
            shown, _ = refuses(str(error), self.what)
            raise UserError(shown, status=503, name="connectionFailed") from None

    async def _run(self, connection: Archive, work: Callable[[Bucket], T]) -> T:
        """Return the result of *work*, run in a thread. Raises UserError that says what to do."""

        def run() -> T:
            try:
                return work(open_bucket(connection.address, connection.address.credentials()))
            except StagingError as error:
                raise self._unusable(connection, str(error)) from None

        return await self._in_thread(run)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        result: T = await deferToThreadPool(self._reactor, self._pool, work)
        return result


def _check_alone(bucket: Bucket, path: str) -> None:
    """Refuse a new table inside or around another one. Raises UserError, StagingError.

    Readers assume that all objects below the path of a table contain its rows.
    """
    parts = path.split("/")
    parents = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
    inside = next((each for each in parents if bucket.read(f"{each}/{TABLE}") is not None), None)
    around = next((each for each in bucket.names(path) if each.endswith(f"/{TABLE}")), None)
    for other, place in (inside, "inside"), (around, "around"):
        if other is not None:
            raise UserError(
                f'the path "{path}" is {place} the table "{other.removesuffix(f"/{TABLE}")}", use '
                "another path",
                name="tableMisfit",
                param="body.table.path",
            )


def _partitions(text: str, columns: Sequence[ColumnRecord]) -> tuple[Partition, ...]:
    return read_partitions(text, columns, TIME_TRANSFORMS)


def _read(body: bytes, name: str) -> Description:
    try:
        return Description.read(body)
    except ValueError:
        raise UserError(
            f'the object "{name}" doesn\'t describe a table: remove it, or use another path',
            name="tableMisfit",
        ) from None
