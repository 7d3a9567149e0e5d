"""The template engines of a node as a service."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service

from stream.ops.metrics.registry import Metrics
from stream.settings.tree import TemplateSettings
from stream.templates.pool import Limits, PoolMeter, TemplatePool
from stream.templates.process import ProcessEngines

__all__ = ["Templates"]


class Templates(Service):
    """Starts and stops the engines.

    :ivar pool: evaluates and checks templates.
    """

    def __init__(self, reactor: Any, settings: TemplateSettings, metrics: Metrics) -> None:
        limits = Limits(
            processes=settings.processes,
            seconds=settings.processor_time.seconds,
            queue_records=settings.queue_records,
            queue_bytes=settings.queue_bytes,
        )
        engines = ProcessEngines(reactor, seconds=limits.seconds, memory=settings.memory)
        self.pool = TemplatePool(engines, limits, reactor, _Meter(metrics))
        metrics.on_collect(lambda: self._measure(metrics))

    def _measure(self, metrics: Metrics) -> None:
        metrics.own("stream_templates_waiting_records").labels({}).set(self.pool.waiting_records)
        metrics.own("stream_templates_processes").labels({}).set(self.pool.processes)

    async def stopService(self) -> None:
        """Stop the engines. The Deferred fires when all have ended."""
        super().stopService()
        await self.pool.stop()


class _Meter(PoolMeter):
    """Counts engine events for the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._evaluations = metrics.own("stream_templates_evaluations")
        self._seconds = metrics.own("stream_templates_seconds").labels({})
        self._ended = metrics.own("stream_templates_processes_ended")
        self._refused = metrics.own("stream_templates_refused_records")
        self._by_result = {
            result: self._evaluations.labels({"result": result})
            for result in ("ok", "error", "stopped")
        }

    def evaluated(self, seconds: float, result: str) -> None:
        self._by_result[result].add(1)
        self._seconds.add(seconds)

    def ended(self, cause: str) -> None:
        self._ended.labels({"cause": cause}).add(1)

    def refused(self, reason: str) -> None:
        self._refused.labels({"reason": reason}).add(1)
