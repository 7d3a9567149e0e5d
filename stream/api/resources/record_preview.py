"""Preview of the rows that a source's sinks, or a mapping, would produce from a record."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import orjson

from stream.api.http.call import Call, Handler
from stream.api.resources.tables import TemplateChecks, check_templates, read_mapping
from stream.definition.entity import KEBOOLA, Sink, Source
from stream.definition.reads import DefinitionReads
from stream.errors import NestedError, UserError, sentence
from stream.mapping.columns import Mapping
from stream.mapping.effort import Effort, paths_of
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.mapping.render import RowTooBig, plan_for, render_cells
from stream.record import go_json
from stream.record.charset import without_bom
from stream.record.context import RecordContext
from stream.record.elements import batch_option, read_records
from stream.record.encoding import decode_body
from stream.record.errors import InvalidJson
from stream.record.headers import RecordHeaders
from stream.record.jsontree import parse_json
from stream.settings.overrides import HTTP_SOURCE, merge
from stream.settings.tree import HTTPSourceSettings
from stream.templates.interface import TemplateEvaluator
from stream.values.ip import read_address

__all__ = ["RecordPreview"]

MAX_RECORDS = 100
"""Maximum number of records of a batch. A person reads the rows, so few are enough."""

MAX_RESULT_BYTES = 1024 * 1024
"""Maximum size of the results of all templates of a sink."""

MAX_SHOWN_BYTES = 32 * 1024 * 1024
"""Maximum size of all cells of an answer.

