from __future__ import annotations

import gc
import weakref

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from stream.concurrency.hedged import Attempts, hedged


class _Attempts:
    """The attempts of a call, answered by the test."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.all: list[Deferred[str]] = []
        self.cancelled: list[Deferred[str]] = []
        self.heard: list[object] = []
        self.outcome = hedged(self._start, 0.25, self.clock)
        self.outcome.addBoth(self.heard.append)

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
