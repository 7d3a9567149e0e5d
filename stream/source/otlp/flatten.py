"""Conversion of export requests to flat records, one per log record, span or data point. Pure.

Keys have a fixed order. Optional keys are omitted when they are empty, so that the default value of
a path column applies. All other keys are always present. Numbers that JSON can't represent, such as
Prometheus' stale markers, become ``None``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from stream.record import go_json
from stream.record.headers import html_safe
from stream.source.otlp.decode import Export, ExportTooLarge, Part, Signal

__all__ = [
    "MAX_REPEATED_BYTES",
    "Printer",
    "check_repeated_steps",
    "flatten",
    "time_text",
    "value_of",
]

MAX_REPEATED_BYTES = 32 * 1024 * 1024
"""Maximum size of data that is repeated for the records of one export.

Real exports have a few kilobytes of it for a few thousand records.
"""

Record = dict[str, Any]

_MAX_INT64 = 2**63 - 1
_NANOSECONDS = 10**9
_KINDS = ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")
_STATUS_CODES = ("Unset", "Ok", "Error")
_TEMPORALITIES = ("Unspecified", "Delta", "Cumulative")


def flatten(export: Export) -> Iterator[Record]:
    """Return the records of *export*, in order. Raises UserError; see `check_repeated`."""
    flat = _FLATTEN[export.signal]
    last: Part | None = None
    resource: Record = {}
    scope: Record = {}
    for part in export.parts:
        if last is None or part.resource is not last.resource:
            resource = attributes_of(part.resource.attributes)
        if last is None or part.scope is not last.scope:
            scope = _scope(part.scope)
        last = part
        yield from flat(part.message(), resource, scope)


def check_repeated_steps(export: Export) -> Iterator[None]:
    """Refuse an export whose records would be much larger than the export, in small steps.

    Resources and scopes are repeated in each of their records. Raises ExportTooLarge: repeated data
    would take more than `MAX_REPEATED_BYTES`.
    """
    last: Part | None = None
    size = total = 0
    for part in export.parts:
        if last is None or part.resource is not last.resource or part.scope is not last.scope:
            shared = (attributes_of(part.resource.attributes), _scope(part.scope))
            size = sum(len(go_json.dumps(each)) for each in shared)
            yield
        last = part
        total += part.count * size
        if export.signal is Signal.METRICS:
            message = part.message()
            yield
            for metric in message.metrics:
                kind = metric.WhichOneof("data")
                if kind is not None:
                    texts = (metric.name, metric.description, metric.unit)
                    total += len(getattr(metric, kind).data_points) * sum(map(len, texts))
        if total > MAX_REPEATED_BYTES:
            raise ExportTooLarge(
                "the values that the records of the export share are larger than "
                f"{MAX_REPEATED_BYTES} bytes in total, counted once for each record; please split "
                "the export"
            )


class Printer:
    """Prints flat records as the same text as `go_json.dumps`, but faster.

    The resource and the scope that many records share are printed once. Whether a record contains a
    double is found without a call for each of its values.
    """

    def __init__(self) -> None:
        self._shared: tuple[Record, Record] | None = None
        self._shared_text = b""

    def print(self, flat: Record) -> bytes:
        """Return the JSON text of *flat*."""
        last = reversed(flat)
        if (next(last), next(last)) != ("scope", "resource"):
            return go_json.dumps(flat).encode()  # the shared parts aren't last, as in data points
        own = flat.copy()
        scope, resource = own.pop("scope"), own.pop("resource")
        if not own:
            return go_json.dumps(flat).encode()
        shared = self._shared
        if shared is None or shared[0] is not resource or shared[1] is not scope:
            self._shared = resource, scope
            text = go_json.dumps({"resource": resource, "scope": scope}).encode()
            self._shared_text = b"," + text[1:]
        if _has_double(own.values()):
            return go_json.dumps(own).encode()[:-1] + self._shared_text
        text = orjson.dumps(own)
        if b"<" in text or b">" in text or b"&" in text or _LINE_SEPARATORS in text:
            text = html_safe(text.decode()).encode()
        return text[:-1] + self._shared_text


_LINE_SEPARATORS = b"\xe2\x80"
"""First bytes of U+2028 and U+2029, and of some other characters."""


def _has_double(values: Iterable[Any]) -> bool:
    for value in values:
        kind = type(value)
        if kind is float:
            return True
        if kind is dict:
            if _has_double(value.values()):
                return True
        elif kind is list and _has_double(value):
            return True
    return False


def value_of(value: Any) -> Any:
    """Return an ``AnyValue`` as JSON, with bytes in base64 and a missing value as ``None``."""
    text = value.string_value
    if text:
        return text  # the most common kind; empty for other kinds
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    inner = getattr(value, kind)
    if kind == "bytes_value":
        return base64.b64encode(inner).decode()
    if kind == "kvlist_value":
        return attributes_of(inner.values)
    if kind == "array_value":
        return [value_of(item) for item in inner.values]
    if kind == "double_value":
        return _finite(inner)
    return inner


def attributes_of(attributes: Iterable[Any]) -> Record:
    """Return attributes by their full names; of repeated attributes the last one is used."""
    return {
        attribute.key: (value := attribute.value).string_value or value_of(value)
        for attribute in attributes
    }


def time_text(nanoseconds: int) -> str:
    """Return RFC 3339 text in UTC, as short as possible; empty for 0 and invalid dates."""
    if not nanoseconds:
        return ""
    seconds, fraction = divmod(nanoseconds, _NANOSECONDS)
    text = _second_text(seconds)
    if not text:
        return ""
    digits = f".{fraction:09}".rstrip("0") if fraction else ""
    return f"{text}{digits}Z"


@lru_cache(maxsize=64)
def _second_text(seconds: int) -> str:
    """Return the text of *seconds* without the zone; cached, because many records share it."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return ""


