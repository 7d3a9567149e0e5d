"""Thread pools that don't block the end of the process: a disk or a remote end may hang forever."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

__all__ = ["AbandonableThreadPool", "ThreadPoolService", "in_own_thread"]

_log = Logger()

LEAVE_SECONDS = 5.0
"""How long a stop waits for threads with abandoned work."""

T = TypeVar("T")


class _Thread(Thread):
    """A thread for which the interpreter doesn't wait at its end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, daemon=True)


class AbandonableThreadPool(ThreadPool):
    """A pool that can be abandoned with a job that never ends."""

    threadFactory = _Thread

    async def leave(self, reactor: Any, seconds: float) -> bool:
        """Stop the pool; fires when the last job has ended, or after *seconds*.

        The result is whether it has ended.
        """
        try:
            await self._ended(reactor).addTimeout(seconds, reactor)
        except TimeoutError:
            return False
        return True

    def _ended(self, reactor: Any) -> Deferred[None]:
        left: Deferred[None] = Deferred(lambda _: None)

        def ended() -> None:
            if not left.called:
                left.callback(None)

        def stop() -> None:
            self.stop()
            reactor.callFromThread(ended)

        _Thread(target=stop, name=f"{self.name} stops").start()
        return left


class ThreadPoolService(Service):
    """A bounded thread pool that lives as long as the node.

    At the stop, a thread that waits for a remote end (such as a cancelled upload) is abandoned: it
    ends with the process.
    """

    def __init__(self, reactor: Any, name: str, threads: int) -> None:
        self._reactor = reactor
        self.pool = AbandonableThreadPool(0, threads, name=name)

    def startService(self) -> None:
        super().startService()
        self.pool.start()

    async def stopService(self) -> None:
        """Stop the pool; fires when no thread is running, or after a time limit."""
        super().stopService()
        if not await self.pool.leave(self._reactor, LEAVE_SECONDS):
            _log.warn("abandoned threads that do not end", pool=self.pool.name)


def in_own_thread(reactor: Any, work: Callable[..., T], *args: Any) -> Deferred[T]:
    """Run *work*, which takes long and may be abandoned at any time, in a thread of its own."""
    result: Deferred[T] = Deferred()

    def run() -> None:
        try:
            value = work(*args)
        except BaseException:
            reactor.callFromThread(result.errback, Failure())
        else:
            reactor.callFromThread(result.callback, value)

    _Thread(target=run, name=work.__name__).start()
    return result
