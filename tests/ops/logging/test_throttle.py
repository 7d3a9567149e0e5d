"""A message that is logged at most once in an interval."""

from __future__ import annotations

from twisted.internet.task import Clock

from stream.ops.logging import throttle as rarely
from stream.ops.logging.throttle import LogThrottle


def test_suppressed_messages_are_counted() -> None:
    """After the first message of an object, further ones are suppressed for the interval and
    counted.
    """
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


def test_the_number_of_objects_is_limited() -> None:
    """Objects above the limit aren't remembered."""
    limit = LogThrottle(60.0, Clock().seconds)
    for number in range(rarely.MAX_KEYS + 1):
        assert limit.due(str(number)) == 0
    assert len(limit._known) == 1
