"""Threads as greenlets, which pause during every disk operation.

So jobs of different threads interleave there, and a process can be killed during a job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import greenlet
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from stream.storage.writer.disk_thread import FileAppends, Outcome
from tests.simulation.scheduler import Process, Scheduler
from tests.storage.writer.rounds import append_and_sync

__all__ = ["CompiledThread", "Pool", "Threading", "rest"]

_HOP_SECONDS = 0.0001


class Pool:
    """A pool of simulated threads.

    :param size: number of concurrent jobs; the others wait.
    """

    def __init__(self, process: Process, size: int) -> None:
        self._process = process
        self._free = size
        self._jobs: deque[Callable[[], None]] = deque()
        self.name = "pool"

    def start(self) -> None:
        """Do nothing: there are no threads to start."""

    def stop(self) -> None:
        """Do nothing: there are no threads to stop."""

    def leave(self, reactor: object, seconds: float) -> Deferred[bool]:
        return succeed(True)

    def callInThread(self, f: Callable[..., Any], *args: Any) -> None:
        self.callInThreadWithCallback(None, f, *args)

    def callInThreadWithCallback(
        self, told: Callable[[bool, Any], None] | None, f: Callable[..., Any], *args: Any, **kw: Any
    ) -> None:
        def job() -> None:
            try:
                success, result = True, f(*args, **kw)
            except Exception:
                success, result = False, Failure()
            if told is not None:
                told(success, result)
            self._process.threads.discard(greenlet.getcurrent())
            self._free += 1
            self._next()

        self._jobs.append(job)
        self._next()

    def _next(self) -> None:
        while self._free and self._jobs:
            self._free -= 1
            scheduler = self._process.scheduler
            thread = greenlet.greenlet(self._jobs.popleft(), parent=scheduler.main)
            self._process.threads.add(thread)
            delay = scheduler.random.uniform(0.0, _HOP_SECONDS)
            scheduler.after(delay, thread.switch, "a thread", self._process)


class CompiledThread:
    """A compiled thread of a volume; stands in for `stream.storage.writer.disk_thread.DiskThread`.

    It makes the system calls of the simulated disk.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pool = Pool(process, 1)
        self.is_idle = True

    def start(self, files: Sequence[FileAppends], ended: Callable[[list[Outcome]], None]) -> None:
        def run() -> list[Outcome]:
            return [Outcome(*append_and_sync(*each)) for each in files]

        def told(success: bool, outcomes: Any) -> None:
            assert success, outcomes
            self._process.callFromThread(finish, outcomes)

        def finish(outcomes: list[Outcome]) -> None:
            self.is_idle = True
            ended(outcomes)

        self.is_idle = False
        self._pool.callInThreadWithCallback(told, run)

    async def leave(self, seconds: float) -> bool:
        return self.is_idle


def rest(process: Process, seconds: float, label: str) -> None:
    """Let others run for some time. Only called within a thread."""
    thread = greenlet.getcurrent()
    if thread in process.threads:
        process.scheduler.after(seconds, thread.switch, label, process)
        process.scheduler.main.switch()


class Threading:
    """Replaces the module `threading` for waiting threads."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def Semaphore(self, value: int) -> _Semaphore:
        return _Semaphore(self._scheduler, value)


class _Semaphore:
    def __init__(self, scheduler: Scheduler, value: int) -> None:
        self._scheduler = scheduler
        self._value = value
        self._waiting: deque[greenlet.greenlet] = deque()

    def acquire(self) -> None:
        while not self._value:
            self._waiting.append(greenlet.getcurrent())
            self._scheduler.main.switch()
        self._value -= 1

    def release(self) -> None:
        self._value += 1
        if self._waiting:
            process = self._scheduler.running
            self._scheduler.after(0.0, self._waiting.popleft().switch, "a semaphore", process)
