"""The collector of garbage, once everything has started."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from stream.ops.garbage import settle


@pytest.fixture
def _as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("_as_before")
def test_what_is_there_at_the_start_is_not_looked_at_again() -> None:
    """Garbage of the start is taken away; all else is left out of every later look."""
    before = gc.get_threshold()
    circle: list[object] = []
    circle.append(circle)
    settle()
    assert gc.get_freeze_count() > 1000
    assert gc.get_count()[0] < 1000
    assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold()[1:] == before[1:]


@pytest.mark.usefixtures("_as_before")
def test_circles_of_later_are_found() -> None:
    """Looking less often isn't never."""
    settle()

    class Held:
        pass

    gone = []
    for _ in range(3 * gc.get_threshold()[0]):
        held = Held()
        held.__dict__["itself"] = held
        gone.append(id(held))
    assert sum(isinstance(each, Held) for each in gc.get_objects()) < len(gone) / 2
