"""Spans on their way to the collector; imported only if spans are sent.

A thread of the library sends them in batches from a queue of bounded length. While the collector is
unavailable they are lost, and that is said once, not with every batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

__all__ = ["QUEUE_LENGTH", "TellingExporter", "make_provider"]

QUEUE_LENGTH = 2048
"""Spans that wait to be sent; those beyond are dropped."""

_EXPORT_SECONDS = 3.0
"""For a batch, with its repetitions: a stop may have to wait for one."""
_MAX_ATTRIBUTE_CHARS = 1024


class TellingExporter(SpanExporter):
    """Reports when spans begin to be lost, and when they no longer are.

    :param inner: sends them.
    :param lost: called by the sending thread with the first loss.
    :param regained: called by the sending thread with the number of spans lost meanwhile.
    """

    def __init__(
        self, inner: SpanExporter, lost: Callable[[], None], regained: Callable[[int], None]
    ) -> None:
        self._inner = inner
        self._tell_lost = lost
        self._tell_regained = regained
        self._lost = 0
        self._is_last = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans*, or lose them."""
        if self._is_last and self._lost:
            return SpanExportResult.FAILURE  # a stop doesn't wait for an unavailable collector
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                self._tell_regained(self._lost)
            self._lost = 0
        else:
            if not self._lost:
                self._tell_lost()
            self._lost += len(spans)
        return result

    def stop_soon(self) -> None:
        """From now on nothing is tried again."""
        self._is_last = True

    def shutdown(self) -> None:
        """Stop the exporter inside."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what waits, as the exporter inside does."""
        return self._inner.force_flush(timeout_millis)


def make_provider(
    endpoint: str,
    percent: int,
    node_id: str,
    components: Sequence[str],
    lost: Callable[[], None],
    regained: Callable[[int], None],
) -> tuple[TracerProvider, TellingExporter]:
    """The tracer provider and the processor of its spans.

    :param endpoint: URL of the collector.
    :param percent: of how many operations in a hundred spans are sent.
    :param node_id: who sends them.
    :param components: what runs in this process.
    """
    # The library writes a warning for each batch, and to stderr at that.
    quiet = logging.getLogger("opentelemetry")
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())
    provider = TracerProvider(
        resource=Resource.create(
            {
                "service.name": "stream",
                "service.instance.id": node_id,
                "stream.components": ",".join(sorted(components)),
            }
        ),
        sampler=ParentBasedTraceIdRatio(percent / 100),
        span_limits=SpanLimits(max_span_attribute_length=_MAX_ATTRIBUTE_CHARS),
        shutdown_on_exit=False,
    )
    exporter = TellingExporter(
        OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS), lost, regained
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE_LENGTH))
    return provider, exporter
