"""The time limit of a shutdown, after which the blocking code is logged and the process ends.

Note [Two limits]: the reactor gives up first and logs the reason. The reactor itself may be
blocked, for example by a loop typed into the console, or a thread may prevent the interpreter from
exiting. The thread of `faulthandler` then ends the process a moment later, because it needs neither
the reactor nor the GIL. Both print the stack of each thread, and exit with 1.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Any

from twisted.logger import Logger

__all__ = ["ShutdownWatchdog"]

_log = Logger(namespace="stream.process")

_REACTOR_FIRST_SECONDS = 1.0
_STDERR = 2


class ShutdownWatchdog:
    """Ends a process whose shutdown takes too long.

    :param seconds: time limit of the shutdown, from the first signal on.
    """

    def __init__(self, seconds: float, reactor: Any) -> None:
        self._seconds = seconds
        self._reactor = reactor
        self._is_armed = False

    def arm(self) -> None:
        """Start the time limit; may be called by a signal handler, and repeatedly."""
        if not self._is_armed:
            self._is_armed = True
            faulthandler.dump_traceback_later(
                self._seconds + _REACTOR_FIRST_SECONDS, exit=True, file=_STDERR
            )

    def watch(self) -> None:
        """Watch the shutdown that the reactor has begun."""
        self.arm()
        self._reactor.callLater(self._seconds, self._give_up)

    def _give_up(self) -> None:
        _log.error("the shutdown has taken {seconds} s, exiting immediately", seconds=self._seconds)
        print(f"Error: Not stopped within {self._seconds:g} s.", file=sys.__stderr__, flush=True)
        faulthandler.dump_traceback(file=_STDERR)
        sys.stdout.flush()
        os._exit(1)
