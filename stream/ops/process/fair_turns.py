"""Fair scheduling of ready connections within one iteration of the reactor, a turn.

Twisted serves all ready connections in each turn, so a turn takes as long as all clients together
need. Sixteen clients with requests of 30 ms each delay all others by half a second, several times
per record.

Note [Light and busy]: a connection is *light* if it was served in an earlier period, and since then
has used little time, or a moderate amount followed by a rest. A client that sends as fast as it is
served, or that pipelines requests, never rests: it is ready again immediately. Light connections
are served first. All others, new and busy ones, share a small part of each turn. Connections that
aren't served are still ready in the next turn, because epoll is level-triggered, and connections
served least recently come first. So a producer that keeps a connection open and sends now and then
isn't delayed by clients that send a lot, or that open a connection for each request. No connection
starves, because each turn serves at least one of the others.

Note [Cheap ones first]: half of the time for light connections is for those whose requests have
been cheap, in classes of their mean time. The other half is for those served least recently. So
hundreds of light connections with expensive requests don't delay a cheap one by a whole round, and
expensive ones don't starve. A single long service changes the class by one, but another one soon
after it counts in full: otherwise a few cheap requests would hide each expensive one.
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
    "OUTGOING_SECONDS",
    "PERIOD_SECONDS",
    "RESTED_SHARE",
    "REST_SECONDS",
    "FairTurns",
    "Ready",
]

PERIOD_SECONDS = 1.0
"""Length of the periods in which the time of connections is counted."""

LIGHT_SHARE = 0.03
"""Maximum time that a light connection uses in the current and the previous period, in seconds."""

REST_SECONDS = 0.02
"""Minimum time between serving a connection and its next readiness that counts as a rest."""

RESTED_SHARE = 0.2
"""Maximum time that a light connection uses if it has rested, in seconds; see `LIGHT_SHARE`."""

LIGHT_SECONDS = 0.006
"""Time per turn for all light connections, in seconds; exceeded by at most one of them.

A record may wait for several turns: its request is read in one, and the writer's acknowledgement is
read in another. If many light connections have expensive requests, the latency of a record is
therefore several times this value.
"""

BUSY_SECONDS = 0.005
"""Time per turn for all other connections, in seconds."""

OUTGOING_SECONDS = 0.003
"""Time per turn for light outgoing connections, and as much for the other ones, in seconds.

An answer of etcd may take milliseconds, if it is for a client of the API.
"""

CHEAP_SECONDS = 0.00002
"""Mean time of serving a connection up to which it is in the cheapest class, in seconds.

A small record in the compiled code takes 10 to 50 µs, and a refused request 200 µs. A coarser class
would contain both, and a producer would wait for hundreds of refused requests.
"""

LATEST = 0.5
"""Weight of the latest time of serving a connection in the mean time."""

GROWTH = 2.0
"""Maximum growth of the mean time with a single long service.

The time of a service includes pauses of the process, for example for another process or for the
garbage collector. Without a limit, one pause of 20 ms puts a connection with cheap requests behind
all others for the next seven.
"""

PAUSE_SERVICES = 32
"""Number of services of a connection of which one may be long without being expensive."""

Ready = tuple[Any, int, int]
"""A ready connection, its descriptor, and its events."""

_ATTRIBUTE = "_used_turns"


class _Used:
    """The time that a connection has used in the reactor.

    :ivar since: the period in which it was served first.
    :ivar period: the last period in which it was served.
    :ivar seconds: time used in that period.
    :ivar before: time used in the period before that one.
    :ivar cost: mean time of serving the connection once.
    :ivar strict: number of the next services in which a long one counts in full.
    :ivar last: value of the counter of served connections when it was last served, or made.
    :ivar ended: time when it was last served.
    :ivar ready: the last turn in which it was ready.
    :ivar rested: whether it had rested before it was last ready.
    """

    __slots__ = (
        "before",
        "cost",
        "ended",
        "last",
        "period",
        "ready",
        "rested",
        "seconds",
        "since",
        "strict",
    )

    def __init__(self, period: int, last: int) -> None:
        self.since = math.inf
        self.period = period
        self.seconds = self.before = self.cost = 0.0
        self.strict = 0
        self.last = last
        self.ended = math.inf
        self.ready = 0
        self.rested = False

    def enter(self, period: int) -> None:
        """Start counting in *period*."""
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

    def count_cost(self, seconds: float) -> None:
        """Count the time of one service; see Note [Cheap ones first]."""
        most = GROWTH * max(self.cost, CHEAP_SECONDS)
        self.cost += LATEST * (seconds - self.cost)
        if self.strict:
            self.strict -= 1
        elif self.cost > most:
            self.cost = most
            self.strict = PAUSE_SERVICES

    def cost_class(self) -> int:
        """Return the class of the connection's cost; see Note [Cheap ones first]."""
        return int(math.log2(max(1.0, self.cost / CHEAP_SECONDS)))


_Entry = tuple[int, Ready, _Used]
"""A ready connection, its used time, and when it was last served."""

_last_served = itemgetter(0)


def _cheap(entry: _Entry) -> tuple[int, int]:
    last, _, used = entry
    return used.cost_class(), last


class FairTurns:
    """Serves ready connections with a time limit per turn.

    The time used by a connection is stored in one of its attributes.

    :param clock: returns the time in seconds.
    :param after_light: called in each turn after the light connections are served.
    :param after_each: called after each connection is served.
    :param light_seconds: time per turn for all light connections.
    :param busy_seconds: time per turn for all other connections.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        after_light: Callable[[], None] = lambda: None,
        after_each: Callable[[], None] = lambda: None,
        *,
        light_seconds: float = LIGHT_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self._clock = clock
        self._light_seconds = light_seconds
        self._busy_seconds = busy_seconds
        self._after_light = after_light
        self._after_each = after_each
        self._served = 0
        self._turn = 0

    def serve(self, ready: Sequence[Ready], serve: Callable[[Ready], None]) -> None:
        """Call *serve* for some of *ready*, at least for one; the others remain ready.

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
        done, now = self._serve(light, self._light_seconds / 2, start, serve)
        light = sorted(light[done:], key=_last_served)
        self._serve(light, self._light_seconds / 2, now, serve)
        self._after_light()
        busy.sort(key=_last_served)
        self._serve(busy, self._busy_seconds, self._clock(), serve)

    def _serve(
        self,
        ready: list[_Entry],
        seconds: float,
        now: float,
        serve: Callable[[Ready], None],
    ) -> tuple[int, float]:
        """Serve *ready* in order for *seconds*; return how many were served, and the time."""
        end = now + seconds
        done = 0
        for _, each, used in ready:
            self._served += 1
            used.last = self._served
            used.since = min(used.since, used.period)
            serve(each)
            before, now = now, self._clock()
            used.seconds += now - before
            used.count_cost(now - before)
            used.ended = now
            used.rested = False
            done += 1
            self._after_each()
            now = self._clock()
            if now >= end:
                break
        return done, now
