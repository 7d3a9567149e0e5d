"""Shares of remembered keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.values.shared_keys import Owner, SharedKeys


def _fill(keys: SharedKeys[str], owner: Owner, count: int, size: int = 0) -> list[str]:
    """Add keys of *owner*; the ones that are forgotten meanwhile."""
    forgotten = []
    for number in range(count):
        keys.add(owner, f"{owner}-{number}", size)
        for each in keys.surplus():
            forgotten.append(each)
            keys.remove(_OWNERS[each.rpartition("-")[0]], each)
    return forgotten


A, B, C = (1, "a"), (1, "b"), (2, "c")
_OWNERS: dict[str, Owner] = {str(owner): owner for owner in (A, B, C)}


def test_the_source_with_the_most_of_the_project_with_the_most_forgets() -> None:
    """Its oldest keys; the others keep all of theirs."""
    keys: SharedKeys[str] = SharedKeys(10)
    assert _fill(keys, A, 2) == _fill(keys, B, 3) == _fill(keys, C, 4) == []
    assert _fill(keys, A, 0) == []
    assert _fill(keys, C, 0) == []
    keys.add(A, "new")
    keys.add(A, "newer")
    assert keys.surplus() == [f"{A}-0"]


def test_sizes_count_like_keys() -> None:
    """A few large ones are as much as many small ones."""
    keys: SharedKeys[str] = SharedKeys(1000, 100)
    assert _fill(keys, C, 3, size=30) == []
    assert _fill(keys, A, 20, size=1) == [f"{C}-0"]
    assert len(keys) == 22


def test_a_source_keeps_its_newest_keys() -> None:
    """At most half of them are forgotten at once, whatever a hundredth of all is."""
    keys: SharedKeys[str] = SharedKeys(1000)
    for number in range(1001):
        keys.add((number // 3, number % 3), str(number))
    assert len(keys.surplus()) == 1
    keys = SharedKeys(1000)
    for number in range(1001):
        keys.add(A, str(number))
    assert keys.surplus() == [str(number) for number in range(11)]


@given(st.lists(st.tuples(st.sampled_from((A, B, C)), st.integers(0, 40)), max_size=60))
def test_a_source_below_an_equal_share_keeps_its_keys(adds: list[tuple[Owner, int]]) -> None:
    """Of the projects, and of the sources of its project."""
    keys: SharedKeys[tuple[Owner, int]] = SharedKeys(12)
    known: dict[Owner, list[tuple[Owner, int]]] = {A: [], B: [], C: []}
    for number, (owner, _) in enumerate(adds):
        before = {each: len(own) for each, own in known.items()}
        keys.add(owner, (owner, number))
        known[owner].append((owner, number))
        while surplus := keys.surplus():
            for key in surplus:
                keys.remove(key[0], key)
                known[key[0]].remove(key)
        assert len(keys) == sum(map(len, known.values())) <= 12
        for each, own in known.items():
            assert len(own) >= min(6 if each == C else 3, before[each])
