"""OpenTelemetry spans of work larger than a record: operations, tasks, calls, requests.

The process has at most one tracer, like its log. Without one, `span` returns an object that does
nothing, and the libraries aren't imported. Spans are sent in batches by a separate thread; an
unavailable collector costs only spans.

The current span is stored in a context variable, so that it follows a coroutine across its waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from stream.errors import UserError
from stream.values.redaction import MASK, hide_secrets, is_secret_name, shown_url

__all__ = ["Span", "TracingService", "begin", "log_ids", "outgoing_headers", "received", "span"]

_log = Logger(namespace="stream.tracing")

Attributes = Mapping[str, str | int]
Kind = Literal["internal", "server", "client"]

_tracer: Any = None
_present: ContextVar[Any] = ContextVar("span", default=None)
_NOTHING: Mapping[str, str] = {}
_LOW_64_BITS = 2**64 - 1


class Span:
    """A span that is ended explicitly."""

    def __init__(self, otel: Any) -> None:
        self._otel = otel

    def active(self) -> AbstractContextManager[Any]:
        """Make the span the parent of spans that begin in the context."""
        return _OFF if self._otel is None else _activated(self._otel)

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        if self._otel is not None:
            self._otel.set_attribute(name, _shown(name, value))

    def failed(self, problem: str) -> None:
        """Mark the span as failed.

        :param problem: a few words, without data from other parties.
        """
        if self._otel is not None:
            from opentelemetry.trace import Status, StatusCode

            self._otel.set_status(Status(StatusCode.ERROR, problem))

    def end(self, problem: str = "") -> None:
        """End the span; if *problem* isn't empty, mark it as failed."""
        if self._otel is None:
            return
        if problem:
            self.failed(problem)
        self._otel.end()


_NO_SPAN = Span(None)
_OFF: AbstractContextManager[Span] = nullcontext(_NO_SPAN)


def begin(name: str, attributes: Attributes | None = None) -> Span:
    """Begin a span that neither becomes the current span nor is a child of it."""
    return _NO_SPAN if _tracer is None else Span(_started(name, attributes or {}, "internal", None))


def received(
    name: str, attributes: Attributes, *, traceparent: str = "", tracestate: str = ""
) -> Span:
    """Begin the span of a received request.

    :param traceparent: W3C header of the request.
    :param tracestate: the second W3C header.
    """
    if _tracer is None:
        return _NO_SPAN
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = {"traceparent": traceparent, "tracestate": tracestate}
    context = TraceContextTextMapPropagator().extract(headers)
    return Span(_started(name, attributes, "server", context))


def span(
    name: str,
    attributes: Attributes | None = None,
    kind: Kind = "internal",
    *,
    is_root: bool = False,
) -> AbstractContextManager[Span]:
    """Create a span for the context, as a child of the current one, if any.

    :param is_root: whether it begins a new trace, regardless of the current span.
    """
    return _OFF if _tracer is None else _span(name, attributes or {}, kind, is_root)


@contextmanager
def _span(name: str, attributes: Attributes, kind: Kind, is_root: bool) -> Iterator[Span]:
    from opentelemetry.trace import set_span_in_context

    above = None if is_root else _present.get()
    context = None if above is None else set_span_in_context(above)
    opened = Span(_started(name, attributes, kind, context))
    try:
        with opened.active():
            yield opened
    except BaseException as error:
        opened.end(type(error).__name__)  # not the message, which may quote data of other parties
        raise
    else:
        opened.end()


@contextmanager
def _activated(otel: Any) -> Iterator[None]:
    above = _present.get()
    _present.set(otel)
    try:
        yield
    finally:
        _present.set(above)


def _started(name: str, attributes: Attributes, kind: Kind, context: Any) -> Any:
    from opentelemetry.trace import SpanKind

    return _tracer.start_span(
        name,
        context=context,
        kind=SpanKind[kind.upper()],
        attributes={name: _shown(name, value) for name, value in attributes.items()},
    )


def _shown(name: str, value: str | int) -> str | int:
    """Return the value of an attribute, without secrets."""
    if is_secret_name(name):
        return MASK
    return hide_secrets(value) if isinstance(value, str) else value


def outgoing_headers() -> Mapping[str, str]:
    """Return the B3 and W3C headers that pass the current span to another service."""
    present = _present.get()
    if present is None:
        return _NOTHING
    context = present.get_span_context()
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    sampled = "1" if context.trace_flags.sampled else "0"
    headers = {
        "X-B3-TraceId": trace_id,
        "X-B3-SpanId": span_id,
        "X-B3-Sampled": sampled,
        "traceparent": f"00-{trace_id}-{span_id}-0{sampled}",
    }
    state = context.trace_state.to_header()
    return {**headers, "tracestate": state} if state else headers


def log_ids() -> Mapping[str, str]:
    """Return the fields of a log line that identify the current span; none without a span."""
    if _tracer is None:
        return _NOTHING
    present = _present.get()
    if present is None:
        return _NOTHING
    context = present.get_span_context()
    return {
        "dd.trace_id": str(context.trace_id & _LOW_64_BITS),
        "dd.span_id": str(context.span_id),
    }


class TracingService(Service):
    """The service that sends spans.

    :param endpoint: URL of the collector.
    :param percent: percentage of operations whose spans are sent.
    :param node_id: ID of this node.
    :param components: components of this process.

    startService raises UserError if the libraries aren't installed.
    """

    name = "tracing"

    def __init__(
        self, reactor: Any, endpoint: str, percent: int, node_id: str, components: Sequence[str]
    ) -> None:
        self._components = components
        self._reactor = reactor
        self._endpoint = endpoint
        self._percent = percent
        self._node_id = node_id
        self._provider: Any = None
        self._exporter: Any = None

    def startService(self) -> None:
        global _tracer
        super().startService()
        try:
            from stream.ops.tracing.export import make_provider
        except ImportError:
            raise UserError(
                "tracing needs libraries that aren't installed: pip install stream-service[tracing]"
            ) from None
        in_reactor = self._reactor.callFromThread
        self._provider, self._exporter = make_provider(
            self._endpoint,
            self._percent,
            self._node_id,
            self._components,
            lambda: in_reactor(self._lost),
            lambda spans: in_reactor(self._regained, spans),
        )
        _tracer = self._provider.get_tracer("stream")
        self._endpoint = shown_url(self._endpoint)
        _log.info('spans are sent to "{endpoint}"', endpoint=self._endpoint)

    def stopService(self) -> Deferred[None]:
        """Stop sending; return a Deferred that fires when the last spans were sent or dropped."""
        global _tracer
        super().stopService()
        _tracer = None
        self._exporter.stop_soon()
        stopped: Deferred[None] = deferToThread(self._provider.shutdown)
        return stopped

    def _lost(self) -> None:
        _log.warn(
            'dropping spans: the collector "{endpoint}" does not accept them',
            endpoint=self._endpoint,
        )

    def _regained(self, spans: int) -> None:
        _log.info("the collector accepts spans again, {lost} were dropped", lost=spans)
