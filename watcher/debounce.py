"""Many changes at once, as of a branch that is checked out, are one."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Debounce"]


class Debounce:
    """Calls *action* when `touch` wasn't called for *seconds*.

    :param action: takes the first of the touched names, and how many there were.
    """

    def __init__(
        self, clock: IReactorTime, seconds: float, action: Callable[[str, int], None]
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._action = action
        self._names: dict[str, None] = {}
        self._call: IDelayedCall | None = None

    def touch(self, name: str) -> None:
        """*name* has changed just now."""
        self._names[name] = None
        self.cancel()
        self._call = self._clock.callLater(self._seconds, self._fire)

    def cancel(self) -> None:
        """Forget the time that is running, not the names."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _fire(self) -> None:
        self._call = None
        names, self._names = list(self._names), {}
        self._action(names[0], len(names))
