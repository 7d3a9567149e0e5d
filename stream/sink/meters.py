"""Metrics of sinks, which are counted per group to avoid a cost per record."""

from __future__ import annotations

from collections.abc import Callable, Set

from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.ops.metrics.error_type import error_type
from stream.ops.metrics.registry import Metrics, SinkLabels, SinkMeter
from stream.sink.group import Group
from stream.storage.reconcile.operation_meter import sink_labels

__all__ = ["SinkCounts", "SinkMeters"]

_TYPE = "table"


class SinkMeters:
    """The metrics of all sinks of a source node.

    :param clock: returns seconds since the epoch.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._counts: dict[SinkKey, SinkCounts] = {}

    def of(self, key: SinkKey) -> SinkCounts:
        """Return the metrics of one sink, created on first use."""
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = SinkCounts(self._metrics, sink_labels(key), self._clock)
        return counts

    def keep(self, known: Set[SinkKey]) -> None:
        """Forget all sinks that aren't in *known*."""
        for key in self._counts.keys() - known:
            self.forget(key)

    def forget(self, key: SinkKey) -> None:
        """Remove the metrics of a deleted sink."""
        if self._counts.pop(key, None) is not None:
            self._metrics.forget(sink_labels(key))


class SinkCounts:
    """The metrics of one sink, which implement `stream.sink.group.GroupMeter`."""

    def __init__(self, metrics: Metrics, labels: SinkLabels, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meter: SinkMeter = metrics.sink_meter(labels, _TYPE)
        self._acknowledged = metrics.own("stream_sink_acknowledged_records").labels(
            labels.as_labels()
        )
        self._synced = metrics.own("stream_sink_synced_records").labels(labels.as_labels())

    def acknowledged(self, records: int) -> None:
        """Count *records* acknowledged to producers."""
        self._acknowledged.value += records

    def synced(self, records: int) -> None:
        """Count *records* that a writer has on its disk."""
        self._synced.value += records

    def stored(self, group: Group) -> None:
        """Count *group* as stored."""
        if group.waiting:
            self._acknowledged.value += group.count
        self._observe(group, "")

    def failed(self, group: Group, error: UserError) -> None:
        """Do nothing, because no record of *group* is acknowledged."""
        self._observe(group, error_type(error))

    def rejected(self, error: UserError) -> None:
        """Count a record that can't be rendered."""
        self._meter.record(0.0, 0, error_type=error_type(error))

    def _observe(self, group: Group, kind: str) -> None:
        now = self._clock() * 1000
        size = 0 if kind else group.size
        before = 0
        for received_at, count in (*group.arrivals, (group.last_at, group.count)):
            waited = max(0.0, now - received_at)
            self._meter.record(waited, size, error_type=kind, records=count - before)
            before, size = count, 0
