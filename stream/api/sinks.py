"""Sinks: created, shown, changed, deleted, switched."""

from __future__ import annotations

from typing import Any

import attrs

from stream.api.background import ChangeTasks, sinks_lock
from stream.api.call import Call, Handler
from stream.api.sources import entity_id
from stream.api.tables import new_table, table_patch
from stream.api.views import page_view, sink_view
from stream.definition import errors, lifecycle
from stream.definition.change import Change
from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.definition.reads import DefinitionReads
from stream.definition.repository import Definitions
from stream.etcd import Session
from stream.task.errors import TaskAlreadyRunning
from stream.task.executor import TaskRun

__all__ = ["Sinks"]


class Sinks:
    """:param session: holds the lock under which tables are made."""

    def __init__(self, *, reads: DefinitionReads, tasks: ChangeTasks, session: Session) -> None:
        self._reads = reads
        self._tasks = tasks
        self._session = session

    def handlers(self) -> dict[str, Handler]:
        return {
            "CreateSink": self.create,
            "ListSinks": self.list,
            "ListDeletedSinks": self.list_deleted,
            "GetSink": self.get,
            "UpdateSink": self.update,
            "DeleteSink": self.delete,
            "DisableSink": self.disable,
            "EnableSink": self.enable,
            "UndeleteSink": self.undelete,
        }

    async def create(self, call: Call) -> Any:
        body = call.body
        key = call.source_key.sink(entity_id(body, "sinkId"))
        table = new_table(body.get("table"))
        await self._reads.source(call.source_key)
        if await self._reads.find_sink(key) is not None:
            raise errors.sink_exists(key)

        async def create(change: Change, definitions: Definitions) -> Sink:
            new = lifecycle.new_sink(
                key,
                name=body["name"],
                description=body.get("description", ""),
                allowed_signals=tuple(body.get("allowedSignals", ())),
                table=table,
                at=change.now,
                by=change.by,
            )
            return await definitions.create_sink(change, new)

        async def work(run: TaskRun) -> None:
            async with await sinks_lock(self._session, key.source_key):
                await self._tasks.apply(call.identity, create)

        try:
            return await self._tasks.work(call, key, "Sink has been created successfully.", work)
        except TaskAlreadyRunning:
            # Whoever is making it is about to succeed, so that is what the caller is told.
            raise errors.sink_exists(key, being_created=True) from None

    async def get(self, call: Call) -> Any:
        return sink_view(await self._reads.sink_in_source(call.sink_key))

    async def list(self, call: Call) -> Any:
        return await self._list(call, deleted=False)

    async def list_deleted(self, call: Call) -> Any:
        return await self._list(call, deleted=True)

    async def _list(self, call: Call, *, deleted: bool) -> Any:
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        await self._reads.source(call.source_key)
        page = await self._reads.sinks_page(call.source_key, after, limit, deleted=deleted)
        return {
            "projectId": call.branch.project_id,
            "branchId": call.branch.branch_id,
            "sourceId": call.source_key.source_id,
            "page": page_view(limit, page.total, after, [sink.key.sink_id for sink in page.items]),
            "sinks": [sink_view(sink) for sink in page.items],
        }

    async def update(self, call: Call) -> Any:
        body, key = call.body, call.sink_key
        await self._reads.sink(key)
        change_table = table_patch(body.get("table"))

        def patch(sink: Sink) -> Sink:
            given = {name: body[name] for name in ("name", "description") if name in body}
            if "allowedSignals" in body:
                given["allowed_signals"] = tuple(body["allowedSignals"])
            patched: Sink = attrs.evolve(sink, table=change_table(sink.table), **given)
            return patched

        description = body.get("changeDescription", "Updated.")

        async def work(run: TaskRun) -> None:
            async with await sinks_lock(self._session, key.source_key):
                await self._tasks.apply(
                    call.identity,
                    lambda change, definitions: definitions.update_sink(
                        change, key, description, patch
                    ),
                )

        return await self._tasks.work(call, key, "Sink has been updated successfully.", work)

    async def delete(self, call: Call) -> Any:
        key = (await self._reads.sink_in_source(call.sink_key)).key
        return await self._tasks.change(
            call,
            key,
            "Sink has been deleted successfully.",
            lambda change, definitions: definitions.delete_sink(change, key),
        )

    async def disable(self, call: Call) -> Any:
        key = (await self._reads.sink_in_source(call.sink_key)).key
        return await self._tasks.change(
            call,
            key,
            "Sink has been disabled successfully.",
            lambda change, definitions: definitions.disable_sink(change, key),
        )

    async def enable(self, call: Call) -> Any:
        key = (await self._reads.sink_in_source(call.sink_key)).key
        return await self._tasks.change(
            call,
            key,
            "Sink has been enabled successfully.",
            lambda change, definitions: definitions.enable_sink(change, key),
        )

    async def undelete(self, call: Call) -> Any:
        key: SinkKey = call.sink_key
        await self._reads.source(call.source_key)
        await self._reads.deleted_sink(key)
        return await self._tasks.change(
            call,
            key,
            "Sink has been undeleted successfully.",
            lambda change, definitions: definitions.undelete_sink(change, key),
        )
