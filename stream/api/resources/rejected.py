"""Rejected records of a sink: listed, shown, deleted."""

from __future__ import annotations

from typing import Any

from stream.api.http.call import Answer, Call, Handler
from stream.definition.key import SinkKey
from stream.definition.reads import DefinitionReads
from stream.errors import UserError, shortened
from stream.rejected.answers import Selection
from stream.rejected.nodes import RejectedNodes
from stream.values.utctime import parse_time

__all__ = ["RejectedResource"]


class RejectedResource:
    """:param nodes: the source nodes, which keep the records."""

    def __init__(self, *, reads: DefinitionReads, nodes: RejectedNodes) -> None:
        self._reads = reads
        self._nodes = nodes

    def handlers(self) -> dict[str, Handler]:
        return {
            "ListRejectedRecords": self.list,
            "GetRejectedRecord": self.get,
            "DeleteRejectedRecord": self.delete,
            "DeleteRejectedRecords": self.delete_many,
        }

    async def _sink(self, call: Call) -> SinkKey:
        key: SinkKey = (await self._reads.sink_in_source(call.sink_key)).key
        return key

    async def list(self, call: Call) -> Any:
        key = await self._sink(call)
        return await self._nodes.newest(key, _selection(call), call.parameters["limit"])

    async def get(self, call: Call) -> Any:
        key, id = await self._sink(call), call.parameters["rejectedId"]
        return await self._nodes.get(key, id)

    async def delete(self, call: Call) -> Answer:
        key, id = await self._sink(call), call.parameters["rejectedId"]
        await self._nodes.erase_one(key, id)
        return Answer(status=204)

    async def delete_many(self, call: Call) -> Any:
        key = await self._sink(call)
        return {"deleted": await self._nodes.erase(key, _selection(call))}


def _selection(call: Call) -> Selection:
    """The records that the query chooses. Raises UserError."""
    parameters = call.parameters
    return Selection(
        reason=parameters["reason"] or "",
        since=milliseconds(parameters["since"], "since"),
        until=milliseconds(parameters["until"], "until"),
    )


def milliseconds(text: str | None, param: str) -> int | None:
    """A time as its milliseconds since the epoch; ``None`` if there is none. Raises UserError."""
    if not text:
        return None
    try:
        return int(parse_time(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise UserError(
            f'invalid value "{shortened(text)}" for "{param}", must be a time',
            name="invalidTime",
            param=param,
            detail="a time is written like 2024-01-15T10:30:00.000Z",
        ) from None
