from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from stream.errors import UserError
from stream.settings.connections import Connection
from stream.target.probes import (
    PREPARE_SECONDS,
    PROBE_SECONDS,
    REMEMBERED_SECONDS,
    ConnectionState,
    Probes,
)
from stream.target.registry import Targets

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ONE, TWO = Connection("one", "probing"), Connection("two", "probing")


class ProbingTarget:
    """A target that answers when the test says so."""

    name = "probing"

    def __init__(self) -> None:
        self.probes: list[tuple[str, Deferred[None]]] = []
        self.prepared: Deferred[None] = succeed(None)

    async def prepare_probe(self, connection: str) -> None:
        await self.prepared

    async def probe(self, connection: str) -> None:
        self.probes.append((connection, Deferred()))
        await self.probes[-1][1]


class SilentTarget:
    """A target without a probe."""

    name = "silent"


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.target = ProbingTarget()
        targets: Any = [self.target, SilentTarget()]
        self.probes = Probes(self.clock, Targets(targets), lambda: NOW)

    def ask(self, *connections: Connection) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.probes.states(connections or (ONE,)))

    def answer(self, error: Exception | None = None) -> None:
        waiting = self.target.probes[-1][1]
        waiting.callback(None) if error is None else waiting.errback(error)

    @property
    def tried(self) -> list[str]:
        return [name for name, _ in self.target.probes]


@pytest.fixture
def world() -> World:
    return World()


def shown(asking: Deferred[Any]) -> list[tuple[bool | None, str]]:
    """Return the current results of the probes."""
    results: list[list[ConnectionState]] = []
    asking.addCallback(results.append)
    [states] = results
    return [(state.is_available, state.message) for state in states]


def test_callers_share_a_probe(world: World) -> None:
    """The connection isn't tried again within ten seconds after its answer."""
    asking = [world.ask(), world.ask()]
    world.answer()
    assert [shown(each) for each in asking] == [[(True, "")]] * 2
    world.clock.advance(REMEMBERED_SECONDS - 0.1)
    assert shown(world.ask()) == [(True, "")]
    assert world.tried == ["one"]
    world.clock.advance(0.1)
    world.ask()
    assert world.tried == ["one", "one"]


def test_connections_are_probed_concurrently(world: World) -> None:
    """Each has its own result."""
    asking = world.ask(ONE, TWO, Connection("three", "silent"))
    assert world.tried == ["one", "two"]
    world.answer(UserError("the server does not answer"))
    world.target.probes[0][1].callback(None)
    assert shown(asking) == [(True, ""), (False, "the server does not answer"), (None, "")]


def test_a_probe_times_out(world: World) -> None:
    """The probe ends after five seconds, also for later callers."""
    first = world.ask()
    world.clock.advance(PROBE_SECONDS - 1)
    second = world.ask()
    world.clock.advance(1)
    assert shown(first) == shown(second) == [(False, "no answer within 5 s")]


def test_the_start_of_a_process_does_not_count(world: World) -> None:
    """The start of the process isn't part of the probe's timeout, but has its own."""
    world.target.prepared = Deferred()
    asking = world.ask()
    world.clock.advance(PROBE_SECONDS * 2)
    assert not world.tried
    world.target.prepared.callback(None)
    world.clock.advance(PROBE_SECONDS - 1)
    world.answer()
    assert shown(asking) == [(True, "")]
    world.clock.advance(REMEMBERED_SECONDS)
    world.target.prepared = Deferred()
    asking = world.ask()
    world.clock.advance(PREPARE_SECONDS)
    assert shown(asking) == [(False, "no answer within 5 s")]


def test_a_probe_that_does_not_end(world: World) -> None:
    """The probe may block a thread, so the connection is tried again only when it has ended."""
    world.ask()
    world.clock.advance(PROBE_SECONDS)
    world.clock.advance(REMEMBERED_SECONDS)
    assert shown(world.ask()) == [(False, "no answer within 5 s")]
    assert world.tried == ["one"]
    world.answer()
    world.clock.advance(REMEMBERED_SECONDS)
    world.ask()
    assert world.tried == ["one", "one"]


def test_a_cancelled_caller_does_not_affect_others(world: World) -> None:
    """The probe runs to its end."""
    gone, waiting = world.ask(), world.ask()
    gone.addErrback(lambda _: None)
    gone.cancel()
    world.answer()
    assert shown(waiting) == [(True, "")]


def test_an_unexpected_error_is_logged_and_not_shown(world: World) -> None:
    """The text of the error may contain anything."""
    events: list[Any] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    try:
        asking = world.ask()
        world.answer(ValueError("postgresql://user:secret@host"))
    finally:
        globalLogPublisher.removeObserver(observer)
    assert shown(asking) == [(False, "the test failed; the log of this node contains the reason")]
    assert [event["connection"] for event in events if "log_failure" in event] == ["one"]


def test_a_target_that_is_not_installed(world: World) -> None:
    """The message says that the target isn't installed."""
    [(is_available, message)] = shown(world.ask(Connection("x", "other")))
    assert is_available is False
    assert 'this node has no target "other"' in message
