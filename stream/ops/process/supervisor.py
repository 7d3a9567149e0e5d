"""The parent of child processes that do the same work in parallel.

A child reports over a pipe that it is ready. It ends when its standard input does, so it never
outlives the parent. A child that ends unexpectedly is restarted after a delay.
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
"""File descriptor of the pipe in the child."""

_STDIN = 0
_FIRST_DELAY_SECONDS = 1.0
_MAX_DELAY_SECONDS = 30.0


def tell_ready() -> None:
    """Report to the parent that this child is ready."""
    os.write(READY_DESCRIPTOR, b"ready")
    os.close(READY_DESCRIPTOR)


class ParentWatch(FileDescriptor):
    """Detects in a child that the parent has ended.

    :param gone: called once when the parent has ended.
    """

    def __init__(self, reactor: Any, gone: Callable[[], None]) -> None:
        super().__init__(reactor)
        self._gone = gone

    def fileno(self) -> int:
        """Return the watched descriptor: standard input."""
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
    """The parent of the worker processes: starts, watches and stops them.

    :param commands: name and command line of each child.
    :param environment: environment of every child.
    :param stop_timeout: seconds in which children may drain; after that they are killed.
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
        """Start the children, and wait until every child is ready.

        Fails with UserError if a child ends before that.
        """
        super().startService()
        # A stop during startup doesn't know this service yet.
        self._early = self._reactor.addSystemEventTrigger("before", "shutdown", self._stop_early)
        try:
            ready = [child.start() for child in self._children]
            for success, result in await DeferredList(ready, consumeErrors=True):
                if not success:
                    with suppress(UserError):  # the reason why the start failed is more informative
                        await self.stopService()
                    cast(Any, result).raiseException()
        finally:
            early, self._early = self._early, None
            if early is not None:
                self._reactor.removeSystemEventTrigger(early)

    def _stop_early(self) -> Deferred[None]:
        self._early = None  # a call in progress can't be removed
        return Deferred.fromCoroutine(self.stopService())

    async def stopService(self) -> None:
        """Drain the children, and wait until all have ended.

        Fails with UserError if a child had to be killed.
        """
        super().stopService()
        kill = self._reactor.callLater(self._stop_timeout, self._kill)
        await DeferredList([child.drain() for child in self._children])
        if not kill.active():
            raise UserError(f"child processes were killed after {self._stop_timeout:g} s")
        kill.cancel()

    def _kill(self) -> None:
        for child in self._children:
            child.kill()

    def hangup(self) -> None:
        """Pass SIGHUP on to children that are ready; the others will open the new files anyway."""
        for child in self._children:
            child.hangup()


class _Child(Child):
    """One child process, including its restarts."""

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
        """Start the child; return a Deferred that fires when it is ready for the first time."""
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
        except OSError as error:  # for example, the limit of processes is reached
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
        """Restart the child, which has ended, if it had become ready."""
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
        """Send SIGTERM; return a Deferred that fires when the child has ended."""
        self._stopping = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self.signal("TERM")
        return self.ended()

    def kill(self) -> None:
        """Kill the child as the last resort."""
        if self.is_running:
            _log.error("{name} did not drain in time, killing it", name=self._name)
            self.signal("KILL")

    def hangup(self) -> None:
        if self._is_ready:
            self.signal("HUP")
