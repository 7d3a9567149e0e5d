"""Compressed bodies that wait for a thread."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.source.http import content_decoding
from stream.source.http.completions import Waited
from stream.source.http.content_decoding import INLINE_BYTES, THREADS, Decoder
from stream.source.turns import SHARES, Turns
from tests.source.http.test_handler import FakeConnection, InlineClock, InlinePool

BODY = gzip.compress(bytes(range(256)) * 100, 0)
assert len(BODY) > INLINE_BYTES


class HeldPool(InlinePool):
    """A pool that runs one job at a time, on request."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = True

    @property
    def running(self) -> int:
        return len(self._held)

    def do_one(self) -> None:
        self._held.pop(0)()


class Bodies:
    """Bodies of several sources.

    :ivar taken: the sources of decoded bodies.
    :ivar failures: errors of bodies that could not be decoded in a thread.
    """

    def __init__(self) -> None:
        self.pool = HeldPool()
        self.clock = InlineClock()
        self.turns = Turns(self.clock)
        self.decoder = Decoder(1_000_000, self.clock, self.pool, self.turns)
        self.taken: list[str] = []
        self.failures: list[Failure] = []

    def send(self, key: str, body: bytes = BODY) -> FakeConnection:
        connection = FakeConnection()

        def take(body: bytes) -> None:
            self.taken.append(key)
            waited.finish(b"taken")

        def failed(failure: Failure) -> bytes:
            self.failures.append(failure)
            return str(failure.value).encode()

        waited = Waited(connection)
        self.decoder.decode(key, b"gzip", body, waited, take, failed)
        return connection


@pytest.fixture
def bodies() -> Bodies:
    return Bodies()


def test_sources_take_turns(bodies: Bodies) -> None:
    """Many bodies of one source don't delay another source."""
    for key in ("a", "a", "a", "a", "b"):
        bodies.send(key)
    assert bodies.pool.running == THREADS
    for _ in range(5):
        bodies.pool.do_one()
    assert bodies.taken == ["a", "a", "a", "b", "a"]


def test_a_small_body_that_expands_is_decoded_in_a_thread(bodies: Bodies) -> None:
    """Only a small part is decoded in the reactor."""
    connection = bodies.send("a", gzip.compress(bytes(900_000)))
    assert (bodies.taken, bodies.pool.running) == ([], 1)
    bodies.pool.do_one()
    assert connection.answers == [b"taken"]


def test_a_cancelled_body(bodies: Bodies) -> None:
    """A cancelled body doesn't get a thread, and a decoded one is discarded."""
    connections = [bodies.send("a") for _ in range(4)]
    for connection in connections[1:]:
        connection.pending = None
    bodies.pool.do_one()
    bodies.pool.do_one()
    assert bodies.pool.running == 0
    assert bodies.taken == ["a"]
    assert [connection.answers for connection in connections] == [[b"taken"], [], [], []]


def test_a_body_waits_for_memory(bodies: Bodies) -> None:
    """Decoding continues when other work has ended."""
    held: list[Callable[[], None]] = []

    def endless() -> Iterator[Any]:
        while not held:
            yield None

    bodies.turns._max_held = 1
    monkeypatched = bodies.clock.seconds
    ticks = iter(range(10_000))
    bodies.clock.seconds = lambda: float(next(ticks))  # type: ignore[method-assign]
    bodies.turns.work("b", 1, endless())
    connection = bodies.send("a")
    assert bodies.pool.running == 0
    held.append(lambda: None)
    bodies.clock.seconds = monkeypatched  # type: ignore[method-assign]
    bodies.turns._next_turn()
    assert bodies.pool.running == 1
    bodies.pool.do_one()
    assert connection.answers == [b"taken"]


def test_waiting_bodies_are_limited(bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits apply to each source and to all of them; a single body is always accepted."""
    monkeypatch.setattr(content_decoding, "MAX_WAITING_BYTES", SHARES * len(BODY))
    for _ in range(THREADS + 1):
        bodies.send("a")
    with pytest.raises(UserError, match="please try again") as caught:
        bodies.send("a")
    assert (caught.value.status, caught.value.name) == (503, "overloaded")
    for key in "bcd":
        bodies.send(key)
    with pytest.raises(UserError):
        bodies.send("e")


def test_invalid_bodies(bodies: Bodies) -> None:
    """The error is raised at once or in the thread."""
    connection = bodies.send("a", BODY[:-1])
    bodies.pool.do_one()
    assert connection.answers == [b"cannot decompress gzip body: it is truncated"]
    (failure,) = bodies.failures
    # Frames of the thread would keep the body and its decoder alive.
    assert failure.tb is None
    assert failure.value is not None
    assert failure.value.__traceback__ is None
    with pytest.raises(UserError, match="damaged"):
        bodies.send("a", BODY[:10] + bytes(range(255, 200, -1)))
