"""Services started one after another and stopped in reverse.

Twisted's own `MultiService` neither waits for a child's ``startService`` nor orders the stops; here
both matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

__all__ = ["ServiceChain"]

_log = Logger()

SLOW_STOP_SECONDS = 15.0
"""How often the log says which service a stop still waits for."""


class ServiceChain(Service):
    """Starts its services in order, each when the one before is ready; stops them in reverse.

    If one can't start, those already started are stopped and the failure is passed on.
    """

    def __init__(self, services: Sequence[IService], reactor: Any) -> None:
        self._reactor = reactor
        self._services = list(services)
        self._started: list[IService] = []

    def append(self, service: IService) -> None:
        """Add a service behind the others; only before the start."""
        self._services.append(service)

    async def startService(self) -> None:
        super().startService()
        for service in self._services:
            try:
                await maybeDeferred(service.startService)
            except Exception:
                await self.stopService()
                raise
            self._started.append(service)
            if not self.running:  # stopped meanwhile
                await self.stopService()
                return

    async def stopService(self) -> None:
        super().stopService()
        while self._started:
            await self._stop(self._started.pop())

    async def _stop(self, service: IService) -> None:
        name = type(service).__name__
        waiting = LoopingCall(_log.warn, "still waiting for the stop of {service}", service=name)
        waiting.clock = self._reactor
        waiting.start(SLOW_STOP_SECONDS, now=False)
        try:
            await maybeDeferred(service.stopService)
        except Exception:
            _log.failure("cannot stop {service}", service=name)
        finally:
            waiting.stop()
