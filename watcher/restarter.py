"""The watched command: a child process that is started, interrupted and started again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

__all__ = ["Restarter"]

_SHIM = """\
import ctypes, os, signal, sys
os.setsid()
ctypes.CDLL(None).prctl(1, signal.SIGINT, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""A session of its own keeps a Ctrl-C in the terminal from coming twice, from there and from us; if
we are killed, the kernel interrupts the command."""


class _Child(ProcessProtocol):
    def __init__(self, ended: Callable[[Failure], None]) -> None:
        self._ended = ended

    def processEnded(self, reason: Failure) -> None:
        self._ended(reason)


class Restarter(Service):
    """Keeps *command* running, from the last `restart` on.

    :param say: told in a line what happens.
    :param kill_after: seconds between the interruption and SIGKILL.
    """

    def __init__(
        self, reactor: Any, command: Sequence[str], say: Callable[[str], None], kill_after: float
    ) -> None:
        self._reactor = reactor
        self._command = command
        self._say = say
        self._kill_after = kill_after
        self._child: Any = None
        self._kill: IDelayedCall | None = None
        self._is_wanted = False
        self._stopped: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._start()

    def restart(self, reason: str) -> None:
        """Interrupt the command if it runs; start it when it has ended."""
        self._say(f"{reason}: starting anew")
        self._is_wanted = True
        if self._child is None:
            self._start()
        else:
            self._interrupt()

    def stopService(self) -> Deferred[None]:
        """Fires when the command has ended."""
        super().stopService()
        self._is_wanted = False
        return ensureDeferred(self._end())

    async def _end(self) -> None:
        if self._child is not None:
            self._stopped = Deferred()
            self._interrupt()
            await self._stopped

    def _start(self) -> None:
        self._is_wanted = False
        shim = [sys.executable, "-c", _SHIM, str(os.getpid()), *self._command]
        # Not what the watcher has open, but its own input and output.
        self._child = self._reactor.spawnProcess(
            _Child(self._ended), sys.executable, shim, None, childFDs={0: 0, 1: 1, 2: 2}
        )

    def _interrupt(self) -> None:
        if self._kill is None:
            self._kill = self._reactor.callLater(self._kill_after, self._signal, "KILL")
            self._signal("INT")

    def _signal(self, name: str) -> None:
        try:
            self._child.signalProcess(name)
        except ProcessExitedAlready:
            return  # and `_ended` comes

    def _ended(self, reason: Failure) -> None:
        self._child = None
        if self._kill is not None:
            if self._kill.active():
                self._kill.cancel()
            else:
                self._say(f"killed: it did not end within {self._kill_after:g} s")
            self._kill = None
        if self._stopped is not None:
            self._stopped.callback(None)
        elif self._is_wanted:
            self._start()
        else:
            self._say("it has ended by itself; the next change starts it anew")
