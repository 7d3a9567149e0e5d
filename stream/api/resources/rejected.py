"""Rejected records of a sink: list, show, test against a mapping, replay, delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream.api.http.call import Answer, Call, Handler, StartedTask
from stream.api.resources.change_tasks import ChangeTasks, Report
from stream.api.resources.tables import TemplateChecks, check_templates, read_mapping
from stream.definition.entity import KEBOOLA
from stream.definition.key import SinkKey
from stream.definition.reads import DefinitionReads
from stream.errors import UserError, shortened
from stream.rejected.answers import Selection
from stream.rejected.masked_headers import notes_of
from stream.rejected.nodes import Asked, RejectedNodes
from stream.rejected.replay import Outcome, Replayer
from stream.values.utctime import parse_time

__all__ = ["RejectedResource"]


class RejectedResource:
    """The operations on the rejected records of a sink.

    :param nodes: the source nodes, which keep the records.
    :param replayer: replays records.
    :param templates: parses the templates of proposed mappings.
    """

    def __init__(
        self,
        *,
        reads: DefinitionReads,
        nodes: RejectedNodes,
        replayer: Replayer,
        templates: TemplateChecks,
        tasks: ChangeTasks,
    ) -> None:
        self._reads = reads
        self._nodes = nodes
        self._replayer = replayer
        self._templates = templates
        self._tasks = tasks

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {
            "ListRejectedRecords": self.list,
            "GetRejectedRecord": self.get,
            "DeleteRejectedRecord": self.delete,
            "DeleteRejectedRecords": self.delete_many,
            "TestRejectedRecords": self.test,
            "ReplayRejectedRecords": self.replay,
        }

    async def _sink(self, call: Call) -> SinkKey:
        key: SinkKey = (await self._reads.sink_in_source(call.sink_key)).key
        return key

    async def list(self, call: Call) -> Any:
        """List the newest rejected records of a sink, from all source nodes."""
        key = await self._sink(call)
        return await self._nodes.newest(key, _selection(call), call.parameters["limit"])

    async def get(self, call: Call) -> Any:
        """Return one rejected record with its headers and body."""
        key, id = await self._sink(call), call.parameters["rejectedId"]
        return await self._nodes.get(key, id)

    async def delete(self, call: Call) -> Answer:
        """Delete one rejected record."""
        key, id = await self._sink(call), call.parameters["rejectedId"]
        await self._nodes.erase_one(key, id)
        return Answer(status=204)

    async def delete_many(self, call: Call) -> Any:
        """Delete the rejected records that the query selects."""
        key = await self._sink(call)
        deleted, missing = await self._nodes.erase(key, _selection(call))
        return {"deleted": deleted, **_unavailable(missing)}

    async def test(self, call: Call) -> Any:
        """Map rejected records with a proposed mapping; nothing is stored."""
        sink = await self._reads.sink_in_source(call.sink_key)
        mapping = read_mapping(call.body["mapping"], has_types=sink.table.type != KEBOOLA)
        await check_templates(self._templates, sink.key.project_id, mapping)
        selection = _chosen(call.body, "body.")
        rendered, unavailable = await self._replayer.test(sink.key, mapping, selection)
        accepted = sum(each.error is None for each in rendered)
        view = {
            "tested": len(rendered),
            "accepted": accepted,
            "rejected": len(rendered) - accepted,
            "results": [each.view() for each in rendered],
            **_unavailable(unavailable),
        }
        notes = notes_of(masked for each in rendered for masked in each.masked)
        return {**view, "notes": notes} if notes else view

    async def replay(self, call: Call) -> StartedTask:
        """Start the task that maps rejected records again and stores their rows."""
        key, selection = await self._sink(call), _chosen(call.body, "body.")

        async def work(report: Report) -> str:
            async def progress(outcome: Outcome) -> None:
                await report(outcome.view())

            outcome = await self._replayer.replay(key, selection, progress)
            await report(outcome.view())
            return str(outcome)

        return await self._tasks.start_other(call, key, work)


def _unavailable(nodes: Sequence[Asked]) -> dict[str, Any]:
    """Return the member with the nodes whose records are missing, if there are any."""
    return {"nodes": [node.view() for node in nodes]} if nodes else {}


def _selection(call: Call) -> Selection:
    """Return the selection that the query describes. Raises UserError."""
    ids = call.parameters.get("ids")
    return _chosen(call.parameters | {"ids": ids.split(",") if ids else None}, "")


def _chosen(given: Mapping[str, Any], where: str) -> Selection:
    """Return the selection that *given* describes; if it is empty, select all records.

    Raises UserError: *given* is invalid.

    :param where: prefix of the names of its members.
    """
    ids = given.get("ids")
    return Selection(
        ids=None if ids is None else frozenset(ids),
        reason=given.get("reason") or "",
        column=given.get("column") or "",
        since=_milliseconds(given.get("since"), f"{where}since"),
        until=_milliseconds(given.get("until"), f"{where}until"),
    )


def _milliseconds(text: str | None, param: str) -> int | None:
    """Return a time in milliseconds since the epoch, or ``None``. Raises UserError."""
    if not text:
        return None
    try:
        return int(parse_time(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise UserError(
            f'invalid value "{shortened(text)}" for "{param}", must be a time',
            name="invalidTime",
            param=param,
            detail="write a time such as 2024-01-15T10:30:00.000Z",
        ) from None
