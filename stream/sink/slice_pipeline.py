"""The path of rows into one slice: they are grouped, compressed, appended, synced and answered.

Group commit: an idle pipeline commits as soon as the light clients of the reactor's turn are served
(`stream.ops.process.between`). A busy pipeline collects rows while the previous group is in flight.
The sync triggers of the slice are upper bounds: if the first group takes a long time, they cause a
second one to be sent. So the disk determines the rate.

Note [Unawaited rows]: if the settings don't require waiting, writing rows sooner answers no request
sooner. Therefore rows are collected until the interval trigger, but at most for
`UNAWAITED_SECONDS`, or until a request waits for a row of the same group. Otherwise a mode without
waiting would create as many groups as a mode with waiting.

Note [Resending]: a group is kept until the writer has acknowledged it at the required level. When
the connection breaks, the outcome of groups in flight is unknown. The file is opened again with the
acknowledged length, the writer truncates it there, and the groups are sent again. So an
interruption neither loses nor duplicates a row. This holds within one life of the node. If a later
life has the file, nothing is sent again, and the outcome of groups in flight remains unknown.

Note [Refused requests]: a writer refuses a group if another attempt at one of its requests has been
made in the meantime, on another node or in a later life of this node. The writer names these
requests. Their rows are removed from the group, and the rest is sent again at the same offset. The
groups after it are also sent again, because the writer refuses them by their offset. The producers
of the refused requests must retry; another slice would refuse them, too.

Note [Accepted rows]: if the settings don't require waiting, producers already have their answer,
and no client sends the rows again. Therefore the rows aren't given up if a writer refuses the mark
of one of their requests. They are sent again without the mark; at worst, a repeated request is
stored twice. If rows in the file must not be cut off, the length of the file shows which groups it
contains.

Note [Uncounted rows]: an answer doesn't wait for the statistics in etcd, which are put there once a
second. A crash may lose the latest counts, even all counts of a slice. The writer finds a slice
with rows but without counts (`stream.storage.writer.uncounted`), and the reader counts the rows.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.concurrency.waiters import Waiters
from stream.errors import UserError
from stream.ops.logging.throttle import LogThrottle
from stream.ops.process.between import SoonCall, call_soon
from stream.ops.process.thread_pool import NoThread
from stream.sink.compression import compressor
from stream.sink.counters import SliceCounters
from stream.sink.group import Group, SentGroup
from stream.sink.meters import SinkCounts
from stream.sink.outcome import Completion, no_pipeline_ready, not_stored, outcome_unknown
from stream.sink.pipeline_states import TRANSITIONS, PipelineEvent, PipelineState
from stream.storage.model.entity import Slice
from stream.storage.model.marks import MAX_MARKS, Mark, marked
from stream.storage.network.interface import (
    Fenced,
    NoSpace,
    SliceFile,
    SliceOpener,
    SliceSealed,
    SourceLife,
    Superseded,
    SyncLevel,
    WriterDraining,
    WriterError,
    WriterUnavailable,
)
from stream.values.backoff import Backoff

__all__ = ["SlicePipeline"]

_log = Logger()

_READY = PipelineState.READY
"""A constant, because looking up an enum member takes 0.1 µs in Python 3.11."""

HELD_LIMIT_BYTES = 8 * 1024 * 1024
"""Size of unacknowledged rows at which a pipeline is full; room for two of the largest groups."""

INLINE_COMPRESSION_BYTES = 64 * 1024
"""Size below which switching to a thread costs more than the compression itself."""

MAX_SENT_GROUPS = 2
"""Maximum number of groups in flight; while one waits for the disk, the next one is sent."""

STALL_SECONDS = 5.0
"""Number of seconds after which an unanswered append makes the pipeline not ready."""

UNAWAITED_SECONDS = 0.05
"""Maximum time for which unawaited rows are collected; the interval trigger may be shorter."""

OPENING_GRACE_SECONDS = 3.0
"""How long rows may wait for a pipeline that is still opening."""

_REOPEN_FIRST_SECONDS = 0.1
_REOPEN_MAX_SECONDS = 15.0


class SlicePipeline:
    """The rows of one slice on this node, which are grouped, compressed, sent and acknowledged.

    :param slice_: the slice, in state ``writing``.
    :param source: this node, in the life in which the pipeline was created.
    :param reroute: offers a group that was certainly not stored to another slice of the sink;
        returns False if none accepts it.
    :param meter: counts the records of the sink.
    :param unopened: volumes on which slices could not be opened; if ``None``, each attempt is
        logged.
    :param lost: volumes on which files were lost; if ``None``, each file is logged.
    """

    def __init__(
        self,
        slice_: Slice,
        *,
        source: SourceLife,
        opener: SliceOpener,
        reactor: Any,
        pool: ThreadPool,
        reroute: Callable[[SlicePipeline, Group], bool],
        jitter: random.Random | None = None,
        meter: SinkCounts | None = None,
        unopened: LogThrottle | None = None,
        lost: LogThrottle | None = None,
    ) -> None:
        self._unopened = unopened or LogThrottle(0.0, reactor.seconds)
        self._lost = lost or LogThrottle(0.0, reactor.seconds)
        self._meter = meter
        self.slice = slice_
        self.counters = SliceCounters()
        self.state = PipelineState.OPENING
        self._source = source
        self._opener = opener
        self._reactor = reactor
        self._pool = pool
        self._reroute = reroute
        encoding = slice_.encoding
        self._compress = compressor(encoding.compression)
        self._marks_groups = encoding.compression.type == "gzip"
        # An unknown mode promises at least as much as the default.
        self._level = SyncLevel.WRITTEN if encoding.sync.mode == "cache" else SyncLevel.SYNCED
        self._group_limit = min(encoding.sync.uncompressed_bytes_trigger, encoding.max_chunk_size)
        self._count_limit = encoding.sync.count_trigger
        self._held_limit = max(HELD_LIMIT_BYTES, 2 * encoding.max_chunk_size)
        self._file: SliceFile | None = None
        self._generation = 0
        self._acknowledged = -1
        self._offset = 0
        self._open = Group(meter=self._meter)
        self._full: deque[Group] = deque()
        self._sent: deque[SentGroup] = deque()
        self._undecided: list[tuple[int, SentGroup]] = []
        self._held = 0
        self._commit_call: IDelayedCall | SoonCall | None = None
        self._interval_call: IDelayedCall | None = None
        self._interval = encoding.sync.interval_trigger.seconds
        if not encoding.sync.wait:
            self._interval = min(self._interval, UNAWAITED_SECONDS)
        self._reopen_call: IDelayedCall | None = None
        self._grace_call: IDelayedCall | None = None
        self._close_call: IDelayedCall | None = None
        self._closing_file: Deferred[None] | None = None
        self._reopen_backoff = Backoff(
            _REOPEN_FIRST_SECONDS, _REOPEN_MAX_SECONDS, jitter=0.1, random=jitter or random.Random()
        )
        self._opening: Deferred[SliceFile] | None = None
        self._available: Deferred[None] | None = None
        self._when_opened = Waiters[None]()
        self._when_empty = Waiters[None]()

    def _follow(self, event: PipelineEvent) -> bool:
        """Change to the state after *event*; return False if the current state ignores it."""
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            return False
        self.state = following
        return True

    # Accepting rows.

    @property
    def ready(self) -> bool:
        """Return whether the balancer may offer a record to this pipeline."""
        if self.state is not _READY or self._held >= self._held_limit:
            return False
        sent = self._sent
        return not sent or self._reactor.seconds() - sent[0].sent_at <= STALL_SECONDS

    @property
    def room(self) -> int:
        """Return the number of bytes that may be written before the pipeline is full."""
        return max(0, self._held_limit - self._held)

    @property
    def held_bytes(self) -> int:
        """Return the number of bytes that the writer hasn't acknowledged yet."""
        return self._held

    @property
    def opening(self) -> bool:
        """Return whether rows may wait here although the file isn't open yet."""
        return self.state is PipelineState.OPENING and self._held < self._held_limit

    def write(
        self,
        rows: bytes,
        count: int,
        received_at: int,
        completion: Completion | None,
        mark: Mark | None = None,
    ) -> None:
        """Accept rows, which are stored together or not at all.

        May only be called while `ready` or `opening` is true.

        :param rows: *count* CSV rows, each with its line feed.
        :param received_at: receive time of the records, milliseconds since the epoch.
        :param completion: called with the outcome; ``None`` if no request waits.
        :param mark: mark of the request, if it has an idempotency key.
        """
        group = self._open
        if group.rows and group.size + len(rows) > self._group_limit:
            self._full.append(group)
            group = self._open = Group(meter=self._meter)
        if mark is None or not self._marks_groups:
            group.add(rows, count, received_at, completion)
        else:
            group.add(rows, count, received_at, completion, mark)
            if len(group.marked) >= MAX_MARKS:
                self._full.append(group)
                group = self._open = Group(meter=self._meter)
        self._held += len(rows)
        if group.size >= self._group_limit or group.count >= self._count_limit:
            self._full.append(group)
            self._open = Group(meter=self._meter)
        if self._commit_call is None:
            is_awaited = completion is not None  # see Note [Unawaited rows]
            if (is_awaited and not self._sent) or (
                self._full and len(self._sent) < MAX_SENT_GROUPS
            ):
                self._commit_call = call_soon(self._reactor, self._commit)
            elif self._interval_call is None:
                self._interval_call = self._reactor.callLater(self._interval, self._interval_passed)

    def adopt(self, group: Group) -> None:
        """Take over a group that another slice of the sink couldn't store."""
        self._full.append(group)
        self._held += group.size
        self._commit()

    def _interval_passed(self) -> None:
        """Send a second group, because the oldest open row has waited long enough."""
        self._interval_call = None
        if self._open.rows and (len(self._sent) < MAX_SENT_GROUPS or not self._open.waiting):
            self._end_group()
            self._commit()

    def _end_group(self) -> None:
        """Start another group for the next rows."""
        if self._open.rows:
            self._full.append(self._open)
            self._open = Group(meter=self._meter)

    # Sending groups.

    def _commit(self) -> None:
        if self._commit_call is not None and self._commit_call.active():
            self._commit_call.cancel()
        self._commit_call = None
        while self._file is not None and len(self._sent) < MAX_SENT_GROUPS:
            if self._full:
                group = self._full.popleft()
            elif self._open.waiting and not self._sent:
                group, self._open = self._open, Group(meter=self._meter)
            else:
                break
            self._send(group)
        if self._open.rows and not self._open.waiting and self._interval_call is None:
            # These rows came after a full group, in the turn before this call.
            self._interval_call = self._reactor.callLater(self._interval, self._interval_passed)
        self._check_empty()

    def _send(self, group: Group) -> None:
        sent = SentGroup(group, self._reactor.seconds())
        self._sent.append(sent)
        self._compress_and_append(sent)

    def _compress_and_append(self, sent: SentGroup) -> None:
        group = sent.group
        plain = b"".join(group.rows)
        if len(plain) <= INLINE_COMPRESSION_BYTES:
            self._compressed(self._compress(plain), sent)
            return
        compressed: Deferred[bytes] = deferToThreadPool(
            self._reactor, self._pool, self._compress, plain
        )
        compressed.addCallbacks(
            self._compressed, self._compression_failed, callbackArgs=(sent,), errbackArgs=(sent,)
        )

    def _compressed(self, data: bytes, sent: SentGroup) -> None:
        sent.data = self._with_marks(data, sent.group)
        self._append_ready()

    def _with_marks(self, member: bytes, group: Group) -> bytes:
        """Return the compressed *group*, with the marks of its requests.

        Another slice may have collected the group, and only that slice's file may have marks.
        """
        return marked(member, group.marks) if group.marked and self._marks_groups else member

    def _compression_failed(self, failure: Failure, sent: SentGroup) -> None:
        """Called when a group couldn't be compressed; the writer has no part of it."""
        if sent not in self._sent:
            return
        if failure.check(NoThread):
            # Here it delays others, but its producers may already have their answer.
            try:
                data = self._compress(b"".join(sent.group.rows))
            except Exception:
                failure = Failure()
            else:
                self._compressed(data, sent)
                return
        _log.failure("cannot compress a group", failure)
        self._sent.remove(sent)
        self._held -= sent.group.size
        self._append_ready()  # the groups after it have waited for it
        self._commit()
        sent.group.failed(not_stored(_error(failure)))

    def _append_ready(self) -> None:
        """Append compressed groups, in order, up to the first one that isn't compressed."""
        for sent in tuple(self._sent):
            if not sent.data or self._file is None:
                return
            if sent.offset >= 0:
                continue
            sent.offset = self._offset
            sent.sendings += 1
            self._offset += len(sent.data)
            appended = self._file.append(sent.offset, sent.data, level=self._level)
            sending = self._generation, sent.sendings
            appended.addCallbacks(
                self._acknowledge,
                self._append_failed,
                callbackArgs=(sent, sending),
                errbackArgs=(sent, sending),
            )
            if sent.offset < 0:
                return  # it was refused immediately, and must come before the others

    def _acknowledge(self, end: int, sent: SentGroup, sending: tuple[int, int]) -> None:
        if sending != (self._generation, sent.sendings):
            return  # see Note [Resending]: only the latest transmission counts
        self._acknowledged = end
        self._sent.remove(sent)
        self._stored(sent)

    def _stored(self, sent: SentGroup) -> None:
        group = sent.group
        self._held -= group.size
        if self._meter is not None and self._level is SyncLevel.SYNCED:
            self._meter.synced(group.count)
        self.counters.add(group.count, group.size, len(sent.data), group.first_at, group.last_at)
        self._commit()
        group.stored()

    # Failures.

    def _append_failed(self, failure: Failure, sent: SentGroup, sending: tuple[int, int]) -> None:
        if sending != (self._generation, sent.sendings):
            return
        error = failure.value
        if isinstance(error, Superseded) and sent.group.marked:
            self._take_out(sent, error)
            return
        if failure.check(WriterError) is None:
            _log.failure("unexpected failure of an append", failure)
        # A refused append stores no data, and later appends are refused because of their offset.
        self._lose_file(
            _error(failure), sent_refused=failure.check(NoSpace, SliceSealed) is not None
        )

    def _take_out(self, sent: SentGroup, error: Superseded) -> None:
        """Send a group again without the requests that the writer has refused.

        See Note [Refused requests].
        """
        group, marked = sent.group, len(sent.group.marked)
        refused = group.take_out(error.keys)
        if len(group.marked) == marked:  # the writer hasn't named the requests
            refused = group.take_out({mark.key for mark in group.marks})
        self._held -= refused.size
        self._offset = sent.offset
        for each in list(self._sent)[self._sent.index(sent) :]:
            each.offset = -1
            each.sendings += 1
        sent.data = b""
        if group.rows:
            self._compress_and_append(sent)
        else:
            self._sent.remove(sent)
            self._append_ready()
        self._commit()
        if refused.rows:
            refused.failed(not_stored(error))

    def _send_unmarked(self, group: Group) -> None:
        """Send *group* again; see Note [Accepted rows]."""
        group.marked = []
        self._full.appendleft(group)

    def _leave_in_file(self, error: Exception) -> None:
        """Give up the groups in flight, because the file may contain them and must not be
        truncated.

        Groups without a waiting producer are decided when the file is open.
        """
        sent_groups = list(self._sent)
        self._sent.clear()
        end, self._acknowledged = self._acknowledged, -1
        for sent in sent_groups:
            end += len(sent.data)
            if not sent.data:  # the group is still being compressed
                self._full.appendleft(sent.group)
            elif sent.group.waiting:
                self._held -= sent.group.size
                sent.group.failed(outcome_unknown(error))
            else:
                self._undecided.append((end, sent))

    def _decide(self, length: int) -> None:
        """Decide by the *length* of the file which groups it contains."""
        undecided, self._undecided = self._undecided, []
        for end, sent in undecided:
            if end <= length:
                self._stored(sent)
            else:
                self._send_unmarked(sent.group)

    def draining(self) -> None:
        """Send pending rows, close the file, and reopen it when the stopping writer is back."""
        if not self._follow(PipelineEvent.DRAINING):
            return
        generation = self._generation

        def leave(_: None) -> None:
            if generation == self._generation:
                self._lose_file(WriterDraining("the writer is stopping"))

        flushed = self._flushed()
        flushed.addCallback(leave)
        flushed.addErrback(
            lambda f: _log.failure("cannot detach from a writer that is stopping", f)
        )

    def lost(self, reason: WriterError) -> None:
        """Called when the writer or the connection has given up the file."""
        self._lose_file(reason)

    def _lose_file(self, error: Exception, *, sent_refused: bool = False) -> None:
        is_sealed = isinstance(error, SliceSealed)
        if not self._follow(PipelineEvent.SEALED if is_sealed else PipelineEvent.LOST):
            return
        self._generation += 1
        file, self._file = self._file, None
        if file is not None:
            file.close().addErrback(lambda _: None)  # best effort, because the file is already lost
            self._tell_lost(error)
        if isinstance(error, NoSpace | SliceSealed):
            self._give_up_all(error, sent_refused=sent_refused)
        if is_sealed:
            self._stop_timers()
            return
        for sent in self._sent:
            sent.offset = -1
        self._reopen_later()

    def _tell_lost(self, error: Exception) -> None:
        """Log one of the files that a volume loses at about the same time."""
        suppressed = self._lost.due(self.slice.key.volume_id)
        if suppressed is not None:
            _log.warn(
                "slice file lost: {error}",
                error=error,
                slice_id=str(self.slice.key),
                volume_id=self.slice.key.volume_id,
                suppressed=suppressed,
            )

    def _take_all(self) -> tuple[list[Group], list[Group]]:
        """Remove and return all groups: those in flight, and those that were never sent."""
        sent = [sent.group for sent in (*(each for _, each in self._undecided), *self._sent)]
        unsent = [group for group in (*self._full, self._open) if group.rows]
        self._sent.clear()
        self._undecided.clear()
        self._full.clear()
        self._open = Group(meter=self._meter)
        self._held = 0
        return sent, unsent

    def _give_up_all(self, error: Exception, *, sent_refused: bool) -> None:
        """Move every row that is certainly not stored to another slice, or fail it."""
        sent, unsent = self._take_all()
        if not sent_refused:
            for group in sent:
                group.failed(outcome_unknown(error))
            sent = []
        for group in (*sent, *unsent):
            if not self._reroute(self, group):
                group.failed(not_stored(error))
        self._check_empty()

    # Opening.

    def start(self) -> Deferred[None]:
        """Open the file; the Deferred fires when it is open, or after the grace period."""
        self._grace_call = self._reactor.callLater(OPENING_GRACE_SECONDS, self._grace_over)
        opened = self._when_opened.wait()
        self._reopen()
        return opened

    def _grace_over(self) -> None:
        self._grace_call = None
        if self._follow(PipelineEvent.GRACE_OVER):
            _, unsent = self._take_all()
            for group in unsent:
                if not self._reroute(self, group):
                    group.failed(no_pipeline_ready())
        self._when_opened.fire(None)

    def _reopen_later(self) -> None:
        if self._reopen_call is not None or self._opening is not None:
            return
        self._reopen_call = self._reactor.callLater(self._reopen_backoff.next(), self._reopen)
        self._available = self._opener.available(self.slice)
        self._available.addCallbacks(self._reopen_soon, lambda f: f.trap(CancelledError))

    def _reopen_soon(self, _: None) -> None:
        """Retry now, because the writer has just answered again."""
        self._available = None
        self._reopen_backoff.reset()
        if self._reopen_call is not None:
            self._reopen_call.reset(0)

    def _reopen(self) -> None:
        self._reopen_call = None
        self._stop_waiting()
        self._opening = self._opener.open(self.slice, self._source, self, resume=self._acknowledged)
        self._opening.addCallbacks(self._opened, self._open_failed)

    def _stop_waiting(self) -> None:
        available, self._available = self._available, None
        if available is not None:
            available.cancel()

    def _opened(self, file: SliceFile) -> None:
        self._opening = None
        if not self._follow(PipelineEvent.OPENED):
            file.close().addErrback(lambda _: None)
            return
        if file.length < self._acknowledged:
            _log.error(
                "the slice file has only {length} of {acknowledged} acknowledged bytes",
                length=file.length,
                acknowledged=self._acknowledged,
                slice_id=str(self.slice.key),
            )
        self._file = file
        self._offset = self._acknowledged = file.length
        self._reopen_backoff.reset()
        self._decide(file.length)
        self._append_ready()
        self._commit()
        self._when_opened.fire(None)

    def _open_failed(self, failure: Failure) -> None:
        self._opening = None
        if self.state is PipelineState.CLOSED:
            return
        if failure.check(SliceSealed):
            self._lose_file(_error(failure))
            return
        if failure.check(Superseded):
            self._leave_in_file(_error(failure))
            self._check_empty()
        elif failure.check(Fenced):
            self._acknowledged = -1
            self._give_up_all(_error(failure), sent_refused=False)
        suppressed = self._unopened.due(self.slice.key.volume_id)
        if failure.check(WriterError) is None:
            _log.failure("cannot open a slice file", failure)
        elif suppressed is not None:
            _log.warn(
                "cannot open a slice file: {error}",
                error=failure.value,
                slice_id=str(self.slice.key),
                volume_id=self.slice.key.volume_id,
                suppressed=suppressed,
            )
        self._reopen_later()

    # Closing.

    def _flushed(self) -> Deferred[None]:
        """Return a Deferred that fires when no rows are pending."""
        if not self._held:
            return succeed(None)
        empty = self._when_empty.wait()
        self._end_group()
        self._commit()
        return empty

    def _check_empty(self) -> None:
        if not self._held:
            self._when_empty.fire(None)

    async def close(self, timeout: float) -> None:
        """Send pending rows, sync and close the file; give up after *timeout* seconds in total.

        The outcome of rows that could not be sent by then is unknown.
        """
        if not self._follow(PipelineEvent.CLOSE):
            return
        flushed = self._flushed()
        self._close_call = self._reactor.callLater(timeout, self._give_up_closing)
        await flushed
        file, self._file = self._file, None
        self._follow(PipelineEvent.EMPTY)
        self._stop_timers()
        if file is not None:
            closed = self._closing_file = file.close()
            closed.addErrback(_not_closed)
            if self._close_call is None or not self._close_call.active():
                closed.cancel()  # the time limit is reached
            await closed
        if self._close_call is not None and self._close_call.active():
            self._close_call.cancel()

    def hurry(self, timeout: float) -> None:
        """Limit the remaining time of a running close to *timeout* seconds."""
        call = self._close_call
        if call is not None and call.active():
            left = call.getTime() - self._reactor.seconds()
            call.reset(max(0.0, min(left, timeout)))

    def _give_up_closing(self) -> None:
        if self._closing_file is not None:
            self._closing_file.cancel()
        else:
            self._abandon()

    def _abandon(self) -> None:
        error: UserError = outcome_unknown(WriterUnavailable("the writer did not answer in time"))
        self._generation += 1
        sent, unsent = self._take_all()
        for group in (*sent, *unsent):
            group.failed(error)
        self._check_empty()

    def _stop_timers(self) -> None:
        """Stop all timers of a closed pipeline."""
        calls = (self._commit_call, self._interval_call, self._reopen_call, self._grace_call)
        for call in calls:
            if call is not None and call.active():
                call.cancel()
        self._commit_call = self._interval_call = self._reopen_call = self._grace_call = None
        self._stop_waiting()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()  # it may be far back in the queue
        self._when_opened.fire(None)
        self._check_empty()


def _not_closed(failure: Failure) -> None:
    late = failure.check(CancelledError) is not None
    error = "the writer did not answer in time" if late else failure.value
    _log.warn("cannot close a slice file: {error}", error=error)


def _error(failure: Failure) -> Exception:
    """Return the exception of a failed Deferred."""
    error = failure.value
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
