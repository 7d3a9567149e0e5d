"""Child processes that do the same work in parallel: started, watched, stopped.

A child reports over a pipe that it is ready, and ends when its standard input does: so it never
outlives the parent, however that ends. A child that ends unasked is started again after a while.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.child import Child
from stream.errors import UserError
from stream.values.backoff import Backoff

__all__ = ["READY_DESCRIPTOR", "ParentWatch", "Supervisor", "tell_ready"]

_log = Logger(namespace="supervisor")

READY_DESCRIPTOR = 3
"""Of the pipe in the child."""

_STDIN = 0
_FIRST_DELAY_SECONDS = 1.0
_MAX_DELAY_SECONDS = 30.0


def tell_ready() -> None:
    """In the child: everything is ready."""
    os.write(READY_DESCRIPTOR, b"ready")
    os.close(READY_DESCRIPTOR)


class ParentWatch(FileDescriptor):
    """In the child: notices that the parent is gone.

    :param gone: called when it is, once.
    """

    def __init__(self, reactor: Any, gone: Callable[[], None]) -> None:
        super().__init__(reactor)
        self._gone = gone

    def fileno(self) -> int:
        """The descriptor that is watched: standard input."""
        return _STDIN

    def doRead(self) -> None:
        try:
            data = os.read(_STDIN, 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.stopReading()
            self._gone()

    def connectionLost(self, reason: Failure) -> None:
        self.stopReading()
        self._gone()


class Supervisor(Service):
    """The parent process of the workers: it starts, watches and stops them.

    :param commands: what to run, one child for each: its name and its command line.
    :param environment: of every child.
    :param stop_timeout: seconds that children have to drain; after that they are killed.
    """

    def __init__(
        self,
        reactor: Any,
        commands: Mapping[str, Sequence[str]],
        environment: Mapping[str, str],
        stop_timeout: float,
    ) -> None:
        self._stop_timeout = stop_timeout
        self._reactor = reactor
        self._early: Any = None
        self._children = [
            _Child(reactor, name, command, environment) for name, command in commands.items()
        ]

    async def startService(self) -> None:
        """Fires when every child is ready; fails with UserError if one ends before that."""
        super().startService()
        # Whoever stops the process now doesn't know this service yet.
        self._early = self._reactor.addSystemEventTrigger("before", "shutdown", self._stop_early)
        try:
            ready = [child.start() for child in self._children]
            for success, result in await DeferredList(ready, consumeErrors=True):
                if not success:
                    with suppress(UserError):  # why it didn't start says more
                        await self.stopService()
                    cast(Any, result).raiseException()
        finally:
            early, self._early = self._early, None
            if early is not None:
                self._reactor.removeSystemEventTrigger(early)

    def _stop_early(self) -> Deferred[None]:
        self._early = None  # what has been called can't be removed
        return Deferred.fromCoroutine(self.stopService())

    async def stopService(self) -> None:
        """Make every child drain; fires when all have ended.

        Fails with UserError if one had to be killed.
        """
        super().stopService()
        kill = self._reactor.callLater(self._stop_timeout, self._kill)
        await DeferredList([child.drain() for child in self._children])
        if not kill.active():
            raise UserError(f"children were killed after {self._stop_timeout:g} s")
        kill.cancel()

    def _kill(self) -> None:
        for child in self._children:
            child.kill()

    def hangup(self) -> None:
        """Pass SIGHUP on; a child that isn't ready yet doesn't know it, and opens what is new."""
        for child in self._children:
            child.hangup()


class _Child(Child):
    """One child, through all its lives."""

    def __init__(
        self, reactor: Any, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._name = name
        self._command = command
        self._environment = environment
        self._ready: Deferred[None] | None = None
        self._stopping = False
        self._is_ready = False
        self._backoff = Backoff(_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS)
        self._again: IDelayedCall | None = None

    def start(self) -> Deferred[None]:
        """Fires when the child is ready for the first time."""
        self._stopping = False
        ready = self._ready = Deferred()
        self._spawn()
        return ready

    def _spawn(self) -> None:
        self._again = None
        try:
            self._reactor.spawnProcess(
                self,
                self._command[0],
                self._command,
                env=dict(self._environment),
                childFDs={_STDIN: "w", 1: 1, 2: 2, READY_DESCRIPTOR: "r"},
            )
        except OSError as error:  # no room for a further process, for one
            self._lost(str(error))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == READY_DESCRIPTOR:
            self._is_ready = True
            self._backoff.reset()
            _log.info("{name} is ready", name=self._name)
            self._tell_ready(None)

    def _tell_ready(self, result: UserError | None) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            if result is None:
                ready.callback(None)
            else:
                ready.errback(result)

    def end(self, reason: Failure) -> None:
        self._is_ready = False
        self._lost(reason.getErrorMessage())

    def _lost(self, how: str) -> None:
        """The child is not there: start it again, if it has been ready before."""
        if self._stopping:
            self._tell_ready(UserError(f"{self._name} was stopped"))
        elif self._ready is not None:
            self._stopping = True
            self._tell_ready(UserError(f"{self._name} did not start: {how}"))
        else:
            delay = self._backoff.next()
            _log.error(
                "{name} exited, restarting it in {delay} s: {how}",
                name=self._name,
                delay=delay,
                how=how,
            )
            self._again = self._reactor.callLater(delay, self._spawn)

    def drain(self) -> Deferred[None]:
        """Send SIGTERM; fires when the child has ended."""
        self._stopping = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self.signal("TERM")
        return self.ended()

    def kill(self) -> None:
        """Nothing else has helped."""
        if self.is_running:
            _log.error("{name} did not drain in time, killing it", name=self._name)
            self.signal("KILL")

    def hangup(self) -> None:
        if self._is_ready:
            self.signal("HUP")
