"""Spans, sent to a collector that is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import pytest_twisted
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from stream.ops import tracing
from stream.ops.tracing import TracingService, begin, outgoing_headers, span

TRACE = "0af7651916cd43dd8448eb211c80319c"


class _Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[SentSpan] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            raise AssertionError("not expected here")
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[_Collector]:
    server = _Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def _work() -> dict[str, str]:
    with span("inner"):
        await deferLater(reactor, 0)
        return dict(outgoing_headers())


@pytest_twisted.ensureDeferred
async def test_spans_belong_together(collector: _Collector) -> None:
    """A span begun within another one is below it, also after waits, and calls tell of it."""
    service = TracingService(f"http://127.0.0.1:{collector.server_port}/v1/traces", 100, "n1")
    service.startService()
    try:
        with span("outer", {"sink": "1/2/a/b"}):
            headers = await Deferred.fromCoroutine(_work())
        with pytest.raises(ValueError, match="token=1"), span("broken"):
            raise ValueError("token=1")
        begin("request", {"http.method": "GET"}, f"00-{TRACE}-b7ad6b7169203331-01").end("failed")
    finally:
        await service.stopService()
    spans = {sent.name: sent for sent in collector.spans}
    assert set(spans) == {"outer", "inner", "broken", "request"}
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert spans["inner"].trace_id == spans["outer"].trace_id != spans["broken"].trace_id
    assert not spans["outer"].parent_span_id
    assert headers["X-B3-SpanId"] == spans["inner"].span_id.hex()
    assert headers["X-B3-TraceId"] == spans["inner"].trace_id.hex()
    assert spans["broken"].status.message == "ValueError"
    assert b"token" not in spans["broken"].SerializeToString()
    assert spans["request"].trace_id.hex() == TRACE


@pytest_twisted.ensureDeferred
async def test_nothing_is_sampled_at_zero(collector: _Collector) -> None:
    """With a ratio of 0 there are no spans."""
    service = TracingService(f"http://127.0.0.1:{collector.server_port}/v1/traces", 0, "n1")
    service.startService()
    with span("outer"):
        assert outgoing_headers()["X-B3-Sampled"] == "0"
    await service.stopService()
    assert not collector.spans


def test_off() -> None:
    """Without a tracer nothing is made: every span is one and the same object."""
    assert span("a") is span("b", {"x": 1})
    assert begin("a", {}) is begin("b", {})
    assert not outgoing_headers()
    assert tracing._present.get() is None
