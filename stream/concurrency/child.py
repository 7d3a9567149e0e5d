"""Child processes: sending signals, and waiting until a process has ended."""

from __future__ import annotations

import fcntl
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ProcessExitedAlready
from twisted.internet.interfaces import IPullProducer
from twisted.internet.process import ProcessReader, ProcessWriter
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from stream.concurrency.waiters import Waiters

__all__ = ["PIPE_BYTES", "Child", "PipeWriter", "ServerChild", "tied_command", "widen"]

PIPE_BYTES = 1024 * 1024
"""Size of a widened pipe, if the system permits it, and maximum size of a read."""

_FIRST_READ_BYTES = 64 * 1024
"""Buffer size of a read if the previous read didn't fill its buffer."""

_MAX_LINE_BYTES = 16 * 1024
"""Maximum number of bytes of an incomplete line that are kept."""

_SHIM = """\
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
parent, sign, owner = int(sys.argv[1]), getattr(signal, sys.argv[2]), sys.argv[3]
os.setsid()
if owner:
    uid, gid = map(int, owner.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sign, 0, 0, 0)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[4], sys.argv[4:])
"""


def tied_command(
    arguments: Sequence[str], *, sign: str = "TERM", owner: tuple[int, int] | None = None
) -> list[str]:
    """Return a command line that runs *arguments* and ties the child's lifetime to this process.

    On Linux, the kernel sends *sign* to the child when this process ends, even if it is killed. On
    other systems, the child of a killed process has to be stopped manually. The child runs in its
    own session, so that Ctrl-C in the terminal doesn't stop it before the components that use it.

    :param arguments: an absolute path, followed by the arguments.
    :param sign: the signal that stops the child.
    :param owner: ids of the user and the group that the child runs as; only root can set them.
    """
    shown_owner = "" if owner is None else f"{owner[0]}:{owner[1]}"
    shim = [sys.executable, "-c", _SHIM, str(os.getpid()), f"SIG{sign}", shown_owner]
    return [*shim, *arguments]


def widen(pipe: Any) -> None:
    """Increase the amount of data that a child's pipe carries in one iteration of the reactor.

    By default it is 64 KB to the child and 8 KB from it. A record of a megabyte would take more
    than a hundred iterations, each of several milliseconds when others send a lot of data.

    :param pipe: pipe in the attribute ``pipes`` of the transport of a child's protocol.
    """
    # The user's limit for pipes may be reached, or the system may lack the call.
    with suppress(OSError, AttributeError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    if isinstance(pipe, ProcessReader):
        cast(Any, pipe).doRead = _WideReading(pipe)


class _WideReading:
    """Replaces the read method of a pipe."""

    __slots__ = ("_pipe", "_size")

    def __init__(self, pipe: ProcessReader) -> None:
        self._pipe = pipe
        self._size = _FIRST_READ_BYTES

    def __call__(self) -> Exception | None:
        try:
            data = os.read(self._pipe.fileno(), self._size)
        except BlockingIOError:
            return None
        except OSError:
            return ConnectionLost()
        if not data:
            return ConnectionDone()
        self._size = PIPE_BYTES if len(data) == self._size else _FIRST_READ_BYTES
        self._pipe.dataReceived(data)
        return None


@implementer(IPullProducer)
class PipeWriter:
    """Writes to a child's pipe in pieces.

    A pipe of Twisted copies everything that waits to be written, each time that data is added. For
    tens of megabytes this would take tens of milliseconds. Here a pipe gets the next piece when it
    has written the previous one.

    :param pipe: the pipe; nothing else may write to it.
    """

    def __init__(self, pipe: ProcessWriter) -> None:
        self._pipe = pipe
        self._parts: deque[bytes] = deque()
        self._done = 0
        """Number of bytes of the first part that the pipe has."""
        self._is_writing = False

    @property
    def is_writing(self) -> bool:
        """Whether data waits until the pipe has room."""
        return self._is_writing

    def write(self, parts: Sequence[bytes]) -> None:
        """Write *parts* one after another, after everything that was written before."""
        self._parts.extend(filter(None, parts))
        if not self._is_writing:
            self._is_writing = True
            self._pipe.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Give the next piece to the pipe, which has written the previous one."""
        piece: list[bytes] = []
        left = PIPE_BYTES
        while self._parts and left:
            part = self._parts[0]
            taken = part[self._done : self._done + left]
            left -= len(taken)
            self._done += len(taken)
            piece.append(taken)
            if self._done == len(part):
                self._parts.popleft()
                self._done = 0
        if piece:
            self._pipe.write(b"".join(piece))
        else:
            self._is_writing = False
            self._pipe.unregisterProducer()

    def stopProducing(self) -> None:
        """Drop what isn't written: the child doesn't read any more."""
        self._parts.clear()
        self._done = 0
        self._is_writing = False


class Child(ProcessProtocol):
    """The protocol of a child process; base class of the protocols that read its output.

    It can be spawned again after the process has ended.
    """

    def __init__(self) -> None:
        self._is_running = False
        self._ended = Waiters[None]()

    @property
    def is_running(self) -> bool:
        """Return whether the process was started and has not ended yet."""
        return self._is_running

    def connectionMade(self) -> None:
        self._is_running = True

    def processEnded(self, reason: Failure) -> None:
        self._is_running = False
        self.end(reason)
        self._ended.fire(None)

    def end(self, reason: Failure) -> None:
        """Handle the end of the process; called before the waiters of `ended` are fired.

        :param reason: holds ``ProcessDone`` or ``ProcessTerminated``.
        """

    def signal(self, name: str) -> None:
        """Send a signal such as ``TERM``; do nothing if the process has ended."""
        if self._is_running:
            with suppress(ProcessExitedAlready):  # `processEnded` is called soon.
                cast(Any, self.transport).signalProcess(name)

    def ended(self) -> Deferred[None]:
        """Return a Deferred that fires when the process has ended, or when none is running."""
        return self._ended.wait() if self._is_running else succeed(None)

    async def stop(self, reactor: Any, kill_after: float, *, sign: str = "TERM") -> bool:
        """Send *sign*, and SIGKILL after *kill_after* seconds; wait until the process has ended.

        :returns: whether the process ended without SIGKILL.
        """
        self.signal(sign)
        try:
            await self.ended().addTimeout(kill_after, reactor)
        except TimeoutError:
            self.signal("KILL")
            await self.ended()
            return False
        return True


class ServerChild(Child):
    """A child that runs until it is stopped and writes log lines to its standard error.

    :param said: called with each line that the child writes.
    :param on_end: called with the reason when the process has ended.
    """

    def __init__(self, said: Callable[[str], None], on_end: Callable[[Failure], None]) -> None:
        super().__init__()
        self._said = said
        self._on_end = on_end
        self._rest = b""

    def errReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_MAX_LINE_BYTES:]
        for line in lines:
            self._said(line.decode(errors="replace"))

    def end(self, reason: Failure) -> None:
        self._on_end(reason)
