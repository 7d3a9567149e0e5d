"""Answers to requests with a key, and how long they are kept."""

from __future__ import annotations

import pytest

from stream.errors import UserError
from stream.source.http import responses
from stream.source.http.idempotency import (
    MAX_ANSWER_BYTES,
    MAX_REMEMBERED_BYTES,
    Attempt,
    IdempotencyWindow,
)
from tests.source.http.test_handler import FakeConnection

FAILED = responses.response(503)


class Window:
    def __init__(self, max_keys: int = 10) -> None:
        self.now = 0.0
        self.window = IdempotencyWindow(60, max_keys, lambda: self.now)

    def begin(
        self, key: str = "k", body: bytes = b"", source: str = "s", project: int = 1
    ) -> tuple[bytes | Attempt | None, FakeConnection]:
        connection = FakeConnection()
        return self.window.begin(project, source, key.encode(), body, connection), connection

    def store(
        self, key: str, source: str = "s", project: int = 1, answer: bytes = responses.OK
    ) -> None:
        attempt, _ = self.begin(key, source=source, project=project)
        assert isinstance(attempt, Attempt)
        attempt.finish(answer)

    def has(self, key: str, source: str = "s", project: int = 1) -> bool:
        """Return whether the answer for the key is kept."""
        return (project, source, key.encode()) in self.window._stored


@pytest.fixture
def window() -> Window:
    return Window()


def test_a_retry_gets_the_first_answer(window: Window) -> None:
    """A header marks a repeated answer."""
    window.store("k")
    answer, _ = window.begin()
    assert isinstance(answer, bytes)
    assert b"\r\nIdempotency-Replayed: true\r\n" in answer
    assert answer.endswith(b"OK")


def test_a_retry_waits_for_an_unfinished_attempt(window: Window) -> None:
    """One attempt is executed, and all connections get its answer."""
    attempt, first = window.begin()
    repeated, second = window.begin()
    assert isinstance(attempt, Attempt)
    assert repeated is None
    assert first.pending is attempt and second.pending is attempt
    attempt.finish(responses.OK)
    assert first.answers == [responses.OK]
    assert second.answers == [responses.replayed(responses.OK)]


def test_a_connection_that_timed_out_gets_nothing(window: Window) -> None:
    """The answer is still kept."""
    attempt, connection = window.begin()
    assert isinstance(attempt, Attempt)
    connection.pending = None
    attempt.finish(responses.OK)
    assert connection.answers == []
    assert isinstance(window.begin()[0], bytes)


def test_a_failure_is_not_kept(window: Window) -> None:
    """The same key can be used again; waiting requests fail too."""
    attempt, _ = window.begin()
    _, second = window.begin()
    assert isinstance(attempt, Attempt)
    attempt.finish(FAILED)
    assert second.answers == [responses.replayed(FAILED)]
    assert isinstance(window.begin()[0], Attempt)


def test_keys_belong_to_a_source(window: Window) -> None:
    """Other sources and projects may use the same key."""
    window.store("k")
    assert isinstance(window.begin(source="t")[0], Attempt)
    assert isinstance(window.begin(project=2)[0], Attempt)


def test_keys_belong_to_a_body(window: Window) -> None:
    """Another body with the same key is refused."""
    window.begin(body=b"one")
    with pytest.raises(UserError) as caught:
        window.begin(body=b"two")
    assert (caught.value.status, caught.value.name) == (422, "idempotencyKeyReused")


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\x7f"])
def test_keys_are_visible_and_short(window: Window, key: str) -> None:
    """Other keys are refused instead of ignored."""
    with pytest.raises(UserError, match="1 to 255 visible"):
        window.begin(key)


def test_keys_expire(window: Window) -> None:
    """After the window the same request is executed again."""
    window.store("k")
    window.now = 59.9
    assert isinstance(window.begin()[0], bytes)
    window.now = 60.0
    assert isinstance(window.begin()[0], Attempt)


def test_the_oldest_keys_are_evicted() -> None:
    """The number of keys is limited."""
    window = Window(max_keys=2)
    for key in "abc":
        window.store(key)
    assert len(window.window) == 2
    assert isinstance(window.begin("b")[0], bytes)
    assert isinstance(window.begin("a")[0], Attempt)


def test_keys_are_evicted_from_the_largest_source() -> None:
    """The source with the most keys, of the project with the most, is evicted first."""
    window = Window(max_keys=100)
    window.store("first", "quiet", 1)
    for number in range(10):
        window.store(str(number), "neighbour", 2)
    for number in range(500):
        window.store(str(number), f"flood{number % 2}", 2)
    for number in range(60):
        window.store(str(number), "newcomer", 3)
    assert window.has("first", "quiet", 1)
    assert all(window.has(str(number), "neighbour", 2) for number in range(10))
    assert sum(window.has(str(number), "newcomer", 3) for number in range(60)) >= 40
    assert window.has("59", "newcomer", 3) and not window.has("0", "flood0", 2)
    assert 98 <= len(window.window) <= 100


def test_long_answers_are_evicted_from_the_largest_source() -> None:
    """The bytes of answers are shared like the keys."""
    window = Window(max_keys=100_000)
    window.store("first", "quiet", 1)
    answer = responses.response(207, b"x" * (MAX_ANSWER_BYTES - 1000))
    for number in range(1200):
        window.store(str(number), "flood", 2, answer)
    assert window.has("first", "quiet", 1) and window.has("1199", "flood", 2)
    assert window.window._keys._bytes <= MAX_REMEMBERED_BYTES


def test_evicted_keys_are_freed(window: Window) -> None:
    """Keys are evicted by age and by number, without remaining state."""
    for number in range(20):
        window.store(str(number), str(number % 3), number % 2)
    assert len(window.window) == 10
    window.now = 100.0
    window.store("last")
    assert len(window.window) == len(window.window._keys._owners) == 1
    assert window.window._keys._bytes == len(responses.OK)


def test_a_long_answer_is_not_kept(window: Window) -> None:
    """A retry is answered as a success without the details."""
    attempt, connection = window.begin()
    assert isinstance(attempt, Attempt)
    long = responses.response(207, b"x" * MAX_ANSWER_BYTES)
    attempt.finish(long)
    assert connection.answers == [long]
    assert window.begin()[0] == responses.replayed(responses.OK)
