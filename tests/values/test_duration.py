"""Durations in Go's format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.values.duration import Duration


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0", "0s"),
        ("5ms", "5ms"),
        ("1m", "1m0s"),
        ("60s", "1m0s"),
        ("168h", "168h0m0s"),
        ("1.5s", "1.5s"),
        ("1500us", "1.5ms"),
        ("-1m30s", "-1m30s"),
        ("1h0m1.5s", "1h0m1.5s"),
        ("100ns", "100ns"),
        (".5h", "30m0s"),
    ],
)
def test_the_canonical_form(text: str, printed: str) -> None:
    """A duration is parsed from any form and printed in the canonical one."""
    assert str(Duration.parse(text)) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo", 'time: invalid duration "foo"'),
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("١s", 'time: invalid duration "١s"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
    ],
)
def test_errors_have_the_wording_of_go(text: str, message: str) -> None:
    """Clients know the messages."""
    with pytest.raises(ValueError, match=r"^time: ") as refused:
        Duration.parse(text)
    assert str(refused.value) == message


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_round_trip(nanoseconds: int) -> None:
    """Parsing a printed duration returns the same duration."""
    duration = Duration(nanoseconds)
    assert Duration.parse(str(duration)) == duration
