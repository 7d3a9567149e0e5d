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


def test_a_hundredth_is_forgotten_at_once() -> None:
    """Sources with as many keys lose as many, the oldest ones."""
    keys: SharedKeys[str] = SharedKeys(1000)
    assert _fill(keys, A, 1001) == [f"{A}-{number}" for number in range(11)]
    many: SharedKeys[tuple[Owner, int]] = SharedKeys(1000)
    owners: list[Owner] = [(number // 2, number % 2) for number in range(334)]
    for number in range(3):
        for owner in owners:
            many.add(owner, (owner, number))
    surplus = many.surplus()
    assert [number for _, number in surplus] == [0] * 12
    assert len({owner[0] for owner, _ in surplus}) == 12


def test_sources_are_looked_at_rarely() -> None:
    """Once for a hundredth of the keys, however few each source has."""
    keys: SharedKeys[int] = SharedKeys(1000)
    looks = 0
    for number in range(3000):
        keys.add((number % 500, ""), number)
        surplus = keys.surplus()
        looks += bool(surplus)
        for each in surplus:
            keys.remove((each % 500, ""), each)
        assert number not in surplus
    assert 100 < looks < 200
    assert len(keys) >= 990


def test_the_newest_key_is_kept() -> None:
    """Also if its source has no other, and there are more sources than keys."""
    keys: SharedKeys[str] = SharedKeys(1)
    keys.add(C, "old")
    keys.add(A, "new")
    assert keys.surplus() == ["old"]


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
