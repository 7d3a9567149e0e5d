"""Operations on sinks: create, show, change, delete, disable, enable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from stream.api.http.call import Call, Handler, json_answer, json_body, json_list
from stream.api.resources.change_tasks import ChangeTasks
from stream.api.resources.sources import entity_id
from stream.api.resources.tables import TemplateChecks, check_templates, new_table, table_patch
from stream.api.resources.views import page_view, sink_view
from stream.definition import errors
from stream.definition.change import sinks as sink_changes
from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.definition.live import Entry, KnownPage, LiveDefinitions
from stream.definition.prefix import SINK_ACTIVE
from stream.definition.reads import DefinitionReads
from stream.target.registry import Targets
from stream.task.errors import ObjectExists, TaskAlreadyRunning

__all__ = ["Sinks"]


class Sinks:
    """The operations on sinks.

    :param templates: parses the templates of new mappings.
    :param targets: the targets that hold the tables of sinks.
    """

    def __init__(
        self,
        *,
        reads: DefinitionReads,
        live: LiveDefinitions,
        tasks: ChangeTasks,
        templates: TemplateChecks,
        targets: Targets,
    ) -> None:
        self._targets = targets
        self._templates = templates
        self._reads = reads
        self._live = live
        self._tasks = tasks

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
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
        """Create a sink, in a task."""
        body = call.body
        key = call.source_key.sink(entity_id(body, "sinkId"))
        if "table" in body:
            self._targets.check_type(body["table"]["type"])
        table = new_table(body.get("table"))
        await check_templates(self._templates, key.project_id, table.mapping.mapping)
        await self._reads.source(call.source_key)
        if await self._reads.find_sink(key) is not None:
            raise errors.sink_exists(key)

        creation = sink_changes.create(
            key,
            name=body["name"],
            description=body.get("description", ""),
            allowed_signals=body.get("allowedSignals", ()),
            table=table,
        )
        try:
            return await self._tasks.start(
                call,
                creation,
                "Sink has been created successfully.",
                patience=0.0,
                absent=f"{SINK_ACTIVE}{key}",
            )
        except ObjectExists:
            raise errors.sink_exists(key) from None
        except TaskAlreadyRunning:
            # The running creation is about to succeed, so the answer is the one after its success.
            raise errors.sink_exists(key, being_created=True) from None

    async def get(self, call: Call) -> Any:
        """Return a sink with its mapping."""
        known = self._live.sink(call.sink_key)
        if known is not None and await self._live.complete([known]):
            known.value.check_complete()
            return json_answer(known.shown(_show))
        sink = await self._reads.with_mapping(await self._reads.sink_in_source(call.sink_key))
        sink.check_complete()
        return sink_view(sink)

    async def list(self, call: Call) -> Any:
        """Return a page of the sinks of a source."""
        return await self._list(call, deleted=False)

    async def list_deleted(self, call: Call) -> Any:
        """Return a page of the deleted sinks of a source."""
        return await self._list(call, deleted=True)

    async def _list(self, call: Call, *, deleted: bool) -> Any:
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        known = None if deleted else self._live.sinks_page(call.source_key, after, limit)
        if known is not None:
            complete = await self._live.complete(known.items)
            return json_answer(known.shown(lambda page: _show_page(call, page, complete)))
        await self._reads.source(call.source_key)
        page = await self._reads.sinks_page(call.source_key, after, limit, deleted=deleted)
        head = _list_head(call, page.total, page.last)
        sinks = await self._reads.with_mappings(page.items)
        return head | {"sinks": [sink_view(sink) for sink in sinks]}

    async def update(self, call: Call) -> Any:
        """Change members of a sink, in a task."""
        body, key = call.body, call.sink_key
        present = await self._reads.sink(key)
        table = table_patch(body.get("table"), present.table.type)
        if table.mapping is not None:
            await check_templates(self._templates, key.project_id, table.mapping)

        def patch(sink: Sink) -> Sink:
            given = {name: body[name] for name in ("name", "description") if name in body}
            if "allowedSignals" in body:
                given["allowed_signals"] = tuple(body["allowedSignals"])
            patched: Sink = attrs.evolve(sink, table=table.apply(sink.table), **given)
            return patched

        description = body.get("changeDescription", "Updated.")
        update = sink_changes.update(key, description, patch, makes_tables=True)
        return await self._tasks.start(call, update, "Sink has been updated successfully.")

    async def delete(self, call: Call) -> Any:
        """Delete a sink, in a task."""
        key = (await self._reads.sink_in_source(call.sink_key)).key
        done = "Sink has been deleted successfully."
        return await self._tasks.start(call, sink_changes.delete(key), done)

    async def disable(self, call: Call) -> Any:
        """Disable a sink, in a task."""
        key = (await self._reads.sink_in_source(call.sink_key)).key
        done = "Sink has been disabled successfully."
        return await self._tasks.start(call, sink_changes.disable(key), done)

    async def enable(self, call: Call) -> Any:
        """Enable a sink, in a task."""
        key = (await self._reads.sink_in_source(call.sink_key)).key
        done = "Sink has been enabled successfully."
        return await self._tasks.start(call, sink_changes.enable(key), done)

    async def undelete(self, call: Call) -> Any:
        """Restore a deleted sink, in a task."""
        key: SinkKey = call.sink_key
        await self._reads.source(call.source_key)
        await self._reads.deleted_sink(key)
        done = "Sink has been undeleted successfully."
        return await self._tasks.start(call, sink_changes.undelete(key), done)


def _list_head(call: Call, total: int, last: str) -> dict[str, Any]:
    return {
        "projectId": call.branch.project_id,
        "branchId": call.branch.branch_id,
        "sourceId": call.source_key.source_id,
        "page": page_view(call.parameters["limit"], total, call.parameters["afterId"], last),
    }


def _show_page(call: Call, page: KnownPage[Sink], complete: Sequence[Entry[Sink]]) -> bytes:
    shown = (entry.shown(_show) for entry in complete)
    return json_list(_list_head(call, page.total, page.last), "sinks", shown)


def _show(sink: Sink) -> bytes:
    return json_body(sink_view(sink))
