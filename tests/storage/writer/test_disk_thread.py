"""The compiled threads of a volume: their rounds, their end, and data that they must not write."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.storage.network.interface import SyncLevel, WriterUnavailable
from stream.storage.writer.appender import STUCK_SECONDS, THREADS, VolumeAppender, shares
from stream.storage.writer.disk import DiskFile, open_disk_file
from stream.storage.writer.disk_thread import DiskThread, FileAppends, Outcome, disk_threads
from tests.storage.writer.rounds import choose_rounds

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="no eventfd here")


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_a_round_that_was_started_just_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The end of a round may start the next one, and then stop the thread."""
    choose_rounds(monkeypatch, "compiled")
    thread = DiskThread(reactor)
    outcomes: list[Outcome] = []
    leaving: list[Deferred[bool]] = []
    has_begun: Deferred[None] = Deferred()
    descriptor = os.open(tmp_path / "slice", os.O_RDWR | os.O_CREAT)

    def ended(found: list[Outcome]) -> None:
        outcomes.extend(found)
        thread.start([(descriptor, 1, [b"b"], True)], outcomes.extend)
        leaving.append(ensureDeferred(thread.leave(20)))
        has_begun.callback(None)

    try:
        thread.start([(descriptor, 0, [b"a"], True)], ended)
        await has_begun
        assert await leaving[0]
    finally:
        os.close(descriptor)
    assert [outcome.is_success for outcome in outcomes] == [True, True]
    assert (tmp_path / "slice").read_bytes() == b"ab"
    assert not thread.is_idle


@pytest_twisted.ensureDeferred
async def test_damaged_data_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checksum is compared before a compiled round writes anything."""
    choose_rounds(monkeypatch, "compiled")
    pool = ThreadPool(0, THREADS)
    pool.start()
    appender = VolumeAppender(reactor, pool, threads=disk_threads(reactor))
    path = tmp_path / "project" / "slice"
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression="none", reserve=0)
    try:
        with pytest.raises(WriterUnavailable, match="damaged"):
            await appender.append(file, 0, b"bad!", SyncLevel.SYNCED, crc=1)
        assert path.read_bytes() == b""
        assert await appender.append(file, 0, b"good", SyncLevel.SYNCED, zlib.crc32(b"good")) == 4
        await appender.close(file)
        assert await appender.leave(20)
    finally:
        pool.stop()
    assert path.read_bytes() == b"good"


@attrs.define(eq=False)
class _Gate:
    """A compiled thread whose rounds end when the test lets them.

    :ivar held: files of the current round; ``None`` between two rounds.
    """

    held: list[FileAppends] | None = None
    rounds: list[list[int]] = attrs.Factory(list)
    _ended: Callable[[list[Outcome]], None] = lambda _: None

    @property
    def is_idle(self) -> bool:
        return self.held is None

    def start(self, files: Sequence[FileAppends], ended: Callable[[list[Outcome]], None]) -> None:
        self.held, self._ended = list(files), ended
        self.rounds.append([len(data) for _, _, data, _ in files])

    def let_end(self) -> None:
        """End the round: its bytes are written."""
        files, self.held = self.held or [], None
        for descriptor, offset, data, _ in files:
            os.pwritev(descriptor, data, offset)
        self._ended([Outcome(0, 0, 1, 0.0) for _ in files])


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[DiskFile]]:
    """Eight files; the name of each is its index."""
    found = [
        open_disk_file(
            tmp_path / str(number), tmp_path, life=1, resume=-1, compression="none", reserve=0
        )
        for number in range(8)
    ]
    yield found
    for file in found:
        file.close()


def _appender(threads: Sequence[Any], clock: Clock | None = None) -> VolumeAppender:
    return VolumeAppender(clock or Clock(), ThreadPool(0, THREADS), threads=threads)


def test_a_file_does_not_wait_for_the_round_of_another_one(
    files: list[DiskFile], tmp_path: Path
) -> None:
    """While one file is written, another thread writes the next; the same file waits."""
    threads = _Gate(), _Gate()
    appender = _appender(threads)
    slow, fast = files[:2]
    first = appender.append(slow, 0, b"slow", SyncLevel.SYNCED)
    behind = appender.append(slow, 4, b"!", SyncLevel.SYNCED)
    answers = []
    for number in range(3):
        answers.append(appender.append(fast, number, b"x", SyncLevel.SYNCED))
        threads[1].let_end()
    assert [answer.result for answer in answers] == [1, 2, 3]
    assert not first.called
    threads[0].let_end()
    assert (first.called, behind.called) == (True, False)
    threads[0].let_end()
    assert behind.called
    assert (tmp_path / "0").read_bytes() == b"slow!"
    assert (threads[0].rounds, threads[1].rounds) == ([[1], [1]], [[1], [1], [1]])


def test_the_oldest_round_shows_whether_the_disk_is_stuck(files: list[DiskFile]) -> None:
    """When it ends, the time of the next one counts, even if nothing is appended meanwhile."""
    clock, threads = Clock(), [_Gate() for _ in range(3)]
    appender = _appender(threads, clock)
    first = appender.append(files[0], 0, b"x", SyncLevel.SYNCED)
    clock.advance(STUCK_SECONDS - 10)
    second = appender.append(files[1], 0, b"x", SyncLevel.SYNCED)
    behind = appender.append(files[1], 1, b"x", SyncLevel.SYNCED)
    clock.advance(5)
    third = appender.append(files[2], 0, b"x", SyncLevel.SYNCED)
    clock.advance(5)
    assert appender.is_stuck
    assert isinstance(behind.result, Failure) and behind.result.check(WriterUnavailable)
    behind.addErrback(lambda _: None)
    threads[0].let_end()
    assert (first.result, appender.is_stuck) == (1, False)
    clock.advance(STUCK_SECONDS - 11)
    assert not appender.is_stuck
    clock.advance(1)
    assert appender.is_stuck
    threads[2].let_end()
    assert (third.result, appender.is_stuck) == (1, True)
    threads[1].let_end()
    assert (second.result, appender.is_stuck) == (1, False)
    again = appender.append(files[1], 1, b"x", SyncLevel.SYNCED)
    threads[0].let_end()
    assert again.result == 2


def test_queued_files_are_shared_among_the_threads(files: list[DiskFile], tmp_path: Path) -> None:
    """A thread takes its share of the queue, and all queued appends to a file together."""
    threads = _Gate(), _Gate()
    appender = _appender(threads)
    for offset in range(2):
        for file in files:
            appender.append(file, offset, b"x", SyncLevel.SYNCED)
    threads[0].let_end()
    assert threads[0].rounds == [[1], [2, 2, 2, 2]]
    threads[1].let_end()
    assert threads[1].rounds == [[1], [2, 2]]
    while running := [thread for thread in threads if not thread.is_idle]:
        running[0].let_end()
    assert {(tmp_path / str(number)).read_bytes() for number in range(8)} == {b"xx"}
    assert not appender.held_bytes


@given(st.lists(st.integers(0, 10_000), max_size=50), st.integers(1, 8))
def test_shares_are_similar(sizes: list[int], count: int) -> None:
    """No share exceeds another by more than one size, and nothing is lost."""
    found = shares(sizes, count)
    assert sorted(index for share in found for index in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in found)
    totals = [sum(sizes[index] for index in share) for share in found]
    assert max(totals) - min(totals) <= max(sizes, default=0)
    assert [bool(share) for share in found] == sorted(map(bool, found), reverse=True)
