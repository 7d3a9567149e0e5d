"""Rejected records of a node: queued, written and counted once a second, within limits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.definition.key import SinkKey
from stream.errors import NestedError, UserError
from stream.etcd import EtcdUnavailable
from stream.mapping.types import ValueMisfit
from stream.rejected import keeper
from stream.rejected.files import RejectedFiles
from stream.rejected.keeper import RejectedRecords
from stream.rejected.record import Noted
from stream.rejected.state import KeptRecords, RejectedCount
from stream.settings import QuarantineSettings
from stream.values.duration import Duration
from stream.values.utctime import from_timestamp
from tests.rejected.samples import ERROR, KEY, LIMITS, NOW, line, record

OTHER = attrs.evolve(KEY, sink_id="other")


class _NoThreads(ThreadPool):
    """Runs jobs synchronously instead of in threads, unless it is paused."""

    held: list[Callable[[], None]] | None = None

    def callInThreadWithCallback(  # type: ignore[override]
        self, done: Callable[[bool, object], None], work: Callable[..., object], *args: object
    ) -> None:
        def run() -> None:
            try:
                result = work(*args)
            except Exception:
                done(False, Failure())
            else:
                done(True, result)

        if self.held is None:
            run()
        else:
            self.held.append(run)


class _Reactor(Clock):
    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        call(*args)


@attrs.define(eq=False)
class _World:
    path: Path
    clock: _Reactor = attrs.Factory(_Reactor)
    pool: _NoThreads = attrs.Factory(_NoThreads)
    written: list[int] = attrs.Factory(list)
    dropped: list[int] = attrs.Factory(list)
    counts: dict[SinkKey, RejectedCount] = attrs.Factory(dict)
    kept: dict[SinkKey, KeptRecords] = attrs.Factory(dict)
    found: list[tuple[str, SinkKey]] = attrs.Factory(list)
    notes: int = 0
    is_etcd_away: bool = False

    async def add(self, counts: Mapping[SinkKey, RejectedCount]) -> None:
        if self.is_etcd_away:
            raise EtcdUnavailable("no answer")
        for sink, count in counts.items():
            self.counts[sink] = self.counts.get(sink, RejectedCount()) + count

    async def remove(self, sink: SinkKey) -> None:
        self.counts.pop(sink, None)

    async def note_kept(self, kept: Mapping[SinkKey, KeptRecords]) -> None:
        if self.is_etcd_away:
            raise EtcdUnavailable("no answer")
        self.notes += 1
        for sink, records in kept.items():
            merged = records.after(self.kept.pop(sink, None))
            if merged.may_exist(merged.at):
                self.kept[sink] = merged

    async def note_found(
        self, found: Mapping[tuple[str, SinkKey], KeptRecords]
    ) -> dict[SinkKey, datetime]:
        if self.is_etcd_away:
            raise EtcdUnavailable("no answer")
        self.found += found
        for (_, sink), kept in found.items():
            before = self.kept.get(sink, kept)
            self.kept[sink] = attrs.evolve(kept, until=max(kept.until, before.until))
        return {sink: self.kept[sink].until for _, sink in found}

    def kept_for(self, sink: SinkKey = KEY) -> float:
        """Return for how many seconds from now records are noted as kept."""
        now = from_timestamp(self.clock.seconds())
        return (self.kept[sink].until - now).total_seconds()

    def service(self, path: str | None = None, *, is_required: bool = True) -> RejectedRecords:
        service = self.created(path, is_required=is_required)
        self.run(service.startService)
        return service

    def created(self, path: str | None = None, *, is_required: bool = True) -> RejectedRecords:
        return RejectedRecords(
            str(self.path) if path is None else path,
            "node-1",
            QuarantineSettings(),
            self.clock,
            self.pool,
            self.add,
            self.remove,
            self.note_kept,
            self.note_found,
            is_required=is_required,
            written=self.written.append,
            dropped=self.dropped.append,
        )

    @staticmethod
    def run(call: Callable[[], Any]) -> Any:
        failures: list[Failure] = []
        fired: list[object] = []
        ensureDeferred(call()).addCallbacks(fired.append, failures.append)
        if failures:
            failures[0].raiseException()
        (result,) = fired
        return result

    def bodies(self, sink: SinkKey = KEY) -> list[str]:
        files = RejectedFiles(self.path, "node-1")
        return [stored.outline.excerpt for stored in files.oldest_first(sink)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[_World]:
    world = _World(tmp_path / "rejected")
    world.clock.advance(NOW)
    yield world
    assert world.clock.getDelayedCalls() == []


def test_records_are_written_each_second_and_at_the_end(world: _World) -> None:
    """No queued record is lost at a stop, and the next start continues."""
    service = world.service()
    assert service.has_files()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    assert world.bodies() == []
    world.clock.advance(1)
    assert world.bodies() == ["1"]
    service.offer(KEY, LIMITS, record(b"2"), ERROR)
    world.run(service.stopService)
    service = world.service()
    service.offer(KEY, LIMITS, record(b"3"), ERROR)
    world.run(service.stopService)
    assert world.bodies() == ["1", "2", "3"]
    assert (world.written, world.dropped) == ([1, 1, 1], [])


def test_records_and_the_last_error_are_counted(world: _World) -> None:
    """Both are counted, also for a sink that keeps none, and exactly once after an outage
    of etcd.
    """
    service = world.service()
    other = attrs.evolve(KEY, sink_id="other")
    for body in (b"1", b"2"):
        service.offer(KEY, LIMITS, record(body), ERROR)
        service.offer(other, None, record(body), ERROR)
    world.is_etcd_away = True
    world.clock.advance(1)
    assert world.counts == {}
    service.offer(KEY, LIMITS, record(b"3"), UserError("new", name="new"))
    world.is_etcd_away = False
    world.clock.advance(1)
    assert {sink: count.count for sink, count in world.counts.items()} == {KEY: 3, other: 2}
    last = world.counts[KEY].last_error
    assert last is not None
    assert last.view() == {
        "reason": "stream.in.new",
        "column": "",
        "message": "New.",
        "time": "2024-05-01T10:00:00.123Z",
    }
    world.clock.advance(5)
    assert world.counts[KEY].count == 3
    assert world.bodies(other) == []
    world.run(service.stopService)


def test_the_last_error_contains_no_record(world: _World) -> None:
    """The error is part of the statistics, which more users may see; the kept record has the whole
    message.
    """
    service = world.service()
    misfit = ValueMisfit(b"secret", "an integer")
    nested = NestedError('cannot convert column "c" to CSV value', [misfit])
    service.offer(KEY, LIMITS, record(b"secret"), nested)
    world.clock.advance(1)
    last = world.counts[KEY].last_error
    assert last is not None
    assert last.message == 'Cannot convert column "c" to CSV value:\n- The value is not an integer.'
    assert "secret" in Noted.of(record(b""), nested).message
    world.run(service.stopService)


def test_a_deleted_sink_is_no_longer_counted(world: _World) -> None:
    """Records of a deleted sink are kept, since it can be undeleted."""
    service = world.service()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)
    assert world.counts[KEY].count == 1
    service.forget(KEY)
    world.clock.advance(1)
    assert (world.counts, world.bodies()) == ({}, ["1"])
    world.run(service.stopService)


def test_excess_records_are_dropped_and_counted(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queued records are limited by number and by bytes, and each write frees space."""
    monkeypatch.setattr(keeper, "MAX_WAITING_RECORDS", 3)
    monkeypatch.setattr(keeper, "MAX_WAITING_BYTES", 10)
    service = world.service()
    for body in (b"1", b"2", b"12345678901", b"3", b"4"):
        service.offer(KEY, LIMITS, record(body, headers=()), ERROR)
    assert world.dropped == [1, 1]
    world.clock.advance(1)
    service.offer(KEY, LIMITS, record(b"5", headers=()), ERROR)
    world.run(service.stopService)
    assert world.bodies() == ["1", "2", "3", "5"]
    assert (world.counts[KEY].count, world.counts[KEY].dropped) == (6, 2)


