"""The order of connections in a turn of the reactor."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.ops.process.fair_turns import (
    BUSY_SECONDS,
    LIGHT_SECONDS,
    LIGHT_SHARE,
    PERIOD_SECONDS,
    REST_SECONDS,
    RESTED_SHARE,
    FairTurns,
    Ready,
)


@attrs.define(eq=False, slots=False)
class Connection:
    """A connection that records when it is served.

    :ivar seconds: the time that one service takes.
    :ivar served: the times at which it was served.
    """

    name: str
    seconds: float
    served: list[float] = attrs.field(factory=list)


class Reactor:
    """Serves connections in turns, on its own clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.between: list[str] = []
        self._turns = FairTurns(
            lambda: self.now,
            lambda: self.between.append("light served"),
            lambda: self.between.append("served"),
        )

    def turn(self, connections: list[Connection]) -> list[str]:
        """Run one turn in which *connections* are ready, and return the names of the
        served ones.
        """
        served = []

        def serve(ready: Ready) -> None:
            served.append(ready[0].name)
            ready[0].served.append(self.now)
            self.now += ready[0].seconds

        self._turns.serve([(each, number, 1) for number, each in enumerate(connections)], serve)
        return served

    def known(self, *connections: Connection) -> None:
        """Let *connections* be open for a while with little used time."""
        for each in connections:
            each.seconds, seconds = 0.0, each.seconds
            while not each.served:
                self.turn([each])
            each.seconds = seconds
        self.now += 2 * PERIOD_SECONDS


def _some(count: int, seconds: float, name: str = "c") -> list[Connection]:
    return [Connection(f"{name}{number}", seconds) for number in range(count)]


def test_a_short_turn() -> None:
    """All connections are served if the turn is short enough."""
    connections = _some(10, BUSY_SECONDS / 100)
    assert Reactor().turn(connections) == [each.name for each in connections]


def test_a_long_turn() -> None:
    """A turn ends when its time is over, at the latest after one connection more."""
    reactor = Reactor()
    assert len(reactor.turn(_some(100, BUSY_SECONDS / 5 * 1.01))) == 5
    assert len(reactor.turn(_some(100, 1.0))) == 1


def test_light_connections_come_first() -> None:
    """A light connection isn't delayed by any number of others."""
    reactor = Reactor()
    light = Connection("light", LIGHT_SHARE / 100)
    reactor.known(light)
    busy = _some(50, 0.03, "busy")
    for _ in range(50):
        served = reactor.turn([*busy, light])
        assert served[0] == "light"
        assert len(served) == 2


def test_new_and_busy_connections_wait() -> None:
    """A new connection isn't light, and a light one doesn't stay light forever."""
    reactor = Reactor()
    known, new = Connection("known", 0.0), Connection("new", 0.0)
    reactor.known(known)
    assert reactor.turn([new, known]) == ["known", "new"]
    known.seconds = RESTED_SHARE * 1.01
    reactor.turn([known])
    known.seconds = 0.0
    light = Connection("light", 0.0)
    light.served = [0.0]
    reactor.turn([light])
    reactor.now += PERIOD_SECONDS
    assert reactor.turn([known, light]) == ["light", "known"]
    reactor.now += 2 * PERIOD_SECONDS
    assert reactor.turn([new, known])[1] == "known"  # light again, like the other one


def test_a_connection_that_pauses_may_use_more() -> None:
    """A connection that is always ready uses up its share, even if each service is short."""
    reactor = Reactor()
    now_and_then = Connection("now and then", LIGHT_SHARE / 2)
    always = Connection("always", LIGHT_SHARE / 2)
    reactor.known(now_and_then, always)
    others = _some(30, 0.01, "other")
    for _ in range(5):
        assert reactor.turn([*others, now_and_then, always])[0] == "now and then"
        reactor.turn([*others, always])
        reactor.now += REST_SECONDS
    assert reactor.turn([*others, now_and_then, always])[0] == "now and then"
    assert len(always.served) < len(now_and_then.served)
    now_and_then.seconds = RESTED_SHARE
    reactor.turn([now_and_then])
    reactor.turn(others)
    reactor.now += REST_SECONDS
    assert reactor.turn([*others, now_and_then])[0] != "now and then"


