"""Decoding of export requests in the two encodings of OTLP. Pure.

The JSON encoding is that of protobuf, except that the IDs of traces and spans are hexadecimal and
not base64.

Note [Chunks]: a decoded request can take sixty times the memory of its bytes, and parsing JSON
takes 0.2 s per MB. Therefore only small requests are decoded at once. For a larger request, the
structure is checked down to the records, which are decoded a few at a time. In protobuf, records
are decoded twice: first to validate and count all of them, and again when they are passed on. Data
that is repeated for each record (a resource or a scope) is counted before the first record.
"""

from __future__ import annotations

import base64
import enum
import math
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import attrs
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics, ScopeMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from stream.errors import UserError
from stream.record.charset import without_bom
from stream.record.errors import InvalidJson
from stream.record.jsontree import parse_steps
from stream.source.otlp.wire import Field, fields, length_delimited

__all__ = [
    "Encoding",
    "Export",
    "ExportTooLarge",
    "Part",
    "Signal",
    "decode_request",
    "decode_steps",
    "read_encoding",
]

CHUNK_BYTES = 64 * 1024
"""Number of protobuf bytes that are decoded at once."""

WHOLE_BYTES = 16 * 1024
"""Maximum size of a protobuf request that is decoded at once; it may have thousands of records."""

CHUNK_RECORDS = 16
"""Maximum number of JSON records that are decoded at once."""

CHUNK_VALUES = 1000
"""Number of values at which a chunk of JSON records ends; a value takes five microseconds or more.
"""

FIELDS_AT_ONCE = 512
"""Number of protobuf fields that are checked in one step."""

POINT_VALUES = 15
"""Number of values that take as long to decode as a data point without values."""

MAX_RECORDS = 100_000
"""Maximum number of records in an export, and also of resources, scopes and metrics."""

MAX_RECORD_BYTES = 1024 * 1024
"""Maximum size of a record, a resource or a scope in protobuf, in bytes."""

MAX_RECORD_VALUES = 10_000
"""Maximum number of values of a record.

In JSON, the number of tokens that begin or separate values is counted.
"""

MAX_JSON_VALUES = 250_000
"""Maximum number of values of a JSON export."""

_MAX_DEPTH = 100
"""Maximum nesting of values, which is protobuf's own limit for its binary form."""

_WRONG_SHAPE = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""Errors of the JSON reader for values of a wrong type, such as a number instead of an object."""

_FIELD_NAME = re.compile(r"Failed to parse (\w+) field: ")
_TOO_DEEP = "it is nested too deeply"
_UNEXPECTED = "unexpected value"
_JSON_REASONS = {
    "invalid literal for int": "expected an integer",
    "parse integer": "expected an integer",
    "out of range": "the number is out of range",
    "parse float": "expected a number",
    "expected string": "expected text",
    "true or false": "expected true or false",
    "is not iterable": "expected an object",
    "has no attribute": "expected an object",
    "must be in []": "expected an array",
    "should not have multiple": "there are several values",
    "too deep": _TOO_DEEP,
}
"""Error texts by a part of the text of protobuf's JSON reader, which names Python types."""

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


class Signal(enum.Enum):
    """The kind of exported data. The value is used in the route and in `RecordContext.signal`."""

    LOGS = "logs"
    METRICS = "metrics"
    TRACES = "traces"


class Encoding(enum.Enum):
    """The encodings of an OTLP export."""

    PROTOBUF = "application/x-protobuf"
    JSON = "application/json"


class ExportTooLarge(UserError):
    """The export exceeds a limit."""

    status = 413
    name = "exportTooLarge"


@attrs.frozen
class _Types:
    """The messages of a signal, and the names of their members in both JSON spellings.

    :ivar ids: members of a record that are IDs; links of the record use the same names.
    """

    request: type[Message]
    resources: str
    resource: type[Message]
    scopes: str
    scope: type[Message]
    records: str
    ids: tuple[str, ...]


