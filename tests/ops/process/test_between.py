"""Calls between the clients of a turn."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from stream.ops.process.between import BetweenClients, between_clients, call_soon


class Reactor(Clock):
    """A reactor that makes calls between its clients."""

    def __init__(self) -> None:
        super().__init__()
        self.between = BetweenClients()


def test_calls_are_made_in_order_and_once() -> None:
    """A call that is added meanwhile is made the next time."""
    between, made = BetweenClients(), []
    between.call_soon(lambda: made.append(1))
    between.call_soon(lambda: between.call_soon(lambda: made.append(3)))
    between.call_soon(lambda: made.append(2))
    between.run_calls()
    assert (made, between.has_calls) == ([1, 2], True)
    between.run_calls()
    between.run_calls()
    assert (made, between.has_calls) == ([1, 2, 3], False)


def test_a_cancelled_call_is_not_made() -> None:
    """It is inactive, as is one that was made."""
    between, made = BetweenClients(), []
    cancelled = between.call_soon(lambda: made.append("cancelled"))
    call = between.call_soon(lambda: made.append("made"))
    assert (cancelled.active(), call.active()) == (True, True)
    cancelled.cancel()
    between.run_calls()
    assert (cancelled.active(), call.active(), made) == (False, False, ["made"])


def test_a_call_that_fails_is_logged() -> None:
    """The other calls are made."""
    between, made = BetweenClients(), []
    between.call_soon(lambda: 1 / 0)
    between.call_soon(lambda: made.append("made"))
    with capturedLogs() as entries:
        between.run_calls()
    assert made == ["made"]
    assert [entry["log_failure"].type for entry in entries] == [ZeroDivisionError]


def test_a_check_may_end_itself() -> None:
    """Checks are made until they are no longer wanted."""
    between, made = BetweenClients(), []

    def first() -> None:
        made.append("first")
        between.unwatch(first)

    between.watch(first)
    between.watch(second := lambda: made.append("second"))
    between.run_checks()
    between.run_checks()
    between.unwatch(second)
    between.unwatch(second)
    between.run_checks()
    assert made == ["first", "second", "second"]


def test_a_check_that_fails_is_logged() -> None:
    """The other checks are made, and the other clients are served."""
    between, made = BetweenClients(), []

    def fail() -> None:
        raise ZeroDivisionError

    between.watch(fail)
    between.watch(lambda: made.append("made"))
    with capturedLogs() as entries:
        between.run_checks()
    assert made == ["made"]
    assert [entry["log_failure"].type for entry in entries] == [ZeroDivisionError]


@pytest.mark.parametrize("clock", [Clock(), Reactor()])
def test_any_reactor_makes_calls(clock: Clock) -> None:
    """A reactor without such calls makes them at the beginning of its next turn."""
    made: list[str] = []
    call = call_soon(clock, lambda: made.append("made"))
    cancelled = call_soon(clock, lambda: made.append("cancelled"))
    assert call.active()
    cancelled.cancel()
    between_clients(clock).run_calls()
    clock.advance(0)
    assert (made, call.active()) == (["made"], False)
