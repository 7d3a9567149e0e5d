"""Measures what operators do: how long it takes, why it failed, how many bytes it moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from stream.definition.key import SinkKey
from stream.ops.errortype import error_type
from stream.ops.metrics import Metrics, Operation, SinkLabels
from stream.ops.tracing import span
from stream.storage.operator import BLAMELESS, Operator
from stream.storage.statistics import Statistics

__all__ = ["OperationMeter", "Outcome", "measure_operator", "sink_labels"]


@attrs.define
class Outcome:
    """What is only known while an operation runs.

    :ivar condition: what a rotation was triggered by.
    :ivar statistics: of the records that were worked on.
    """

    condition: str = ""
    statistics: Statistics = attrs.Factory(Statistics)


@attrs.frozen
class OperationMeter:
    """:ivar clock: seconds of a clock that doesn't jump."""

    metrics: Metrics
    clock: Callable[[], float]

    @contextmanager
    def measured(self, key: SinkKey, operation: Operation, attempt: int = 1) -> Iterator[Outcome]:
        """Measure what is done within; what has to wait for something else doesn't count.

        :param attempt: number of the attempt, from 1.
        """
        outcome = Outcome()
        started = self.clock()
        attributes: dict[str, str | int] = {"sink": str(key), "attempt": attempt}
        try:
            with span(f"keboola.go.stream.operator.{operation}", attributes):
                yield outcome
        except BLAMELESS:
            raise
        except Exception as error:
            self.metrics.operation_failed(sink_labels(key), operation, attempt)
            self._finished(key, operation, started, outcome, error)
            raise
        self._finished(key, operation, started, outcome, None)

    def _finished(
        self,
        key: SinkKey,
        operation: Operation,
        started: float,
        outcome: Outcome,
        problem: Exception | None,
    ) -> None:
        self.metrics.operation_finished(
            sink_labels(key),
            operation,
            (self.clock() - started) * 1000,
            condition=outcome.condition,
            error_type=error_type(problem),
            compressed=outcome.statistics.compressed_size,
            uncompressed=outcome.statistics.uncompressed_size,
        )

    def moved(self, counter: str, key: SinkKey, records: int) -> None:
        """*records* records of a sink have come as far as *counter* counts."""
        self.metrics.moved(counter, sink_labels(key), records)


def measure_operator(metrics: Metrics, operator: Operator[Any]) -> None:
    """Tell how much *operator* has to do."""
    labels = {"operator": operator.title}
    metrics.own("stream_operator_items").labels(labels).set(len(operator.items))
    metrics.own("stream_operator_running").labels(labels).set(operator.running_acts)


def sink_labels(key: SinkKey) -> SinkLabels:
    """The labels of a sink."""
    return SinkLabels(str(key.project_id), str(key.branch_id), key.source_id, key.sink_id)
