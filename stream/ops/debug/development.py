"""Development mode: Python and Twisted report where a mistake was made.

It is Python's own mode (``python -X dev``, ``PYTHONDEVMODE=1``), which warns of unclosed resources
and prints the stacks of all threads after a crash. In addition, Twisted records where each Deferred
and delayed call was created, and calls that block the reactor are logged while they run.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.base import DelayedCall
from twisted.internet.defer import setDebugging
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

__all__ = ["BUSY_SECONDS", "BusyReactorWatch", "development_services"]

_log = Logger()

BUSY_SECONDS = 0.5
"""Minimum duration of a blockage of the reactor that is logged."""

_BEAT_SECONDS = 0.1


def development_services(reactor: Any) -> list[IService]:
    """Return the services of development mode; an empty list if it is off."""
    if not sys.flags.dev_mode:
        return []
    setDebugging(True)
    DelayedCall.debug = True
    _log.info("development mode: extra checks are enabled and slow the service down")
    return [BusyReactorWatch(reactor)]


class BusyReactorWatch(Service):
    """Logs the stack of the reactor's thread when it is blocked for `BUSY_SECONDS`.

    A thread watches the reactor. Each busy period is logged once.

    :param now: returns the time in seconds; both threads use this clock.
    :param has_thread: false for tests, which call `look` themselves.
    """

    name = "busy-reactor-watch"

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        now: Callable[[], float] = time.monotonic,
        has_thread: bool = True,
    ) -> None:
        self._now = now
        self._loop = LoopingCall(self._beat)
        self._loop.clock = reactor
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=self.name, daemon=True)
        self._has_thread = has_thread
        self._watched = 0
        self._last_beat = 0.0
        self._logged = -1.0

    def startService(self) -> None:
        super().startService()
        self._watched = threading.get_ident()
        self._loop.start(_BEAT_SECONDS).addErrback(
            lambda failure: _log.failure("reactor monitoring stopped", failure)
        )
        if self._has_thread:
            self._thread.start()

    def stopService(self) -> None:
        super().stopService()
        self._loop.stop()
        self._stopped.set()
        if self._has_thread:
            self._thread.join()

    def look(self) -> bool:
        """Log the reactor thread's stack once per busy period; return whether it was logged."""
        last = self._last_beat
        seconds = self._now() - last
        frame = sys._current_frames().get(self._watched)
        if seconds < BUSY_SECONDS or last == self._logged or frame is None:
            return False
        self._logged = last
        _log.warn(
            "the reactor has been busy for {seconds} s, in:\n{stack}",
            seconds=round(seconds, 1),
            stack=_printed(frame),
        )
        return True

    def _beat(self) -> None:
        self._last_beat = self._now()

    def _watch(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            self.look()


def _printed(frame: FrameType) -> str:
    """Return the stack, innermost frame first, because the end may be truncated."""
    return "".join(reversed(traceback.format_stack(frame)))
