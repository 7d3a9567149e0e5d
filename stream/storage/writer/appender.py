"""Writes and syncs the appends of one volume in rounds.

A round takes everything that is queued for any file of the volume, writes it, syncs each file for
which an append requires it, and answers all appends. Appends that arrive during a round are queued
for the next one. Rounds run one after another, so only one thread at a time appends to a file.
Files are opened and closed concurrently with the rounds.

Note [Watchdog]: there are hundreds of rounds per second, so rounds don't have their own timers. A
single timer runs while there are rounds. When it fires, it checks the age of the current round, and
is set again for the remaining time.

Note [Compiled rounds]: nearly every round appends to the end of one file and succeeds. If the
compiled code is built, such a round runs in its thread; the switch to it costs half as much as a
switch to a Python thread. If an error occurs, or if the file was removed, Python code repeats the
round: it writes the same bytes to the same position, fails where the compiled code has failed, and
handles the failure. So the compiled code makes no decisions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.concurrency.slots import Slots
from stream.concurrency.waiters import Waiters
from stream.ops.process.thread_pool import NoThread
from stream.storage.network.commands import checksum
from stream.storage.network.interface import SyncLevel, WriterError, WriterUnavailable
from stream.storage.writer.disk import DiskFile
from stream.storage.writer.disk_thread import DiskThread, Outcome

__all__ = ["THREADS", "VolumeAppender"]

_log = Logger()

THREADS = 10
"""One thread for the round and `JOBS` threads for opening and closing; the others help to sync."""
JOBS = 8
"""Opening a file syncs about ten directories, one after another. The file system makes syncs that
run at the same time durable together, so eight jobs open three to four times as many files a second
as two.
"""

QUEUE_LIMIT_BYTES = 256 * 1024 * 1024
"""Queued bytes above which appends are refused."""
HIGH_WATERMARK_BYTES = 64 * 1024 * 1024
"""Queued bytes above which reading from source nodes stops, until `LOW_WATERMARK_BYTES` remain."""
LOW_WATERMARK_BYTES = 32 * 1024 * 1024

INLINE_CHECK_BYTES = 64 * 1024
"""Number of bytes whose checksums cost less in the reactor thread than a thread switch."""

STUCK_SECONDS = 30.0
"""Duration of a round after which the disk is considered stuck."""

CLOSE_AGAIN_SECONDS = 1.0
"""Interval of attempts to close a file while the host can't start a thread."""


@attrs.define(eq=False)  # created for each group; a frozen class takes three times as long
class _Append:
    file: DiskFile
    offset: int
    data: bytes
    crc: int | None
    level: SyncLevel
    done: Deferred[int]


