"""Changes are told when they have ended."""

from __future__ import annotations

from twisted.internet.task import Clock

from watcher.debounce import Debounce


def test_changes_are_told_when_they_have_ended() -> None:
    """Changes shortly after one another are one; each begins the time anew; the next are others."""
    clock, told = Clock(), list[tuple[str, int]]()
    debounce = Debounce(clock, 2, lambda name, count: told.append((name, count)))
    for name in ("a", "b", "a"):
        debounce.touch(name)
        clock.advance(1.5)
    assert told == []
    clock.advance(0.5)
    assert told == [("a", 2)]
    debounce.touch("c")
    clock.advance(2)
    assert told == [("a", 2), ("c", 1)]


def test_cancelled() -> None:
    """After the end nothing is told."""
    clock, told = Clock(), list[tuple[str, int]]()
    debounce = Debounce(clock, 2, lambda name, count: told.append((name, count)))
    debounce.cancel()
    debounce.touch("a")
    debounce.cancel()
    clock.advance(9)
    assert told == []
