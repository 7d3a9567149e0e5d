"""A pool of processes that write to a lake, since conversion would block the reactor.

Note [Workers]: libraries for Parquet and catalogs are large, take a second to load, and hold the
GIL. So they run in separate processes. A process runs one job at a time and is kept for the next
job. It ends after it was idle for some time, after a number of jobs, and after a failed job with
rows. Credentials are sent over its input, never on its command line. If a job is cancelled, its
process is killed; a retry stores the job's objects again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.child import Child
from stream.concurrency.slots import Slots
from stream.ops.process.thread_pool import ThreadPoolService
from stream.target.lake import worker_process
from stream.target.lake.frames import INPUT, MAX_LINE, OUTPUT, ROWS, answer_of, framed
from stream.target.staged_target import StagedRows

__all__ = ["Workers"]

_log = Logger()

IDLE_SECONDS = 60.0
"""How long an idle process is kept."""
MAX_JOBS = 200
"""Maximum number of jobs of a process, which limits the effect of memory leaks in libraries."""
STOP_SECONDS = 2.0

_MAIN = (
    f"import os; os.nice({worker_process.NICENESS}); "  # before anything that takes time
    f"from {worker_process.__name__} import main; main()"
)
_PASSED = ("AWS_", "AZURE_", "GOOGLE_", "PYICEBERG_", "SSL_CERT_", "TMPDIR", "HTTP_PROXY")
"""Prefixes of environment variables that libraries of object stores read."""


def _environment() -> dict[str, str]:
    passed = _PASSED + tuple(name.lower() for name in ("HTTPS_PROXY", "NO_PROXY", "HTTP_PROXY"))
    kept = {name: value for name, value in os.environ.items() if name.startswith(passed)}
    for name in ("HTTPS_PROXY", "NO_PROXY", "PATH", "HOME"):
        if name in os.environ:
            kept[name] = os.environ[name]
    paths = os.pathsep.join(filter(None, sys.path))
    # Return freed memory to the system, and give threads no separate heaps.
    return {
        **kept,
        "PYTHONPATH": paths,
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }


class _Ended(RuntimeError):
    """The process ended during its job."""


class _Worker(Child):
    """One worker process.

    :ivar jobs: number of completed jobs.
    """

    def __init__(self, reactor: Any, module: str) -> None:
        super().__init__()
        self.jobs = 0
        self._answer: Deferred[bytes] | None = None
        self._line = bytearray()
        self._is_feeding = False
        rows, self._rows = os.pipe()
        arguments = [sys.executable, "-P", "-s", "-c", _MAIN, module, str(os.getpid())]
        try:
            with Path(os.devnull).open("wb") as nowhere:
                reactor.spawnProcess(
                    self,
                    sys.executable,
                    arguments,
                    env=_environment(),
                    childFDs={INPUT: "w", OUTPUT: "r", 2: nowhere.fileno(), ROWS: rows},
                )
        except BaseException:
            os.close(self._rows)
            raise
        finally:
            os.close(rows)

    def ask(self, job: Mapping[str, Any]) -> Deferred[bytes]:
        """Send *job*; return the line of its answer. Fails if the process ends."""
        answer: Deferred[bytes] = Deferred(lambda _: self.signal("KILL"))
        self._answer = answer
        self.jobs += 1
        if self.is_running:
            line = json.dumps(job).encode() + b"\n"
            self.transport.writeToChild(INPUT, line)  # type: ignore[union-attr]
        else:
            answer.errback(_Ended("the process that writes to the lake could not start"))
        return answer

    def feed(self, reactor: Any, pool: Any, slices: Sequence[StagedRows]) -> Deferred[None]:
        """Write the rows of *slices* to the process, in a thread that waits while it is busy."""
        self._is_feeding = True

        def write() -> None:
            for slice_ in slices:
                for block in framed(slice_()):
                    view = memoryview(block)
                    while view:
                        view = view[os.write(self._rows, view) :]

        return deferToThreadPool(reactor, pool, write).addBoth(self._fed)

    def _fed(self, result: Any) -> Any:
        self._is_feeding = False
        if not self.is_running:
            os.close(self._rows)
        return result

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._line += data
        if len(self._line) > MAX_LINE:
            self.signal("KILL")
        elif data.endswith(b"\n") and self._answer is not None:
            line, self._line = bytes(self._line), bytearray()
            answer, self._answer = self._answer, None
            if not answer.called:
                answer.callback(line)

    def end(self, reason: Failure) -> None:
        if not self._is_feeding:
            os.close(self._rows)
        answer, self._answer = self._answer, None
        if answer is not None and not answer.called:
            ended = f"the process that writes to the lake ended: {reason.getErrorMessage()}"
            answer.errback(_Ended(ended))


class Workers(Service):
    """Processes that run at most *limit* jobs concurrently; further jobs are queued.

    The callers limit the length of the queue: a coordinator imports a limited number of files at
    once, and a task of the API defines one sink.

    :param module: module with the function ``work``, a `stream.target.lake.worker_process.Work`.
    :param idle_seconds: how long an idle process is kept.
    """

    def __init__(
        self, reactor: Any, module: str, limit: int, *, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._reactor = reactor
        self._module = module
        self._idle_seconds = idle_seconds
        self._turns = Slots(limit)
        self._threads = ThreadPoolService(reactor, "lake", limit)
        self._idle: dict[_Worker, Any] = {}
        self._all: set[_Worker] = set()

    def startService(self) -> None:
        super().startService()
        self._threads.startService()

    async def stopService(self) -> None:
        """Stop the processes; pending jobs fail. The Deferred fires when no process is running."""
        super().stopService()
        for worker in list(self._idle):
            self._take(worker)
        for worker in list(self._all):
            if not await worker.stop(self._reactor, STOP_SECONDS):
                _log.debug("killed a process that writes to a lake")
        await self._threads.stopService()

    async def run(
        self,
        job: Mapping[str, Any],
        slices: Sequence[StagedRows] = (),
        *,
        project_id: int | None = None,
    ) -> dict[str, Any]:
        """Run *job* with the rows of *slices* in a process; return its answer.

        Raises UserError: the process reported it. Raises RuntimeError: a bug, which is only logged.
        Errors of reading a slice are raised unchanged.

        :param project_id: the project of the job; see `stream.concurrency.slots.Slots`.
        """
        return await self._turns.run(partial(self._run, job, slices), project_id)

    async def _run(self, job: Mapping[str, Any], slices: Sequence[StagedRows]) -> dict[str, Any]:
        if not self.running:
            raise RuntimeError("the node is stopping")
        worker = self._worker()
        is_clean = False
        fed: Deferred[None] | None = None
        try:
            answer = worker.ask({**job, "slices": len(slices)})
            if slices:
                fed = worker.feed(self._reactor, self._threads.pool, slices)
                fed.addErrback(self._not_fed, answer)
            line = await answer
            is_clean = not slices  # rows of a failed job may remain in the pipe
            result = answer_of(line)
            if fed is not None:
                await fed  # the process has read everything
            is_clean = True
            return result
        finally:
            self._release(worker, is_clean=is_clean)

    @staticmethod
    def _not_fed(failure: Failure, answer: Deferred[bytes]) -> None:
        """Handle an error of sending rows.

        If the pipe failed, the reason why the process ended explains more.
        """
        if not failure.check(BrokenPipeError) and not answer.called:
            answer.errback(failure)

    def _worker(self) -> _Worker:
        for worker in list(self._idle):
            self._take(worker)
            if worker.is_running:
                return worker
        worker = _Worker(self._reactor, self._module)
        self._all.add(worker)
        worker.ended().addCallback(lambda _: self._all.discard(worker))
        return worker

    def _take(self, worker: _Worker) -> None:
        timer = self._idle.pop(worker)
        if timer.active():
            timer.cancel()

    def _release(self, worker: _Worker, *, is_clean: bool) -> None:
        if is_clean and self.running and worker.is_running and worker.jobs < MAX_JOBS:
            self._idle[worker] = self._reactor.callLater(self._idle_seconds, self._end_idle, worker)
        else:
            worker.signal("KILL")

    def _end_idle(self, worker: _Worker) -> None:
        self._idle.pop(worker, None)
        worker.signal("KILL")
