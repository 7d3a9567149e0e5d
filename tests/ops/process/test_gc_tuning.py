"""The collector of garbage, once everything has started."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from stream.ops.process.gc_tuning import SECONDS, GcTuning


class Held:
    """In a circle."""

    def __init__(self) -> None:
        self.itself = self


def _held() -> int:
    return sum(isinstance(each, Held) for each in gc.get_objects())


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Of a collection that has started."""
    clock = Clock()
    collection = GcTuning(clock)
    collection.start()
    yield clock
    collection.stop()


def test_what_is_there_at_the_start_is_not_looked_at_again() -> None:
    """All else has its time, as long as it runs; then everything is as before."""
    before = gc.get_threshold()
    gc.unfreeze()
    collection = GcTuning(Clock())
    collection.start()
    try:
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold()[1:] == before[1:]
    finally:
        collection.stop()
        collection.stop()
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()


@pytest.mark.usefixtures("clock")
def test_many_circles_are_found() -> None:
    """Looking less often isn't never."""
    for _ in range(3 * gc.get_threshold()[0]):
        Held()
    assert _held() < 2 * gc.get_threshold()[0]


def test_a_few_circles_are_found_in_time(clock: Clock) -> None:
    """However few they are."""
    for _ in range(3):
        Held()
    assert _held() == 3
    clock.advance(SECONDS)
    assert not _held()
