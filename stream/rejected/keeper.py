"""Keeps and counts, on a source node, the records that sinks can't accept.

Failures are noted in the reactor, and a thread writes them once a second. The noted records are
limited per sink and in total; beyond the limits, records are only counted. So a producer of invalid
records neither slows down others nor displaces their records.

Note [Counts]: etcd contains the sum of the counts of all lives of the node, and each round adds the
new counts. So a restart loses at most the last second. A user resets the statistics by deleting the
key; old counts don't reappear, because the node only adds.

Note [Kept until]: etcd also contains, for each sink, the time until which the node keeps records;
see Note [Stopped nodes] of `stream.rejected.state`. Each record moves this time forward. Therefore
a later time is noted in advance, so that a flood of records needs few writes. A restarted node
doesn't know the limit of a disabled or deleted sink. So it keeps the sink's records at least until
the noted time. A note names the directory that it is about; see Note [Other directories] of
`stream.rejected.state`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import attrs
import uuid_utils
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, ensureDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.concurrency.waiters import ended
from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.etcd import EtcdError
from stream.ops.clock import wall_clock
from stream.ops.logging.throttle import LogThrottle
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.rejected.answers import answer
from stream.rejected.files import RejectedFiles
from stream.rejected.record import Headers, Noted, frame, shown_headers
from stream.rejected.state import KeptRecords, LastError, RejectedCount
from stream.settings import QuarantineSettings
from stream.storage.model.entity import QuarantineLimits
from stream.values.utctime import NO_TIME, from_milliseconds, from_timestamp

__all__ = ["RejectedRecords"]

_log = Logger(namespace="stream.rejected")
T = TypeVar("T")

FLUSH_SECONDS = 1.0
CLEANUP_SECONDS = 60.0
LOG_SECONDS = 10.0
"""Interval of log messages about records that aren't kept."""

MAX_WAITING_RECORDS = 20_000
MAX_WAITING_RECORDS_OF_SINK = 10_000
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Maximum size of the bodies and headers of records in memory, noted or being written."""

SINKS_PER_TRANSACTION = 50
"""Maximum number of sinks in a transaction; each needs a comparison and a put, and etcd allows
128 by default.
"""
FOUND_PER_TRANSACTION = 40
"""Maximum number of pairs of a node and a sink in a transaction; each pair needs three keys."""
KEPT_AHEAD_SECONDS = 60.0
"""How far in advance the time is noted until which records are kept; see Note [Kept until]."""

Written = Callable[[int], None]
AddCounts = Callable[[Mapping[SinkKey, RejectedCount]], Awaitable[None]]
NoteKept = Callable[[Mapping[SinkKey, KeptRecords]], Awaitable[None]]
NoteFound = Callable[
    [Mapping[tuple[str, SinkKey], KeptRecords]], Awaitable[Mapping[SinkKey, datetime]]
]
Batch = dict[SinkKey, tuple[QuarantineLimits, list[Noted]]]


@attrs.define(eq=False)
class _Counted:
    """The counts of one sink that haven't been written to etcd yet."""

    count: int = 0
    dropped: int = 0
    last: Noted | None = None


