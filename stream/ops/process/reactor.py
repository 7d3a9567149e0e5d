"""Twisted's epoll reactor on the monotonic clock, with bounded turns and less overhead per event.

Twisted's own reactors count seconds since the epoch. With them, a step of the system clock would
immediately end every timeout and lease, or delay all of them (`stream.ops.clock`).

Twisted enters a log context around every event, so that log messages name their protocol. This
service doesn't use that context, which would be a tenth of the work at tens of thousands of small
requests a second.

Twisted serves all ready connections in each turn. Here the connections of clients share a turn
(`stream.ops.process.fair_turns`), and short calls are made between them
(`stream.ops.process.between`). Outgoing connections share another part of the turn in the same way,
because the answers to them are often for clients. Everything else is served immediately: finished
threads and child processes. All other code is Twisted's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from stream.ops.clock import keep_monotonic
from stream.ops.process.between import BetweenClients
from stream.ops.process.fair_turns import OUTGOING_SECONDS, FairTurns, Ready
from stream.ops.process.thread_pool import AbandonableThreadPool

__all__ = ["install"]

EventServer = Callable[[list[tuple[int, int]], float, BetweenClients], list[tuple[int, int]]]
"""A function that serves the events of its own connections, and returns all other events.

Its arguments are pairs of a descriptor and its events, the reactor's time, and the calls to make
between its clients. In each turn, the functions in the reactor's attribute `event_servers` are
called first.
"""

THREADS = 10
"""Maximum number of threads that resolve host names and read files at startup."""

MAX_ACCEPTED = 20
"""Maximum number of connections accepted in a row.

Each takes a tenth of a millisecond, and Twisted would accept more and more at once while they
arrive.
"""


def install() -> bool:
    """Install the reactor, unless another one is already installed or the platform has no epoll.

    The installed reactor uses the monotonic clock in any case.

    :returns: whether it was installed.
    """
    if "twisted.internet.reactor" in sys.modules:
        keep_monotonic(sys.modules["twisted.internet.reactor"])
        return False
    try:
        from twisted.internet.epollreactor import EPollReactor
    except ImportError:
        _install_kqueue()
        from twisted.internet import reactor

        keep_monotonic(reactor)
        return False
    from twisted.internet.main import installReactor
    from twisted.internet.tcp import Client, Port, Server

    clients = Port, Server

    class DirectEPollReactor(EPollReactor):
        """The reactor of this module."""

        seconds = staticmethod(time.monotonic)
        wallSeconds = staticmethod(time.time)

        def __init__(self) -> None:
            self.between = between = BetweenClients()
            self._turns = FairTurns(time.monotonic, between.run_calls, between.run_checks)
            self._outgoing = FairTurns(
                time.monotonic,
                between.run_calls,
                between.run_checks,
                light_seconds=OUTGOING_SECONDS,
                busy_seconds=OUTGOING_SECONDS,
            )
            self.event_servers: list[EventServer] = []
            super().__init__()

        def _initThreadPool(self) -> None:
            """Make the pool; Twisted's own runs no more jobs once a thread couldn't be started."""
            self.threadpool = AbandonableThreadPool(0, THREADS, name="reactor")
            self._threadpoolStartupID = self.callWhenRunning(self.threadpool.start)
            self.threadpoolShutdownID = self.addSystemEventTrigger(
                "during", "shutdown", self._stopThreadPool
            )

        def doPoll(self, timeout: float | None) -> None:
            """Wait for events and serve them.

            :param timeout: seconds; ``None`` waits forever.
            """
            selectables: dict[int, Any] = self._selectables
            between = self.between
            if timeout is None:
                timeout = -1
            if between.has_calls:
                between.run_calls()
                timeout = 0  # the given one ignores the timers that were set by these calls
            try:
                events = self._poller.poll(timeout, len(selectables))
            except InterruptedError:
                return
            for serve_events in self.event_servers:
                events = serve_events(events, time.monotonic(), between)
            serve = self._doReadOrWrite  # catches and logs all errors
            ready: list[Ready] = []
            outgoing: list[Ready] = []
            for descriptor, event in events:
                selectable = selectables.get(descriptor)
                if isinstance(selectable, clients):
                    ready.append((selectable, descriptor, event))
                elif isinstance(selectable, Client):
                    outgoing.append((selectable, descriptor, event))
                elif selectable is not None:
                    serve(selectable, descriptor, event)
            between.run_calls()
            if outgoing:
                self._outgoing.serve(outgoing, self._serve)
            if ready:
                self._turns.serve(ready, self._serve)
                between.run_calls()

        def _serve(self, ready: Ready) -> None:
            selectable, descriptor, event = ready
            if self._selectables.get(descriptor) is not selectable:
                return  # closed by an earlier event
            if isinstance(selectable, Port):
                selectable.numberAccepts = min(selectable.numberAccepts, MAX_ACCEPTED)
            self._doReadOrWrite(selectable, descriptor, event)

        doIteration = doPoll

    installReactor(DirectEPollReactor())
    return True


def _install_kqueue() -> None:
    """Install kqueue, because select, Twisted's choice for macOS, is limited to 1,024 files."""
    try:
        from twisted.internet import kqreactor
    except ImportError:
        return
    kqreactor.install()