class VolumeAppender:
    """The appends to one volume: grouped, written and synced in a thread.

    :param pool: the volume's own thread pool, so that a stuck disk doesn't block other volumes.

    :ivar is_stuck: whether the disk doesn't respond; appends are refused until it does.
    """

    def __init__(
        self,
        reactor: Any,
        pool: ThreadPool,
        synced: Callable[[float], None] = lambda _: None,
        thread: DiskThread | None = None,
    ) -> None:
        """:param synced: called with the duration of each sync of a file in seconds.
        :param thread: runs the rounds that write one file; ``None`` to run all rounds in *pool*.
        """
        self.is_stuck = False
        self._synced = synced
        self._reactor = reactor
        self._pool = pool
        self._queue: list[_Append] = []
        self._held_bytes = 0
        self._unanswered: dict[DiskFile, int] = {}
        self._settling: dict[DiskFile, Waiters[None]] = {}
        self._throttled = Waiters[None]()
        self._jobs = Slots(JOBS)
        self._is_running = False
        self._began = 0.0
        self._watchdog: IDelayedCall | None = None
        self._thread = thread

    # For the writer.

    def append(
        self, file: DiskFile, offset: int, data: bytes, level: SyncLevel, crc: int | None = None
    ) -> Deferred[int]:
        """Append data. The Deferred fires with the file's new length once *level* is reached.

        Fails with `WriterError`.

        :param crc: expected CRC-32 of the data.
        """
        if self.is_stuck:
            return fail(WriterUnavailable("the disk does not answer"))
        if self._held_bytes + len(data) > QUEUE_LIMIT_BYTES:
            return fail(WriterUnavailable("too many bytes are waiting for the disk"))
        done: Deferred[int] = Deferred()
        self._queue.append(_Append(file, offset, data, crc, level, done))
        self._held_bytes += len(data)
        self._unanswered[file] = self._unanswered.get(file, 0) + 1
        self._next()
        return done

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        """Run another blocking function concurrently with the appends.

        Fails with `NoThread` if it could not be run.
        """
        return self._jobs.run(deferToThreadPool, self._reactor, self._pool, job)

    def close(self, file: DiskFile) -> Deferred[Any]:
        """Sync and close the file after its queued appends."""
        return self._settled(file).addCallback(lambda _: ensureDeferred(self._close(file)))

    async def _close(self, file: DiskFile) -> None:
        """Close the file once a thread can be started; until then, it can't be opened again."""
        while True:
            try:
                await self.run(file.close)
                return
            except NoThread as error:
                _log.error("cannot close a slice file, retrying: {error}", error=error.strerror)
            await deferLater(self._reactor, CLOSE_AGAIN_SECONDS)

    def _settled(self, file: DiskFile) -> Deferred[None]:
        if file not in self._unanswered:
            return succeed(None)
        return self._settling.setdefault(file, Waiters()).wait()

    @property
    def held_bytes(self) -> int:
        """The number of bytes waiting for the disk."""
        return self._held_bytes

    @property
    def is_above_high_watermark(self) -> bool:
        """Whether more bytes are queued than the disk can write soon."""
        return self._held_bytes > HIGH_WATERMARK_BYTES

    def below_low_watermark(self) -> Deferred[None]:
        """Return a Deferred that fires when few bytes are queued."""
        if self._held_bytes <= LOW_WATERMARK_BYTES:
            return succeed(None)
        return self._throttled.wait()

    # Rounds.

    def _next(self) -> None:
        if self._is_running or not self._queue:
            return
        self._is_running = True
        self._began = self._reactor.seconds()
        if self._watchdog is None:
            self._watchdog = self._reactor.callLater(STUCK_SECONDS, self._check_stuck)
        batch, self._queue = self._queue, []
        if not self._start_compiled(batch):
            self._start_round(batch)

    def _start_round(self, batch: Sequence[_Append]) -> None:
        """Start a round in a Python thread."""
        syncs: deque[float] = deque()

        def ended(success: bool, result: Any) -> None:
            """Report the result; runs in the thread."""
            self._reactor.callFromThread(self._ended, success, result, batch, syncs)

        self._pool.callInThreadWithCallback(
            ended, _round, batch, self._pool.callInThread, syncs.append
        )

    def _start_compiled(self, batch: Sequence[_Append]) -> bool:
        """Start a round in the compiled thread; return False if it must run in Python.

        See Note [Compiled rounds].
        """
        thread, file = self._thread, batch[0].file
        if (
            thread is None
            or not thread.is_idle
            or any(item.file is not file for item in batch)
            or not _is_intact(batch)
        ):
            return False
        place = file.place_of([(item.offset, item.data) for item in batch])
        if place is None:
            return False
        is_synced = any(item.level is SyncLevel.SYNCED for item in batch)

        def ended(outcome: Outcome) -> None:
            if outcome.is_success:
                results = [item.offset + len(item.data) for item in batch]
                file.appended(results[-1], is_synced=is_synced)
                self._answer(results, batch, [outcome.seconds] if is_synced else [])
            else:
                file.meet(outcome.write_error, outcome.sync_error)
                self._start_round(batch)

        thread.start(place, [item.data for item in batch], sync=is_synced, ended=ended)
        return True

    async def leave(self, seconds: float) -> bool:
        """End the compiled thread, after its current round.

        Waits at most *seconds* for the round.

        Returns whether the thread has ended.
        """
        return self._thread is None or await self._thread.leave(seconds)

    def _check_stuck(self) -> None:
        """Check the age of the current round; see Note [Watchdog]."""
        self._watchdog = None
        if not self._is_running or self.is_stuck:
            return
        left = self._began + STUCK_SECONDS - self._reactor.seconds()
        if left > 0:
            self._watchdog = self._reactor.callLater(left, self._check_stuck)
        else:
            self._found_stuck()

    def _found_stuck(self) -> None:
        """Refuse the queued appends; the outcome of the current round remains unknown."""
        self.is_stuck = True
        _log.error("the disk has not responded for {seconds} s", seconds=STUCK_SECONDS)
        batch, self._queue = self._queue, []
        self._finish(batch, [WriterUnavailable("the disk does not answer")] * len(batch))

    def _ended(
        self, success: bool, result: Any, batch: Sequence[_Append], syncs: Iterable[float]
    ) -> None:
        if success:
            self._answer(result, batch, syncs)
            return
        reason = "the writer failed"
        if result.check(NoThread):
            reason = str(result.value.strerror)
            _log.error("cannot write to the disk: {reason}", reason=reason)
        else:
            _log.failure("a round of appends failed", result)
        self._answer([WriterUnavailable(reason) for _ in batch], batch, syncs)

    def _answer(
        self,
        results: Sequence[int | Exception],
        batch: Sequence[_Append],
        syncs: Iterable[float],
    ) -> None:
        self._is_running = False
        if self.is_stuck:
            self.is_stuck = False
            _log.warn("the disk responds again")
        self._next()
        self._finish(batch, results)
        for seconds in syncs:
            self._synced(seconds)

    def _finish(self, batch: Sequence[_Append], results: Sequence[int | Exception]) -> None:
        for item, result in zip(batch, results, strict=True):
            self._held_bytes -= len(item.data)
            if isinstance(result, Exception):
                item.done.errback(result)
            else:
                item.done.callback(result)
            left = self._unanswered[item.file] - 1
            if left:
                self._unanswered[item.file] = left
            else:
                del self._unanswered[item.file]
                if item.file in self._settling:
                    self._settling.pop(item.file).fire(None)
        if self._held_bytes <= LOW_WATERMARK_BYTES:
            self._throttled.fire(None)


