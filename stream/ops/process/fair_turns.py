"""Fair scheduling of ready connections within a turn of the reactor.

Twisted serves all ready connections, so a turn takes as long as all clients together need: sixteen
clients with requests of 30 ms each delay all others by half a second, several times for one record.

Note [Light and busy]: a connection is *light* if it was served in an earlier period and has used
little time since, or a moderate amount followed by a rest: a client that sends as fast as it is
served, or pipelines requests, is ready again immediately. Light connections are served first. All
others, new and busy ones, share a small part of each turn. The rest is still ready in the next
turn, since epoll is level-triggered, and connections served least recently come first. So a
producer that keeps a connection open and sends now and then isn't delayed by clients that send
much, or that open a connection for each request. No connection starves, since each turn serves at
least one of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

__all__ = [
    "BUSY_SECONDS",
    "LIGHT_SECONDS",
    "LIGHT_SHARE",
    "PERIOD_SECONDS",
    "RESTED_SHARE",
    "REST_SECONDS",
    "FairTurns",
    "Ready",
]

PERIOD_SECONDS = 1.0
"""Length of the periods in which used time is counted."""

LIGHT_SHARE = 0.03
"""Maximum time of a light connection in the current and the previous period, in seconds."""

REST_SECONDS = 0.02
"""Minimum time between the last service of a connection and its next readiness for a rest."""

RESTED_SHARE = 0.2
"""Maximum time of a light connection that has rested, in seconds; see `LIGHT_SHARE`."""

LIGHT_SECONDS = 0.006
"""Time per turn for all light connections; exceeded by at most one of them.

A record is answered some five turns after it was read: the group is sent, written and acknowledged
in turns of their own. So its latency is five times this if many light connections have expensive
requests.
"""

BUSY_SECONDS = 0.005
"""Time per turn for all other connections."""

CHEAP_SECONDS = 0.0001
"""Mean time of a service up to which connections are in the cheapest class."""

LATEST = 0.5
"""Weight of the latest service in the mean time of a service."""

Ready = tuple[Any, int, int]
"""A ready connection, its descriptor, and its events."""

_ATTRIBUTE = "_used_turns"


class _Used:
    """The reactor's time used by a connection.

    :ivar since: the period in which it was served first.
    :ivar period: the last period in which it was served.
    :ivar seconds: time used in that period.
    :ivar before: time used in the period before that one.
    :ivar cost: the mean time of a service.
    :ivar last: total number of services at its last service, or at its start.
    :ivar ended: time of its last service.
    :ivar ready: the last turn in which it was ready.
    :ivar rested: whether it wasn't ready for a while before.
    """

    __slots__ = ("before", "cost", "ended", "last", "period", "ready", "rested", "seconds", "since")

    def __init__(self, period: int, last: int) -> None:
        self.since = math.inf
        self.period = period
        self.seconds = self.before = self.cost = 0.0
        self.last = last
        self.ended = math.inf
        self.ready = 0
        self.rested = False

    def enter(self, period: int) -> None:
        """Start *period*."""
        if period != self.period:
            self.before = self.seconds if period == self.period + 1 else 0.0
            self.seconds = 0.0
            self.period = period

    def is_light(self, turn: int, now: float) -> bool:
        """Return whether the connection, ready in *turn*, is light; see Note [Light and busy]."""
        if self.ready != turn - 1:
            self.rested = now - self.ended >= REST_SECONDS
        self.ready = turn
        share = RESTED_SHARE if self.rested else LIGHT_SHARE
        return self.since < self.period and self.seconds + self.before < share

    def cost_class(self) -> int:
        """Return the class of its cost; see Note [Cheap ones first]."""
        return int(math.log2(max(1.0, self.cost / CHEAP_SECONDS)))


_Entry = tuple[int, Ready, _Used]
"""A connection with the time of its last service."""

_last_served = itemgetter(0)


def _cheap(entry: _Entry) -> tuple[int, int]:
    last, _, used = entry
    return used.cost_class(), last


class FairTurns:
    """Serves ready connections.

    The time used by a connection is stored in one of its attributes.

    :param clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._served = 0
        self._turn = 0

    def serve(self, ready: Sequence[Ready], serve: Callable[[Ready], None]) -> None:
        """Call *serve* for some of *ready*, at least for one; the others stay ready.

        See Note [Light and busy].
        """
        self._turn += 1
        start = self._clock()
        period = int(start / PERIOD_SECONDS)
        light: list[_Entry] = []
        busy: list[_Entry] = []
        for each in ready:
            used: _Used | None = getattr(each[0], _ATTRIBUTE, None)
            if used is None:
                used = _Used(period, self._served)
                setattr(each[0], _ATTRIBUTE, used)
            else:
                used.enter(period)
            is_light = used.is_light(self._turn, start)
            (light if is_light else busy).append((used.last, each, used))
        light.sort(key=_cheap)
        done, now = self._serve(light, LIGHT_SECONDS / 2, start, serve)
        light = sorted(light[done:], key=_last_served)
        _, now = self._serve(light, LIGHT_SECONDS / 2, now, serve)
        busy.sort(key=_last_served)
        self._serve(busy, BUSY_SECONDS, now, serve)

    def _serve(
        self,
        ready: list[_Entry],
        seconds: float,
        now: float,
        serve: Callable[[Ready], None],
    ) -> tuple[int, float]:
        """Serve *ready* in that order for *seconds*; return how many, and the time afterwards."""
        end = now + seconds
        done = 0
        for _, each, used in ready:
            self._served += 1
            used.last = self._served
            used.since = min(used.since, used.period)
            serve(each)
            before, now = now, self._clock()
            used.seconds += now - before
            used.cost += LATEST * (now - before - used.cost)
            used.ended = now
            used.rested = False
            done += 1
            if now >= end:
                break
        return done, now
