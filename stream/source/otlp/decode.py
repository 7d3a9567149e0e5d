"""Export requests out of bytes, in either of OTLP's two encodings. Pure.

The JSON encoding is protobuf's own but for the ids of traces and spans, which are hexadecimal
instead of base64.
"""

from __future__ import annotations

import base64
import enum
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream.errors import UserError

__all__ = ["Encoding", "Signal", "decode_request", "read_encoding"]

_MAX_DEPTH = 100
"""Of nested values; protobuf's own limit for its binary form."""

_WRONG_SHAPE = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""What the JSON reader lets through when it meets a number instead of an object, and so on."""

_HEX_IDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})


class Signal(enum.Enum):
    """What is exported; the value is a part of the route and of `RecordContext.signal`."""

    LOGS = "logs"
    METRICS = "metrics"
    TRACES = "traces"


class Encoding(enum.Enum):
    PROTOBUF = "application/x-protobuf"
    JSON = "application/json"


_REQUESTS: dict[Signal, type[Message]] = {
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
}


def read_encoding(content_type: str) -> Encoding:
    """What a ``Content-Type`` means. Raises UserError 415."""
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


def decode_request(signal: Signal, encoding: Encoding, body: bytes) -> Any:
    """The export request in *body*. Raises UserError 400."""
    request = _REQUESTS[signal]()
    try:
        if encoding is Encoding.PROTOBUF:
            request.ParseFromString(body)
        else:
            document = _with_base64_ids(orjson.loads(body), 0)
            if not isinstance(document, dict):
                raise ValueError("expected an object")
            json_format.ParseDict(
                document, request, ignore_unknown_fields=True, max_recursion_depth=_MAX_DEPTH
            )
    except (DecodeError, json_format.ParseError, *_WRONG_SHAPE) as error:
        raise UserError(f"cannot decode OTLP {signal.value} payload: {error}") from None
    return request


def _with_base64_ids(value: Any, depth: int) -> Any:
    """*value* with hexadecimal ids in the form that protobuf reads. Raises ValueError."""
    if depth > 2 * _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, list):
        return [_with_base64_ids(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            name: base64.b64encode(bytes.fromhex(item)).decode()
            if name in _HEX_IDS and isinstance(item, str)
            else _with_base64_ids(item, depth + 1)
            for name, item in value.items()
        }
    return value
