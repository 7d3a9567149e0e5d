"""Twisted's epoll reactor on the monotonic clock, with a shorter way to the connection of an event.

Twisted's own count seconds since the epoch, so a step of the machine's clock ends every timeout and
lease at once, or holds all of them up (`stream.ops.clock`).

Twisted enters a log context around every event, for the sake of log entries that name the protocol
they come from. Nothing here logs that way, and at tens of thousands of small requests a second the
context is a tenth of the whole work. All else is Twisted's own.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from stream.ops.clock import keep_monotonic

__all__ = ["install"]


def install() -> bool:
    """Install the reactor, unless one is installed already or the platform has no epoll.

    Whichever is there runs on the monotonic clock afterwards.

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

    class DirectEPollReactor(EPollReactor):
        """See the module."""

        seconds = staticmethod(time.monotonic)
        wallSeconds = staticmethod(time.time)

        def doPoll(self, timeout: float | None) -> None:
            """Wait for events and serve them.

            :param timeout: seconds; ``None`` waits for ever.
            """
            selectables: dict[int, Any] = self._selectables
            try:
                events = self._poller.poll(-1 if timeout is None else timeout, len(selectables))
            except InterruptedError:
                return
            serve = self._doReadOrWrite  # catches and logs whatever goes wrong
            for descriptor, event in events:
                selectable = selectables.get(descriptor)
                if selectable is not None:
                    serve(selectable, descriptor, event)

        doIteration = doPoll

    installReactor(DirectEPollReactor())
    return True


def _install_kqueue() -> None:
    """Twisted's choice for macOS, select, can't have more than 1,024 files."""
    try:
        from twisted.internet import kqreactor
    except ImportError:
        return
    kqreactor.install()
