"""The garbage collector after the start."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from stream.ops.process.gc_tuning import FULL_LOOKS, SECONDS, GcTuning, without_collector


class Held:
    """An object in a reference cycle."""

    def __init__(self) -> None:
        self.itself = self


def _held() -> int:
    return sum(isinstance(each, Held) for each in gc.get_objects())


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The clock of a collector that has started."""
    clock = Clock()
    collection = GcTuning(clock)
    collection.start()
    yield clock
    collection.stop()


def test_objects_of_the_start_are_not_collected() -> None:
    """Objects of the start are frozen until the stop, which restores the settings."""
    before = gc.get_threshold()
    gc.unfreeze()
    collection = GcTuning(Clock())
    collection.start()
    try:
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold()[2] > before[2]
    finally:
        collection.stop()
        collection.stop()
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()


@pytest.mark.usefixtures("clock")
def test_many_cycles_are_found() -> None:
    """Cycles are collected although collections are rare."""
    for _ in range(3 * gc.get_threshold()[0]):
        Held()
    assert _held() < 2 * gc.get_threshold()[0]


def test_a_few_cycles_are_found_in_time(clock: Clock) -> None:
    """Cycles are collected even if they are few."""
    for _ in range(3):
        Held()
    assert _held() == 3
    clock.advance(SECONDS)
    assert not _held()


def _circle() -> tuple[Held, weakref.ref[Held]]:
    held = Held()
    return held, weakref.ref(held)


def test_surviving_objects_are_collected_less_often(clock: Clock) -> None:
    """The time of a collection depends on the number of objects; no cycle is kept forever."""
    held, seen = _circle()
    clock.advance(SECONDS)
    del held
    clock.advance(SECONDS)
    assert seen() is not None
    clock.pump([SECONDS] * (FULL_LOOKS - 2))
    assert seen() is None


def test_the_collector_is_disabled() -> None:
    """The collector is disabled and enabled again; one that was disabled stays disabled."""
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), without_collector():
        assert not gc.isenabled()
        with without_collector():
            pass
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
