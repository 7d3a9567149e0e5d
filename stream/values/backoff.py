"""Delays between attempts. Pure except for the random number generator."""

from __future__ import annotations

from random import Random

import attrs

__all__ = ["Backoff"]

_random = Random()


@attrs.define
class Backoff:
    """Delays in seconds that double with each attempt.

    :param first: the first delay.
    :param longest: upper limit of the delays, before jitter.
    :param jitter: maximum share by which a delay is lengthened or shortened at random, so that
        clients that failed together don't retry together; 0 for none.
    :param random: random number generator; by default a shared one.
    """

    first: float
    longest: float
    jitter: float = attrs.field(default=0.0, kw_only=True)
    random: Random | None = attrs.field(default=None, kw_only=True)
    _delay: float = attrs.field(init=False)

    @_delay.default
    def _first_delay(self) -> float:
        return self.first

    def next(self) -> float:
        """Return the delay before the next attempt, and double the delay after that."""
        delay = self._delay
        self._delay = min(2.0 * delay, self.longest)
        if not self.jitter:
            return delay
        return delay * (self.random or _random).uniform(1.0 - self.jitter, 1.0 + self.jitter)

    def reset(self) -> None:
        """Start with the first delay again after a successful attempt."""
        self._delay = self.first
