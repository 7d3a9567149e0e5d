"""What the sinks of a source would make of a record; nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from stream.api.body import decode_json
from stream.api.call import Call, Handler
from stream.definition.entity import Sink, Source
from stream.definition.reads import DefinitionReads
from stream.errors import NestedError, UserError
from stream.mapping.plan import Evaluated
from stream.mapping.render import render_cells, template_plan
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders, html_safe
from stream.templates.interface import ITemplates

__all__ = ["MappingTest"]

MAX_RESULT_BYTES = 1024 * 1024
"""Of all templates of a sink."""

_NOT_OF_THE_RECORD = frozenset({b"host", b"x-storageapi-token"})


class MappingTest:
    """:param now: seconds since the epoch.
    :param templates: evaluates templates.
    """

    def __init__(
        self, *, reads: DefinitionReads, templates: ITemplates, now: Callable[[], float]
    ) -> None:
        self._templates = templates
        self._reads = reads
        self._now = now

    def handlers(self) -> dict[str, Handler]:
        return {"TestSource": self.test}

    async def test(self, call: Call) -> Any:
        source = await self._reads.source(call.source_key)
        sinks = await self._reads.with_mappings(await self._reads.sinks(source.key))
        record = self._record(call, source)
        return {
            "projectId": source.key.project_id,
            "branchId": source.key.branch_id,
            "sourceId": source.key.source_id,
            "tables": [
                await self._table(sink, record) for sink in sinks if sink.accepts(record.signal)
            ],
        }

    async def _table(self, sink: Sink, record: RecordContext) -> dict[str, Any]:
        mapping = sink.table.mapping.mapping
        plan = template_plan(mapping, MAX_RESULT_BYTES)
        evaluated: Evaluated | None = None
        if plan is not None:
            project = sink.key.project_id
            [evaluated] = await self._templates.evaluate(project, plan, [record])
        cells = render_cells(mapping, record, evaluated)
        return {
            "sinkId": sink.key.sink_id,
            "tableId": sink.table.keboola.table_id,
            "rows": [{"columns": [{"name": name, "value": value} for name, value in cells]}],
        }

    def _record(self, call: Call, source: Source) -> RecordContext:
        milliseconds = int(self._now() * 1000)
        headers = RecordHeaders(
            [
                (name, value)
                for name, value in call.raw_headers
                if name.lower() not in _NOT_OF_THE_RECORD
            ]
        )
        if source.type == "http":
            return RecordContext(milliseconds, call.client_ip, headers, call.raw_body)
        flat = _flat_record(call.raw_body)
        printed = json.dumps(flat, ensure_ascii=False, separators=(",", ":"))
        return RecordContext(
            milliseconds,
            call.client_ip,
            headers,
            html_safe(printed).encode(),
            signal=call.parameters["signal"],
            body_map=flat,
        )


def _flat_record(body: bytes) -> dict[str, Any]:
    """An OTLP record in the form in which sinks get it; nothing is an empty record."""
    text = body.decode("utf-8", "replace").strip()
    problem = "expected an object"
    try:
        value = decode_json(text) if text else {}
    except UserError as error:
        value, problem = None, error.message
    if not isinstance(value, dict):
        raise NestedError(
            "request body must be a JSON object representing a flat OTLP record", [problem]
        )
    return value
