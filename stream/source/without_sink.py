"""Records of sources without an enabled sink, which are accepted but not stored.

The answer has a header, the records are counted, and a warning is logged for each source at most
once a minute. In its settings, a source may also refuse such records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.ops.logging.throttle import LogThrottle
from stream.ops.metrics.registry import Metrics, SourceLabels

__all__ = ["WithoutSink"]

_log = Logger(namespace="http-source")

WARN_SECONDS = 60.0
"""Minimum number of seconds between two warnings about one source."""


class WithoutSink:
    """Handles records of sources without an enabled sink.

    :param refuses: returns whether one of the sources refuses records while it has no enabled sink.
    :param clock: returns the time in seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        refuses: Callable[[Sequence[SourceKey]], bool],
        clock: Callable[[], float],
    ) -> None:
        self._family = metrics.own("stream_source_without_sink_records")
        self._refuses = refuses
        self._throttle = LogThrottle(WARN_SECONDS, clock)

    def check(self, sources: Sequence[SourceKey]) -> None:
        """Handle records for *sources*, none of which has an enabled sink.

        Raises UserError: a source refuses such records.
        """
        refuses = self._refuses(sources)
        for source in sources:
            suppressed = self._throttle.due(str(source))
            if suppressed is not None:
                _log.warn(
                    "the source {source_id} receives records but has no enabled sink: {fate}",
                    source_id=str(source),
                    fate="they are refused" if refuses else "they are not stored",
                    suppressed=suppressed,
                )
        if refuses:
            raise UserError(
                "the source has no enabled sink, so nothing is stored", status=503, name="noSink"
            )

    def count(self, sources: Sequence[SourceKey], records: int) -> None:
        """Count *records* that *sources* have accepted without storing them."""
        for source in sources:
            labels = SourceLabels(str(source.project_id), str(source.branch_id), source.source_id)
            self._family.labels(labels.as_labels()).add(records)
