"""Spans of OpenTelemetry for what isn't done with each record: operations, tasks, calls, requests.

The process has one tracer or none, as it has one log. Without one `span` gives back an object that
does nothing, and the libraries aren't even imported. Spans are sent by a thread of their own, in
batches; a collector that is away costs spans and nothing else.

Which span is the present one is kept in a context variable, so that it goes along with a coroutine
through all its waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from stream.errors import UserError

__all__ = ["Span", "TracingService", "begin", "outgoing_headers", "span"]

_log = Logger(namespace="stream.tracing")

_EXPORT_SECONDS = 3.0
"""For a batch, with its repetitions: a stop may have to wait for one."""

_tracer: Any = None
_present: ContextVar[Any] = ContextVar("span", default=None)
_OFF: AbstractContextManager[None] = nullcontext()
_NO_HEADERS: Mapping[str, str] = {}


class Span:
    """A span that somebody has begun and ends."""

    def __init__(self, otel: Any) -> None:
        self._otel = otel

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        if self._otel is not None:
            self._otel.set_attribute(name, value)

    def end(self, problem: str = "") -> None:
        """The end; with *problem* it was a failure."""
        if self._otel is None:
            return
        if problem:
            from opentelemetry.trace import Status, StatusCode

            self._otel.set_status(Status(StatusCode.ERROR, problem))
        self._otel.end()


_NO_SPAN = Span(None)


def begin(name: str, attributes: Mapping[str, str | int], traceparent: str = "") -> Span:
    """Begin a span that isn't the present one of anything.

    :param traceparent: W3C header of the request that caused it.
    """
    if _tracer is None:
        return _NO_SPAN
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    return Span(_tracer.start_span(name, context=context, attributes=dict(attributes)))


def span(
    name: str, attributes: Mapping[str, str | int] | None = None
) -> AbstractContextManager[None]:
    """What is done within is a span, below the present one if there is one."""
    return _OFF if _tracer is None else _span(name, attributes or {})


@contextmanager
def _span(name: str, attributes: Mapping[str, str | int]) -> Iterator[None]:
    from opentelemetry.trace import set_span_in_context

    above = _present.get()
    context = None if above is None else set_span_in_context(above)
    otel = _tracer.start_span(name, context=context, attributes=dict(attributes))
    _present.set(otel)
    opened = Span(otel)
    try:
        yield
    except BaseException as error:
        opened.end(type(error).__name__)  # its text may quote what others have sent
        raise
    else:
        opened.end()
    finally:
        _present.set(above)


def outgoing_headers() -> Mapping[str, str]:
    """B3 headers that tell another service which span its work belongs to."""
    present = _present.get()
    if present is None:
        return _NO_HEADERS
    context = present.get_span_context()
    return {
        "X-B3-TraceId": f"{context.trace_id:032x}",
        "X-B3-SpanId": f"{context.span_id:016x}",
        "X-B3-Sampled": "1" if context.trace_flags.sampled else "0",
    }


class TracingService(Service):
    """Sends spans while it runs.

    :param endpoint: URL of the collector.
    :param percent: of how many operations in a hundred spans are sent.
    :param node_id: who sends them.

    startService raises UserError if the libraries aren't installed.
    """

    name = "tracing"

    def __init__(self, endpoint: str, percent: int, node_id: str) -> None:
        self._endpoint = endpoint
        self._percent = percent
        self._node_id = node_id
        self._provider: Any = None

    def startService(self) -> None:
        global _tracer
        super().startService()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        except ImportError:
            raise UserError(
                "tracing needs libraries that aren't installed: pip install stream-service[tracing]"
            ) from None
        resource = Resource({"service.name": "stream", "service.instance.id": self._node_id})
        self._provider = TracerProvider(
            resource=resource,
            sampler=ParentBasedTraceIdRatio(self._percent / 100),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=self._endpoint, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        _tracer = self._provider.get_tracer("stream")
        _log.info('spans are sent to "{endpoint}"', endpoint=self._endpoint)

    def stopService(self) -> Deferred[None]:
        """Fires when the last spans are sent, or can't be."""
        global _tracer
        super().stopService()
        _tracer = None
        stopped: Deferred[None] = deferToThread(self._provider.shutdown)
        return stopped
