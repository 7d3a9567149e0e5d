"""The end of many files of a writer, which takes several turns of the reactor."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import Clock

from stream.concurrency.paced import SLICE_SECONDS
from stream.storage.network.interface import (
    SyncLevel,
    WriterDraining,
    WriterError,
    WriterUnavailable,
)
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer.writer import OpenFile, OpenVolume, StorageWriter, _Turn
from tests.storage.register import FakeRegister
from tests.storage.samples import OPENED_AT, sample_slice

MANY = 6
PER_TURN = 2


class _Appender:
    """Appends and closes at once.

    :ivar events: what was done with which file.
    """

    def __init__(self, took_time: Callable[[], object]) -> None:
        self.events: list[tuple[str, _Disk]] = []
        self._took_time = took_time

    def append(self, disk: _Disk, offset: int, data: bytes, *_: object) -> Deferred[int]:
        self.events.append(("append", disk))
        return succeed(offset + len(data))

    def close(self, disk: _Disk) -> Deferred[None]:
        self.events.append(("close", disk))
        self._took_time()
        return succeed(None)


class _Disk:
    """:ivar refusal: why queued appends fail."""

    length = 0
    broken = False
    refusal: WriterError | None = None

    def refuse(self, reason: WriterError) -> None:
        self.refusal = reason


class _Listener:
    def __init__(self, took_time: Callable[[], object]) -> None:
        self.reasons: list[WriterError] = []
        self.is_asked = False
        self._took_time = took_time

    def lost(self, reason: WriterError) -> None:
        self.reasons.append(reason)

    def draining(self) -> None:
        self.is_asked = True
        self._took_time()


class World:
    """A writer with open files on one volume; each step of work takes half of a turn."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.writer = StorageWriter(self.clock, FakeRegister.of(sample_slice()))
        self.volume = OpenVolume(FoundVolume(path, "hdd", "one"), "my-volume", self.clock)
        self.appender = _Appender(self._took_time)
        self.volume.appender = self.appender  # type: ignore[assignment]
        self.writer.add_volume(self.volume)
        self.disks = [_Disk() for _ in range(MANY)]
        self.listeners = [_Listener(self._took_time) for _ in range(MANY)]
        self.files = [self._opened(number) for number in range(MANY)]

    def _took_time(self) -> None:
        self.clock.rightNow += SLICE_SECONDS / PER_TURN

    def _opened(self, number: int) -> OpenFile:
        key = sample_slice(opened_at=OPENED_AT + timedelta(seconds=number)).key
        disk: Any = self.disks[number]
        file = OpenFile(
            self.writer, (key, "node"), self.volume, disk, self.listeners[number], str(number)
        )
        self.writer._files[key] = {"node": file}
        return file

    def turn(self) -> None:
        """Make the calls that are due now, and not those that they add."""
        due = [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]
        for call in due:
            self.clock.calls.remove(call)
            call.func(*call.args, **call.kw)

    def append(self, number: int) -> bool:
        """Return whether the file accepts an append."""
        outcome: list[object] = []
        appended = self.files[number].append(0, b"x", level=SyncLevel.SYNCED)
        appended.addCallbacks(outcome.append, lambda failure: failure.trap(WriterError) and None)
        return bool(outcome)

    def closed(self) -> list[int]:
        return [self.disks.index(disk) for what, disk in self.appender.events if what == "close"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_few_files_are_closed_in_a_turn(world: World) -> None:
    """Until its turn, a file accepts appends, which are before its close; afterwards none."""
    closing = ensureDeferred(world.writer.close())
    for turn in range(1, MANY // PER_TURN + 1):
        assert world.closed() == list(range(turn * PER_TURN))
        accepted = [world.append(number) for number in range(MANY)]
        assert accepted == [number >= turn * PER_TURN for number in range(MANY)]
        assert not closing.called
        world.turn()
    assert closing.called
    assert not world.writer.open_files
    for disk in world.disks:
        steps = [what for what, of in world.appender.events if of is disk]
        assert steps[-1] == "close" and steps.count("close") == 1
    for listener in world.listeners:
        (reason,) = listener.reasons
        assert isinstance(reason, WriterDraining)


def test_a_file_that_is_being_opened_does_not_keep_others_open(world: World) -> None:
    """Its disk may hang; the writer is closed when the opening has ended."""
    turn = world.writer._turns.setdefault((world.files[0].key[0], "other"), _Turn())
    turn.lock.acquire()
    closing = ensureDeferred(world.writer.close())
    for _ in range(MANY):
        world.turn()
    assert world.closed() == list(range(MANY)) and not closing.called
    turn.lock.release()
    assert closing.called


def test_few_files_of_a_missing_volume_end_in_a_turn(world: World) -> None:
    """All of them refuse appends at once, also those that are queued."""
    world.writer.lose_volume(world.volume)
    assert world.closed() == list(range(PER_TURN))
    assert not any(world.append(number) for number in range(MANY))
    assert all(isinstance(disk.refusal, WriterUnavailable) for disk in world.disks)
    world.turn()
    assert world.closed() == list(range(2 * PER_TURN))
    world.turn()
    assert world.closed() == list(range(MANY))
    assert all(len(listener.reasons) == 1 for listener in world.listeners)


def test_few_pipelines_are_asked_to_leave_in_a_turn(world: World) -> None:
    """One that has left meanwhile isn't asked, because it may use another file."""
    world.writer.drain()
    assert [listener.is_asked for listener in world.listeners] == [True] * 2 + [False] * 4
    world.files[2].close()
    world.turn()
    world.turn()
    assert [listener.is_asked for listener in world.listeners] == [True] * 2 + [False] + [True] * 3
