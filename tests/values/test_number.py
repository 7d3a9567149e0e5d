from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.values.number import MAX_INT64, MIN_INT64, whole_number


@pytest.mark.parametrize(
    "text", ["", "+", "-", "1.0", " 1", "1_000", "²", "١٢", "0x1", "9" * 5000, "-1", str(2**63)]
)
def test_invalid_numbers(text: str) -> None:
    """Only ASCII digits up to the maximum length are accepted."""
    assert whole_number(text) is None


@given(st.integers(MIN_INT64, MAX_INT64))
def test_numbers_of_64_bits(number: int) -> None:
    """Every number of 64 bits is parsed."""
    assert whole_number(str(number), least=MIN_INT64) == number


def test_leading_zeros() -> None:
    """Any number of leading zeros is ignored."""
    assert whole_number("0" * 5000 + "7") == 7
    assert whole_number("+0") == 0
    assert whole_number("7", least=8) is None
    assert whole_number("+7", may_have_sign=False) is None


@given(st.text())
def test_any_text(text: str) -> None:
    """Any text is parsed or refused."""
    number = whole_number(text)
    assert number is None or number >= 0
