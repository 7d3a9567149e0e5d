"""Exports of OpenTelemetry logs, as the loads send them."""

from __future__ import annotations

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

from benchmarks.setting import BODY_BYTES

__all__ = ["OTLP_TYPE", "logs_of_a_server", "one_log"]

OTLP_TYPE = "application/x-protobuf"
_START = 1_780_000_000_000_000_000
_SERVICE = {"service.name": "checkout", "service.version": "1.14.2", "host.name": "node-17"}


def one_log() -> bytes:
    """Return an export of a single log record with a body of `BODY_BYTES`."""
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.time_unix_nano = _START
    record.body.string_value = "x" * BODY_BYTES
    return request.SerializeToString()


def logs_of_a_server(count: int) -> bytes:
    """Return an export of *count* log records as a server writes them."""
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    resource.resource.attributes.extend(_attribute(*item) for item in _SERVICE.items())
    scope = resource.scope_logs.add()
    scope.scope.name = "checkout.http"
    for number in range(count):
        record = scope.log_records.add()
        record.time_unix_nano = _START + number * 1_000_003
        record.observed_time_unix_nano = record.time_unix_nano + 250_000
        record.severity_number = SeverityNumber.SEVERITY_NUMBER_INFO
        record.severity_text = "INFO"
        record.trace_id = bytes([number % 251]) * 16
        record.span_id = bytes([number % 241]) * 8
        record.body.string_value = (
            f"GET /api/orders/{100_000 + 7 * number}?expand=items HTTP/1.1 answered with 200 in "
            f"{3 + number % 90} ms for customer {number * 7919 % 100_000}"
        )
        about: dict[str, str | int] = {
            "http.request.method": "GET",
            "http.route": "/api/orders/{id}",
            "http.response.status_code": 200,
            "customer": f"customer-{number * 7919 % 100_000}",
        }
        record.attributes.extend(_attribute(*item) for item in about.items())
    return request.SerializeToString()


def _attribute(key: str, value: str | int) -> KeyValue:
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    return KeyValue(key=key, value=AnyValue(string_value=value))
