"""Services that are started one after another and stopped in reverse order.

Twisted's own `MultiService` neither waits for a child's ``startService`` nor stops children in
order. Both matter here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.ops.tracing.spans import begin

__all__ = ["OrderedServices"]

_log = Logger()

SLOW_STOP_SECONDS = 15.0
"""Interval of log messages about the service that a stop is waiting for."""

START_SECONDS = 5.0
"""How long a stop waits for a service that is still starting.

Most services are ready by then and release their resources; others are abandoned.
"""


class OrderedServices(Service):
    """Starts services in order, each when the previous one is ready; stops them in reverse order.

    If a service can't start, the services already started are stopped, and the failure is passed
    on. A stop during startup waits for the service that is being started, and then stops it.

    :ivar is_ready: whether all services have started and none is being stopped.
    :ivar is_unclean: whether stopping a service has failed.
    :ivar on_failure: called with the failure of a start before the started services are stopped,
        which may take a while; also called with the argument of `fail`.
    """

    def __init__(self, services: Sequence[IService], reactor: Any) -> None:
        self._reactor = reactor
        self._services = list(services)
        self._started: list[IService] = []
        self._starting: Deferred[None] | None = None
        self._one_by_one = DeferredLock()
        self.is_ready = False
        self.is_unclean = False
        self.on_failure: list[Callable[[Failure], None]] = []

    @property
    def services(self) -> Sequence[IService]:
        """All services, in the order in which they start."""
        return tuple(self._services)

    def fail(self, failure: Failure) -> None:
        """Report that the services, once started, can't continue."""
        for tell in self.on_failure:
            tell(failure)

    def append(self, service: IService) -> None:
        """Add a service after the others; only allowed before the start."""
        self._services.append(service)

    async def startService(self) -> None:
        """Start the services, and wait until all are ready or a stop has interrupted the start."""
        super().startService()
        for service in self._services:
            failure = await self._start(service)
            if failure is not None:
                super().stopService()
                for tell in self.on_failure:
                    tell(failure)
            if not self.running:
                await self._stop_started()
                if failure is not None:
                    failure.raiseException()
                return
        self.is_ready = True

    async def _start(self, service: IService) -> Failure | None:
        starting = self._starting = Deferred()
        failure = None
        # Not the current span, because permanent work of a service isn't part of its start.
        span = begin(f"keboola.go.stream.dependencies.{type(service).__name__}")
        try:
            await maybeDeferred(service.startService)
        except Exception as error:
            failure = Failure()
            span.end(type(error).__name__)
        else:
            span.end()
            self._started.append(service)
        self._starting = None
        if not starting.called:
            starting.callback(None)
        return failure

    async def stopService(self) -> None:
        super().stopService()
        self.is_ready = False
        if self._starting is not None:
            self._starting.addTimeout(START_SECONDS, self._reactor)
            try:
                await self._starting
            except TimeoutError:
                _log.warn("stopped while a service was still starting")
        await self._stop_started()

    def _stop_started(self) -> Deferred[None]:
        """Stop the started services; return a Deferred that fires when all have stopped."""
        return self._one_by_one.run(self._stop_in_reverse)

    async def _stop_in_reverse(self) -> None:
        while self._started:
            await self._stop(self._started.pop())

    async def _stop(self, service: IService) -> None:
        name = type(service).__name__
        waiting = LoopingCall(_log.warn, "still waiting for {service} to stop", service=name)
        waiting.clock = self._reactor
        waiting.start(SLOW_STOP_SECONDS, now=False)
        try:
            await maybeDeferred(service.stopService)
        except UserError as error:
            self.is_unclean = True
            _log.error("{service} failed to stop: {reason}", service=name, reason=str(error))
        except Exception:
            self.is_unclean = True
            _log.failure("cannot stop {service}", service=name)
        finally:
            waiting.stop()
