"""The metrics of the records of each source, by protocol."""

from __future__ import annotations

from collections.abc import Callable, Set

from stream.definition.key import SourceKey
from stream.ops.metrics.registry import Metrics, SourceLabels, SourceMeter

__all__ = ["SourceMeters"]


class _ByKey(dict[SourceKey, SourceMeter]):
    """A dict that creates missing meters, so that finding a meter is usually one lookup."""

    def __init__(self, metrics: Metrics, source_type: str, clock: Callable[[], float]) -> None:
        super().__init__()
        self._metrics = metrics
        self._type = source_type
        self._clock = clock

    def __missing__(self, key: SourceKey) -> SourceMeter:
        meter = self._metrics.source_meter(_labels(key), self._type, self._clock)
        self[key] = meter
        return meter


class SourceMeters:
    """The meters of all sources, created on first use.

    :param clock: returns seconds since the epoch.

    :ivar http: meters of HTTP sources.
    :ivar otlp: meters of OTLP sources.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self.http = _ByKey(metrics, "http", clock)
        self.otlp = _ByKey(metrics, "otlp", clock)

    def keep(self, known: Set[SourceKey]) -> None:
        """Forget all sources that aren't in *known*."""
        for key in {*self.http, *self.otlp} - known:
            self.forget(key)

    def forget(self, key: SourceKey) -> None:
        """Remove the metrics of a deleted source."""
        http, otlp = self.http.pop(key, None), self.otlp.pop(key, None)
        if http is not None or otlp is not None:
            self._metrics.forget(_labels(key))


def _labels(key: SourceKey) -> SourceLabels:
    return SourceLabels(str(key.project_id), str(key.branch_id), key.source_id)