class RejectedRecords(Service):
    """Keeps rejected records.

    The Deferred returned by startService fires when the directory exists.

    :param path: path of the directory; if empty, records are counted but not kept.
    :param add: adds counts to those in etcd; see Note [Counts].
    :param remove: removes the counts of a deleted sink from etcd.
    :param note_kept: notes the sinks of which records are kept; see Note [Kept until].
    :param note_found: notes the records found on the disk at startup, and the nodes that kept them;
        returns until when they are kept.
    :param is_required: whether an unusable directory is an error.
    :param defaults: limits in the service's settings, for sinks that no longer exist.
    :param written: called with the number of records that are kept.
    :param dropped: called with the number of records that aren't kept.

    :ivar directory_changed: called when the directory was replaced or emptied.
    """

    directory_changed: Callable[[], Awaitable[None]] | None = None

    def __init__(
        self,
        path: str,
        node_id: str,
        defaults: QuarantineSettings,
        reactor: Any,
        pool: ThreadPool,
        add: AddCounts,
        remove: Callable[[SinkKey], Awaitable[object]],
        note_kept: NoteKept,
        note_found: NoteFound,
        *,
        is_required: bool,
        written: Written,
        dropped: Written,
    ) -> None:
        self.node_id = node_id
        self._path = path
        self._is_required = is_required
        self._files = RejectedFiles(Path(path), node_id) if path else None
        self._defaults = defaults
        self._reactor = reactor
        self._wall_clock = wall_clock(reactor)
        self._pool = pool
        self._add = add
        self._remove = remove
        self._note_kept = note_kept
        self._note_found = note_found
        self._written = written
        self._dropped = dropped
        self._waiting: Batch = {}
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._writing_bytes = 0
        self._counted: dict[SinkKey, _Counted] = {}
        self._max_ages: dict[SinkKey, float] = {}
        self._gone: set[SinkKey] = set()
        self._found: list[tuple[str, SinkKey]] = []
        self._newest: dict[SinkKey, float] = {}
        self._kept_until: dict[SinkKey, datetime] = {}
        self._found_at = NO_TIME
        self._directory = ""
        self._kept: set[SinkKey] = set()
        self._unnoted: set[SinkKey] = set()
        self._noted: dict[SinkKey, datetime] = {}
        self._left_out = LogThrottle(LOG_SECONDS, reactor.seconds)
        self._next_cleanup = 0.0
        self._disk = DeferredLock()
        self._writing = DeferredLock()
        self._loop = LoopingCall(self._round)
        self._loop.clock = reactor
        self._looping: Deferred[Any] = succeed(None)

    async def startService(self) -> None:
        """Prepare the directory. Raises UserError if a required one can't be used."""
        super().startService()
        await self._prepare()
        # Not before the sinks are known: some have longer limits than the service.
        self._next_cleanup = self._reactor.seconds() + CLEANUP_SECONDS
        self._looping = self._loop.start(FLUSH_SECONDS, now=False)
        self._looping.addErrback(
            lambda failure: _log.failure("rejected records are no longer kept", failure)
        )

    async def _prepare(self) -> None:
        if self._files is None:
            _log.warn("rejected records are counted but not kept: source.quarantine.path is empty")
            return
        # The time before the directories of other nodes are available to them again.
        self._found_at = from_timestamp(self._wall_clock())
        try:
            moved = await self._in_thread(self._files.prepare)
            self._newest = await self._in_thread(self._files.newest)
            self._directory = await self._in_thread(self._files.identity)
        except OSError as error:
            problem = f'cannot use "{self._path}" for rejected records (source.quarantine.path)'
            if self._is_required:
                raise UserError(f"{problem}: {error}") from error
            self._files = None
            _log.warn("{problem}: {error}", problem=problem, error=error)
            return
        if moved:
            _log.info("took over {count} segments of rejected records", count=len(moved))
        self._kept = set(self._newest)
        own = ((self.node_id, sink) for sink in sorted(self._kept, key=str))
        self._found = list(dict.fromkeys([*moved, *own]))

    async def stopService(self) -> None:
        """Stop, and wait until all noted records are written."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
            await self._looping
        await self._write_and_count(lists=True)
        if self._files is not None:
            self._files.close()

    def known(self, sink: SinkKey, limits: QuarantineLimits) -> None:
        """Set the retention of a sink's records, even if none has been rejected."""
        changed = self._max_ages.get(sink) != limits.max_age.seconds
        self._max_ages[sink] = limits.max_age.seconds
        if changed and sink in self._kept:
            self._unnoted.add(sink)

    def forget(self, sink: SinkKey) -> None:
        """Stop counting the records of a deleted sink; kept ones remain until they are too old.

        They are also noted as kept until then, because the sink can be undeleted.
        """
        self._counted.pop(sink, None)
        self._gone.add(sink)

    def offer(
        self,
        sink: SinkKey,
        limits: QuarantineLimits | None,
        record: RecordContext,
        error: UserError,
    ) -> None:
        """Note that *record* couldn't be mapped. Never fails and never blocks.

        :param limits: limits of the sink's kept records; if ``None``, the record is only counted.
        """
        counted = self._counted.get(sink)
        if counted is None:
            counted = self._counted[sink] = _Counted()
        counted.count += 1
        waiting = self._waiting.get(sink)
        if limits is None or self._files is None:
            if counted.last is None:
                counted.last = attrs.evolve(Noted.of(record, error), body=b"")
            return
        size = len(record.body)
        if waiting is None or waiting[1][-1].headers is not record.headers:
            size += record.headers.memory  # the records of a batch share their headers
        if (
            self._waiting_records >= MAX_WAITING_RECORDS
            or self._writing_bytes + self._waiting_bytes + size > MAX_WAITING_BYTES
            or (waiting is not None and len(waiting[1]) >= MAX_WAITING_RECORDS_OF_SINK)
        ):
            self._drop(sink, 1, "too many at once")
            return
        self._waiting_records += 1
        self._waiting_bytes += size
        noted = counted.last = Noted.of(record, error)
        if waiting is None:
            waiting = self._waiting[sink] = (limits, [])
        waiting[1].append(noted)

    def _drop(self, sink: SinkKey, count: int, reason: str) -> None:
        self._dropped(count)
        self._counted.setdefault(sink, _Counted()).dropped += count
        suppressed = self._left_out.due(reason)
        if suppressed is not None:
            _log.warn(
                "rejected records of {sink_id} are not kept: {reason}",
                sink_id=str(sink),
                reason=reason,
                suppressed=suppressed,
            )

    # Rounds.

    def _round(self) -> Deferred[None]:
        return ensureDeferred(self._write_and_count())

    async def _write_and_count(self, *, lists: bool = False) -> None:
        """Write and count everything.

        :param lists: also note which sinks have no records any more, without removing any.
        """
        try:
            await self._write()
            now = self._reactor.seconds()
            if now >= self._next_cleanup and self._files is not None:
                self._next_cleanup = now + CLEANUP_SECONDS
                await self._in_thread(self._files.remove_old, self._wall_clock(), self._max_age)
                lists = True
            if lists and self._files is not None:
                await self._check_directory(self._files)
                self._note_removed(await self._in_thread(self._files.sinks))
        except Exception:
            _log.failure("the maintenance of rejected records failed")
        try:
            await self._store_kept()
            await self._store_counts()
        except EtcdError as error:
            _log.debug(
                "cannot store the counts of rejected records, retrying: {error}", error=error
            )
        except Exception:
            _log.failure("cannot count rejected records")

    async def _check_directory(self, files: RejectedFiles) -> None:
        """Note all records again if the directory was replaced or emptied while the node runs."""
        directory = await self._in_thread(files.identity)
        if directory == self._directory:
            return
        _log.error(
            "the directory of rejected records was replaced or emptied: {path}", path=self._path
        )
        self._directory = directory
        self._kept |= await self._in_thread(files.sinks)
        self._unnoted |= self._kept
        self._noted.clear()
        if self.directory_changed is not None:
            await self.directory_changed()

    def _max_age(self, sink: SinkKey) -> float:
        """Return the maximum age of a sink's records in seconds; see Note [Kept until]."""
        if sink not in self._max_ages:
            now = self._wall_clock()
            until = self._kept_until.get(sink)
            is_unread = until is None and sink in self._newest
            if is_unread or (until is not None and from_timestamp(now) < until):
                return now
        return self._max_ages.get(sink, self._defaults.max_age.seconds)

    async def _write(self) -> None:
        """Write the noted records, even if the caller is cancelled.

        Records that were taken from memory must be written.
        """
        await _whole(Deferred.fromCoroutine(self._write_in_turn()))

    async def _write_in_turn(self) -> None:
        await self._writing.acquire()
        try:
            await self._write_batch()
        finally:
            self._writing.release()

    async def _write_batch(self) -> None:
        if self._files is None or not self._waiting:
            return
        batch, self._waiting = self._waiting, {}
        self._writing_bytes, self._waiting_records, self._waiting_bytes = self._waiting_bytes, 0, 0
        try:
            await self._write_records(self._files, batch)
        finally:
            self._writing_bytes = 0

    async def _write_records(self, files: RejectedFiles, batch: Batch) -> None:
        for sink, (limits, noted) in batch.items():
            appended = await self._in_thread(
                _append, files, sink, limits, noted, self._wall_clock()
            )
            self._written(appended.kept)
            if appended.kept:
                self._kept.add(sink)
                self._unnoted.add(sink)
            if appended.left_out:
                self._drop(sink, appended.left_out, appended.problem)
            if appended.dropped:
                self._drop(sink, appended.dropped, "newer ones need the space")

    def _note_removed(self, left: set[SinkKey]) -> None:
        """Note the sinks of which no record is kept any more.

        :param left: sinks that still have records on the disk.
        """
        self._unnoted |= self._kept - left
        self._kept &= left

    async def _store_kept(self) -> None:
        """Store the sinks of which records are kept; see Note [Kept until]."""
        while self._found:
            some = self._found[:FOUND_PER_TRANSACTION]
            noted = await self._note_found({each: self._kept_at_start(each[1]) for each in some})
            self._kept_until.update(noted)
            del self._found[:FOUND_PER_TRANSACTION]
        while self._unnoted:
            some_sinks = list(self._unnoted)[:SINKS_PER_TRANSACTION]
            self._unnoted.difference_update(some_sinks)
            notes = self._new_notes(some_sinks)
            try:
                if notes:
                    await self._note_kept(notes)
            except BaseException:
                self._unnoted.update(some_sinks)
                raise
            for sink, note in notes.items():
                if sink in self._kept:
                    self._noted[sink] = note.until
                else:
                    self._noted.pop(sink, None)

    def _kept_at_start(self, sink: SinkKey) -> KeptRecords:
        """Return the note about the records that were found, if no limit is known.

        It depends on the last record, so restarts don't keep the records longer.
        """
        last = min(from_timestamp(self._newest.get(sink, 0.0)), self._found_at)
        until = last + timedelta(seconds=self._defaults.max_age.seconds)
        return KeptRecords(at=self._found_at, until=until, directory=self._directory)

    def _new_notes(self, sinks: Sequence[SinkKey]) -> dict[SinkKey, KeptRecords]:
        """Return the notes to store about *sinks*, except those that are already stored."""
        now = from_timestamp(self._wall_clock())
        ahead = timedelta(seconds=KEPT_AHEAD_SECONDS)
        none = KeptRecords(at=now, until=now, directory=self._directory)
        notes: dict[SinkKey, KeptRecords] = {}
        for sink in sinks:
            if sink not in self._kept:
                notes[sink] = none
                continue
            until = self._until(sink, now)
            noted = self._noted.get(sink)
            if noted is None or not until <= noted <= until + ahead:
                notes[sink] = attrs.evolve(none, until=until + ahead)
        return notes

    def _until(self, sink: SinkKey, now: datetime) -> datetime:
        """Return until when a sink's records are kept if the last one was rejected *now*."""
        limit = self._max_ages.get(sink)
        if limit is not None:
            return now + timedelta(seconds=limit)
        until = now + timedelta(seconds=self._defaults.max_age.seconds)
        return max(until, self._kept_until.get(sink, until))

    async def _store_counts(self) -> None:
        """Add the new counts to etcd; see Note [Counts]."""
        while self._gone:
            sink = self._gone.pop()
            try:
                await self._remove(sink)
            except BaseException:
                self._gone.add(sink)
                raise
        while self._counted:
            sinks = list(self._counted)[:SINKS_PER_TRANSACTION]
            some = {sink: self._counted.pop(sink) for sink in sinks}
            try:
                await self._add({sink: _count(counted) for sink, counted in some.items()})
            except BaseException:
                for sink, counted in some.items():
                    self._count_again(sink, counted)
                raise

    def _count_again(self, sink: SinkKey, counted: _Counted) -> None:
        later = self._counted.get(sink)
        if later is None:
            self._counted[sink] = counted
            return
        later.count += counted.count
        later.dropped += counted.dropped
        later.last = later.last or counted.last

    # Questions of the API.

    def has_files(self) -> bool:
        """Return whether this node can keep and read records; known once it is started."""
        return self._files is not None

    def directory(self) -> str:
        """Return the ID of the directory; empty without one."""
        return self._directory

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a question of `stream.rejected.answers`. Raises UserError, OSError."""
        await self._write()
        if self._files is None:
            return answer(None, request, self.node_id, 0.0, self._max_age)
        return await self._in_thread(
            answer, self._files, request, self.node_id, self._wall_clock(), self._max_age
        )

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a function in a thread, one at a time, because the threads mainly serve slices.

        A thread can't be stopped, so the next call waits until it has ended, even if the caller was
        cancelled.
        """
        await self._disk.acquire()
        working: Deferred[T] = deferToThreadPool(self._reactor, self._pool, work, *arguments)

        def ended_work(result: Any) -> Any:
            self._disk.release()
            return result

        working.addBoth(ended_work)
        return await _whole(working)


