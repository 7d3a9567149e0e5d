"""Thread pools that don't block the end of the process: a disk or a remote end may hang forever.

Note [Cheap hop]: each group of records takes a hop to a thread and back. Twisted's pool passes a
job through a team, a coordinator, a queue with three conditions and a copy of the log context: more
processor time than the compression of the group. Here a job goes straight to the thread that has
been idle for the shortest time, whose memory is still in the caches, and wakes it by one lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
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


_Job = Callable[[], None]


class _Idle:
    """A thread of a pool while it has no job.

    :ivar job: that it was given; ``None`` lets it end.
    :ivar woken: released when there is one, or when it is to end.
    """

    __slots__ = ("job", "woken")

    def __init__(self) -> None:
        self.job: _Job | None = None
        self.woken = Lock()
        self.woken.acquire()


class AbandonableThreadPool(ThreadPool):
    """A pool that can be abandoned with a job that never ends; see Note [Cheap hop].

    It has the interface of Twisted's pool, and threads of its own. Jobs may be given from any
    thread.

    :ivar threads: those that haven't ended.
    """

    def __init__(self, minthreads: int = 0, maxthreads: int = 20, name: str | None = None) -> None:
        """:param minthreads: threads are only started for jobs, so it doesn't matter."""
        self.min, self.max, self.name = minthreads, maxthreads, name
        self.threads: list[Thread] = []
        self.joined = False
        self.started = False
        self._lock = Lock()
        self._idle: list[_Idle] = []
        self._waiting: deque[_Job] = deque()
        self._count = 0

    @property
    def backlog(self) -> int:
        """The number of jobs that wait for a thread."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin with the jobs that were given before."""
        with self._lock:
            self.started, self.joined = True, False
            for _ in range(min(self.max - self._count, len(self._waiting))):
                self._start_thread(self._waiting.popleft())

    def stop(self) -> None:
        """Take no more jobs, and wait until those given before have ended."""
        with self._lock:
            self.started, self.joined = False, True
            idle, self._idle = self._idle, []
            threads = list(self.threads)
        for each in idle:
            each.woken.release()
        for thread in threads:
            thread.join()

    def callInThread(self, func: Callable[..., object], *args: Any, **kw: Any) -> None:
        """Run *func*; a failure is logged."""
        self.callInThreadWithCallback(None, func, *args, **kw)

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object] | None,
        func: Callable[..., Any],
        *args: Any,
        **kw: Any,
    ) -> None:
        """Run *func*, and call *onResult* in the same thread.

        It is called with whether that was a success, and the result or the `Failure`.
        """

        def job() -> None:
            try:
                success, result = True, func(*args, **kw)
            except BaseException:
                success, result = False, Failure()
            if onResult is not None:
                onResult(success, result)
            elif not success:
                _log.failure("a job failed in a thread of {pool}", result, pool=self.name)

        with self._lock:
            if self.joined:
                return
            if self._idle:
                idle = self._idle.pop()
                idle.job = job
                idle.woken.release()
            elif self.started and self._count < self.max:
                self._start_thread(job)
            else:
                self._waiting.append(job)

    def _start_thread(self, job: _Job) -> None:
        self._count += 1
        thread = _Thread(target=self._work, args=(job,), name=f"{self.name}-{self._count}")
        self.threads.append(thread)
        thread.start()

    def _work(self, job: _Job | None) -> None:
        """Do *job*, then those that wait, then those that come."""
        idle = _Idle()
        while job is not None:
            try:
                job()
            except Exception:
                _log.failure("the result of a job can't be handed on", pool=self.name)
            job = None  # what it holds isn't kept while the thread is idle
            with self._lock:
                if self._waiting:
                    job = self._waiting.popleft()
                    continue
                if self.joined:
                    break
                self._idle.append(idle)
            idle.woken.acquire()
            job, idle.job = idle.job, None

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
