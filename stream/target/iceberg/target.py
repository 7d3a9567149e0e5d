"""The target for Iceberg tables; see Note [Iceberg commits] in `stream.target.iceberg.work`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.definition.key import SinkKey
from stream.errors import UserError, shortened
from stream.target.columns import ColumnRecord
from stream.target.iceberg.connections import Catalog, declared_catalogs
from stream.target.lake.frames import LakeUnusable
from stream.target.lake.partitions import TIME_TRANSFORMS, read_partitions
from stream.target.lake.records import FileRecord
from stream.target.lake.target import LakeTarget, plain_columns
from stream.target.lake.workers import Workers
from stream.target.protocol import TargetContext
from stream.target.staged_target import StagedRows
from stream.target.unusable import refuses
from stream.values.redaction import is_secret_name

__all__ = ["NAME", "IcebergTarget"]

_log = Logger()

NAME = "iceberg"
_WORK = "stream.target.iceberg.work"
_TRANSFORMS = ("identity", *TIME_TRANSFORMS, "bucket", "truncate")
_CATALOG_SECONDS = 120.0
"""Time limit of a request to a catalog, including the start of a process."""
_PROBE_SECONDS = 20.0
"""Time limit for checking whether a catalog answers, which occupies the process for requests."""
_QUESTIONS_SECONDS = 900.0
"""How long an idle process for requests is kept, so that the next request is answered quickly."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


class IcebergTarget(LakeTarget[Catalog]):
    """A `stream.target.protocol.Target`.

    Raises UserError: a configured connection can't be used.
    """

    what = "the catalog or the warehouse"

    def __init__(self, context: TargetContext) -> None:
        catalogs = declared_catalogs(list(context.settings.target.connections.of_type(NAME)))
        # A catalog that doesn't answer delays only its own requests and imports.
        self._importing = {
            name: Workers(context.reactor, _WORK, catalog.workers)
            for name, catalog in catalogs.items()
        }
        # Requests that define a sink don't wait for imports.
        self._questions = {
            name: Workers(context.reactor, _WORK, 1, idle_seconds=_QUESTIONS_SECONDS)
            for name in catalogs
        }
        workers = (*self._importing.values(), *self._questions.values())
        super().__init__(context, NAME, catalogs, workers, places=("namespace", "table"))
        self._pool = context.pool

    def _check(
        self, connection: Catalog, place: Mapping[str, str], columns: Sequence[ColumnRecord]
    ) -> None:
        for member, names in (
            ("namespace", place["namespace"].split(".")),
            ("table", [place["table"]]),
        ):
            if not all(_NAME.fullmatch(name) for name in names):
                raise UserError(
                    f'the name of the {member} "{shortened(place[member])}" may contain only '
                    "letters, digits, dashes and underscores; separate the levels of a namespace "
                    "by dots",
                    param=f"body.table.{member}",
                )
        read_partitions(place["partitionBy"], columns, _TRANSFORMS)

    async def _ensure(
        self,
        connection: Catalog,
        place: Mapping[str, str],
        columns: Sequence[ColumnRecord],
        owner: SinkKey,
    ) -> None:
        await self._ask(connection, place, owner, {"do": "ensure", **_shape(place, columns)})

    async def _has(self, connection: Catalog, record: FileRecord) -> bool:
        answer = await self._ask(
            connection, record.place, record.key.sink_key, {"do": "has", **_of_file(record)}
        )
        return bool(answer["has"])

    async def _import(
        self, connection: Catalog, record: FileRecord, compression: str, rows: Sequence[StagedRows]
    ) -> None:
        job = await self._job(connection, record.place, record.key.sink_key)
        job |= {"do": "import", "compression": compression, **_of_file(record)}
        workers = self._importing[connection.declared.name]
        answer = await self._worked(
            workers, connection, job, rows, project_id=record.key.project_id
        )
        if answer["retries"]:
            _log.info(
                "retried the commit of file {file_id} {retries} times because of conflicting "
                "commits",
                file_id=str(record.key),
                retries=answer["retries"],
            )

    async def _drop(self, connection: Catalog, place: Mapping[str, str], owner: SinkKey) -> bool:
        answer = await self._ask(connection, place, owner, {"do": "drop"})
        return bool(answer["isDropped"])

    async def prepare_probe(self, connection: str) -> None:
        """Start the process for requests, which takes one second of CPU time."""
        await self._questions[connection].run({"do": "nothing"})

    async def probe(self, connection: str) -> None:
        catalog = self._connections[connection]
        try:
            properties = await self._properties(catalog)
            job = {
                "do": "probe",
                "connection": connection,
                "catalog": catalog.name,
                "properties": properties,
                "secrets": _secrets(properties),
            }
            asking = ensureDeferred(self._questions[connection].run(job))
            await within(asking, _PROBE_SECONDS, self._reactor, f"the connection {connection}")
        except (UserError, LakeUnusable) as error:
            _log.info(
                'the connection "{connection}" does not answer: {reason}',
                connection=connection,
                reason=str(error),
            )
            shown, _ = refuses(str(error), "the catalog")
            raise UserError(shown, status=503, name="connectionFailed") from None

    async def _ask(
        self, connection: Catalog, place: Mapping[str, str], owner: SinkKey, job: Mapping[str, Any]
    ) -> dict[str, Any]:
        of_kind = self._importing if job["do"] == "has" else self._questions
        workers = of_kind[connection.declared.name]
        full = {**await self._job(connection, place, owner), **job}
        asking = ensureDeferred(
            self._worked(workers, connection, full, project_id=owner.project_id)
        )
        what = f'a request to the catalog of the connection "{connection.declared.name}"'
        answer: dict[str, Any] = await within(asking, _CATALOG_SECONDS, self._reactor, what)
        return answer

    async def _job(
        self, connection: Catalog, place: Mapping[str, str], owner: SinkKey
    ) -> dict[str, Any]:
        properties = await self._properties(connection)
        return {
            "connection": connection.declared.name,
            "catalog": connection.name,
            "properties": properties,
            "secrets": _secrets(properties),
            "namespace": place["namespace"],
            "table": place["table"],
            "owner": str(owner),
            "commitRetries": connection.commit_retries,
        }

    async def _properties(self, connection: Catalog) -> dict[str, str]:
        found: dict[str, str] = await deferToThreadPool(
            self._reactor, self._pool, connection.properties
        )
        return found


def _secrets(properties: Mapping[str, str]) -> list[str]:
    return [text for name, text in properties.items() if text and is_secret_name(name)]


def _of_file(record: FileRecord) -> dict[str, Any]:
    shape = {**record.place, "partitionBy": record.partition_by}
    return {**_shape(shape, record.columns), "importId": record.import_id}


def _shape(place: Mapping[str, str], columns: Sequence[ColumnRecord]) -> dict[str, Any]:
    return {"columns": plain_columns(columns), "partitionBy": place["partitionBy"]}
