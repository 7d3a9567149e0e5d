"""Taking refused requests out of a group."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.sink.group import Group
from stream.storage.model.marks import Mark
from tests.sink.fakes import FakeCompletion

_KEYS = st.integers(0, 4)
_BLOCKS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 2), st.none() | _KEYS, st.booleans()), max_size=12
)
"""For each block of rows: their number, the milliseconds since the last one, the key of its request
if it has one, and whether a producer waits.
"""


def _key(number: int) -> bytes:
    return b"%016d" % number


def _arrivals(group: Group) -> list[int]:
    """The receive time of each row."""
    times: list[int] = []
    for at, count in (*group.arrivals, (group.last_at, group.count)):
        times += [at] * (count - len(times))
    return times


@given(_BLOCKS, st.sets(_KEYS))
def test_what_is_left_is_like_a_group_without_the_refused_rows(
    blocks: list[tuple[int, int, int | None, bool]], refused: set[int]
) -> None:
    """Rows for which nobody waits stay without their mark."""
    group, left, taken = Group(), Group(), Group()
    at = 1000
    for number, (count, later, key, is_awaited) in enumerate(blocks):
        at += later
        rows = b"%d\n" % number * count
        completion = FakeCompletion() if is_awaited else None
        mark = None if key is None else Mark(_key(key), b"c" * 8, b"a" * 8)
        group.add(rows, count, at, completion, mark)
        is_refused = key in refused
        if is_refused and is_awaited:
            taken.add(rows, count, at, completion)
        else:
            left.add(rows, count, at, completion, None if is_refused else mark)
    out = group.take_out({_key(key) for key in refused})
    assert (out.rows, out.count, out.size) == (taken.rows, taken.count, taken.size)
    assert out.waiting == taken.waiting
    assert (group.rows, group.count, group.size) == (left.rows, left.count, left.size)
    assert group.waiting == left.waiting
    assert _arrivals(group)[: left.count] == _arrivals(left)
    places = [(each.mark, each.place, each.before, each.completion) for each in left.marked]
    assert places == [
        (each.mark, each.place, each.before, each.completion) for each in group.marked
    ]