def _round(
    batch: Sequence[_Append],
    spread: Callable[[Callable[[], None]], None],
    synced: Callable[[float], None],
) -> list[int | WriterError]:
    """Write everything, then sync each file that requires it once; runs in a thread.

    :param spread: runs a function in another thread at some time.
    :param synced: called with the duration of each sync in seconds, from any thread.
    """
    by_file: dict[DiskFile, list[int]] = {}
    for index, item in enumerate(batch):
        by_file.setdefault(item.file, []).append(index)
    results: list[int | WriterError] = [0] * len(batch)
    for file, indexes in by_file.items():
        for index, result in zip(indexes, _write(file, [batch[i] for i in indexes]), strict=True):
            results[index] = result
    wanted = {item.file: None for item in batch if item.level is SyncLevel.SYNCED}
    problems = _sync_all(wanted, spread, synced)
    for file, indexes in by_file.items():
        problem = problems.get(file) or _removal(file)
        if problem is None:
            file.promise()
            continue
        for index in indexes:
            if not isinstance(results[index], WriterError):
                results[index] = problem
    return results


def _is_intact(batch: Sequence[_Append]) -> bool:
    """Return whether the data matches its checksums; False if the check would take too long."""
    checked = [item for item in batch if item.crc is not None]
    return sum(len(item.data) for item in checked) <= INLINE_CHECK_BYTES and all(
        checksum(item.data) == item.crc for item in checked
    )


def _removal(file: DiskFile) -> WriterError | None:
    try:
        file.check_linked()
    except WriterError as error:
        return error
    except OSError as error:
        return WriterUnavailable(f"cannot inspect the file: {error.strerror}")
    return None


def _write(file: DiskFile, items: Sequence[_Append]) -> list[int | WriterError]:
    """Write an append; refuse it if it is corrupt. The later appends then fail by their offsets."""
    good = [item for item in items if item.crc is None or checksum(item.data) == item.crc]
    written = iter(file.append_many([(item.offset, item.data) for item in good]))
    damaged = WriterUnavailable("the data was damaged in transit")
    kept = set(good)
    return [next(written) if item in kept else damaged for item in items]


def _sync_all(
    files: Iterable[DiskFile],
    spread: Callable[[Callable[[], None]], None],
    synced: Callable[[float], None],
) -> dict[DiskFile, WriterError]:
    """Sync *files*, several at a time: the disk can serve them concurrently.

    This thread takes part, so the sync finishes even if no other thread is available.
    """
    left = deque(files)
    count = len(left)
    problems: dict[DiskFile, WriterError] = {}
    if count == 1:  # nearly always true; needs no other thread
        _sync(left[0], synced, problems)
        return problems
    ended = threading.Semaphore(0)

    def work() -> None:
        while True:
            try:
                file = left.popleft()
            except IndexError:
                return
            try:
                _sync(file, synced, problems)
            finally:
                ended.release()

    for _ in range(min(count, THREADS - JOBS) - 1):
        spread(work)
    work()
    for _ in range(count):
        ended.acquire()
    return problems


def _sync(
    file: DiskFile, synced: Callable[[float], None], problems: dict[DiskFile, WriterError]
) -> None:
    """Sync *file*; if that fails, record the error in *problems*."""
    started = time.perf_counter()
    try:
        if file.sync():
            synced(time.perf_counter() - started)
    except WriterError as error:
        problems[file] = error
    except Exception as error:
        problems[file] = WriterUnavailable(f"cannot sync: {error}")
