"""Export of spans to a collector. This module is imported only if spans are sent.

A thread of the library sends spans in batches from a bounded queue. While the collector is
unavailable, spans are dropped. This is logged once instead of with every batch.
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
"""Maximum number of queued spans; further ones are dropped."""

_EXPORT_SECONDS = 3.0
"""Time limit of a batch including retries, in seconds; a stop may have to wait for one."""
_MAX_ATTRIBUTE_CHARS = 1024


class TellingExporter(SpanExporter):
    """Reports when spans begin to be lost, and when sending succeeds again.

    :param inner: sends the spans.
    :param lost: called by the sending thread with the first loss.
    :param regained: called by the sending thread with the number of spans lost in between.
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
        """Send *spans*; lost spans are counted."""
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
        """Disable retries from now on."""
        self._is_last = True

    def shutdown(self) -> None:
        """Stop the inner exporter."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the inner exporter."""
        return self._inner.force_flush(timeout_millis)


def make_provider(
    endpoint: str,
    percent: int,
    node_id: str,
    components: Sequence[str],
    lost: Callable[[], None],
    regained: Callable[[int], None],
) -> tuple[TracerProvider, TellingExporter]:
    """Return the tracer provider and the exporter of its spans.

    :param endpoint: URL of the collector.
    :param percent: percentage of operations whose spans are sent.
    :param node_id: ID of this node.
    :param components: components of this process.
    """
    # The library would log a warning for each batch, even to stderr.
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