def test_headers_of_waiting_records_are_limited(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queued records are limited by the memory of their headers, which those of a batch share."""
    monkeypatch.setattr(keeper, "MAX_WAITING_BYTES", 10_000)
    service = world.service()

    first, last = ([(b"X-%d" % number, b"") for number in range(50)] for _ in range(2))
    shared = record(b"1", headers=first)
    for _ in range(3):
        service.offer(KEY, LIMITS, shared, ERROR)
    service.offer(KEY, LIMITS, record(b"2", headers=last), ERROR)
    assert world.dropped == [1]
    world.run(service.stopService)
    assert world.bodies() == ["1", "1", "1"]


def test_a_flood_of_one_sink_leaves_room_for_others(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood by one producer doesn't displace the records of another one."""
    monkeypatch.setattr(keeper, "MAX_WAITING_RECORDS_OF_SINK", 2)
    service = world.service()
    other = attrs.evolve(KEY, sink_id="other")
    for _ in range(10):
        service.offer(KEY, LIMITS, record(b"1"), ERROR)
    service.offer(other, LIMITS, record(b"2"), ERROR)
    world.run(service.stopService)
    assert (world.bodies(), world.bodies(other)) == (["1", "1"], ["2"])
    assert world.counts[KEY].dropped == 8


def test_records_that_are_being_written_are_in_memory(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of bytes includes them until the thread has written them."""
    monkeypatch.setattr(keeper, "MAX_WAITING_BYTES", 10)
    service = world.service()
    world.pool.held = []
    service.offer(KEY, LIMITS, record(b"123456", headers=()), ERROR)
    world.clock.advance(1)
    for body in (b"abcdef", b"1234"):
        service.offer(KEY, LIMITS, record(body, headers=()), ERROR)
    assert world.dropped == [1]
    held, world.pool.held = world.pool.held, None
    held[0]()
    service.offer(KEY, LIMITS, record(b"abcdef", headers=()), ERROR)
    world.run(service.stopService)
    assert world.bodies() == ["123456", "1234", "abcdef"]
    assert world.dropped == [1]


def test_a_slow_disk_does_not_block_the_queue(world: _World) -> None:
    """Records that arrive during a write are written by the next one."""
    service = world.service()
    world.pool.held = []
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)
    service.offer(KEY, LIMITS, record(b"2"), ERROR)
    world.clock.advance(5)
    assert len(world.pool.held) == 1
    held, world.pool.held = world.pool.held, None
    held[0]()
    world.clock.advance(1)
    assert world.bodies() == ["1", "2"]
    world.run(service.stopService)


def test_a_failing_disk(world: _World) -> None:
    """Records are dropped, the failure is counted, and the next second is tried as usual."""
    service = world.service()
    in_the_way = world.path / "node-1/123"
    in_the_way.write_bytes(b"")
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)
    assert (world.dropped, world.written) == ([1], [0])
    in_the_way.unlink()
    service.offer(KEY, LIMITS, record(b"2"), ERROR)
    world.clock.advance(1)
    assert world.bodies() == ["2"]
    world.run(service.stopService)


def test_a_node_without_a_directory(world: _World) -> None:
    """The node counts the records without keeping them."""
    service = world.service(path="")
    assert not service.has_files()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    question = {"kind": "list", "sink": str(KEY), "limit": 1}
    assert world.run(lambda: service.ask(question))["total"] == 0
    world.run(service.stopService)
    assert (world.counts[KEY].count, world.path.exists()) == (1, False)


def test_a_directory_that_can_not_be_created(world: _World) -> None:
    """The start fails with an error that names path and setting, if the path was set."""
    world.path.write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot use .*rejected.* \(source\.quarantine\.path\)"):
        world.service()
    service = world.service(is_required=False)
    assert not service.has_files()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.run(service.stopService)
    assert world.counts[KEY].count == 1


def test_an_answer_includes_queued_records(world: _World) -> None:
    """An answer doesn't wait for the next round."""
    service = world.service()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    answered = world.run(lambda: service.ask({"kind": "list", "sink": str(KEY), "limit": 9}))
    assert [each["excerpt"] for each in answered["records"]] == ["1"]
    world.run(service.stopService)


def test_a_cancelled_request_loses_no_record(world: _World) -> None:
    """A started write is finished, and nothing else is read for the request."""
    service = world.service()
    other = attrs.evolve(KEY, sink_id="other")
    for sink in (KEY, other):
        service.offer(sink, LIMITS, record(b"1"), ERROR)
    held = world.pool.held = []
    asking = ensureDeferred(service.ask({"kind": "list", "sink": str(KEY), "limit": 9}))
    failures: list[Failure] = []
    asking.addErrback(failures.append)
    asking.cancel()
    assert failures[0].check(CancelledError)
    while held:
        held.pop(0)()
    assert (world.bodies(), world.bodies(other)) == (["1"], ["1"])
    world.pool.held = None
    world.run(service.stopService)
    assert world.written == [1, 1]


def test_threads_of_cancelled_requests_are_awaited(world: _World) -> None:
    """Callers that disconnect can't occupy the threads of slices."""
    service = world.service()
    held = world.pool.held = []
    for _ in range(5):
        asking = ensureDeferred(service.ask({"kind": "list", "sink": str(KEY), "limit": 9}))
        asking.addErrback(lambda failure: failure.trap(CancelledError))
        asking.cancel()
    assert len(held) == 1
    held.pop()()
    assert held == []
    world.pool.held = None
    world.run(service.stopService)


def test_records_are_removed_by_the_age_of_their_sink(world: _World) -> None:
    """A known sink has its own limit, and other sinks have that of the service."""
    service = world.service()
    other = attrs.evolve(KEY, sink_id="other")
    service.known(KEY, LIMITS)
    for key in (KEY, other):
        service.offer(key, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)

    for path in world.path.rglob("*.ndjson"):
        os.utime(path, (NOW, NOW))
    world.clock.pump([60] * 61)
    assert (world.bodies(), world.bodies(other)) == ([], ["1"])
    world.clock.pump([3600] * 7 * 24)
    assert world.bodies(other) == []
    world.run(service.stopService)


def test_a_restart_removes_no_record_of_a_sink_with_a_longer_limit(world: _World) -> None:
    """The limit is known only after the start."""
    longer = attrs.evolve(LIMITS, max_age=Duration.of_seconds(30 * 86400))
    service = world.service()
    service.known(KEY, longer)
    service.offer(KEY, longer, record(b"1"), ERROR)
    world.run(service.stopService)
    for path in world.path.rglob("*.ndjson"):
        os.utime(path, (NOW, NOW))
    world.clock.advance(8 * 86400)
    service = world.service()
    world.clock.advance(1)
    world.run(service.stopService)
    service = world.service()
    world.clock.advance(1)
    service.known(KEY, longer)
    world.clock.pump([60] * 3)
    assert world.bodies() == ["1"]
    world.run(service.stopService)


def test_a_restart_removes_no_record_of_a_disabled_sink(world: _World) -> None:
    """The new process knows only the time that was noted, not the limit of the sink."""
    longer = attrs.evolve(LIMITS, max_age=Duration.of_seconds(30 * 86400))
    service = world.service()
    service.known(KEY, longer)
    service.offer(KEY, longer, record(b"1"), ERROR)
    world.run(service.stopService)
    for path in world.path.rglob("*.ndjson"):
        os.utime(path, (NOW, NOW))
    for _ in range(3):
        world.clock.advance(8 * 86400)
        world.is_etcd_away = True
        service = world.service()
        world.clock.pump([60] * 3)
        assert world.bodies() == ["1"]
        world.is_etcd_away = False
        world.clock.pump([60] * 3)
        assert world.bodies() == ["1"]
        question = {"kind": "list", "sink": str(KEY), "limit": 1}
        assert world.run(lambda: service.ask(question))["total"] == 1  # noqa: B023
        world.run(service.stopService)
    world.clock.advance(8 * 86400)
    service = world.service()
    world.clock.pump([60] * 3)
    assert world.bodies() == []
    world.run(service.stopService)


def test_the_first_cleanup_is_after_the_start(world: _World) -> None:
    """However long ago the service was created, the sinks have time to become known."""
    longer = attrs.evolve(LIMITS, max_age=Duration.of_seconds(30 * 86400))
    service = world.service()
    service.offer(KEY, longer, record(b"1"), ERROR)
    world.run(service.stopService)
    for path in world.path.rglob("*.ndjson"):
        os.utime(path, (NOW, NOW))
    world.kept.clear()
    world.clock.advance(8 * 86400)
    service = world.created()
    world.clock.advance(30)
    world.run(service.startService)
    world.clock.pump([1] * 45)
    service.known(KEY, longer)
    world.clock.pump([60] * 3)
    assert world.bodies() == ["1"]
    world.run(service.stopService)


def test_it_is_noted_until_when_records_are_kept(world: _World) -> None:
    """By the limit of the sink, also if it changes; so the API can name a stopped node whose
    records are missing.
    """
    service = world.service()
    service.known(KEY, LIMITS)
    assert world.kept == {}
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)
    hour = LIMITS.max_age.seconds
    assert hour <= world.kept_for() <= hour + keeper.KEPT_AHEAD_SECONDS
    longer = attrs.evolve(LIMITS, max_age=Duration.of_seconds(30 * 86400))
    for limits in (longer, LIMITS):
        service.known(KEY, limits)
        world.clock.advance(1)
        seconds = limits.max_age.seconds
        assert seconds <= world.kept_for() <= seconds + keeper.KEPT_AHEAD_SECONDS
    world.run(service.stopService)


def test_a_flood_of_records_needs_few_notes(world: _World) -> None:
    """The time until they are kept is noted in advance, and is never too early."""
    service = world.service()
    service.known(KEY, LIMITS)
    for _ in range(150):
        service.offer(KEY, LIMITS, record(b"1"), ERROR)
        world.clock.advance(1)
        assert world.kept_for() >= LIMITS.max_age.seconds
    assert world.notes == 3
    world.run(service.stopService)


def test_a_node_that_only_counts_keeps_nothing(world: _World) -> None:
    """Without a quarantine, without a directory, or if every record is too large."""
    service = world.service()
    service.offer(KEY, None, record(b"1"), ERROR)
    service.offer(KEY, LIMITS, record(b"1" * 100_000), ERROR)
    world.run(service.stopService)
    service = world.service(path="")
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.run(service.stopService)
    assert (world.counts[KEY].count, world.kept) == (3, {})


def test_removed_records_are_no_longer_noted(world: _World) -> None:
    """Neither those that were erased nor those that were too old."""
    service = world.service()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)
    assert list(world.kept) == [KEY]
    erased = world.run(lambda: service.ask({"kind": "erase", "sink": str(KEY)}))
    assert erased == {"erased": 1}
    world.run(service.stopService)
    assert world.kept == {}


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_directory_that_is_emptied_or_replaced(world: _World, is_replaced: bool) -> None:
    """The note says until when the missing records would be kept, also without new records; if
    the directory is used again, they aren't missing.
    """
    service = world.service()
    changes: list[str] = []

    async def changed() -> None:
        changes.append(service.directory())

    service.directory_changed = changed
    former = service.directory()
    for sink in (KEY, OTHER):
        service.offer(sink, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)
    kept_until = {sink: kept.until for sink, kept in world.kept.items()}
    aside = world.path.with_name("aside")
    world.path.rename(aside)
    service.offer(OTHER, LIMITS, record(b"2"), ERROR)
    with capturedLogs() as events:
        world.clock.pump([1] * 60)
    assert [event["log_level"] for event in events] == [LogLevel.error]
    directory = service.directory()
    assert changes == [directory] and directory != former
    for sink in (KEY, OTHER):
        assert world.kept[sink].elsewhere == {former: kept_until[sink]}
        assert world.kept[sink].directory == directory
    assert not world.kept[KEY].may_exist(from_timestamp(world.clock.seconds()), outside=former)
    if is_replaced:
        shutil.rmtree(world.path)
        aside.rename(world.path)
        world.clock.pump([1] * 60)
        assert changes == [directory, former]
        assert [kept.directory for kept in world.kept.values()] == [former] * 2
        assert list(world.kept[OTHER].elsewhere) == [directory]
    world.run(service.stopService)