def test_many_light_connections_have_a_limit() -> None:
    """Many light connections together count like a busy one."""
    reactor = Reactor()
    light = _some(1000, LIGHT_SECONDS / 50 * 1.01, "light")
    reactor.known(*light)
    busy = Connection("busy", 0.0)
    served = reactor.turn([busy, *light])
    assert served == [each.name for each in light[:50]] + ["busy"]


@given(
    costs=st.lists(st.floats(0.0001, 0.01), min_size=2, max_size=30),
    turns=st.integers(10, 60),
)
def test_every_connection_is_served(costs: list[float], turns: int) -> None:
    """No connection is served a second time before all others.

    All this happens within one period, so that no connection is light.
    """
    reactor = Reactor()
    connections = [Connection(str(number), cost) for number, cost in enumerate(costs)]
    served = [name for _ in range(turns) for name in reactor.turn(connections)]
    rounds = [served[at : at + len(costs)] for at in range(0, len(served), len(costs))]
    assert all(len(set(names)) == len(names) for names in rounds)


def test_cheap_requests_come_first() -> None:
    """A light connection with cheap requests doesn't wait for hundreds with expensive ones."""
    reactor = Reactor()
    expensive = _some(200, LIGHT_SECONDS / 10, "expensive")
    cheap = Connection("cheap", LIGHT_SECONDS / 1000)
    everyone = [*expensive, cheap]
    for each in everyone:  # each is light in the next period but one
        while not each.served:
            reactor.turn([each])
    reactor.now += 2 * PERIOD_SECONDS
    for _ in range(5):
        assert reactor.turn(everyone)[0] == "cheap"


def test_one_long_service_is_not_expensive() -> None:
    """A pause of the process counts as time of the connection that is being served."""
    reactor = Reactor()
    expensive = _some(200, LIGHT_SECONDS / 10, "expensive")
    cheap = Connection("cheap", LIGHT_SECONDS / 1000)
    everyone = [*expensive, cheap]
    for _ in range(10):
        for each in everyone:
            reactor.turn([each])
    cheap.seconds = 0.02
    reactor.turn([cheap])
    cheap.seconds = LIGHT_SECONDS / 1000
    reactor.now += 2 * PERIOD_SECONDS
    for _ in range(5):
        assert reactor.turn(everyone)[0] == "cheap"


@pytest.mark.parametrize("others", [1, 2, 7])
def test_cheap_requests_do_not_hide_expensive_ones(others: int) -> None:
    """A connection with an expensive request between cheap ones isn't cheap."""
    reactor = Reactor()
    mixed = _some(200, LIGHT_SECONDS / 3, "mixed")
    cheap = Connection("cheap", LIGHT_SECONDS / 1000)
    everyone = [*mixed, cheap]
    for number in range(5 * (others + 1)):
        is_last = number % (others + 1) == others
        for each in mixed:
            each.seconds = LIGHT_SECONDS / (3 if is_last else 1000)
        for each in everyone:
            reactor.turn([each])
    for each in mixed:
        each.seconds = LIGHT_SECONDS / 3
    reactor.now += 2 * PERIOD_SECONDS
    assert reactor.turn(everyone)[0] == "cheap"


def test_expensive_requests_do_not_starve() -> None:
    """However many light connections have cheap requests, those with expensive ones are served."""
    reactor = Reactor()
    cheap = _some(200, LIGHT_SECONDS / 20, "cheap")
    expensive = Connection("expensive", LIGHT_SECONDS)
    for each in (*cheap, expensive):
        while not each.served:
            reactor.turn([each])
    reactor.now += 2 * PERIOD_SECONDS
    turns = len(cheap)
    served = [name for _ in range(turns) for name in reactor.turn([*cheap, expensive])]
    assert "expensive" in served


def test_calls_between_clients() -> None:
    """Some follow each client, others only the light ones; they use no client's time."""
    reactor = Reactor()
    light = _some(2, LIGHT_SHARE / 100, "light")
    reactor.known(*light)
    reactor.between.clear()
    assert len(reactor.turn([*_some(3, 0.0, "busy"), *light])) == 5
    assert reactor.between == [*["served"] * 2, "light served", *["served"] * 3]
