"""The official OpenTelemetry SDK as the client, and the rows of its exports."""

from __future__ import annotations

import json
import logging
from typing import Any

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode

from tests.e2e.processes import ALL, Deployment, wait_for

RESOURCE = Resource.create({"service.name": "shop"})
COLUMNS: dict[str, list[dict[str, Any]]] = {
    "logs": [
        {"type": "path", "name": "text", "path": "body", "rawString": True},
        {"type": "path", "name": "severity", "path": "severity_text", "rawString": True},
        {
            "type": "path",
            "name": "trace",
            "path": "trace_id",
            "rawString": True,
            "defaultValue": "",
        },
        {"type": "body", "name": "record"},
    ],
    "metrics": [
        {"type": "path", "name": "metric", "path": "metric_name", "rawString": True},
        {"type": "path", "name": "kind", "path": "metric_type", "rawString": True},
        {"type": "path", "name": "value", "path": "value", "defaultValue": "none"},
        {"type": "body", "name": "record"},
    ],
    "traces": [
        {"type": "path", "name": "span", "path": "name", "rawString": True},
        {"type": "path", "name": "kind", "path": "kind", "rawString": True},
        {
            "type": "template",
            "name": "links",
            "template": {"language": "jsonnet", "content": "std.length(Body('links'))"},
        },
        {"type": "body", "name": "record"},
    ],
}


def _define(deployed: Deployment) -> dict[str, str]:
    """Create a source with a sink for each signal; return its URLs."""
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = deployed.task("POST", sources, {"type": "otlp", "name": "Telemetry"})["url"]
    for signal, columns in COLUMNS.items():
        table = {
            "type": "keboola",
            "tableId": f"in.c-otlp.{signal}",
            "mapping": {"columns": columns},
        }
        sink = {"type": "table", "name": signal, "allowedSignals": [signal], "table": table}
        deployed.task("POST", f"{source}/sinks", sink)
    _, answer = deployed.call("GET", source)
    urls: dict[str, str] = answer["otlp"]
    return urls


def _rows(deployed: Deployment, signal: str, count: int) -> list[tuple[Any, ...]]:
    names = ", ".join(column["name"] for column in COLUMNS[signal])

    def rows() -> list[tuple[Any, ...]]:
        return deployed.query(f'SELECT {names} FROM "in.c-otlp.{signal}" ORDER BY 1, 2, 3')

    found: list[tuple[Any, ...]] = wait_for(
        lambda: found if len(found := rows()) >= count else None, f"{count} {signal}"
    )
    assert len(found) == count
    return found


def test_sdk_exports_become_rows(deployed: Deployment) -> None:
    """Logs, metrics and traces are stored by the sinks of their signal, flat and complete."""
    deployed.start(*ALL)
    urls = _define(deployed)
    _export_traces_and_logs(urls["url"])
    secret = urls["url"].rsplit("/", 1)[1]
    _export_metrics(urls["baseUrl"], {"Authorization": f"Bearer {secret}"})

    child, parent = _rows(deployed, "traces", 2)
    assert child[:3] == ("charge", "Client", "1")
    assert parent[:3] == ("checkout", "Server", "0")
    span, above = json.loads(child[3]), json.loads(parent[3])
    assert span["parent_span_id"] == above["span_id"]
    assert (span["status_code"], span["status_message"]) == ("Error", "card declined")
    assert span["events"][0]["name"] == "retry"
    assert span["links"][0]["trace_id"] == above["trace_id"]
    assert span["resource"]["service.name"] == "shop"

    inside, outside = _rows(deployed, "logs", 2)
    assert inside[:3] == ("in a span", "WARN", above["trace_id"])
    assert outside[:3] == ("out of stock: 42", "ERROR", "")
    assert json.loads(outside[3])["attributes"]["sku"] == "A-42"

    histogram, counter, sizes, temperature = _rows(deployed, "metrics", 4)
    assert counter[:3] == ("orders", "sum", "3")
    assert histogram[:3] == ("latency", "histogram", '"none"')
    record = json.loads(histogram[3])
    assert (record["count"], record["sum"], record["min"], record["max"]) == (2, 12.5, 0.5, 12.0)
    assert record["aggregation_temporality"] == "Cumulative"
    assert temperature[:3] == ("temperature", "gauge", "21.5")
    assert sizes[:3] == ("size", "exponential_histogram", '"none"')
    record = json.loads(sizes[3])
    assert (record["count"], record["sum"], record["zero_count"]) == (1, 8.0, 0)
    assert isinstance(record["scale"], int)


def _export_traces_and_logs(url: str) -> None:
    tracers = TracerProvider(resource=RESOURCE)
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    loggers = LoggerProvider(resource=RESOURCE)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{url}/v1/logs")))
    log = logging.getLogger("shop")
    log.propagate = False
    log.addHandler(LoggingHandler(logger_provider=loggers))
    tracer = tracers.get_tracer("shop", "1.0")
    with tracer.start_as_current_span("checkout", kind=SpanKind.SERVER) as parent:
        log.warning("in a span")
        links = [Link(parent.get_span_context(), {"why": "test"})]
        with tracer.start_as_current_span("charge", kind=SpanKind.CLIENT, links=links) as span:
            span.add_event("retry", {"attempt": 2})
            span.set_status(StatusCode.ERROR, "card declined")
    log.error("out of stock: %s", 42, extra={"sku": "A-42"})
    tracers.shutdown()
    loggers.shutdown()


def _export_metrics(base: str, headers: dict[str, str]) -> None:
    exporter = OTLPMetricExporter(
        f"{base}/v1/metrics", headers=headers, compression=Compression.Gzip
    )
    exponential = View(instrument_name="size", aggregation=ExponentialBucketHistogramAggregation())
    meters = MeterProvider(
        [PeriodicExportingMetricReader(exporter)], resource=RESOURCE, views=[exponential]
    )
    meter = meters.get_meter("shop")
    meter.create_counter("orders").add(3)
    latency = meter.create_histogram("latency", "ms")
    latency.record(0.5)
    latency.record(12.0)
    meter.create_histogram("size", "By").record(8.0)
    meter.create_gauge("temperature").set(21.5)
    meters.shutdown()
