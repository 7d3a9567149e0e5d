"""Short calls between the clients of one turn of the reactor.

Note [Steps of a record]: a record is read, its group is written, and the result of the disk is its
answer. If each of these steps waited for the next turn, a turn that is long because of other
clients would delay a record three times. Therefore groups are written as soon as the light clients
of a turn are served (`stream.ops.process.fair_turns`), and results of the disk are looked for after
each client and after each step of long-running work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

__all__ = ["BetweenClients", "SoonCall", "between_clients", "call_soon"]

_log = Logger()


class SoonCall:
    """A call that is due in this turn; it can be cancelled like a delayed call of Twisted."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function

    def active(self) -> bool:
        """Return whether the function is still to be called."""
        return self._function is not None

    def cancel(self) -> None:
        """Do not call the function."""
        self._function = None

    def run(self) -> None:
        """Call the function, once. Never raises."""
        function, self._function = self._function, None
        if function is not None:
            try:
                function()
            except Exception:  # the other calls have to be made all the same
                _log.failure("a call between two clients failed")


class BetweenClients:
    """The calls that a reactor makes between the clients of a turn."""

    def __init__(self) -> None:
        self._calls: list[SoonCall] = []
        self._checks: dict[Callable[[], None], None] = {}

    @property
    def has_calls(self) -> bool:
        """Whether calls are due."""
        return bool(self._calls)

    def call_soon(self, function: Callable[[], Any]) -> SoonCall:
        """Call *function* in this turn: when its light clients are served, or at its end."""
        call = SoonCall(function)
        self._calls.append(call)
        return call

    def watch(self, check: Callable[[], None]) -> None:
        """Call *check* after each client until `unwatch`; it must be cheap."""
        self._checks[check] = None

    def unwatch(self, check: Callable[[], None]) -> None:
        """No longer call *check*."""
        self._checks.pop(check, None)

    def run_calls(self) -> None:
        """Make the calls that are due, but not those that they add."""
        calls, self._calls = self._calls, []
        for call in calls:
            call.run()

    def run_checks(self) -> None:
        """Call all checks. Never raises."""
        if self._checks:
            for check in tuple(self._checks):
                try:
                    check()
                except Exception:  # the clients after this one have to be served all the same
                    _log.failure("a check between two clients failed")


def between_clients(reactor: Any) -> BetweenClients:
    """Return the calls between the clients of *reactor*.

    Another reactor than that of `stream.ops.process.reactor` makes no such calls.
    """
    found: BetweenClients = getattr(reactor, "between", None) or BetweenClients()
    return found


def call_soon(reactor: Any, function: Callable[[], Any]) -> Any:
    """Call *function* in this turn of *reactor*, or at the beginning of the next one.

    :returns: the call, an ``IDelayedCall`` or a `SoonCall`.
    """
    between: BetweenClients | None = getattr(reactor, "between", None)
    return reactor.callLater(0, function) if between is None else between.call_soon(function)
