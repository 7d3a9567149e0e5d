"""The lag of the reactor, the first metric to check when everything is slow."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from stream.ops.metrics.registry import Metrics

__all__ = ["ReactorLag"]

_INTERVAL_SECONDS = 0.5


class ReactorLag(Service):
    """Schedules calls periodically and measures their delay."""

    name = "reactor-lag"

    def __init__(self, reactor: IReactorTime, metrics: Metrics) -> None:
        self._reactor = reactor
        self._metrics = metrics
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._schedule()

    def stopService(self) -> None:
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _schedule(self) -> None:
        due = self._reactor.seconds() + _INTERVAL_SECONDS
        self._call = self._reactor.callLater(_INTERVAL_SECONDS, self._measure, due)

    def _measure(self, due: float) -> None:
        self._metrics.reactor_lag(max(0.0, self._reactor.seconds() - due) * 1000)
        self._schedule()
