"""Metrics of operations: durations, failures and bytes moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from stream.definition.key import SinkKey
from stream.ops.metrics.error_type import error_type
from stream.ops.metrics.registry import Metrics, Operation, SinkLabels
from stream.ops.tracing.spans import span
from stream.storage.model.statistics import Statistics
from stream.storage.reconcile.operator import TRANSIENT_ERRORS, Operator

__all__ = ["OperationMeter", "Outcome", "measure_operator", "sink_labels"]


@attrs.define
class Outcome:
    """Details that become known while an operation runs.

    :ivar condition: the trigger of a rotation.
    :ivar statistics: statistics of the processed records.
    """

    condition: str = ""
    statistics: Statistics = attrs.Factory(Statistics)


_SPANS: dict[Operation, str] = {
    "filerotation": "operator.filerotation",
    "slicerotation": "operator.slicerotation",
    "fileimport": "operator.fileimport",
    "sliceupload": "operator.sliceupload",
    "filecleanup": "model.metacleanup",
    "jobcleanup": "model.jobcleanup",
}
_PARTS: tuple[Operation, ...] = ("filecleanup", "jobcleanup")
"""Parts of a cleanup run that have their own trace spans."""
RETAIN_SECONDS = 300.0
"""How long the metrics of a deleted sink are kept, so that their last values can be scraped."""


@attrs.frozen
class OperationMeter:
    """The metrics of one operator.

    :ivar clock: returns the monotonic time in seconds.
    """

    metrics: Metrics
    clock: Callable[[], float]
    _touched: dict[SinkKey, float] = attrs.field(factory=dict, repr=False)

    @contextmanager
    def measured(
        self,
        key: SinkKey,
        operation: Operation,
        attempt: int = 1,
        *,
        target: str,
        item: object,
        step: str,
    ) -> Iterator[Outcome]:
        """Measure the operation in the ``with`` block; a `Requeue` doesn't count.

        :param attempt: number of the attempt, from 1.
        :param target: name of the item's target.
        :param item: the key of the item.
        :param step: name of the operation, for the name of the span.
        """
        outcome = Outcome()
        started = self._touched[key] = self.clock()
        attributes: dict[str, str | int] = {
            "sink": str(key),
            "item": str(item),
            "attempt": attempt,
            "target": target,
        }
        try:
            name = f"keboola.go.stream.{_SPANS[operation]}.{step}"
            with span(name, attributes, is_root=operation not in _PARTS) as recorded:
                waits: BaseException | None = None
                try:
                    yield outcome
                except TRANSIENT_ERRORS as reason:
                    recorded.set("waits_for", type(reason).__name__)  # it isn't a failure
                    waits = reason
            if waits is not None:
                raise waits
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            self.metrics.operation_failed(sink_labels(key), operation, attempt, target=target)
            self._finished(key, operation, target, started, outcome, error)
            raise
        self._finished(key, operation, target, started, outcome, None)

    def _finished(
        self,
        key: SinkKey,
        operation: Operation,
        target: str,
        started: float,
        outcome: Outcome,
        problem: Exception | None,
    ) -> None:
        self.metrics.operation_finished(
            sink_labels(key),
            operation,
            (self.clock() - started) * 1000,
            target=target,
            condition=outcome.condition,
            error_type=error_type(problem),
            compressed=outcome.statistics.compressed_size,
            uncompressed=outcome.statistics.uncompressed_size,
        )

    def moved(self, counter: str, key: SinkKey, records: int, *, target: str) -> None:
        """Add *records* of a sink to *counter*.

        :param target: the type of the sink's table.
        """
        self._touched[key] = self.clock()
        self.metrics.moved(counter, sink_labels(key), records, target=target)

    def retire(self, is_active: Callable[[SinkKey], bool]) -> None:
        """Remove the metrics of deleted sinks that had no recent operations.

        A cleanup may run long after the sink was deleted.
        """
        before = self.clock() - RETAIN_SECONDS
        for key, touched in list(self._touched.items()):
            if touched < before and not is_active(key):
                del self._touched[key]
                self.metrics.forget(sink_labels(key))


def measure_operator(metrics: Metrics, operator: Operator[Any]) -> None:
    """Export the backlog of *operator*."""
    labels = {"operator": operator.title}
    metrics.own("stream_operator_items").labels(labels).set(len(operator.items))
    metrics.own("stream_operator_running").labels(labels).set(operator.running_reconciliations)


def sink_labels(key: SinkKey) -> SinkLabels:
    """Return the labels of a sink."""
    return SinkLabels(str(key.project_id), str(key.branch_id), key.source_id, key.sink_id)