_TYPES = {
    Signal.LOGS: _Types(
        ExportLogsServiceRequest,
        "resource_logs",
        ResourceLogs,
        "scope_logs",
        ScopeLogs,
        "log_records",
        ("trace_id", "span_id"),
    ),
    Signal.TRACES: _Types(
        ExportTraceServiceRequest,
        "resource_spans",
        ResourceSpans,
        "scope_spans",
        ScopeSpans,
        "spans",
        ("trace_id", "span_id", "parent_span_id"),
    ),
    Signal.METRICS: _Types(
        ExportMetricsServiceRequest,
        "resource_metrics",
        ResourceMetrics,
        "scope_metrics",
        ScopeMetrics,
        "metrics",
        (),
    ),
}
_DATA = ("gauge", "sum", "histogram", "exponential_histogram", "summary")
_DATA_FIELDS = frozenset({5, 7, 9, 10, 11})
"""Numbers of the protobuf fields with the data of a metric."""


@attrs.frozen(eq=False)
class Part:
    """Some records of one scope.

    :ivar resource: the ``Resource`` of the records.
    :ivar scope: the ``InstrumentationScope`` of the records.
    :ivar count: number of records.
    :ivar _chunk: the message with the records, or its bytes.
    """

    resource: Any
    scope: Any
    count: int
    _type: type[Message]
    _chunk: Any

    def message(self) -> Any:
        """Return the ``ScopeLogs``, ``ScopeSpans`` or ``ScopeMetrics`` with the records."""
        if isinstance(self._chunk, bytes):
            message: Any = self._type()
            message.ParseFromString(self._chunk)
            return message
        return self._chunk


@attrs.frozen
class Export:
    """A request whose records can all be decoded."""

    signal: Signal
    parts: Sequence[Part]


def read_encoding(content_type: str) -> Encoding:
    """Return the encoding that a ``Content-Type`` names. Raises UserError (415)."""
    essence = content_type.partition(";")[0].strip().lower()
    if essence in ("application/x-protobuf", "application/protobuf"):
        return Encoding.PROTOBUF
    if essence == "application/json":
        return Encoding.JSON
    raise UserError(
        'unsupported OTLP content type, expected "application/x-protobuf", '
        '"application/protobuf", or "application/json"',
        status=415,
        name="unsupportedMediaType",
    )


