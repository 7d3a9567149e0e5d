"""Writes and syncs the appends of one volume in rounds.

A round takes everything that is queued for some files of the volume, writes it, syncs each file for
which an append requires it, and answers all appends. Several rounds run at the same time, each with
other files, so a file with many bytes doesn't delay the others. Appends to a file that is in a
round are queued for a later one, so only one thread at a time appends to a file. Files are opened
and closed concurrently with the rounds.

Note [Watchdog]: there are hundreds of rounds per second, so rounds don't have their own timers. A
single timer runs while there are rounds. When it fires, it checks the age of the oldest round, and
is set again for the remaining time.

Note [Compiled rounds]: nearly all appends are to the end of their file and succeed. If the compiled
code is built, its threads run the rounds of such appends; the switch to them costs half as much as
a switch to a Python thread, and they never wait for the GIL. If an error occurs, or if the file was
removed, a round of a Python thread repeats the appends to this file: it writes the same bytes to
the same position, fails where the compiled code has failed, and handles the failure. So the
compiled code makes no decisions. Appends whose checksums would take long to compare are also left
to a Python thread. There is one round of a Python thread at a time.
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
from stream.storage.writer.disk_thread import DiskThread, FileAppends, Outcome

__all__ = ["THREADS", "VolumeAppender", "shares"]

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


_Files = dict[DiskFile, list["_Append"]]


@attrs.define(eq=False)  # created for each group; a frozen class takes three times as long
class _Append:
    file: DiskFile
    offset: int
    data: bytes
    crc: int | None
    level: SyncLevel
    done: Deferred[int]


@attrs.define(eq=False)
class _Round:
    """A running round.

    :ivar began: reactor time in seconds.
    """

    began: float


class VolumeAppender:
    """The appends to one volume: grouped, written and synced in threads.

    :param pool: the volume's own thread pool, so that a stuck disk doesn't block other volumes.

    :ivar is_stuck: whether the disk doesn't respond; appends are refused until it does.
    """

    def __init__(
        self,
        reactor: Any,
        pool: ThreadPool,
        synced: Callable[[float], None] = lambda _: None,
        threads: Sequence[DiskThread] = (),
    ) -> None:
        """:param synced: called with the duration of each sync of a file in seconds.
        :param threads: compiled threads; without them, all rounds run in *pool*.
        """
        self.is_stuck = False
        self._synced = synced
        self._reactor = reactor
        self._pool = pool
        self._threads = threads
        self._held_bytes = 0
        self._unanswered: dict[DiskFile, int] = {}
        self._settling: dict[DiskFile, Waiters[None]] = {}
        self._throttled = Waiters[None]()
        self._jobs = Slots(JOBS)
        self._ready: _Files = {}
        """Appends to files that are in no round."""
        self._behind: _Files = {}
        """For each file that is in a round, or waits for one of a Python thread: later appends."""
        self._interpreted: _Files = {}
        """Appends that wait for a round of a Python thread; none is behind them."""
        self._is_interpreting = False
        self._rounds: dict[_Round, None] = {}  # a set in order of their beginnings
        self._watchdog: IDelayedCall | None = None

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
        item = _Append(file, offset, data, crc, level, done)
        self._held_bytes += len(data)
        self._unanswered[file] = self._unanswered.get(file, 0) + 1
        if file in self._interpreted:
            self._interpreted[file].append(item)
        elif file in self._behind:
            self._behind[file].append(item)
        else:
            self._ready.setdefault(file, []).append(item)
            self._start_rounds()
        return done

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        """Run another blocking function concurrently with the appends.

        Fails with `NoThread` if it could not be run.
        """
        return self._jobs.run(lambda: deferToThreadPool(self._reactor, self._pool, job))

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

    def _start_rounds(self) -> None:
        """Start rounds with the files that are ready, if threads are idle."""
        if self._threads:
            while self._ready and (idle := [each for each in self._threads if each.is_idle]):
                self._start_compiled(idle)
        elif self._ready:
            self._interpreted |= self._ready
            self._behind |= {file: [] for file in self._ready}
            self._ready = {}
        if self._interpreted and not self._is_interpreting:
            self._start_interpreted()

    def _start_compiled(self, idle: Sequence[DiskThread]) -> None:
        """Start rounds in compiled threads; leave other appends to Python threads.

        See Note [Compiled rounds].
        """
        # The threads that are busy will be idle soon, so they get a share, too.
        count = min(len(self._ready), len(idle) * -(-len(self._ready) // len(self._threads)))
        files: list[tuple[DiskFile, list[_Append], FileAppends]] = []
        for file in [file for file, _ in zip(self._ready, range(count), strict=False)]:
            items = self._ready.pop(file)
            self._behind[file] = []
            place = None
            if _is_intact(items):
                place = file.place_of([(item.offset, item.data) for item in items])
            if place is None:
                self._interpreted[file] = items
                continue
            is_synced = any(item.level is SyncLevel.SYNCED for item in items)
            files.append((file, items, (*place, [item.data for item in items], is_synced)))
        sizes = [sum(map(len, data)) for _, _, (_, _, data, _) in files]
        for thread, share in zip(idle, shares(sizes, len(idle)), strict=True):
            if share:
                self._run_compiled(thread, [files[index] for index in share])

    def _run_compiled(
        self,
        thread: DiskThread,
        files: Sequence[tuple[DiskFile, list[_Append], FileAppends]],
    ) -> None:
        round_ = self._begin()

        def ended(outcomes: list[Outcome]) -> None:
            batch: list[_Append] = []
            results: list[int | Exception] = []
            syncs: list[float] = []
            for (file, items, (_, _, _, is_synced)), outcome in zip(files, outcomes, strict=True):
                if not outcome.is_success:
                    file.meet(outcome.write_error, outcome.sync_error)
                    self._interpreted[file] = items + self._behind[file]
                    self._behind[file] = []
                    continue
                ends = [item.offset + len(item.data) for item in items]
                file.appended(ends[-1], is_synced=is_synced)
                self._release(file)
                batch += items
                results += ends
                if is_synced:
                    syncs.append(outcome.seconds)
            self._answer(round_, results, batch, syncs)

        thread.start([appends for _, _, appends in files], ended)

    def _start_interpreted(self) -> None:
        """Start a round in a Python thread with all files that wait for one."""
        files, self._interpreted = self._interpreted, {}
        batch = [item for items in files.values() for item in items]
        self._is_interpreting = True
        round_ = self._begin()
        syncs: deque[float] = deque()

        def ended(success: bool, result: Any) -> None:
            """Report the result; runs in the thread."""
            self._reactor.callFromThread(in_reactor, success, result)

        def in_reactor(success: bool, result: Any) -> None:
            self._is_interpreting = False
            for file in files:
                self._release(file)
            self._answer(round_, result if success else _failed(result, batch), batch, syncs)

        self._pool.callInThreadWithCallback(
            ended, _round, batch, self._pool.callInThread, syncs.append
        )

    def _begin(self) -> _Round:
        round_ = _Round(self._reactor.seconds())
        self._rounds[round_] = None
        self._watch()
        return round_

    def _release(self, file: DiskFile) -> None:
        """Make a file ready again whose round has ended."""
        behind = self._behind.pop(file)
        if behind:
            self._ready[file] = behind

    async def leave(self, seconds: float) -> bool:
        """End the compiled threads, after their current rounds.

        Waits at most *seconds* for the rounds.

        Returns whether the threads have ended.
        """
        threads, self._threads = self._threads, ()  # later rounds run in Python threads
        leaving = [ensureDeferred(thread.leave(seconds)) for thread in threads]
        return all([await each for each in leaving])

    def _watch(self) -> None:
        """Set the timer for the oldest round; see Note [Watchdog]."""
        if self._watchdog is None and self._rounds and not self.is_stuck:
            age = self._reactor.seconds() - self._oldest
            self._watchdog = self._reactor.callLater(
                max(0.0, STUCK_SECONDS - age), self._check_stuck
            )

    @property
    def _oldest(self) -> float:
        """The time when the oldest round began."""
        return next(iter(self._rounds)).began

    def _check_stuck(self) -> None:
        """Check the age of the oldest round."""
        self._watchdog = None
        if self._rounds and self._reactor.seconds() - self._oldest >= STUCK_SECONDS:
            self._found_stuck()
        else:
            self._watch()

    def _found_stuck(self) -> None:
        """Refuse the queued appends; the outcomes of the current rounds remain unknown."""
        self.is_stuck = True
        _log.error("the disk has not responded for {seconds} s", seconds=STUCK_SECONDS)
        queues = [*self._ready.values(), *self._behind.values(), *self._interpreted.values()]
        for file in self._interpreted:
            del self._behind[file]
        self._ready, self._interpreted = {}, {}
        self._behind = {file: [] for file in self._behind}
        batch = [item for items in queues for item in items]
        self._finish(batch, [WriterUnavailable("the disk does not answer")] * len(batch))

    def _answer(
        self,
        round_: _Round,
        results: Sequence[int | Exception],
        batch: Sequence[_Append],
        syncs: Iterable[float],
    ) -> None:
        del self._rounds[round_]
        if self.is_stuck and not (
            self._rounds and self._reactor.seconds() - self._oldest >= STUCK_SECONDS
        ):
            self.is_stuck = False
            _log.warn("the disk responds again")
            self._watch()
        self._start_rounds()
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


def shares(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return the indexes of *sizes* in *count* shares of similar total size.

    Each share is in ascending order, and the first shares are never empty if a later one isn't.
    """
    found: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for index, size in enumerate(sizes):
        least = min(range(count), key=lambda each: (totals[each], len(found[each])))
        found[least].append(index)
        totals[least] += size
    return found


def _failed(failure: Any, batch: Sequence[_Append]) -> list[WriterUnavailable]:
    """Return the errors of a round that has failed as a whole."""
    reason = "the writer failed"
    if failure.check(NoThread):
        reason = str(failure.value.strerror)
        _log.error("cannot write to the disk: {reason}", reason=reason)
    else:
        _log.failure("a round of appends failed", failure)
    return [WriterUnavailable(reason) for _ in batch]


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
