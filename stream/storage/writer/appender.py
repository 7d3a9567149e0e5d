"""One volume's appends: while a round is on the disk the next gathers; one sync serves all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.storage.network.interface import SyncLevel, WriterError, WriterUnavailable
from stream.storage.writer.disk import DiskFile

__all__ = ["VolumeAppender"]

_log = Logger()

QUEUE_LIMIT_BYTES = 256 * 1024 * 1024


@attrs.frozen(eq=False)
class _Append:
    file: DiskFile
    offset: int
    data: bytes
    level: SyncLevel
    done: Deferred[int]


class VolumeAppender:
    """Rounds run one after another in the pool, so a file is used by one thread at a time.

    :param pool: of the volume; a disk that hangs must not hold up other volumes.
    """

    def __init__(self, reactor: Any, pool: ThreadPool) -> None:
        self._reactor = reactor
        self._pool = pool
        self._queue: list[_Append] = []
        self._queued_bytes = 0
        self._jobs: list[tuple[Callable[[], object], Deferred[Any]]] = []
        self._running = False

    def append(self, file: DiskFile, offset: int, data: bytes, level: SyncLevel) -> Deferred[int]:
        """Fires with the file's new length once *level* is reached; fails with `WriterError`."""
        if self._queued_bytes + len(data) > QUEUE_LIMIT_BYTES:
            return fail(WriterUnavailable("too many bytes wait for the disk"))
        done: Deferred[int] = Deferred()
        self._queue.append(_Append(file, offset, data, level, done))
        self._queued_bytes += len(data)
        self._next()
        return done

    def run(self, job: Callable[[], object]) -> Deferred[Any]:
        """Run something else that blocks (opening, closing), after what is queued already."""
        done: Deferred[Any] = Deferred()
        self._jobs.append((job, done))
        self._next()
        return done

    def _next(self) -> None:
        if self._running or not (self._queue or self._jobs):
            return
        self._running = True
        if self._queue:
            batch, self._queue, self._queued_bytes = self._queue, [], 0
            round_ = deferToThreadPool(self._reactor, self._pool, _round, batch)
            round_.addCallbacks(
                self._answer, self._round_failed, callbackArgs=(batch,), errbackArgs=(batch,)
            )
            return
        job, done = self._jobs.pop(0)
        ran = deferToThreadPool(self._reactor, self._pool, job)
        ran.addBoth(self._job_ran, done)

    def _job_ran(self, result: object, done: Deferred[Any]) -> None:
        self._running = False
        self._next()
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)

    def _answer(self, results: Sequence[int | Exception], batch: Sequence[_Append]) -> None:
        self._running = False
        self._next()
        for item, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                item.done.errback(result)
            else:
                item.done.callback(result)

    def _round_failed(self, failure: Failure, batch: Sequence[_Append]) -> None:
        _log.failure("a round of appends failed", failure)
        self._running = False
        self._next()
        for item in batch:
            item.done.errback(WriterUnavailable("the writer failed"))


def _round(batch: Sequence[_Append]) -> list[int | Exception]:
    """In a thread: write everything, then sync each file once that anybody wants synced."""
    results: list[int | Exception] = []
    for item in batch:
        try:
            results.append(item.file.append(item.offset, item.data))
        except WriterError as error:
            results.append(error)
    problems: dict[int, Exception] = {}
    for file in {id(i.file): i.file for i in batch if i.level is SyncLevel.SYNCED}.values():
        try:
            file.sync()
        except WriterError as error:
            problems[id(file)] = error
    for index, item in enumerate(batch):
        problem = problems.get(id(item.file))
        if problem is not None and not isinstance(results[index], Exception):
            results[index] = problem
    return results
