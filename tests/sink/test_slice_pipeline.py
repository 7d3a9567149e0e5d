"""Group commit, retransmission and closing, with a virtual clock."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import attrs
import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from stream.errors import UserError
from stream.ops.logging.throttle import LogThrottle
from stream.ops.process.thread_pool import NoThread
from stream.sink.group import Group
from stream.sink.pipeline_states import PipelineState
from stream.sink.slice_pipeline import (
    HELD_LIMIT_BYTES,
    INLINE_COMPRESSION_BYTES,
    OPENING_GRACE_SECONDS,
    STALL_SECONDS,
    SlicePipeline,
)
from stream.storage.model.encoding import Encoding
from stream.storage.model.marks import MAX_MARKS, Mark, find_marks, marks_of
from stream.storage.network.interface import (
    Fenced,
    NoSpace,
    SliceSealed,
    SourceLife,
    Superseded,
    SyncLevel,
    WriterUnavailable,
)
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration
from tests.sink.fakes import FakeCompletion, FakeOpener
from tests.storage.samples import ENCODING, sample_slice, uncompressed


class _NoThreads(ThreadPool):
    """Runs the jobs of a thread pool synchronously, so that only the clock makes progress."""

    def callInThreadWithCallback(  # type: ignore[override]
        self, done: Callable[[bool, object], None], work: Callable[..., object], *args: object
    ) -> None:
        done(True, work(*args))


class _HeldThreads(ThreadPool):
    """Does no job until the test lets all of them fail."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Callable[[bool, object], None]] = []

    def callInThreadWithCallback(  # type: ignore[override]
        self, done: Callable[[bool, object], None], work: Callable[..., object], *args: object
    ) -> None:
        self.held.append(done)

    def fail(self, error: Exception) -> None:
        held, self.held = self.held, []
        for done in held:
            done(False, Failure(error))


class _Reactor(Clock):
    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        call(*args)


class PipelineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = _Reactor()
        self.unopened = LogThrottle(10.0, self.clock.seconds)
        self.lost = LogThrottle(10.0, self.clock.seconds)
        self.opener = FakeOpener(at_once=False)
        self.rerouted: list[Group] = []
        self.takes_rerouted = False

    @property
    def interval(self) -> float:
        """The number of seconds after which a second group is sent."""
        return ENCODING.sync.interval_trigger.seconds

    def pipeline(
        self, encoding: Encoding | None = None, pool: ThreadPool | None = None
    ) -> SlicePipeline:
        pipeline = SlicePipeline(
            sample_slice(encoding=encoding or uncompressed()),
            source=SourceLife("node-1", 1),
            opener=self.opener,
            reactor=self.clock,
            pool=pool or _NoThreads(),
            reroute=self._reroute,
            unopened=self.unopened,
            lost=self.lost,
        )
        pipeline.start()
        return pipeline

    def _reroute(self, origin: SlicePipeline, group: Group) -> bool:
        self.rerouted.append(group)
        return self.takes_rerouted

    def write(self, pipeline: SlicePipeline, *rows: bytes) -> list[FakeCompletion]:
        completions = []
        for row in rows:
            completion = FakeCompletion()
            pipeline.write(row, 1, 1000, completion)
            completions.append(completion)
        return completions

    @property
    def file(self):  # type: ignore[no-untyped-def]
        return self.opener.files[-1]

    @property
    def stored(self) -> bytes:
        return bytes(next(iter(self.opener.disk.values())))

    def test_rows_of_one_turn_are_one_append(self) -> None:
        """An idle pipeline commits the rows of a turn of the reactor at once."""
        pipeline = self.pipeline()
        completions = self.write(pipeline, b"a\n", b"b\n")
        assert not self.file.waiting
        self.clock.advance(0)
        assert [data for _, data, _ in self.file.waiting] == [b"a\nb\n"]
        assert [w.outcome for w in completions] == [None, None]
        self.file.answer()
        assert [w.outcome for w in completions] == ["stored", "stored"]

    def test_rows_are_collected_during_an_append(self) -> None:
        """A busy pipeline sends the next group when the previous one is acknowledged."""
        pipeline = self.pipeline()
        self.write(pipeline, b"a\n")
        self.clock.advance(0)
        later = self.write(pipeline, b"b\n", b"c\n")
        self.clock.advance(0.001)
        assert len(self.file.waiting) == 1
        self.file.answer()
        assert [data for _, data, _ in self.file.waiting] == [b"b\nc\n"]
        assert [w.outcome for w in later] == [None, None]

    def test_a_second_group_is_sent_after_the_interval(self) -> None:
        """Rows wait no longer than the interval trigger for a slow disk."""
        pipeline = self.pipeline()
        self.write(pipeline, b"a\n")
        self.clock.advance(0)
        self.write(pipeline, b"b\n")
        self.clock.advance(0.049)
        assert len(self.file.waiting) == 1
        self.clock.advance(0.001)
        assert [offset for offset, _, _ in self.file.waiting] == [0, 2]

    def _unawaited(self, interval: str) -> SlicePipeline:
        encoding = uncompressed()
        sync = attrs.evolve(
            encoding.sync, wait=False, interval_trigger=Duration.parse(interval), count_trigger=4
        )
        return self.pipeline(attrs.evolve(encoding, sync=sync))

    def test_rows_without_a_waiting_producer_are_collected(self) -> None:
        """The rows wait for the interval trigger but no longer, also while a group is in flight."""
        for interval, waits in (("10ms", 0.01), ("30s", 0.05)):
            self.opener = FakeOpener(at_once=False)
            pipeline = self._unawaited(interval)
            for row, others in ((b"a\n", 0), (b"b\n", 1)):
                pipeline.write(row, 1, 1000, None)
                self.clock.advance(waits * 0.9)
                pipeline.write(row, 1, 1000, None)
                assert len(self.file.waiting) == others
                self.clock.advance(waits * 0.2)
                assert len(self.file.waiting) == others + 1
            self.file.answer()
            self.file.answer()
            assert self.stored == b"a\na\nb\nb\n"

    def test_an_acknowledgement_does_not_send_the_next_group(self) -> None:
        """Rows of the next group wait for their own interval, unless the group is full."""
        pipeline = self._unawaited("50ms")
        for _ in range(5):
            pipeline.write(b"a\n", 1, 1000, None)
        self.clock.advance(0)
        assert [data for _, data, _ in self.file.waiting] == [b"a\n" * 4]
        self.file.answer()
        assert not self.file.waiting
        self.clock.advance(0.06)
        assert [data for _, data, _ in self.file.waiting] == [b"a\n"]

    def test_rows_after_a_full_group_wait_for_the_interval(self) -> None:
        """The rows arrive in the same turn as a batch that fills a group by itself."""
        pipeline = self._unawaited("50ms")
        pipeline.write(b"a\n" * 4, 4, 1000, None)
        pipeline.write(b"b\n", 1, 1000, None)
        self.clock.advance(0)
        assert [data for _, data, _ in self.file.waiting] == [b"a\n" * 4]
        self.file.answer()
        self.clock.advance(0.06)
        assert [data for _, data, _ in self.file.waiting] == [b"b\n"]

    def _accepted(self) -> SlicePipeline:
        return self.pipeline(attrs.evolve(ENCODING, sync=attrs.evolve(ENCODING.sync, wait=False)))

    def test_acknowledged_rows_with_a_refused_mark(self) -> None:
        """The rows are stored without the mark, since their producers don't send them again."""
        pipeline = self._accepted()
        pipeline.write(b"a\n", 1, 1000, None, Mark(b"k" * 16, b"c" * 8, b"a" * 8))
        pipeline.write(b"b\n", 1, 1000, None)
        self.clock.advance(0.06)
        self.file.refuse(Superseded("the writer was restarted"))
        [(_, data, _)] = self.file.waiting
        assert marks_of(data) == ()
        self.file.answer()
        assert gzip.decompress(self.stored) == b"a\nb\n"
        assert pipeline.held_bytes == 0

    def test_acknowledged_rows_in_a_file_that_is_not_truncated(self) -> None:
        """The length of the file shows which groups it contains, and only the others are sent
        again.
        """
        pipeline = self._accepted()
        for row in (b"a\n", b"b\n"):
            pipeline.write(row, 1, 1000, None, Mark(row * 8, b"c" * 8, b"a" * 8))
            self.clock.advance(0.06)
        pipeline.write(b"c\n", 1, 1000, None)
        self.clock.advance(0.06)
        file = self.file
        assert len(file.waiting) == 2
        self.opener.refusals += [Superseded("another attempt")]
        file.refuse(WriterUnavailable("gone"), stored=True)
        while not self.file.waiting or self.file is file:
            self.clock.advance(0.1)
        assert self.opener.resumes == [-1, 0, -1]
        while self.file.waiting:
            self.file.answer()
        rows = gzip.decompress(self.stored)
        assert sorted(rows.splitlines()) == [b"a", b"b", b"c"]
        assert pipeline.held_bytes == 0
        assert pipeline.counters.statistics().records_count == 3

    def test_a_waiting_producer_sends_the_group(self) -> None:
        """A row with a waiting producer isn't delayed by the other rows."""
        pipeline = self._unawaited("50ms")
        pipeline.write(b"a\n", 1, 1000, None)
        self.write(pipeline, b"b\n")
        self.clock.advance(0)
        assert [data for _, data, _ in self.file.waiting] == [b"a\nb\n"]

    def test_collected_rows_are_stored_before_the_slice_closes(self) -> None:
        """A close doesn't wait for the interval."""
        pipeline = self._unawaited("50ms")
        pipeline.write(b"a\n", 1, 1000, None)
        closed = ensureDeferred(pipeline.close(10))
        assert [data for _, data, _ in self.file.waiting] == [b"a\n"]
        self.file.answer()
        assert closed.called
        assert self.stored == b"a\n"

    def test_the_count_trigger_closes_a_group(self) -> None:
        """A group has at most the number of records in the trigger."""
        encoding = uncompressed()
        encoding = attrs.evolve(encoding, sync=attrs.evolve(encoding.sync, count_trigger=2))
        pipeline = self.pipeline(encoding)
        self.write(pipeline, b"a\n", b"b\n", b"c\n")
        self.clock.advance(0)
        assert [data for _, data, _ in self.file.waiting] == [b"a\nb\n"]

    def test_the_size_trigger_closes_a_group(self) -> None:
        """A group has at most the bytes in the trigger, unless it is a single row."""
        encoding = uncompressed()
        sync = attrs.evolve(encoding.sync, uncompressed_bytes_trigger=ByteSize(100))
        pipeline = self.pipeline(attrs.evolve(encoding, sync=sync))
        self.write(pipeline, b"x" * 60, b"y" * 60, b"z" * 200)
        self.clock.advance(0)
        assert [len(data) for _, data, _ in self.file.waiting] == [60, 60]
        self.file.answer()
        assert [len(data) for _, data, _ in self.file.waiting] == [60, 200]

    def test_the_level_follows_the_sync_mode(self) -> None:
        """Mode `cache` waits for a write, and mode `disk` or an unknown one for a sync."""
        encoding = uncompressed()
        for mode, expected in (
            ("disk", SyncLevel.SYNCED),
            ("cache", SyncLevel.WRITTEN),
            ("", SyncLevel.SYNCED),
            ("addedLater", SyncLevel.SYNCED),
        ):
            wanted = attrs.evolve(encoding, sync=attrs.evolve(encoding.sync, mode=mode))
            pipeline = self.pipeline(wanted)
            self.write(pipeline, b"a\n")
            self.clock.advance(0)
            assert self.file.levels == [expected]

    def test_a_lost_connection_neither_loses_nor_duplicates_rows(self) -> None:
        """Groups with an unknown outcome are sent again after the acknowledged ones."""
        for stored in (False, True):
            self.opener = FakeOpener(at_once=False)
            pipeline = self.pipeline()
            first = self.write(pipeline, b"a\n")
            self.clock.advance(0)
            self.file.answer()
            second = self.write(pipeline, b"b\n")
            self.clock.advance(0)
            self.file.refuse(WriterUnavailable("gone"), stored=stored)
            assert not pipeline.ready
            self.clock.advance(0.2)
            assert self.opener.resumes == [-1, 2]
            assert pipeline.ready
            self.file.answer()
            assert self.stored == b"a\nb\n"
            assert [w.outcome for w in (*first, *second)] == ["stored", "stored"]

    def test_a_recovered_writer_is_used_at_once(self) -> None:
        """This holds even after long delays; a cancelled wait leaves no state."""
        pipeline = self.pipeline()
        self.opener.refusals += [WriterUnavailable("down")] * 12
        self.opener.listeners[-1].lost(WriterUnavailable("gone"))
        while self.opener.refusals:
            self.clock.advance(1.0)
        assert not pipeline.ready
        [absent] = self.opener.absent
        self.opener.absent.clear()
        absent.callback(None)
        self.clock.advance(0)
        assert pipeline.ready
        self.opener.listeners[-1].lost(WriterUnavailable("gone again"))
        assert len(self.opener.absent) == 1
        pipeline._stop_timers()
        assert self.opener.absent == []

    def test_a_former_life_sends_nothing_again(self) -> None:
        """A later life has the file: groups in flight have an unknown outcome, the others are not
        stored.

        If the file is opened again, appends follow the existing content.
        """
        pipeline = self.pipeline()
        first = self.write(pipeline, b"a\n")
        self.clock.advance(0)
        self.file.answer()
        second = self.write(pipeline, b"b\n")
        self.clock.advance(0)
        third = self.write(pipeline, b"c\n")
        self.opener.refusals += [WriterUnavailable("down"), Fenced("a later life")]
        self.opener.listeners[-1].lost(WriterUnavailable("gone"))
        while not pipeline.ready:
            self.clock.advance(0.1)
        assert self.opener.resumes == [-1, 2, 2, -1]
        assert self.stored == b"a\n"
        names = [getattr(w.outcome, "name", w.outcome) for w in (*first, *second, *third)]
        assert names == ["stored", "genericError", "notStored"]

    def test_the_rows_of_a_superseded_request_are_not_stored(self) -> None:
        """It has to come again; the rows of the others are sent again, to the same open file."""
        pipeline = self.pipeline(ENCODING)
        marks = [Mark(key * 16, b"c" * 8, b"a" * 8) for key in (b"k", b"l", b"m")]
        completions = [FakeCompletion() for _ in range(5)]
        pipeline.write(b"before\n", 1, 1000, completions[0])
        for number, mark in enumerate(marks, 1):
            pipeline.write(b"%d\n%d\n" % (number, number), 2, 1000 + number, None, mark)
            pipeline.write(b"%d\n" % number, 1, 1000 + number, completions[number], mark)
        self.clock.advance(0)
        pipeline.write(b"later\n", 1, 2000, completions[4])
        self.clock.advance(self.interval)
        assert len(self.file.waiting) == 2
        held = pipeline.held_bytes
        self.file.refuse(Superseded("another attempt", frozenset([marks[1].key])))
        assert pipeline.ready
        assert pipeline.held_bytes == held - len(b"2\n")
        while self.file.waiting:
            self.file.answer()
        names = [getattr(each.outcome, "name", each.outcome) for each in completions]
        assert names == ["stored", "stored", "notStored", "stored", "stored"]
        assert len(self.opener.files) == 1
        assert not self.rerouted
        rows = gzip.decompress(self.stored).split()
        assert rows == b"before 1 1 1 2 2 3 3 3 later".split()
        [(_, stored)] = find_marks(self.stored)
        assert [mark.key for mark in stored] == [b"k" * 16] * 2 + [b"m" * 16] * 2
        assert pipeline.held_bytes == 0
        statistics = pipeline.counters.statistics()
        assert statistics.records_count == 10

    def test_a_request_that_is_refused_at_once_is_not_sent_again(self) -> None:
        """A local writer answers within the call; groups behind it keep their order."""
        pipeline = self.pipeline(ENCODING)
        self.opener.files[-1].at_once = True
        self.opener.files[-1].superseded = {b"k" * 16}
        first, second = FakeCompletion(), FakeCompletion()
        pipeline.write(b"a\n", 1, 1000, first, Mark(b"k" * 16, b"c" * 8, b"a" * 8))
        pipeline.write(b"b\n", 1, 1000, second)
        self.clock.advance(0)
        assert getattr(first.outcome, "name", None) == "notStored"
        assert second.outcome == "stored"
        assert gzip.decompress(self.stored) == b"b\n"
        assert pipeline.held_bytes == 0

    def test_a_group_of_superseded_requests_alone_is_not_stored(self) -> None:
        """A writer of an earlier version doesn't name the requests."""
        pipeline = self.pipeline(ENCODING)
        mark = Mark(b"k" * 16, b"c" * 8, b"a" * 8)
        first, second = FakeCompletion(), FakeCompletion()
        pipeline.write(b"a\n", 1, 1000, first, mark)
        self.clock.advance(0)
        [(_, data, _)] = self.file.waiting
        assert marks_of(data) == (mark,)
        assert gzip.decompress(data) == b"a\n"
        pipeline.write(b"b\n", 1, 1000, second)
        self.clock.advance(self.interval)
        self.file.refuse(Superseded("another attempt"))
        assert getattr(first.outcome, "name", None) == "notStored"
        assert not self.rerouted
        assert pipeline.ready
        while self.file.waiting:
            self.file.answer()
        assert second.outcome == "stored"
        assert gzip.decompress(self.stored) == b"b\n"
        assert pipeline.held_bytes == 0

    def test_rows_needed_by_another_attempt_are_kept(self) -> None:
        """The file isn't truncated, so groups in flight have an unknown outcome."""
        pipeline = self.pipeline(ENCODING)
        completion = FakeCompletion()
        pipeline.write(b"a\n", 1, 1000, completion, Mark(b"k" * 16, b"c" * 8, b"a" * 8))
        self.clock.advance(0)
        self.opener.refusals += [Superseded("another attempt")]
        self.file.refuse(WriterUnavailable("gone"), stored=True)
        while not pipeline.ready:
            self.clock.advance(0.1)
        assert getattr(completion.outcome, "name", None) == "genericError"
        assert self.opener.resumes == [-1, 0, -1]
        assert gzip.decompress(self.stored) == b"a\n"

    def test_the_limit_of_marks_in_a_header(self) -> None:
        """A group ends when its header is full; uncompressed files have no marks."""
        for encoding, groups in ((ENCODING, 2), (uncompressed(), 1)):
            self.opener = FakeOpener(at_once=True)
            pipeline = self.pipeline(encoding)
            for number in range(MAX_MARKS + 1):
                mark = Mark(b"%016d" % number, b"c" * 8, b"a" * 8)
                pipeline.write(b"a\n", 1, 1000, FakeCompletion(), mark)
            self.clock.advance(self.interval)
            found = list(find_marks(self.stored))
            assert len(found) == (groups if encoding is ENCODING else 0)
            assert len(self.file.levels) == groups

    def test_marks_of_a_group_from_another_slice(self) -> None:
        """A file without marks takes the rows alone."""
        pipeline = self.pipeline()
        group, completion = Group(), FakeCompletion()
        group.add(b"a\n", 1, 1000, completion, Mark(b"k" * 16, b"c" * 8, b"a" * 8))
        pipeline.adopt(group)
        self.file.answer()
        assert completion.outcome == "stored"
        assert self.stored == b"a\n"

    def test_a_large_group_is_compressed_without_a_thread(self) -> None:
        """The producer may have its answer already, so the rows aren't given up."""
        threads = _HeldThreads()
        pipeline = self.pipeline(ENCODING, threads)
        row = b"a" * INLINE_COMPRESSION_BYTES + b"\n"
        pipeline.write(row, 1, 1000, None)
        (later,) = self.write(pipeline, b"b\n")
        self.clock.advance(self.interval)
        assert threads.held
        threads.fail(NoThread("too many"))
        while self.file.waiting:
            self.file.answer()
        assert gzip.decompress(self.stored) == row + b"b\n"
        assert later.outcome == "stored"
        assert pipeline.held_bytes == 0

    def test_a_group_that_can_not_be_compressed(self) -> None:
        """It is certainly not stored, and those behind it don't wait for it."""
        threads = _HeldThreads()
        pipeline = self.pipeline(ENCODING, threads)
        (first,) = self.write(pipeline, b"a" * INLINE_COMPRESSION_BYTES + b"\n")
        self.clock.advance(0)
        (second,) = self.write(pipeline, b"b\n")
        self.clock.advance(self.interval)
        assert not self.file.waiting
        threads.fail(MemoryError())
        assert len(self.flushLoggedErrors(MemoryError)) == 1
        assert getattr(first.outcome, "name", None) == "notStored"
        self.file.answer()
        assert second.outcome == "stored"
        assert gzip.decompress(self.stored) == b"b\n"
        assert pipeline.held_bytes == 0

    def test_delays_are_reset(self) -> None:
        """Long delays of an earlier outage have no effect."""
        pipeline = self.pipeline()
        self.opener.refusals += [WriterUnavailable("down")] * 6
        self.opener.listeners[-1].lost(WriterUnavailable("gone"))
        while not pipeline.ready:
            self.clock.advance(0.1)
        assert self.clock.seconds() > 3
        self.opener.listeners[-1].lost(WriterUnavailable("gone again"))
        assert not pipeline.ready
        self.clock.advance(0.2)
        assert pipeline.ready

    def test_an_unavailable_writer_is_logged_rarely(self) -> None:
        """The outage is logged once in an interval, regardless of the number of slices."""
        pipelines = [self.pipeline() for _ in range(5)]
        self.opener.refusals += [WriterUnavailable("down")] * 50
        with capturedLogs() as events:
            for listener in list(self.opener.listeners):
                listener.lost(WriterUnavailable("gone"))
            for _ in range(80):
                self.clock.advance(0.1)
        assert not any(pipeline.ready for pipeline in pipelines)
        told = [e for e in events if str(e["log_format"]).startswith("cannot open a slice file")]
        assert len(told) == 1
        assert len(self.opener.refusals) < 40

    def test_lost_files_are_logged_rarely(self) -> None:
        """The files that a volume loses together are logged once, with the volume."""
        for _ in range(5):
            self.pipeline()
        listeners = list(self.opener.listeners)
        with capturedLogs() as events:
            for listener in listeners:
                listener.lost(WriterUnavailable("gone"))
            self.clock.advance(11)
            self.opener.listeners[-1].lost(WriterUnavailable("gone"))
        told = [e for e in events if str(e["log_format"]).startswith("slice file lost")]
        assert [event["suppressed"] for event in told] == [0, 4]
        assert told[0]["volume_id"] == "my-volume"

    def test_a_closed_pipeline_waits_for_no_file(self) -> None:
        """An opening may still wait for its turn."""
        self.opener.held = True
        pipeline = self.pipeline()
        ensureDeferred(pipeline.close(5.0))
        self.opener.release()
        assert self.file.closed
        assert pipeline.state is PipelineState.CLOSED
        assert not self.clock.getDelayedCalls()

    def test_a_late_answer_of_a_lost_file_is_ignored(self) -> None:
        """Only the latest transmission of a group can acknowledge it."""
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(0)
        old = self.file
        self.opener.listeners[-1].lost(WriterUnavailable("gone"))
        self.clock.advance(0.2)
        old.answer()
        assert completion.outcome is None
        self.file.answer()
        assert completion.outcome == "stored"
        assert self.stored == b"a\n"

    def test_refused_rows_are_written_to_another_slice(self) -> None:
        """Rows that a full volume certainly didn't store are written to another slice of
        the sink.
        """
        self.takes_rerouted = True
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(0)
        self.file.refuse(NoSpace("full"))
        assert [group.rows for group in self.rerouted] == [[b"a\n"]]
        assert completion.outcome is None
        assert not pipeline.ready

    def test_refused_rows_without_another_slice(self) -> None:
        """No slice accepts them, and producers get the answer that a retry is safe."""
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(0)
        self.file.refuse(SliceSealed("uploading"))
        assert isinstance(completion.outcome, UserError)
        assert completion.outcome.status == 503
        assert pipeline.state is PipelineState.CLOSED

    def test_rows_in_flight_to_a_sealed_slice(self) -> None:
        """The outcome of the rows is unknown, so the answer is 500 instead of 503, and no other
        slice gets them.
        """
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(0)
        self.opener.listeners[-1].lost(SliceSealed("uploading"))
        assert isinstance(completion.outcome, UserError)
        assert completion.outcome.status == 500
        assert not self.rerouted

    def test_rows_wait_for_a_file_that_is_opening(self) -> None:
        """The first rows of a slice wait while its file is being opened."""
        self.opener.held = True
        pipeline = self.pipeline()
        assert pipeline.opening
        assert not pipeline.ready
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(1)
        self.opener.release()
        self.file.answer()
        assert completion.outcome == "stored"
        assert pipeline.ready

    def test_rows_do_not_wait_forever(self) -> None:
        """After the grace period they are refused, and the pipeline accepts no more rows."""
        self.opener.held = True
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(OPENING_GRACE_SECONDS)
        assert isinstance(completion.outcome, UserError)
        assert completion.outcome.name == "noPipelineReady"
        assert not pipeline.opening
        self.opener.release()
        assert pipeline.ready

    def test_a_full_pipeline_accepts_no_more_rows(self) -> None:
        """The rows in a pipeline have a maximum size."""
        pipeline = self.pipeline()
        row = b"x" * 100_000
        count = 0
        while pipeline.ready:
            self.write(pipeline, row)
            self.clock.advance(0)
            count += 1
        assert count == -(-HELD_LIMIT_BYTES // len(row))
        while self.file.waiting:
            self.file.answer()
        assert pipeline.ready

    def test_a_silent_writer_makes_the_pipeline_not_ready(self) -> None:
        """No records are accepted during an append that isn't answered in time."""
        pipeline = self.pipeline()
        self.write(pipeline, b"a\n")
        self.clock.advance(0)
        self.clock.advance(STALL_SECONDS)
        assert pipeline.ready
        self.clock.advance(0.1)
        assert not pipeline.ready
        self.file.answer()
        assert pipeline.ready

    def test_close_sends_all_rows(self) -> None:
        """Closing waits for every row, and then for the file."""
        pipeline = self.pipeline()
        completions = self.write(pipeline, b"a\n", b"b\n")
        closing = ensureDeferred(pipeline.close(30))
        assert not pipeline.ready
        self.assertNoResult(closing)
        self.file.answer()
        self.successResultOf(closing)
        assert self.file.closed
        assert [w.outcome for w in completions] == ["stored", "stored"]
        assert pipeline.counters.records == 2
        assert not self.clock.getDelayedCalls()

    def test_close_has_a_deadline(self) -> None:
        """A dead writer can't block the close, and the outcome of its rows is unknown."""
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(0)
        closing = ensureDeferred(pipeline.close(30))
        self.clock.advance(30)
        self.successResultOf(closing)
        assert isinstance(completion.outcome, UserError)
        assert completion.outcome.status == 500
        assert not self.clock.getDelayedCalls()

    def test_the_deadline_of_a_close_can_be_shortened(self) -> None:
        """The deadline is never postponed."""
        pipeline = self.pipeline()
        self.write(pipeline, b"a\n")
        self.clock.advance(0)
        closing = ensureDeferred(pipeline.close(30))
        pipeline.hurry(5)
        pipeline.hurry(20)
        self.clock.advance(4)
        self.assertNoResult(closing)
        self.clock.advance(1)
        self.successResultOf(closing)
        pipeline.hurry(5)  # the deadline has passed
        assert not self.clock.getDelayedCalls()

    def test_a_file_that_does_not_close_is_abandoned(self) -> None:
        """The deadline applies to rows and file together."""
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.file.answers_close = False
        closing = ensureDeferred(pipeline.close(30))
        self.clock.advance(20)
        self.file.answer()
        assert completion.outcome == "stored"
        self.assertNoResult(closing)
        self.clock.advance(10)
        self.successResultOf(closing)
        assert not self.clock.getDelayedCalls()

    def test_a_draining_writer(self) -> None:
        """Rows are flushed, the file is closed, and the slice is opened again when the
        writer runs.
        """
        pipeline = self.pipeline()
        (completion,) = self.write(pipeline, b"a\n")
        self.clock.advance(0)
        left = self.file
        self.opener.listeners[-1].draining()
        assert not pipeline.ready
        left.answer()
        assert completion.outcome == "stored"
        assert left.closed
        self.opener.refusals.append(WriterUnavailable("down"))
        self.clock.advance(0.2)
        assert not pipeline.ready
        self.clock.advance(0.5)
        assert pipeline.ready
        assert self.opener.resumes == [-1, 2, 2]

    def test_a_pipeline_closed_while_opening(self) -> None:
        """A file that is opened late is closed at once."""
        self.opener.held = True
        pipeline = self.pipeline()
        self.successResultOf(ensureDeferred(pipeline.close(30)))
        self.opener.release()
        assert self.file.closed
        assert not self.clock.getDelayedCalls()

    def test_compressed_groups_are_complete_members(self) -> None:
        """The file can be decompressed at the end of every group."""
        import gzip

        pipeline = self.pipeline(ENCODING)
        for row in (b'"a"\n', b'"b"\n' * 30_000):
            self.write(pipeline, row)
            self.clock.advance(0)
            self.file.answer()
            assert gzip.decompress(self.stored).endswith(row)


@pytest.mark.parametrize("answers", range(4))
def test_counters_follow_acknowledgements(answers: int) -> None:
    """Only stored rows are counted."""
    clock = _Reactor()
    opener = FakeOpener(at_once=False)
    pipeline = SlicePipeline(
        sample_slice(encoding=uncompressed()),
        source=SourceLife("node-1", 1),
        opener=opener,
        reactor=clock,
        pool=_NoThreads(),
        reroute=lambda *_: False,
    )
    pipeline.start()
    for moment in (5, 6, 7):
        pipeline.write(b"row\n", 1, moment, FakeCompletion())
        clock.advance(0)
        if moment - 5 < answers:
            opener.files[-1].answer()
    counters = pipeline.counters
    stored = min(answers, 3)
    assert (counters.records, counters.uncompressed) == (stored, 4 * stored)
    assert counters.first_at == (5 if stored else 0)
    assert counters.last_at == (4 + stored if stored else 0)
