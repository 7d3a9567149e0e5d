"""Services started one after another and stopped in reverse.

Twisted's own `MultiService` neither waits for a child's ``startService`` nor orders the stops; here
both matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application.service import IService, Service
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger

__all__ = ["ServiceChain"]

_log = Logger()


class ServiceChain(Service):
    """Starts its services in order, each when the one before is ready; stops them in reverse.

    If one can't start, those already started are stopped and the failure is passed on.
    """

    def __init__(self, services: Sequence[IService] = ()) -> None:
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

    async def stopService(self) -> None:
        super().stopService()
        while self._started:
            service = self._started.pop()
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                _log.failure("cannot stop {service}", service=type(service).__name__)
