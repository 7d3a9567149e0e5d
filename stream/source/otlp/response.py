"""Answers to exports, in the encoding of the request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import orjson
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from stream.errors import UserError, record_error_name, sentence
from stream.sink.outcome import Stored
from stream.source.http import responses
from stream.source.otlp.decode import Encoding, Signal

__all__ = ["Outcome", "error_answer", "export_answer"]

_RESPONSES = {
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records", "rejectedLogRecords"),
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points", "rejectedDataPoints"),
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans", "rejectedSpans"),
}
_TOO_MANY_REQUESTS = 429
_DOMAIN = "stream"

_INTERNAL = 13
_CODES = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    408: 4,  # DEADLINE_EXCEEDED
    413: 3,
    415: 3,
    422: 3,
    429: 8,  # RESOURCE_EXHAUSTED
    503: 14,  # UNAVAILABLE
    507: 8,
}
"""gRPC codes by HTTP status; for all other statuses the code is ``INTERNAL``."""


def error_answer(encoding: Encoding, error: UserError, exception_id: str = "") -> bytes:
    """Return the HTTP answer to an export that failed as a whole, with a ``google.rpc.Status``.

    :param exception_id: see `responses.error_members`.
    """
    members = responses.error_members(error, exception_id)
    return _status(encoding, members, responses.error_headers(error))


def _status(
    encoding: Encoding, members: Mapping[str, Any], headers: Iterable[tuple[str, str]]
) -> bytes:
    """Return an answer with *members*, which in JSON are also separate members."""
    status = members["statusCode"]
    code = _CODES.get(status, _INTERNAL)
    if encoding is Encoding.JSON:
        return responses.document(status, {"code": code, **members}, headers)
    answer = Status(code=code, message=members["message"])
    answer.details.add().Pack(ErrorInfo(reason=members["error"], domain=_DOMAIN))
    body: bytes = answer.SerializeToString()
    return responses.response(status, body, (("Content-Type", encoding.value), *headers))


@attrs.frozen
class Outcome:
    """The outcome of the records of one export.

    :ivar rejected: number of records that at least one sink hasn't stored.
    :ivar status: the highest status of any sink.
    :ivar first_error: why the first of these records was rejected.
    :ivar stored: number of stored rows.
    :ivar partly: number of rejected records that other sinks have stored.
    """

    records: int
    rejected: int = 0
    status: int = 200
    first_error: str = ""
    stored: Stored = attrs.field(factory=Stored)
    partly: int = 0


def export_answer(signal: Signal, encoding: Encoding, outcome: Outcome) -> bytes:
    """Return the HTTP answer to an export.

    If every record was rejected, the answer is an error, so that an exporter retries if that may
    help. Otherwise it is a success with the number of rejected records, if any. A header shows that
    some sinks have stored records that others have rejected; a retry would duplicate them there.
    """
    if not outcome.rejected and outcome.stored.is_all:
        return _EVERYTHING_STORED[encoding]
    header = responses.stored_header(outcome.stored)
    if outcome.records and outcome.rejected == outcome.records:
        limited = outcome.status == _TOO_MANY_REQUESTS
        retry = (("Retry-After", str(responses.RETRY_AFTER_SECONDS)),) if limited else ()
        members = {
            "statusCode": outcome.status,
            "error": record_error_name("recordsRejected"),
            "message": sentence(_message(outcome)),
        }
        return _status(encoding, members, (*retry, *header))
    return _success(signal, encoding, outcome, header)


def _success(
    signal: Signal, encoding: Encoding, outcome: Outcome, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    if outcome.rejected:
        body = _partial(signal, encoding, outcome)
    else:
        body = b"{}" if encoding is Encoding.JSON else b""
    return responses.response(200, body, (("Content-Type", encoding.value), *headers))


_EVERYTHING_STORED = {
    encoding: _success(Signal.LOGS, encoding, Outcome(0)) for encoding in Encoding
}
"""The most common answer, by encoding; it is the same for all signals."""


def _message(outcome: Outcome) -> str:
    message = (
        f"{outcome.rejected} of {outcome.records} records rejected; "
        f"first error: {outcome.first_error}"
    )
    if outcome.partly:
        message += f"; other sinks have stored {outcome.partly} of them"
    return message


def _partial(signal: Signal, encoding: Encoding, outcome: Outcome) -> bytes:
    kind, field, json_name = _RESPONSES[signal]
    message = _message(outcome)
    if encoding is Encoding.JSON:
        partial = {json_name: str(outcome.rejected), "errorMessage": message}
        return orjson.dumps({"partialSuccess": partial})
    response: Any = kind()
    setattr(response.partial_success, field, outcome.rejected)
    response.partial_success.error_message = message
    serialized: bytes = response.SerializeToString()
    return serialized
