"""Thread pools that don't block the end of the process: a disk or a remote end may hang forever.

Note [Cheap hop]: each group of records takes a hop to a thread and back. Twisted's pool passes a
job through a team, a coordinator, a queue with three conditions and a copy of the log context: more
processor time than the compression of the group. Here a job goes straight to the thread that has
been idle for the shortest time, whose memory is still in the caches, and wakes it by one lock.

Note [No thread]: the host may refuse to start a thread. A job then waits for another thread of its
pool. If the pool has none, the job fails with `NoThread`, like one whose function has failed: its
caller would otherwise wait for a job that nobody does.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

__all__ = ["AbandonableThreadPool", "NoThread", "ThreadPoolService", "in_own_thread"]

_log = Logger()

LEAVE_SECONDS = 5.0
"""How long a stop waits for threads with abandoned work."""

T = TypeVar("T")


class NoThread(OSError):
    """The host doesn't start a thread; see Note [No thread]."""

    def __init__(self, reason: object) -> None:
        super().__init__(errno.EAGAIN, f"no thread can be started: {reason}")


class _Thread(Thread):
    """A thread for which the interpreter doesn't wait at its end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, daemon=True)

    def start(self) -> None:
        """Start. Raises `NoThread`."""
        try:
            super().start()
        except (RuntimeError, MemoryError) as error:
            raise NoThread(error) from error


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

    It has the interface of Twisted's pool, and its own threads. Jobs may be given from any
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
        """Begin with the jobs that were given before. Raises `NoThread` if none can be begun."""
        with self._lock:
            self.started, self.joined = True, False
            for _ in range(min(self.max - self._count, len(self._waiting))):
                job = self._waiting.popleft()
                try:
                    self._start_thread(job)
                except NoThread:
                    self._waiting.appendleft(job)
                    if not self._count:
                        raise
                    break

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

        It is called with whether that was a success, and the result or the `Failure`. If there is
        no thread, it is called immediately; see Note [No thread].
        """

        def job() -> None:
            try:
                success, result = True, func(*args, **kw)
            except BaseException:
                success, result = False, Failure()
            hand_on(success, result)

        def hand_on(success: bool, result: Any) -> None:
            if onResult is not None:
                onResult(success, result)
            elif not success:
                _log.failure("a job failed in a thread of {pool}", result, pool=self.name)

        try:
            with self._lock:
                self._give(job)
        except NoThread:
            hand_on(False, Failure())

    def _give(self, job: _Job) -> None:
        """Give *job* to a thread. Raises `NoThread` if there is none."""
        if self.joined:
            return
        if self._idle:
            idle = self._idle.pop()
            idle.job = job
            idle.woken.release()
        elif self.started and self._count < self.max:
            try:
                self._start_thread(job)
            except NoThread:
                if not self._count:
                    raise
                self._waiting.append(job)
        else:
            self._waiting.append(job)

    def _start_thread(self, job: _Job) -> None:
        """Start a thread that does *job* first. Raises `NoThread`: nothing has changed then."""
        name = f"{self.name}-{self._count + 1}"
        thread = _Thread(target=self._work, args=(job,), name=name)
        thread.start()  # it waits for the lock before it looks at anything of the pool
        self._count += 1
        self.threads.append(thread)

    def _work(self, job: _Job | None) -> None:
        """Do *job*, then those that wait, then those that come."""
        idle = _Idle()
        while job is not None:
            try:
                job()
            except Exception:
                _log.failure("cannot deliver the result of a job", pool=self.name)
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

        try:
            _Thread(target=stop, name=f"{self.name} stops").start()
        except NoThread as error:
            _log.warn("cannot wait for the threads of {pool}: {error}", pool=self.name, error=error)
            ended()  # they end with the process
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
    """Run *work*, which takes long and may be abandoned at any time, in a thread of its own.

    Fails with `NoThread`, or as *work* does.
    """
    result: Deferred[T] = Deferred()

    def run() -> None:
        try:
            value = work(*args)
        except BaseException:
            reactor.callFromThread(result.errback, Failure())
        else:
            reactor.callFromThread(result.callback, value)

    try:
        _Thread(target=run, name=work.__name__).start()
    except NoThread:
        result.errback(Failure())
    return result