async def _whole(working: Deferred[T]) -> T:
    """Return the result of *working*, which continues if the caller is cancelled."""
    try:
        await ended(working)
    except CancelledError:
        working.addErrback(lambda failure: _log.failure("cannot read rejected records", failure))
        raise
    return await working


def _append(
    files: RejectedFiles,
    sink: SinkKey,
    limits: QuarantineLimits,
    noted: list[Noted],
    now: float,
) -> Any:
    """Append records, and remove them from *noted*; blocks.

    Each record is freed here. If the reactor freed the headers of hundreds of records together, it
    would be blocked for tens of milliseconds. Headers that the records of a batch share are read
    once.
    """
    last: RecordHeaders | None = None
    headers: Headers = []
    frames = []
    noted.reverse()
    while noted:
        each = noted.pop()
        if each.headers is not last:
            last, headers = each.headers, shown_headers(each.headers)
        frames.append(frame(each, str(uuid_utils.uuid7()), headers))
    return files.append(sink, limits, frames, now)


def _count(counted: _Counted) -> RejectedCount:
    last = counted.last
    error = None
    if last is not None:
        error = LastError(
            reason=last.reason,
            column=last.column,
            message=last.public_message,
            time=from_milliseconds(last.at),
        )
    return RejectedCount(count=counted.count, dropped=counted.dropped, last_error=error)