def test_a_node_starts_with_another_directory(world: _World) -> None:
    """Its ID is another one; that of the former directory stays the same."""
    directories = []
    for path in (world.path, world.path.with_name("other"), world.path):
        service = world.service(str(path))
        directories.append(service.directory())
        world.run(service.stopService)
    first, other, again = directories
    assert first == again != other


def test_records_of_a_deleted_sink_are_noted(world: _World) -> None:
    """They are there again when the sink is undeleted, also if the node has stopped meanwhile."""
    service = world.service()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.clock.advance(1)
    service.forget(KEY)
    world.clock.advance(1)
    assert (world.counts, list(world.kept)) == ({}, [KEY])
    world.run(service.stopService)
    assert list(world.kept) == [KEY]


def test_a_restarted_node_still_keeps_its_records(world: _World) -> None:
    """It says so again, first with the limit of the service, and then with that of the sink."""
    service = world.service()
    service.offer(KEY, LIMITS, record(b"1"), ERROR)
    world.run(service.stopService)
    world.kept.clear()
    service = world.service()
    world.clock.advance(1)
    assert (world.found, list(world.kept)) == ([("node-1", KEY)], [KEY])
    assert world.kept_for() > 6 * 86400
    service.known(KEY, LIMITS)
    world.clock.advance(1)
    assert world.kept_for() <= LIMITS.max_age.seconds + keeper.KEPT_AHEAD_SECONDS
    world.run(service.stopService)


def test_records_of_a_node_that_was_taken_over(world: _World) -> None:
    """Both nodes are noted, also after an outage of etcd."""
    gone = RejectedFiles(world.path, "gone")
    gone.prepare()
    for _ in range(2):
        gone.append(KEY, LIMITS, [line("1", b"1")], NOW)
    gone.close()
    world.is_etcd_away = True
    service = world.service()
    started = from_timestamp(world.clock.seconds())
    world.clock.advance(1)
    assert world.found == []
    world.is_etcd_away = False
    world.clock.advance(2)
    assert world.found == [("gone", KEY), ("node-1", KEY)]
    assert world.kept[KEY].at == started
    world.run(service.stopService)