def decode_request(signal: Signal, encoding: Encoding, body: bytes) -> Export:
    """Return the export request in *body*. See `decode_steps`."""
    steps = decode_steps(signal, encoding, body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            export: Export = end.value
            return export


def decode_steps(signal: Signal, encoding: Encoding, body: bytes) -> Generator[None, None, Export]:
    """Decode a request in small steps; see Note [Chunks].

    Raises UserError: 400, because the request can't be decoded. Raises ExportTooLarge: it has too
    many records or too large records.
    """
    types = _TYPES[signal]
    parts: list[Part] = []
    count = 0
    try:
        found: Iterator[Part | None]
        if encoding is Encoding.JSON:
            found = _json_parts(types, body)
        elif len(body) <= WHOLE_BYTES:
            found = _message_parts(types, _parsed(types.request, body))
        else:
            found = _wire_parts(types, body)
        for part in found:
            count += max(part.count, 1) if part is not None else 0
            if count > MAX_RECORDS:
                raise ExportTooLarge(
                    f"the export has more than {MAX_RECORDS} records, please split it"
                )
            if part is not None and part.count:
                parts.append(part)
            yield
    except UserError as error:
        if isinstance(error, InvalidJson):
            raise _undecodable(signal, error.reason, error) from None
        raise
    except (DecodeError, json_format.ParseError, *_WRONG_SHAPE) as error:
        raise _undecodable(signal, _reason(error)) from None
    return Export(signal, parts)


def _undecodable(signal: Signal, reason: str, error: UserError | None = None) -> UserError:
    return UserError(
        f"cannot decode OTLP {signal.value} payload: {reason}",
        status=error.status if error else None,
        name=error.name if error else None,
    )


def _reason(error: Exception) -> str:
    """Return why a request can't be decoded. Only texts of this package are shown unchanged."""
    if isinstance(error, DecodeError):
        return "the protobuf message is damaged"
    if isinstance(error, json_format.ParseError):
        return _reason_of_json(str(error))
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    return str(error) if type(error) is ValueError else _UNEXPECTED


def _reason_of_json(text: str) -> str:
    """Return the error text of protobuf's JSON reader in this package's wording."""
    names: list[str] = []
    while (match := _FIELD_NAME.match(text)) is not None:
        names.append(match[1])
        text = text[match.end() :]
    reason = next((reason for sign, reason in _JSON_REASONS.items() if sign in text), _UNEXPECTED)
    return f"{'.'.join(names)}: {reason}" if names else reason


def _parsed(kind: type[Message], data: bytes) -> Any:
    message = kind()
    message.ParseFromString(data)
    return message


def _count(types: _Types, message: Any) -> int:
    """Return the number of records in a *message* of one scope."""
    records = getattr(message, types.records)
    if types.ids:
        return len(records)
    return sum(
        len(getattr(metric, kind).data_points)
        for metric in records
        if (kind := metric.WhichOneof("data")) is not None
    )


def _empty(types: _Types) -> Part:
    """Return a part without records, so that its resource or scope is counted, too."""
    return Part(None, None, 0, types.scope, b"")


def _message_parts(types: _Types, request: Any) -> Iterator[Part]:
    for resource in getattr(request, types.resources):
        shared = resource.resource
        for scope in getattr(resource, types.scopes):
            yield Part(shared, scope.scope, _count(types, scope), types.scope, scope)


# Protobuf.


def _wire_parts(types: _Types, body: bytes) -> Iterator[Part | None]:
    _, resources = yield from _split(body, Field(0, True, 0, 0, len(body)), 1)
    for resource in resources:
        yield from _wire_resource(types, body, resource)


def _wire_resource(types: _Types, body: bytes, field: Field) -> Iterator[Part | None]:
    others, scopes = yield from _split(body, field, 2)
    resource = _parsed(types.resource, _bounded(others, "resource")).resource
    _check_values(resource, others)
    for scope in scopes:
        yield from _wire_scope(types, body, scope, resource)
    if not scopes:
        yield _empty(types)


def _wire_scope(types: _Types, body: bytes, field: Field, resource: Any) -> Iterator[Part | None]:
    others, records = yield from _split(body, field, 2)
    scope = _parsed(types.scope, _bounded(others, "scope")).scope
    for chunk in _record_chunks(types, body, records):
        if chunk is None:
            yield None
            continue
        message = _parsed(types.scope, chunk)
        _check_values(message, chunk)
        yield Part(resource, scope, _count(types, message), types.scope, chunk)
    if not records:
        yield _empty(types)


def _split(
    body: bytes, field: Field, number: int
) -> Generator[None, None, tuple[bytes, list[Field]]]:
    """Return the bytes of *field* without its messages with *number*, and these messages."""
    others: list[bytes] = []
    messages: list[Field] = []
    for count, inner in enumerate(fields(body, field.start, field.end), 1):
        if inner.number == number and inner.is_message:
            messages.append(inner)
        else:
            others.append(body[inner.tag : inner.end])
        if count > MAX_RECORDS:
            raise ExportTooLarge(f"the export has more than {MAX_RECORDS} records, please split it")
        if not count % FIELDS_AT_ONCE:
            yield
    return b"".join(others), messages


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MAX_RECORD_BYTES:
        raise ExportTooLarge(f"a {name} of the export has more than {MAX_RECORD_BYTES} bytes")
    return data


def _record_chunks(types: _Types, body: bytes, records: Iterable[Field]) -> Iterator[bytes | None]:
    """Iterate over the fields *records* in chunks; each chunk is decoded at once."""
    chunk: list[bytes] = []
    size = 0
    for record in records:
        if not types.ids and record.end - record.start > CHUNK_BYTES:
            yield from _point_chunks(body, record)
            continue
        data = _bounded(body[record.tag : record.end], "record")
        if chunk and (size + len(data) > CHUNK_BYTES or len(chunk) == FIELDS_AT_ONCE):
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(data)
        size += len(data)
    if chunk:
        yield b"".join(chunk)


def _point_chunks(body: bytes, metric: Field) -> Iterator[bytes | None]:
    """Split a large metric into several metrics, each with some of its data points."""
    name: list[bytes] = []
    data: Field | None = None
    for count, field in enumerate(fields(body, metric.start, metric.end), 1):
        if count > MAX_RECORD_VALUES:
            raise ExportTooLarge(f"a metric of the export has more than {MAX_RECORD_VALUES} values")
        if not count % FIELDS_AT_ONCE:
            yield None
        if field.number in _DATA_FIELDS and field.is_message:
            if data is not None:
                raise ValueError("a metric has more than one data field")
            data = field
        else:
            name.append(body[field.tag : field.end])
    if data is None:
        return
    others, points = yield from _split(body, data, 1)
    shared = _bounded(b"".join([*name, others]), "metric")
    head = b"".join(name)
    largest = max((point.end - point.tag for point in points), default=0)
    if largest > MAX_RECORD_BYTES:
        raise ExportTooLarge(f"a record of the export has more than {MAX_RECORD_BYTES} bytes")
    room = max(CHUNK_BYTES, len(shared))
    start = 0
    while start < len(points):
        end, size = start, 0
        while end < len(points) and (end == start or size < room):
            size += points[end].end - points[end].tag
            end += 1
        some = b"".join([body[point.tag : point.end] for point in points[start:end]])
        inner = head + length_delimited(data.number, others + some)
        yield length_delimited(2, inner)
        start = end


def _check_values(message: Any, data: bytes) -> None:
    """Check the number of values of a record unless it is small. Raises ExportTooLarge."""
    if len(data) > CHUNK_BYTES:
        left = MAX_RECORD_VALUES
        messages = [message]
        while messages and left > 0:
            for field, value in messages.pop().ListFields():
                items = value if field.is_repeated else (value,)
                left -= len(items)
                if field.message_type is not None and left > 0:
                    messages += items
        if left <= 0:
            raise ExportTooLarge(f"a record of the export has more than {MAX_RECORD_VALUES} values")


# JSON.


def _json_parts(types: _Types, body: bytes) -> Iterator[Part | None]:
    body = without_bom(body)
    # Protobuf's reader refuses or ignores values that are nested too deeply.
    document = yield from parse_steps(body, MAX_JSON_VALUES)
    yield None
    others, resources = _take(document, types.resources)
    for resource in resources:
        others, scopes = _take(resource, types.scopes)
        _check_json_values(others)
        resource_message = _from_json(types.resource, others).resource
        for scope in scopes:
            others, records = _take(scope, types.records)
            _check_json_values(others)
            scope_message = _from_json(types.scope, others).scope
            for some in _json_chunks(types, records):
                message = _from_json(types.scope, {types.records: some})
                count = _count(types, message)
                yield Part(resource_message, scope_message, count, types.scope, message)
            if not records:
                yield _empty(types)
        if not scopes:
            yield _empty(types)


def _from_json(kind: type[Message], plain: Any) -> Any:
    try:
        return _read(kind, plain)
    except json_format.ParseError:
        return _read(kind, _with_infinities(plain))


def _read(kind: type[Message], plain: Any) -> Any:
    return json_format.ParseDict(
        plain, kind(), ignore_unknown_fields=True, max_recursion_depth=_MAX_DEPTH
    )


def _with_infinities(plain: Any) -> Any:
    """Return *plain* with the text that protobuf's reader expects instead of infinities."""
    if isinstance(plain, dict):
        return {name: _with_infinities(item) for name, item in plain.items()}
    if isinstance(plain, list):
        return [_with_infinities(item) for item in plain]
    if isinstance(plain, float) and math.isinf(plain):
        return "Infinity" if plain > 0 else "-Infinity"
    return plain


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _take(plain: Any, name: str) -> tuple[dict[str, Any], list[Any]]:
    """Return the members of *plain* without the list *name*, and the items of the list."""
    if not isinstance(plain, dict):
        raise ValueError("expected an object")
    others = dict(plain)
    lists = [others.pop(key) for key in dict.fromkeys((_camel(name), name)) if key in others]
    if len(lists) > 1:
        raise ValueError(f"{name} occurs twice")
    items = lists[0] if lists else None
    if items is None:
        return others, []
    if not isinstance(items, list):
        raise ValueError(f"{name}: expected an array")
    return others, items


def _json_chunks(types: _Types, records: Sequence[Any]) -> Iterator[list[Any]]:
    """Iterate over *records* in the form of protobuf's reader; each chunk is decoded at once."""
    if not types.ids:
        for metric in records:
            yield from _metric_chunks(metric)
        return
    some: list[Any] = []
    left = CHUNK_VALUES
    for record in records:
        size = _check_json_values(record)
        if some and (size > left or len(some) == CHUNK_RECORDS):
            yield some
            some, left = [], CHUNK_VALUES
        some.append(_with_base64_ids(record, types.ids))
        left -= size
    if some:
        yield some


def _metric_chunks(metric: Any) -> Iterator[list[Any]]:
    """Iterate over a metric as one or several metrics, each with some of its data points."""
    if not isinstance(metric, dict):
        raise ValueError("expected an object")
    names = [
        name for kind in _DATA for name in dict.fromkeys((_camel(kind), kind)) if name in metric
    ]
    names = [name for name in names if metric[name] is not None]
    if len(names) > 1:
        raise ValueError("a metric has more than one data field")
    if not names:
        yield [metric]
        return
    (name,) = names
    others, points = _take(metric[name], "data_points")
    # These values are decoded again with each chunk, which therefore is as large.
    room = max(CHUNK_VALUES, _check_json_values({**metric, name: others}))
    some: list[Any] = []
    size = 0
    for point in map(_without_exemplars, points):
        more = POINT_VALUES + _check_json_values(point)
        if some and size + more > room:
            yield [{**metric, name: {**others, "dataPoints": some}}]
            some, size = [], 0
        some.append(point)
        size += more
    yield [{**metric, name: {**others, "dataPoints": some}}]


def _without_exemplars(point: Any) -> Any:
    """Remove exemplars, which aren't part of a record and would have hexadecimal IDs."""
    if not isinstance(point, dict) or "exemplars" not in point:
        return point
    return {name: item for name, item in point.items() if name != "exemplars"}


def _with_base64_ids(record: Any, names: Sequence[str]) -> Any:
    """Return *record* with its hexadecimal IDs in the form of protobuf. Raises ValueError.

    Only the members that are known to be IDs are converted.
    """
    if not isinstance(record, dict):
        raise ValueError("expected an object")
    changed: dict[str, Any] = {}
    for name in names:
        for key in (_camel(name), name):
            value = record.get(key)
            if isinstance(value, str):
                if _HEX.fullmatch(value) is None:
                    raise ValueError(f"{key} must consist of pairs of hexadecimal digits")
                changed[key] = base64.b64encode(bytes.fromhex(value)).decode()
            elif value is not None:
                raise ValueError(f"{key}: expected text")
    links = record.get("links")
    if isinstance(links, list) and "parent_span_id" in names:
        changed["links"] = [_with_base64_ids(link, names[:2]) for link in links]
    return {**record, **changed} if changed else record


def _check_json_values(plain: Any) -> int:
    """Return the number of values of a record. Raises ExportTooLarge."""
    left = MAX_RECORD_VALUES
    room = MAX_RECORD_BYTES
    values = [plain]
    while values and left > 0:
        value = values.pop()
        if isinstance(value, str):
            room -= len(value)
            if room < 0:
                raise ExportTooLarge(
                    f"a record of the export has more than {MAX_RECORD_BYTES} bytes"
                )
        elif isinstance(value, dict | list):
            left -= len(value)
            if left > 0:
                values += value.values() if isinstance(value, dict) else value
    if left <= 0:
        raise ExportTooLarge(f"a record of the export has more than {MAX_RECORD_VALUES} values")
    return MAX_RECORD_VALUES - left
