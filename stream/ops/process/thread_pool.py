"""Thread pools that don't keep the process from exiting if a disk or a remote end hangs forever.

Note [Cheap hop]: each group of records takes a hop to a thread and back. Twisted's pool passes a
job through a team, a coordinator, a queue with three conditions and a copy of the log context. That
takes more CPU time than the compression of the group. Here a job goes directly to the thread that
has been idle for the shortest time, because its memory is still in the caches. One lock wakes the
thread.

Note [No thread]: the host may refuse to start a thread. A job then waits for another thread of its
pool. If the pool has none, the job fails with `NoThread`, as if its function had failed. Otherwise
its caller would wait for a job that no thread runs.
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
"""How long a stop waits for threads whose work was abandoned, in seconds."""

T = TypeVar("T")


class NoThread(OSError):
    """The host refused to start a thread; see Note [No thread]."""

    def __init__(self, reason: object) -> None:
        super().__init__(errno.EAGAIN, f"no thread can be started: {reason}")


class _Thread(Thread):
    """A thread that the interpreter doesn't wait for when it exits."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, daemon=True)

    def start(self) -> None:
        """Start the thread. Raises `NoThread`."""
        try:
            super().start()
        except (RuntimeError, MemoryError) as error:
            raise NoThread(error) from error


_Job = Callable[[], None]


class _Idle:
    """A thread of a pool that has no job.

    :ivar job: next job of the thread; ``None`` ends the thread.
    :ivar woken: lock that is released when there is a job, or when the thread must end.
    """

    __slots__ = ("job", "woken")

    def __init__(self) -> None:
        self.job: _Job | None = None
        self.woken = Lock()
        self.woken.acquire()


class AbandonableThreadPool(ThreadPool):
    """A pool that can be abandoned with a job that never ends; see Note [Cheap hop].

    It has the interface of Twisted's pool, but uses its own threads. Jobs may be submitted from any
    thread.

    :ivar threads: the threads that haven't ended.
    """

    def __init__(self, minthreads: int = 0, maxthreads: int = 20, name: str | None = None) -> None:
        """:param minthreads: ignored, because threads are only started for jobs."""
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
        """The number of jobs that are waiting for a thread."""
        return len(self._waiting)

    def start(self) -> None:
        """Run the jobs submitted before the start. Raises `NoThread` if none can be run."""
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
        """Accept no more jobs, and wait until the jobs submitted before have ended."""
        with self._lock:
            self.started, self.joined = False, True
            idle, self._idle = self._idle, []
            threads = list(self.threads)
        for each in idle:
            each.woken.release()
        for thread in threads:
            thread.join()

    def callInThread(self, func: Callable[..., object], *args: Any, **kw: Any) -> None:
        """Run *func* in a thread; a failure is logged."""
        self.callInThreadWithCallback(None, func, *args, **kw)

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object] | None,
        func: Callable[..., Any],
        *args: Any,
        **kw: Any,
    ) -> None:
        """Run *func* in a thread, and call *onResult* in the same thread.

        The arguments of *onResult* are whether *func* succeeded, and its result or the `Failure`.
        If there is no thread, *onResult* is called immediately; see Note [No thread].
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
        """Pass *job* to a thread. Raises `NoThread` if there is none."""
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
        """Start a thread that runs *job* first. If this raises `NoThread`, nothing has changed."""
        name = f"{self.name}-{self._count + 1}"
        thread = _Thread(target=self._work, args=(job,), name=name)
        thread.start()  # it waits for the lock before it reads the pool's state
        self._count += 1
        self.threads.append(thread)

    def _work(self, job: _Job | None) -> None:
        """Run *job*, then waiting jobs, then each new job."""
        idle = _Idle()
        while job is not None:
            try:
                job()
            except Exception:
                _log.failure("cannot deliver the result of a job", pool=self.name)
            job = None  # an idle thread must not keep the job's objects
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
        """Stop the pool, and wait until the last job has ended, for at most *seconds*.

        Return whether it has ended.
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
            ended()  # the threads end with the process
        return left


class ThreadPoolService(Service):
    """A bounded thread pool that lives as long as the node.

    When the service stops, a thread that waits for a remote end (such as a cancelled upload) is
    abandoned; it ends with the process.
    """

    def __init__(self, reactor: Any, name: str, threads: int) -> None:
        self._reactor = reactor
        self.pool = AbandonableThreadPool(0, threads, name=name)

    def startService(self) -> None:
        super().startService()
        self.pool.start()

    async def stopService(self) -> None:
        """Stop the pool, and wait until no thread is running or a time limit is reached."""
        super().stopService()
        if not await self.pool.leave(self._reactor, LEAVE_SECONDS):
            _log.warn("abandoned threads that do not end", pool=self.pool.name)


def in_own_thread(reactor: Any, work: Callable[..., T], *args: Any) -> Deferred[T]:
    """Run *work* in a separate thread; it may take a long time and may be abandoned at any time.

    The Deferred fails with `NoThread`, or with the failure of *work*.
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
