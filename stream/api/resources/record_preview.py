"""What the sinks of a source would make of a record; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from stream.api.http.call import Call, Handler
from stream.definition.entity import Sink, Source
from stream.definition.reads import DefinitionReads
from stream.errors import NestedError
from stream.mapping.columns import Mapping
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.mapping.render import plan_for, render_cells
from stream.record import go_json
from stream.record.charset import without_bom
from stream.record.context import RecordContext
from stream.record.elements import batch_option, read_records
from stream.record.encoding import decode_body
from stream.record.errors import InvalidJson
from stream.record.headers import RecordHeaders
from stream.record.jsontree import parse_json
from stream.record.large import takes_long
from stream.settings.overrides import HTTP_SOURCE, merge
from stream.settings.tree import HTTPSourceSettings
from stream.templates.interface import TemplateEvaluator

__all__ = ["RecordPreview"]

MAX_RECORDS = 100
"""Of a batch: whoever tests looks at the rows."""

MAX_RESULT_BYTES = 1024 * 1024
"""Of all templates of a sink."""

_NOT_OF_THE_RECORD = frozenset({b"host", b"x-storageapi-token"})


class RecordPreview:
    """:param limits: of the listener, which would take the same bodies.
    :param now: seconds since the epoch.
    :param templates: evaluates templates.
    """

    def __init__(
        self,
        *,
        reads: DefinitionReads,
        templates: TemplateEvaluator,
        limits: HTTPSourceSettings,
        now: Callable[[], float],
    ) -> None:
        self._templates = templates
        self._reads = reads
        self._limits = limits
        self._now = now

    def handlers(self) -> dict[str, Handler]:
        return {"TestSource": self.test}

    async def test(self, call: Call) -> Any:
        source = await self._reads.source(call.source_key)
        sinks = await self._reads.with_mappings(await self._reads.sinks(source.key))
        records = self._records(call, source)
        signal = call.parameters["signal"] if source.type == "otlp" else ""
        return {
            "projectId": source.key.project_id,
            "branchId": source.key.branch_id,
            "sourceId": source.key.source_id,
            "tables": [await self._table(sink, records) for sink in sinks if sink.accepts(signal)],
        }

    async def _table(self, sink: Sink, records: Sequence[RecordContext]) -> dict[str, Any]:
        mapping = sink.table.mapping.mapping
        evaluated: list[Evaluated | None] = [None] * len(records)
        for plan, places in _plans(mapping, records).items():
            some = [records[place] for place in places]
            results = await self._templates.evaluate(sink.key.project_id, plan, some)
            for place, result in zip(places, results, strict=True):
                evaluated[place] = result
        rows = [
            render_cells(mapping, record, result)
            for record, result in zip(records, evaluated, strict=True)
        ]
        return {
            "sinkId": sink.key.sink_id,
            "tableId": sink.table.label,
            "rows": [
                {"columns": [{"name": name, "value": value} for name, value in cells]}
                for cells in rows
            ],
        }

    def _records(self, call: Call, source: Source) -> list[RecordContext]:
        """What the source would make of the body. Raises UserError."""
        milliseconds = int(self._now() * 1000)
        headers = RecordHeaders(
            [
                (name, value)
                for name, value in call.raw_headers
                if name.lower() not in _NOT_OF_THE_RECORD
            ]
        )
        limits = self._limits
        encoding = headers.map.get("Content-Encoding", "").lower().encode()
        if source.type == "http":
            overrides = [(item.key, item.value) for item in source.config]
            own = merge(limits, overrides, below=HTTP_SOURCE)
            if headers.is_text and own.read_text_as_json:
                headers = headers.of_json
            return read_records(
                RecordContext(milliseconds, call.client_ip, headers, call.raw_body),
                encoding,
                batch_option(call.parameters.get("batch")),
                max_bytes=limits.max_decoded_body_size,
                max_records=min(limits.max_batch_records, MAX_RECORDS),
            )
        flat = _flat_record(decode_body(encoding, call.raw_body, limits.max_decoded_body_size))
        return [
            RecordContext(
                milliseconds,
                call.client_ip,
                headers,
                go_json.dumps(flat).encode(),
                signal=call.parameters["signal"],
                body_map=flat,
            )
        ]


def _flat_record(body: bytes) -> dict[str, Any]:
    """An OTLP record in the form in which sinks get it; nothing is an empty record."""
    body = without_bom(body).strip()
    problem = "expected an object"
    value: Any = {}
    try:
        if body:
            value = parse_json(body)
            orjson.dumps(value)
    except InvalidJson as error:
        value, problem = None, error.reason
    except orjson.JSONEncodeError:
        value, problem = None, "it is nested too deep"
    if not isinstance(value, dict):
        raise NestedError(
            "request body must be a JSON object representing a flat OTLP record", [problem]
        )
    return value


def _plans(mapping: Mapping, records: Sequence[RecordContext]) -> dict[TemplatePlan, list[int]]:
    """What the engine is to be asked for, and for the records at which places."""
    places: dict[bool, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(takes_long(record), []).append(place)
    plans = {}
    for some in places.values():
        plan = plan_for(mapping, MAX_RESULT_BYTES, records[some[0]])
        if plan is not None:
            plans[plan] = some
    return plans