def _logs(message: Any, resource: Record, scope: Record) -> Iterator[Record]:
    for log in message.log_records:
        flat = {
            "timestamp": time_text(log.time_unix_nano),
            "observed_timestamp": time_text(log.observed_time_unix_nano),
            "severity_number": log.severity_number,
            "severity_text": log.severity_text,
            "body": value_of(log.body),
            "flags": log.flags,
        }
        # One by one, because creating and expanding dicts takes longer, and logs are many.
        if trace_id := log.trace_id:
            flat["trace_id"] = trace_id.hex()
        if span_id := log.span_id:
            flat["span_id"] = span_id.hex()
        flat["attributes"] = attributes_of(log.attributes)
        flat["resource"] = resource
        flat["scope"] = scope
        yield flat


def _spans(message: Any, resource: Record, scope: Record) -> Iterator[Record]:
    for span in message.spans:
        yield {
            "timestamp": time_text(span.start_time_unix_nano),
            "end_timestamp": time_text(span.end_time_unix_nano),
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            **_id("parent_span_id", span.parent_span_id),
            "trace_state": span.trace_state,
            "name": span.name,
            "kind": _name(_KINDS, span.kind),
            "flags": span.flags,
            "status_code": _name(_STATUS_CODES, span.status.code),
            "status_message": span.status.message,
            "attributes": attributes_of(span.attributes),
            "events": [_event(event) for event in span.events],
            "links": [_link(link) for link in span.links],
            "resource": resource,
            "scope": scope,
        }


def _event(event: Any) -> Record:
    return {
        "timestamp": time_text(event.time_unix_nano),
        "name": event.name,
        "attributes": attributes_of(event.attributes),
    }


def _link(link: Any) -> Record:
    return {
        "trace_id": link.trace_id.hex(),
        "span_id": link.span_id.hex(),
        "trace_state": link.trace_state,
        "attributes": attributes_of(link.attributes),
        "flags": link.flags,
    }


def _data_points(message: Any, resource: Record, scope: Record) -> Iterator[Record]:
    for metric in message.metrics:
        kind = metric.WhichOneof("data")
        if kind is None:
            continue
        data = getattr(metric, kind)
        for point in data.data_points:
            yield {
                "metric_name": metric.name,
                "metric_description": metric.description,
                "metric_unit": metric.unit,
                "metric_type": kind,
                "resource": resource,
                "scope": scope,
                "start_timestamp": time_text(point.start_time_unix_nano),
                "timestamp": time_text(point.time_unix_nano),
                "attributes": attributes_of(point.attributes),
                **_POINTS[kind](point, data),
            }


def _gauge(point: Any, _: Any) -> Record:
    return {"value": _number(point)}


def _sum(point: Any, data: Any) -> Record:
    return {
        "value": _number(point),
        "is_monotonic": data.is_monotonic,
        "aggregation_temporality": _name(_TEMPORALITIES, data.aggregation_temporality),
    }


def _histogram(point: Any, data: Any) -> Record:
    return {
        "count": _clamped(point.count),
        **_optional(point, "sum", "min", "max"),
        "bucket_counts": [_clamped(count) for count in point.bucket_counts],
        "explicit_bounds": [_finite(bound) for bound in point.explicit_bounds],
        "aggregation_temporality": _name(_TEMPORALITIES, data.aggregation_temporality),
    }


def _exponential_histogram(point: Any, data: Any) -> Record:
    return {
        "count": _clamped(point.count),
        **_optional(point, "sum", "min", "max"),
        "scale": point.scale,
        "zero_count": _clamped(point.zero_count),
        "aggregation_temporality": _name(_TEMPORALITIES, data.aggregation_temporality),
    }


def _summary(point: Any, _: Any) -> Record:
    return {
        "count": _clamped(point.count),
        "sum": _finite(point.sum),
        "quantile_values": [
            {"quantile": _finite(item.quantile), "value": _finite(item.value)}
            for item in point.quantile_values
        ],
    }


_FLATTEN = {Signal.LOGS: _logs, Signal.TRACES: _spans, Signal.METRICS: _data_points}
_POINTS = {
    "gauge": _gauge,
    "sum": _sum,
    "histogram": _histogram,
    "exponential_histogram": _exponential_histogram,
    "summary": _summary,
}


def _scope(scope: Any) -> Record:
    return {"name": scope.name, "version": scope.version}


def _id(name: str, value: bytes) -> Record:
    return {name: value.hex()} if value else {}


def _optional(point: Any, *names: str) -> Record:
    return {name: _finite(getattr(point, name)) for name in names if point.HasField(name)}


def _number(point: Any) -> int | float | None:
    kind = point.WhichOneof("value")
    if kind is None:
        return None
    number: int | float = getattr(point, kind)
    return number if kind == "as_int" else _finite(number)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _clamped(count: int) -> int:
    """Clamp a count, because most JSON readers don't support the range of unsigned counts."""
    return min(count, _MAX_INT64)


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else ""
