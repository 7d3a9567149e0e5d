from __future__ import annotations

import gc
import weakref

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from stream.concurrency.hedged import Attempts, hedged


class _Attempts:
    """The attempts of a call, answered by the test."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.all: list[Deferred[str]] = []
        self.cancelled: list[Deferred[str]] = []
        self.heard: list[object] = []
        self.outcome = hedged(self._start, 0.25, self.clock, (ConnectionError,))
        self.outcome.addBoth(self.heard.append)

    def end(self, number: int, result: object) -> None:
        (self.all[number].errback if isinstance(result, Exception) else self.all[number].callback)(
            result  # type: ignore[arg-type]
        )

    @property
    def seen(self) -> list[object]:
        """The outcomes, with the exceptions of failures."""
        return [each.value if isinstance(each, Failure) else each for each in self.heard]

    def _start(self) -> Deferred[str]:
        self.all.append(Deferred(self.cancelled.append))
        return self.all[-1]


def test_another_attempt_answers() -> None:
    """Attempts are made at the interval; the first answer counts, and ends all others."""
    attempts = _Attempts()
    attempts.clock.pump([0.25, 0.25])
    first, second, third = attempts.all
    assert attempts.heard == []
    second.callback("second")
    assert attempts.heard == ["second"]
    assert attempts.cancelled == [first, third]
    attempts.clock.advance(1.0)
    assert len(attempts.all) == 3
    assert not attempts.clock.getDelayedCalls()


def test_a_failure_is_an_outcome() -> None:
    """The caller decides about another attempt."""
    attempts = _Attempts()
    attempts.clock.advance(0.25)
    attempts.all[1].errback(ZeroDivisionError())
    [failure] = attempts.heard
    assert failure.check(ZeroDivisionError)  # type: ignore[attr-defined]
    assert attempts.cancelled == [attempts.all[0]]
    assert not attempts.clock.getDelayedCalls()


LOST = ConnectionResetError("lost")
REFUSED = ZeroDivisionError("refused")


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        # An answer is the outcome, whichever attempt gets it first.
        ([(0, "a")], "a"),
        ([(1, "b")], "b"),
        ([(0, LOST), (1, "b")], "b"),
        ([(1, LOST), (0, "a")], "a"),
        ([(0, LOST), (2, LOST), (1, "b")], "b"),
        # So is a failure that is an answer, even if others are running.
        ([(0, REFUSED)], REFUSED),
        ([(1, REFUSED)], REFUSED),
        ([(0, LOST), (1, REFUSED)], REFUSED),
        ([(1, LOST), (0, REFUSED)], REFUSED),
        # Without any answer, a failure is the outcome when all three have failed.
        ([(0, LOST), (1, LOST), (2, LOST)], LOST),
        ([(2, LOST), (1, LOST), (0, LOST)], LOST),
        # Such a failure isn't the outcome as long as another attempt is running.
        ([(0, LOST), (1, LOST)], None),
        ([(2, LOST)], None),
    ],
)
def test_all_orders_of_the_ends(ends: list[tuple[int, object]], outcome: object) -> None:
    """Of three attempts that were made, some end in some order."""
    attempts = _Attempts()
    attempts.clock.pump([0.25, 0.25])
    for number, result in ends:
        assert attempts.heard == []
        attempts.end(number, result)
    assert attempts.seen == ([] if outcome is None else [outcome])
    ended = {number for number, _ in ends}
    if outcome is not None:
        others = [each for number, each in enumerate(attempts.all) if number not in ended]
        assert attempts.cancelled == others
        assert not attempts.clock.getDelayedCalls()
    else:
        attempts.clock.advance(0.25)
        assert len(attempts.all) == 4


@pytest.mark.parametrize("result", [LOST, REFUSED])
def test_the_first_attempt_fails_before_another_one(result: Exception) -> None:
    """The caller gets the failure at once, and decides when to try again."""
    attempts = _Attempts()
    attempts.clock.advance(0.2)
    attempts.end(0, result)
    assert attempts.seen == [result]
    attempts.clock.advance(1)
    assert len(attempts.all) == 1


def test_attempts_that_all_take_longer_than_the_interval() -> None:
    """There is an outcome, although another attempt is always running when one fails."""
    clock, made = Clock(), 0

    def attempt() -> Deferred[str]:
        nonlocal made
        made += 1
        failing: Deferred[str] = Deferred()
        clock.callLater(1, failing.errback, LOST)
        return failing

    outcome = hedged(attempt, 0.25, clock, (ConnectionError,))
    failures: list[Failure] = []
    outcome.addErrback(failures.append)
    clock.pump([0.05] * 45)
    assert [failure.value for failure in failures] == [LOST]
    assert 4 < made <= 9
    before = made
    clock.advance(1)
    assert made == before


def test_later_attempts_after_a_failure() -> None:
    """One that is made after it may be answered; its own failure isn't the outcome."""
    for result in ("fourth", LOST):
        attempts = _Attempts()
        attempts.clock.pump([0.25, 0.25])
        attempts.end(0, LOST)
        attempts.clock.advance(0.25)
        attempts.end(3, result)
        if result is LOST:
            assert attempts.heard == []
            attempts.clock.advance(0.25)
            attempts.end(1, LOST)
            attempts.end(2, LOST)
            assert attempts.cancelled == [attempts.all[4]]
        assert attempts.seen == [result]


@pytest.mark.parametrize("number", [0, 1])
def test_cancelling_after_a_failure(number: int) -> None:
    """The attempt that is still running is cancelled."""
    attempts = _Attempts()
    attempts.clock.advance(0.25)
    attempts.end(number, LOST)
    attempts.outcome.cancel()
    assert attempts.cancelled == [attempts.all[1 - number]]
    assert not attempts.clock.getDelayedCalls()


def test_an_immediate_answer() -> None:
    """There is no second attempt."""
    clock = Clock()
    answered: Deferred[str] = Deferred()
    answered.callback("at once")
    heard: list[str] = []
    hedged(lambda: answered, 0.25, clock).addCallback(heard.append)
    assert heard == ["at once"]
    assert not clock.getDelayedCalls()


def test_cancelling() -> None:
    """All attempts are cancelled."""
    attempts = _Attempts()
    attempts.clock.advance(0.25)
    attempts.outcome.cancel()
    [failure] = attempts.heard
    assert failure.check(CancelledError)  # type: ignore[attr-defined]
    assert attempts.cancelled == attempts.all
    assert not attempts.clock.getDelayedCalls()


def test_an_attempt_is_replaced() -> None:
    """The outcome of the earlier one no longer counts."""
    made: list[Deferred[str]] = []
    cancelled: list[Deferred[str]] = []

    def attempt() -> Deferred[str]:
        made.append(Deferred(cancelled.append))
        return made[-1]

    attempts = Attempts(attempt)
    heard: list[str] = []
    attempts.begin().addCallback(heard.append)
    attempts.replace()
    assert (cancelled, heard) == (made[:1], [])
    made[1].callback("second")
    assert heard == ["second"]


def test_no_reference_cycle_remains() -> None:
    """Of calls that are made often, the garbage collector would have to free thousands."""
    gc.disable()
    try:
        attempts = _Attempts()
        attempts.clock.advance(0.25)
        attempts.all[1].callback("second")
        outcome = weakref.ref(attempts.outcome)
        del attempts
        assert outcome() is None
    finally:
        gc.enable()
