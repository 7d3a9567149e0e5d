"""The process: its signals, its start and stop, and an exit code that reports failures."""

from __future__ import annotations

import atexit
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from stream.errors import UserError, format_nested, sentence
from stream.etcd import EtcdUnavailable
from stream.ops.logging.unhandled import log_unhandled
from stream.ops.process.allocator import give_memory_back
from stream.ops.process.gc_tuning import GcTuning
from stream.ops.process.ordered_services import OrderedServices
from stream.ops.process.shutdown_watchdog import ShutdownWatchdog
from stream.values.redaction import hide_secrets

__all__ = ["Process", "raise_file_limit"]

_log = Logger()

_REASONS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupt"}
ENOUGH_FILES = 10_000
SWITCH_SECONDS = 0.0005
"""Switch interval of the GIL.

While another thread computes, the reactor waits for the GIL after each system call, dozens of times
per iteration.
"""
_MACOS_FILES = 10_240


class Process(Service):
    """The root service of the plugin.

    :param build: called when the reactor runs; returns the services to run.
    :param stop_seconds: time limit for stopping; after it, the process ends with exit code 1.
    :param ready: called when all services are ready.
    :param hangup: called on SIGHUP.
    :param observer: log observer that replaces the runner's.
    """

    def __init__(
        self,
        build: Callable[[], IService],
        *,
        reactor: Any,
        stop_seconds: float,
        ready: Callable[[], None] = lambda: None,
        hangup: Callable[[], None] = lambda: None,
        observer: Any = None,
    ) -> None:
        self._hangup = hangup
        self._observer = observer
        self._limit = ShutdownWatchdog(stop_seconds, reactor)
        self._garbage = GcTuning(reactor)
        self._build = build
        self._reactor = reactor
        self._ready = ready
        self._main: IService | None = None
        self._starting: Deferred[None] | None = None
        self._exiting = False

    def setServiceParent(self, parent: Any) -> None:
        """Make the runner log with our observer, starting with its first line."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        super().startService()
        log_unhandled()
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        for number in _REASONS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)
        atexit.register(_ignore_signals)
        self._starting = ensureDeferred(self._run())
        self._starting.addErrback(self._failed)

    async def _run(self) -> None:
        raise_file_limit()
        give_memory_back()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._main = self._build()
        if isinstance(self._main, OrderedServices):
            self._main.on_failure.append(self._failed)
        await maybeDeferred(self._main.startService)
        if not self._exiting:
            self._garbage.start()
            _log.info("ready to serve", log_terminal="ready to serve")
            self._ready()

    def _failed(self, failure: Failure) -> None:
        if self._exiting:
            return
        if failure.check(CannotListenError):
            self.fail(_taken(failure.value))
            return
        if failure.check(UserError, EtcdUnavailable) is None:
            _log.failure("cannot start", failure)
        self.fail(failure.getErrorMessage())

    def fail(self, reason: str) -> None:
        """Stop because of a failure, with a non-zero exit code."""
        # The runner has replaced ``sys.stderr``.
        shown = format_nested("Error", [sentence(hide_secrets(reason))])
        print(shown, file=sys.__stderr__, flush=True)
        atexit.register(_exit_with_failure)
        self.exit(reason, is_failure=True)

    def exit(self, reason: str, *, is_failure: bool = False) -> None:
        """Stop the process; only the first reason counts."""
        if self._exiting:
            return
        self._exiting = True
        template = "exiting ({reason})"
        if is_failure:
            _log.error(template, reason=reason)
        else:
            _log.info(template, reason=reason, log_terminal=template)
        self._limit.watch()
        self._reactor.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._exiting:
            return
        reason = _REASONS[signal.Signals(number)]
        self._limit.arm()  # a blocked reactor may never process the call below
        self._reactor.callFromThread(self.exit, reason)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._hangup)

    async def stopService(self) -> None:
        """Stop the services, and wait until they have stopped."""
        super().stopService()
        self._garbage.stop()
        if self._main is not None:
            await maybeDeferred(self._main.stopService)
            if isinstance(self._main, OrderedServices) and self._main.is_unclean:
                atexit.register(_exit_with_failure)
        _log.info("exited", log_terminal="exited")


def _taken(error: Any) -> str:
    host = f"[{error.interface}]" if ":" in error.interface else error.interface
    reason = getattr(error.socketError, "strerror", None) or error.socketError
    is_taken = getattr(error.socketError, "errno", None) == errno.EADDRINUSE
    advice = "; --port-offset=100 uses other default ports" if is_taken else ""
    return f'cannot listen on "{host}:{error.port}": {reason}{advice}'


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit, and log the new limit.

    Each connection is an open file, and the usual soft limit is meant for interactive shells.
    """
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MACOS_FILES):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue  # on macOS, the hard limit may be unlimited, but the soft limit can't be.
        limit = wanted
        break
    if 0 <= limit < ENOUGH_FILES:
        _log.warn("the limit of open files is too low: {limit}", limit=limit)
    else:
        _log.info("the limit of open files is {limit}", limit="unlimited" if limit < 0 else limit)


def _ignore_signals() -> None:
    """Ignore signals.

    Python removes its signal handlers at exit, and a late signal would then set the exit code.
    """
    for number in (*_REASONS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _exit_with_failure() -> None:
    """Exit with a failure code, because Twisted's runner always ends with 0."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
