"""Compiled threads for the appends of a volume; see ``native/src/disk.rs``.

A round in a Python thread waits for the GIL when it starts and after each system call; when it
ends, the reactor waits for the GIL. The compiled thread never takes the GIL, and wakes the reactor
through a descriptor.

The compiled thread handles no failures. It reports the first error of each file, and the appender
repeats the appends to that file in a Python thread, which raises this error instead of writing or
syncing again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from stream import native
from stream.ops.process.between import between_clients

__all__ = ["COUNT", "DiskThread", "FileAppends", "Outcome", "disk_threads"]

_log = Logger()

COUNT = 4
"""Number of compiled threads of a volume, so that many files can be synced at the same time."""

FileAppends = tuple[int, int, list[bytes], bool]
"""Appends to one file: its descriptor, the position of its end, the data, whether to sync it."""


@attrs.define
class Outcome:
    """The outcome of the appends to one file in a round.

    :ivar write_error: errno of the error that ended the writes; 0 for none.
    :ivar sync_error: errno of the error of the sync; 0 for none.
    :ivar links: number of hard links to the file; 0 if it was removed, -1 if unknown.
    :ivar seconds: duration of the sync.
    """

    write_error: int
    sync_error: int
    links: int
    seconds: float

    @property
    def is_success(self) -> bool:
        """Whether everything was written, and synced if that was required."""
        return not self.write_error and not self.sync_error and self.links > 0


@implementer(IReadDescriptor)
class DiskThread:
    """A compiled thread of one volume, which runs one round at a time."""

    def __init__(self, reactor: Any) -> None:
        """Start the thread.

        Raises OSError: the host can't start a thread or has no descriptor left.
        """
        self._reactor = reactor
        self._between = between_clients(reactor)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._thread: native.DiskThread | None = native.DiskThread(self._wake)
        except OSError:
            os.close(self._wake)
            raise
        self._ended: Callable[[list[Outcome]], None] | None = None
        self._left: Deferred[None] | None = None
        reactor.addReader(self)

    @property
    def is_idle(self) -> bool:
        """Whether a round may start."""
        return self._thread is not None and self._ended is None and self._left is None

    def start(self, files: Sequence[FileAppends], ended: Callable[[list[Outcome]], None]) -> None:
        """Append to *files*, then sync them; may be called only while the thread is idle.

        :param ended: called with the outcome of each file in the reactor thread.
        """
        assert self._thread is not None
        self._thread.start(list(files))
        self._ended = ended
        self._between.watch(self._check)

    async def leave(self, seconds: float) -> bool:
        """End the thread, after its current round; wait at most *seconds* for the round.

        Returns whether the thread has ended. If not, it ends after the round.
        """
        if self._ended is None:
            self._close()
            return True
        self._left = Deferred(lambda _: None)
        try:
            await self._left.addTimeout(seconds, self._reactor)
        except TimeoutError:
            return False
        return True

    def _close(self) -> None:
        if self._thread is not None:
            self._thread = None
            self._reactor.removeReader(self)
            os.close(self._wake)

    # For the reactor.

    def fileno(self) -> int:
        """Return the descriptor through which the thread wakes the reactor."""
        return self._wake

    def logPrefix(self) -> str:
        return "volume"

    def doRead(self) -> None:
        """Handle the outcome of a round, unless it was found earlier."""
        os.eventfd_read(self._wake)
        self._check()

    def _check(self) -> None:
        """Handle the outcome of the round if it has ended."""
        found = self._thread.take() if self._thread is not None else None
        if found is None:
            return
        self._between.unwatch(self._check)
        ended, self._ended = self._ended, None
        assert ended is not None  # a round was started
        try:
            ended([Outcome(*each) for each in found])
        except Exception:  # otherwise the reactor would no longer listen to the thread
            _log.failure("cannot process the result of a write round")
        if self._left is not None and self._ended is None:  # otherwise another round is running
            self._close()
            if not self._left.called:
                self._left.callback(None)

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the descriptor has no peer that could close it."""


def disk_threads(reactor: Any) -> list[DiskThread]:
    """Return the compiled threads of a volume; none if Python threads must be used instead.

    That is the case if the compiled code isn't built, if this system has no ``eventfd``, or if the
    host can't start a thread.
    """
    if not (native.is_built and hasattr(os, "eventfd") and IReactorFDSet.providedBy(reactor)):
        return []
    threads: list[DiskThread] = []
    try:
        while len(threads) < COUNT:
            threads.append(DiskThread(reactor))
    except OSError as error:
        _log.warn("cannot start a compiled disk thread: {error}", error=error)
    return threads
