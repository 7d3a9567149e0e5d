"""Answers to exports, in the encoding of the request. Pure."""

from __future__ import annotations

from typing import Any

import attrs
import orjson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from stream.sink.outcome import Stored
from stream.source.http import responses
from stream.source.otlp.decode import Encoding, Signal

__all__ = ["Outcome", "export_answer"]

_RESPONSES = {
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records", "rejectedLogRecords"),
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points", "rejectedDataPoints"),
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans", "rejectedSpans"),
}
_TOO_MANY_REQUESTS = 429


@attrs.frozen
class Outcome:
    """What became of the records of one export.

    :ivar rejected: records that some sink has not stored.
    :ivar status: the highest status of any sink.
    :ivar first_error: why the first of them was rejected.
    :ivar stored: how many rows of the sinks.
    :ivar partly: rejected records that other sinks have stored.
    """

    records: int
    rejected: int = 0
    status: int = 200
    first_error: str = ""
    stored: Stored = attrs.field(factory=Stored)
    partly: int = 0


def export_answer(signal: Signal, encoding: Encoding, outcome: Outcome) -> bytes:
    """The whole HTTP answer.

    If every record was rejected it is an error without a body, so that an exporter tries again
    where that may help; else it is a success that tells how many records were rejected, if any. A
    header says if some sinks have stored what others have rejected: trying again doubles it there.
    """
    header = responses.stored_header(outcome.stored)
    if outcome.records and outcome.rejected == outcome.records:
        limited = outcome.status == _TOO_MANY_REQUESTS
        retry = (("Retry-After", str(responses.RETRY_AFTER_SECONDS)),) if limited else ()
        return responses.response(outcome.status, headers=(*retry, *header))
    body = _partial(signal, encoding, outcome) if outcome.rejected else _success(encoding)
    return responses.response(200, body, (("Content-Type", encoding.value), *header))


def _success(encoding: Encoding) -> bytes:
    return b"{}" if encoding is Encoding.JSON else b""


def _partial(signal: Signal, encoding: Encoding, outcome: Outcome) -> bytes:
    kind, field, json_name = _RESPONSES[signal]
    message = (
        f"{outcome.rejected} of {outcome.records} records rejected; "
        f"first error: {outcome.first_error}"
    )
    if outcome.partly:
        message += f"; other sinks have stored {outcome.partly} of them"
    if encoding is Encoding.JSON:
        partial = {json_name: str(outcome.rejected), "errorMessage": message}
        return orjson.dumps({"partialSuccess": partial})
    response: Any = kind()
    setattr(response.partial_success, field, outcome.rejected)
    response.partial_success.error_message = message
    serialized: bytes = response.SerializeToString()
    return serialized