The content of a small compressed body may appear in many columns of many sinks.
"""

_NOT_OF_THE_RECORD = frozenset({b"host", b"x-storageapi-token"})


class _Templates(TemplateChecks, TemplateEvaluator, Protocol):
    """Parses and evaluates templates."""


class _TooMuch(UserError):
    """The cells exceed the size limit of an answer."""

    def __init__(self) -> None:
        super().__init__(
            f"the rows have more than {MAX_SHOWN_BYTES} bytes",
            status=413,
            name="payloadTooLarge",
            detail="test with fewer or smaller records",
        )


class _Room:
    """The space that remains in an answer."""

    def __init__(self) -> None:
        self._left = MAX_SHOWN_BYTES

    def render(
        self, mapping: Mapping, record: RecordContext, evaluated: Evaluated | None
    ) -> list[tuple[str, str]]:
        """Return the cells of a row.

        Raises UserError: as `render_cells` does, or the space is used up.
        """
        try:
            cells = render_cells(mapping, record, evaluated, limit=self._left)
        except RowTooBig:
            raise _TooMuch from None
        self._left -= sum(len(value) for _, value in cells)
        return cells


class RecordPreview:
    """The operations that show the rows of a record without storing them.

    :param limits: limits that the source listener applies to the same bodies.
    :param now: returns the current time in seconds since the epoch.
    :param templates: evaluates templates.
    """

    def __init__(
        self,
        *,
        reads: DefinitionReads,
        templates: _Templates,
        limits: HTTPSourceSettings,
        now: Callable[[], float],
    ) -> None:
        self._templates = templates
        self._reads = reads
        self._limits = limits
        self._now = now

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"TestSource": self.test, "TestMapping": self.test_mapping}

    async def test(self, call: Call) -> Any:
        """Return the rows that the source's sinks would produce from the request's body."""
        source = await self._reads.source(call.source_key)
        sinks = await self._reads.with_mappings(await self._reads.sinks(source.key))
        client_ip = _forwarded_ip(call.raw_headers) if source.type == "http" else None
        records = self._records(
            source, call, call.raw_body, call.raw_headers, client_ip or call.client_ip
        )
        room = _Room()
        signal = call.parameters["signal"] if source.type == "otlp" else ""
        return {
            "projectId": source.key.project_id,
            "branchId": source.key.branch_id,
            "sourceId": source.key.source_id,
            "tables": [
                await self._table(sink, records, room) for sink in sinks if sink.accepts(signal)
            ],
        }

    async def test_mapping(self, call: Call) -> Any:
        """Return the cells that a mapping produces from a record, column by column."""
        source = await self._reads.source(call.source_key)
        table, record = call.body["table"], call.body["record"]
        has_types = table.get("type", KEBOOLA) != KEBOOLA
        mapping = read_mapping(table["mapping"], has_types=has_types)
        project = source.key.project_id
        await check_templates(self._templates, project, mapping)
        headers = [
            (each["name"].encode(), each.get("value", "").encode())
            for each in record.get("headers", ())
        ]
        if not any(name.lower() == b"content-type" for name, _ in headers):
            headers.append((b"Content-Type", b"application/json"))
        records = self._records(source, call, _bytes(record), headers, record.get("ip", ""))
        room = _Room()
        return {"rows": [await self._row(project, mapping, each, room) for each in records]}

    async def _row(
        self, project: int, mapping: Mapping, record: RecordContext, room: _Room
    ) -> dict[str, Any]:
        """Render all columns of a row together, or one by one if a column has no value."""
        columns: list[dict[str, str]]
        try:
            [cells] = await self._cells(project, mapping, [record], room)
            columns = [{"name": name, "value": value} for name, value in cells]
        except _TooMuch:
            raise
        except UserError:
            columns = []
            for column in mapping.columns:
                try:
                    one = Mapping((column,))
                    [[(name, value)]] = await self._cells(project, one, [record], room)
                    columns.append({"name": name, "value": value})
                except _TooMuch:
                    raise
                except UserError as error:
                    reason = sentence(str(error.__cause__ or error))
                    columns.append({"name": column.name, "error": reason})
        return {"accepted": all("value" in each for each in columns), "columns": columns}

    async def _cells(
        self, project: int, mapping: Mapping, records: Sequence[RecordContext], room: _Room
    ) -> list[list[tuple[str, str]]]:
        """Return the rows of *records*. Raises UserError: a column has no value."""
        evaluated: list[Evaluated | None] = [None] * len(records)
        for plan, places in _plans(mapping, records).items():
            some = [records[place] for place in places]
            results = await self._templates.evaluate(project, plan, some)
            for place, result in zip(places, results, strict=True):
                evaluated[place] = result
        return [
            room.render(mapping, record, result)
            for record, result in zip(records, evaluated, strict=True)
        ]

    async def _table(
        self, sink: Sink, records: Sequence[RecordContext], room: _Room
    ) -> dict[str, Any]:
        rows = await self._cells(sink.key.project_id, sink.table.mapping.mapping, records, room)
        return {
            "sinkId": sink.key.sink_id,
            "tableId": sink.table.label,
            "rows": [
                {"columns": [{"name": name, "value": value} for name, value in cells]}
                for cells in rows
            ],
        }

    def _records(
        self,
        source: Source,
        call: Call,
        body: bytes,
        raw_headers: Sequence[tuple[bytes, bytes]],
        client_ip: str,
    ) -> list[RecordContext]:
        """Return the records that the source would read from *body*. Raises UserError."""
        milliseconds = int(self._now() * 1000)
        headers = RecordHeaders(
            [(name, value) for name, value in raw_headers if name.lower() not in _NOT_OF_THE_RECORD]
        )
        limits = self._limits
        encoding = headers.map.get("Content-Encoding", "").lower().encode()
        if source.type == "http":
            overrides = [(item.key, item.value) for item in source.config]
            own = merge(limits, overrides, below=HTTP_SOURCE)
            if headers.is_text and own.read_text_as_json:
                headers = headers.of_json
            return read_records(
                RecordContext(milliseconds, client_ip, headers, body),
                encoding,
                batch_option(call.parameters.get("batch")),
                max_bytes=limits.max_decoded_body_size,
                max_records=min(limits.max_batch_records, MAX_RECORDS),
            )
        flat = _flat_record(decode_body(encoding, body, limits.max_decoded_body_size))
        return [
            RecordContext(
                milliseconds,
                client_ip,
                headers,
                go_json.dumps(flat).encode(),
                signal=call.parameters["signal"],
                body_map=flat,
            )
        ]


def _forwarded_ip(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return the first valid address of the headers that proxies of the API set, if any.

    The headers may be forged, but only the caller sees the rows of a preview.
    """
    for header in (b"x-real-ip", b"x-forwarded-for"):
        given = next((value for name, value in headers if name.lower() == header), b"")
        for text in given.decode("latin-1").split(","):
            address = read_address(text)
            if address is not None:
                return str(address)
    return None


def _bytes(record: dict[str, Any]) -> bytes:
    """Return the body of a record in a request. Raises UserError."""
    text: str = record["body"]
    if not record.get("isBase64", False):
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise UserError(
            '"body" of the record is not base64', param="body.record.body", status=400
        ) from None


def _flat_record(body: bytes) -> dict[str, Any]:
    """Return an OTLP record as sinks receive it; a missing one is an empty record."""
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
        value, problem = None, "it is nested too deeply"
    if not isinstance(value, dict):
        raise NestedError(
            "request body must be a JSON object representing a flat OTLP record", [problem]
        )
    return value


def _plans(mapping: Mapping, records: Sequence[RecordContext]) -> dict[TemplatePlan, list[int]]:
    """Return the templates to evaluate, each with the positions of its records."""
    effort = Effort(mapping, paths_of(mapping))
    places: dict[bool, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(effort.takes_long(record), []).append(place)
    plans = {}
    for some in places.values():
        plan = plan_for(mapping, MAX_RESULT_BYTES, records[some[0]])
        if plan is not None:
            plans[plan] = some
    return plans
