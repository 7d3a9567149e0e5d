from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.api.http.prefer import preferred_wait
from stream.api.spec.operation import MAX_WAIT_SECONDS


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["wait=10"], 10),
        (["WAIT = 10"], 10),
        (['wait="10"'], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (['foo="a, wait=3; b"; x="\\",", wait=10'], 10),
        (["return=minimal; foo=bar, wait=10; x=y"], 10),
        (["wait=10, wait=20"], 10),
        ([",, wait=10"], 10),
        ([f"wait={MAX_WAIT_SECONDS + 1}"], MAX_WAIT_SECONDS),
        (["wait=999999999999"], 0),
        (["wait=0"], 0),
        (["wait=-1"], 0),
        (["wait=1.5"], 0),
        (["wait=²"], 0),
        (["wait"], 0),
        (["wait="], 0),
        (["waiting=10"], 0),
        (["respond-async"], 0),
        (["a b, wait=10"], 0),
        ([""], 0),
        ([], 0),
    ],
)
def test_the_time_that_a_caller_waits(values: list[str], seconds: int) -> None:
    """The first `wait` of `Prefer` counts, and what can't be parsed is ignored."""
    assert preferred_wait(values) == seconds


@given(st.lists(st.text(alphabet='wait=10;," \\\t'), max_size=3))
def test_any_header_gives_a_number_in_range(values: list[str]) -> None:
    """The parser returns nothing or a number in range for any header."""
    assert 0 <= preferred_wait(values) <= MAX_WAIT_SECONDS
