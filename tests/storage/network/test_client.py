"""The turns of the files that a source node opens on a writer, with a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from stream.settings import Settings
from stream.settings.declare import with_values
from stream.storage.model.volume import Volume
from stream.storage.network import client
from stream.storage.network.client import OPENINGS_AT_ONCE, WriterClients
from stream.storage.network.interface import WriterUnavailable
from tests.storage.register import LIFE
from tests.storage.samples import sample_slice


class _Writer:
    """A connection to a writer that answers when the test says so.

    :ivar asked: the IDs of the volumes on which files were opened, in order.
    :ivar answers: the Deferreds of these openings.
    """

    def __init__(self) -> None:
        self.files: dict[bytes, object] = {}
        self.asked: list[str] = []
        self.answers: list[Deferred[Any]] = []
        self._is_stopped = False

    def __call__(self, *_: object, **__: object) -> _Writer:
        return self

    def startService(self) -> None:
        pass

    def stopService(self) -> Deferred[None]:
        self._is_stopped = True
        return succeed(None)

    def whenConnected(self) -> Deferred[_Writer]:
        return fail(CancelledError()) if self._is_stopped else succeed(self)

    def accepted(self) -> Deferred[None]:
        return succeed(None)

    def open(self, slice_: Any, *_: object) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append(slice_.key.volume_id)
        self.answers.append(answer)
        return answer


class World:
    """A source node with one writer, which has any number of volumes.

    :ivar outcomes: the results of the openings, in the order of their ends.
    """

    def __init__(self, **settings: int) -> None:
        self.clock = Clock()
        self.writer = _Writer()
        self.address = "127.0.0.1:6000"
        self.outcomes: list[Any] = []
        self.settings = with_values(
            Settings().storage.level.local.writer.network,
            {(name,): value for name, value in settings.items()},
        )
        self.clients = WriterClients(
            self.clock, LIFE.node_id, self.settings, self._volume, life=lambda: LIFE.number
        )

    def _volume(self, volume_id: str) -> Volume:
        return Volume(volume_id, "n", self.address, "/", "hdd", "one")

    def open(self, count: int, volume_id: str = "first") -> list[Deferred[Any]]:
        listener: Any = None
        opening = [
            self.clients.open(sample_slice(volume_id=volume_id), LIFE, listener)
            for _ in range(count)
        ]
        for each in opening:
            each.addBoth(self.outcomes.append)
        return opening


def _world(monkeypatch: pytest.MonkeyPatch, **settings: int) -> World:
    world = World(**settings)
    monkeypatch.setattr(client, "ClientService", world.writer)
    monkeypatch.setattr(world.clients, "_endpoint", lambda *_: None)
    return world


def test_few_files_of_a_volume_are_opened_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait, and none fails, however many there are."""
    world = _world(monkeypatch)
    count = 2 * world.settings.max_waiting_streams_per_conn
    world.open(count)
    assert len(world.writer.asked) == OPENINGS_AT_ONCE
    for number in range(count):
        world.writer.answers[number].callback(number)
        assert len(world.writer.asked) == min(count, OPENINGS_AT_ONCE + number + 1)
    assert world.outcomes == list(range(count))
    assert not world.clock.getDelayedCalls()


def test_a_connection_with_a_low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection would refuse more openings than the setting allows."""
    world = _world(monkeypatch, max_waiting_streams_per_conn=10)
    world.open(30)
    assert len(world.writer.asked) == 10


def test_a_disk_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It delays only the files of its own volume."""
    world = _world(monkeypatch)
    world.open(3 * OPENINGS_AT_ONCE, "stuck")
    world.open(1, "second")
    assert world.writer.asked[-1] == "second"
    world.writer.answers[-1].callback("opened")
    assert world.outcomes == ["opened"]


def test_the_timeout_of_an_opening_begins_with_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that had to wait isn't given up; the files before it are."""
    world = _world(monkeypatch)
    seconds = world.settings.stream_open_timeout.seconds
    world.open(OPENINGS_AT_ONCE + 1)
    world.clock.advance(seconds)
    assert len(world.outcomes) == OPENINGS_AT_ONCE
    assert all(failure.check(WriterUnavailable) for failure in world.outcomes)
    world.clock.advance(seconds - 1)
    world.writer.answers[-1].callback("opened")
    assert world.outcomes[OPENINGS_AT_ONCE:] == ["opened"]


def test_hung_openings_free_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hang and are repeated, the other files of the volume are opened in the end."""
    world = _world(monkeypatch)
    seconds = world.settings.stream_open_timeout.seconds
    for _ in range(3):
        world.open(OPENINGS_AT_ONCE)
        world.clock.advance(seconds)
    world.open(1)
    world.writer.answers[-1].callback("opened")
    assert world.outcomes[-1] == "opened"
    assert len(world.writer.asked) == 3 * OPENINGS_AT_ONCE + 1


def test_a_cancelled_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits isn't sent; one that was sent frees its place."""
    world = _world(monkeypatch)
    opening = world.open(OPENINGS_AT_ONCE + 2)
    opening[-1].cancel()
    assert len(world.writer.asked) == OPENINGS_AT_ONCE
    opening[0].cancel()
    assert len(world.writer.asked) == OPENINGS_AT_ONCE + 1
    opening[1].cancel()
    assert len(world.writer.asked) == OPENINGS_AT_ONCE + 1


def test_openings_at_an_address_that_the_writer_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were sent and those that wait fail, so that they are made at the new address."""
    world = _world(monkeypatch)
    count = 3 * OPENINGS_AT_ONCE
    world.open(count)
    world.address = "127.0.0.1:6001"
    world.clients._forget_unregistered()
    for answer in world.writer.answers:
        answer.errback(WriterUnavailable("the connection was lost"))
    assert len(world.outcomes) == count
    assert all(
        isinstance(failure, Failure) and failure.check(WriterUnavailable)
        for failure in world.outcomes
    )
    assert len(world.writer.asked) == OPENINGS_AT_ONCE


def test_an_invalid_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The opening fails like one at an unavailable writer, so that it is repeated."""
    world = _world(monkeypatch)
    world.address = "no port"
    world.open(1)
    [failure] = world.outcomes
    assert failure.check(WriterUnavailable)
