"""A file opened repeatedly by the same source node, with every order of events."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from stream.storage.model.key import SliceKey
from stream.storage.network.interface import SliceFile, SliceSealed, SyncLevel, WriterError
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer.appender import VolumeAppender
from stream.storage.writer.writer import OpenVolume, StorageWriter
from tests.effort import examples
from tests.storage.register import LIFE, FakeRegister
from tests.storage.samples import sample_slice, uncompressed

_SLICE = sample_slice(encoding=uncompressed())


class StepPool:
    """A pool without threads. The test runs its pending jobs in any order."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def callInThreadWithCallback(
        self, done: Callable[[bool, Any], None], job: Callable[..., Any], *args: Any, **kw: Any
    ) -> None:
        def run() -> None:
            try:
                result = job(*args, **kw)
            except BaseException:
                done(False, Failure())
            else:
                done(True, result)

        self.waiting.append(run)

    def callInThread(self, job: Callable[[], None]) -> None:
        self.waiting.append(job)


class StepReactor(Clock):
    def callFromThread(self, call: Callable[..., Any], *args: Any, **kw: Any) -> None:
        call(*args, **kw)


@attrs.define(eq=False)
class Owner:
    """One connection of the source node.

    :ivar acknowledged: acknowledged rows in order.
    :ivar refused: refused rows.
    """

    number: int
    file: SliceFile | None = None
    offset: int = 0
    sent: int = 0
    is_lost: bool = False
    acknowledged: list[bytes] = attrs.Factory(list)
    refused: list[bytes] = attrs.Factory(list)

    def draining(self) -> None:
        raise AssertionError

    def lost(self, reason: WriterError) -> None:
        self.is_lost = True

    def opened(self, file: SliceFile) -> None:
        self.file = file
        self.offset = file.length

    def append(self) -> None:
        if self.file is None:
            return
        row = b'"%d-%d"\n' % (self.number, self.sent)
        self.sent += 1
        done: Deferred[int] = self.file.append(self.offset, row, level=SyncLevel.SYNCED)
        self.offset += len(row)
        done.addCallbacks(
            lambda _: self.acknowledged.append(row), lambda _: self.refused.append(row)
        )


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.reactor = StepReactor()
        self.pool = StepPool()
        self.owners: list[Owner] = []
        self.writer = StorageWriter(self.reactor, FakeRegister.of(_SLICE))
        volume = OpenVolume(FoundVolume(path, "hdd", "one"), "my-volume", self.reactor)
        volume.appender = VolumeAppender(self.reactor, self.pool)  # type: ignore[arg-type]
        self.writer.add_volume(volume)

    def open(self) -> None:
        owner = Owner(len(self.owners))
        self.owners.append(owner)
        self.writer.open(_SLICE, LIFE, owner).addCallback(owner.opened)

    def act(self, event: tuple[str, int]) -> None:
        what, number = event
        if what == "open":
            self.open()
        elif what == "step" and self.pool.waiting:
            self.pool.waiting.pop(number % len(self.pool.waiting))()
        elif what == "append" and self.owners:
            self.owners[number % len(self.owners)].append()
        elif what == "close" and self.owners:
            file = self.owners[number % len(self.owners)].file
            if file is not None:
                file.close()

    def settle(self) -> None:
        while self.pool.waiting:
            self.pool.waiting.pop(0)()

    def rows(self) -> list[bytes]:
        files = list(self.path.rglob("slice-*"))
        return files[0].read_bytes().splitlines(keepends=True) if files else []


_events = st.lists(
    st.tuples(
        st.sampled_from(["open", "append", "step", "append", "step", "close"]),
        st.integers(min_value=0, max_value=7),
    ),
    min_size=12,
    max_size=40,
)


@settings(deadline=None, max_examples=examples(40))
@given(_events)
def test_the_latest_opening_takes_precedence(events: list[tuple[str, int]]) -> None:
    """Rows of an earlier opening are stored before it or refused, never between its rows."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        for event in (("open", 0), *events):
            world.act(event)
        world.settle()
        world.open()
        world.settle()
        last = world.owners[-1]
        last.append()
        world.settle()
        rows = world.rows()
        acknowledged = [row for owner in world.owners for row in owner.acknowledged]
        assert rows == acknowledged, "in the order of openings, each once, and nothing refused"
        assert last.acknowledged
        assert not last.is_lost
        for owner in world.owners:
            assert owner.sent == len(owner.acknowledged) + len(owner.refused)
        assert world.writer.open_files == 1


def test_a_slice_sealed_during_its_opening_is_refused(tmp_path: Path) -> None:
    """The writer reads etcd while it holds the reader's lock, because the mirror may be late."""
    reactor = StepReactor()
    states = [True, False]

    async def may_be_written(key: SliceKey) -> bool:
        return states.pop(0)

    writer = StorageWriter(reactor, FakeRegister.of(_SLICE, may_be_written=may_be_written))
    volume = OpenVolume(FoundVolume(tmp_path, "hdd", "1"), _SLICE.key.volume_id, reactor)
    pool: Any = StepPool()
    volume.appender = VolumeAppender(reactor, pool)
    writer.add_volume(volume)
    outcome: list[Any] = []
    writer.open(_SLICE, LIFE, Owner(1)).addBoth(outcome.append)
    while pool.waiting:
        pool.waiting.pop(0)()
    assert states == []
    assert outcome[0].check(SliceSealed)
    assert writer.open_files == 0
