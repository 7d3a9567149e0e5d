"""Spans with an available and with an unavailable collector."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator

import pytest
import pytest_twisted
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger, globalLogPublisher

from stream.errors import UserError
from stream.ops.logging.lines import LineObserver
from stream.ops.tracing import spans as tracing
from stream.ops.tracing.export import TellingExporter
from stream.ops.tracing.spans import (
    TracingService,
    begin,
    log_ids,
    outgoing_headers,
    received,
    span,
)
from tests.otlp_collector import Collector, collecting
from tests.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def _service(endpoint: str, percent: int = 100) -> TracingService:
    return TracingService(reactor, endpoint, percent, "n1", ["api", "etcd"])


async def _work() -> dict[str, str]:
    with span("inner"):
        await deferLater(reactor, 0)
        return dict(outgoing_headers())


@pytest_twisted.ensureDeferred
async def test_nested_spans(collector: Collector) -> None:
    """A span started within another one is its child, also after an await, and requests carry its
    id.
    """
    service = _service(collector.url)
    service.startService()
    try:
        with span("outer", {"sink": "1/2/a/b", "X-StorageApi-Token": "hunter2"}):
            headers = await Deferred.fromCoroutine(_work())
        with span("above"), span("alone", is_root=True) as alone:
            alone.set("http.status_code", 503)
            alone.failed("status 503")
        with pytest.raises(ValueError, match="token=1"), span("broken"):
            raise ValueError("token=1")
        request = received(
            "request",
            {"http.method": "GET"},
            traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
            tracestate="vendor=value",
        )
        request.set("authorization", "hunter2")
        with request.active():
            below = Deferred.fromCoroutine(_work())
        request.end("failed")
        assert (await below)["tracestate"] == "vendor=value"
    finally:
        await service.stopService()
    spans = {sent.name: sent for sent in collector.spans if sent.trace_id.hex() != TRACE}
    assert set(spans) == {"outer", "inner", "above", "alone", "broken"}
    assert not spans["alone"].parent_span_id
    assert spans["alone"].trace_id != spans["above"].trace_id
    assert spans["alone"].status.message == "status 503"
    assert spans["alone"].attributes[0].value.int_value == 503
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert spans["inner"].trace_id == spans["outer"].trace_id != spans["broken"].trace_id
    assert not spans["outer"].parent_span_id
    trace_id, span_id = spans["inner"].trace_id.hex(), spans["inner"].span_id.hex()
    assert headers == {
        "X-B3-TraceId": trace_id,
        "X-B3-SpanId": span_id,
        "X-B3-Sampled": "1",
        "traceparent": f"00-{trace_id}-{span_id}-01",
    }
    assert spans["broken"].status.message == "ValueError"
    (root,) = (sent for sent in collector.spans if sent.name == "request")
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert [sent.name for sent in collector.below(root)] == ["inner"]
    assert all(b"stream.components" in body and b"api,etcd" in body for body in collector.bodies)
    assert not any(b"token=1" in body or b"hunter2" in body for body in collector.bodies)


@pytest_twisted.ensureDeferred
async def test_nothing_is_sampled_at_zero(collector: Collector) -> None:
    """With a ratio of 0 there are no spans."""
    service = _service(collector.url, 0)
    service.startService()
    with span("outer"):
        assert outgoing_headers()["X-B3-Sampled"] == "0"
    await service.stopService()
    assert not collector.spans


@pytest_twisted.ensureDeferred
async def test_log_events_have_the_ids_of_the_span(collector: Collector) -> None:
    """An event logged within a span has its ids as decimal numbers of 64 bits."""
    stream = io.StringIO()
    log = Logger(namespace="stream.x", observer=LineObserver(stream))
    service = _service(collector.url)
    service.startService()
    log.info("before")
    with span("outer"):
        log.info("within")
    await service.stopService()
    before, within = (json.loads(line) for line in stream.getvalue().splitlines())
    assert "dd.trace_id" not in before
    (sent,) = collector.spans
    assert within["dd.trace_id"] == str(int.from_bytes(sent.trace_id[8:]))
    assert within["dd.span_id"] == str(int.from_bytes(sent.span_id))


@pytest_twisted.ensureDeferred
async def test_an_unavailable_collector_is_logged_once(
    collector: Collector, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost spans are logged with one warning, and the recovery with their number."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    stream = io.StringIO()
    observer = LineObserver(stream)
    globalLogPublisher.addObserver(observer)
    collector.status = 404
    service = _service(collector.url.replace("//", "//user:hunter2@"))
    try:
        service.startService()
        for number in range(20):
            with span(f"lost {number}"):
                pass
        await until(lambda: "dropping spans" in stream.getvalue())
        await until(lambda: service._exporter._lost == 20)
        collector.status = 200
        with span("sent"):
            pass
        await until(lambda: "accepts spans again" in stream.getvalue())
    finally:
        await service.stopService()
        globalLogPublisher.removeObserver(observer)
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert len(messages) == 3
    assert messages[1].startswith("dropping spans: the collector")
    assert messages[2] == "the collector accepts spans again, 20 were dropped"
    assert "hunter2" not in stream.getvalue()
    output = capfd.readouterr()
    assert not output.err


class _Away(SpanExporter):
    def __init__(self) -> None:
        self.calls = 0

    def export(self, spans: object) -> SpanExportResult:
        self.calls += 1
        return SpanExportResult.FAILURE

    def shutdown(self) -> None: ...


def test_a_stop_does_not_wait_for_the_collector() -> None:
    """Batches that fail during the stop are dropped, whatever their number."""
    away = _Away()
    exporter = TellingExporter(away, lambda: None, lambda _: None)
    exporter.stop_soon()
    batch: list[ReadableSpan] = [ReadableSpan("x")]
    assert exporter.export(batch) is SpanExportResult.FAILURE
    assert exporter.export(batch) is SpanExportResult.FAILURE
    assert away.calls == 1


def test_without_a_tracer() -> None:
    """Without a tracer no span is created: all spans are the same object."""
    assert span("a") is span("b", {"x": 1})
    assert begin("a") is received("b", {})
    assert begin("a").active() is span("a")
    assert not outgoing_headers()
    assert not log_ids()
    assert tracing._present.get() is None


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the missing library."""
    monkeypatch.delitem(sys.modules, "stream.ops.tracing.export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UserError, match=re.escape("pip install stream-service[tracing]")):
        _service("http://127.0.0.1:9/v1/traces").startService()
    assert span("a") is span("b")
