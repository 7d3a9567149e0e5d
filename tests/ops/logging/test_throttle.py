"""A message that is logged at most once in an interval."""

from __future__ import annotations

from twisted.internet.task import Clock

from stream.ops.logging import throttle as rarely
from stream.ops.logging.throttle import LogThrottle


def test_what_was_left_out_is_counted() -> None:
    """After the first time the next ones are left out for a while, each object by itself."""
    clock = Clock()
    limit = LogThrottle(60.0, clock.seconds)
    assert limit.due("a") == 0
    assert limit.due("a") is None
    assert limit.due("b") == 0
    clock.advance(59.9)
    assert limit.due("a") is None
    clock.advance(0.1)
    assert limit.due("a") == 2
    assert limit.due("a") is None


def test_objects_are_bounded() -> None:
    """Not more objects are remembered than there is room for."""
    limit = LogThrottle(60.0, Clock().seconds)
    for number in range(rarely.MAX_KEYS + 1):
        assert limit.due(str(number)) == 0
    assert len(limit._known) == 1
