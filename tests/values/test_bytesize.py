"""Byte sizes with binary units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.values.bytesize import ByteSize


@pytest.mark.parametrize(
    ("text", "size", "printed"),
    [
        ("123", 123, "123B"),
        ("64kB", 65536, "64KB"),
        ("1536KB", 1572864, "1536KB"),
        ("1MB", 1048576, "1MB"),
        ("1 gb", 2**30, "1GB"),
        ("2000B", 2000, "2000B"),
    ],
)
def test_units_are_binary(text: str, size: int, printed: str) -> None:
    """Any spelling is parsed, and the largest unit that divides the size is printed."""
    assert ByteSize.parse(text) == size
    assert str(ByteSize.parse(text)) == printed


@pytest.mark.parametrize("text", ["bar", "", "-1", "1.5MB", "1XB", "١MB", "1\u212aB"])
def test_invalid_texts(text: str) -> None:
    """Any other text has invalid syntax."""
    with pytest.raises(ValueError, match="invalid syntax"):
        ByteSize.parse(text)


def test_sizes_above_64_bits() -> None:
    """A size that needs more than 64 bits is refused."""
    with pytest.raises(ValueError, match="value out of range"):
        ByteSize.parse("99EB")


def test_the_human_form() -> None:
    """Messages show sizes with one decimal place."""
    assert ByteSize(1536 * 1024).human() == "1.5 MB"
    assert ByteSize(40).human() == "40 B"


@given(st.integers(min_value=0, max_value=2**63))
def test_round_trip(size: int) -> None:
    """Parsing a printed size returns the same size."""
    assert ByteSize.parse(str(ByteSize(size))) == size
