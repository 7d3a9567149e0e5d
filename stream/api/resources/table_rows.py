"""The first rows of the table of a sink."""

from __future__ import annotations

from typing import Any

from stream.api.http.call import Call, Handler
from stream.definition.reads import DefinitionReads
from stream.target.registry import Targets

__all__ = ["TableRows"]


class TableRows:
    """The operation that shows the first rows of a sink's table."""

    def __init__(self, *, reads: DefinitionReads, targets: Targets) -> None:
        self._reads = reads
        self._targets = targets

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"SinkTableRows": self.rows}

    async def rows(self, call: Call) -> Any:
        """Return the newest rows of a sink's table."""
        sink = await self._reads.with_mapping(await self._reads.sink_in_source(call.sink_key))
        token = call.identity.token.value
        found = await self._targets.preview(sink, call.parameters["limit"], token=token)
        return {"columns": list(found.columns), "rows": [list(row) for row in found.rows]}
