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
    """Any spelling is read; the largest unit that divides is printed."""
    assert ByteSize.parse(text) == size
    assert str(ByteSize.parse(text)) == printed


@pytest.mark.parametrize("text", ["bar", "", "-1", "1.5MB", "1XB", "١MB", "1\u212aB"])
def test_refuses_other_texts(text: str) -> None:
    """Any other text has an invalid syntax."""
    with pytest.raises(ValueError, match="invalid syntax"):
        ByteSize.parse(text)


def test_refuses_what_does_not_fit() -> None:
    """Sizes have 64 bits."""
    with pytest.raises(ValueError, match="value out of range"):
        ByteSize.parse("99EB")


def test_human_form_has_one_decimal() -> None:
    """Texts about limits use a form for people."""
    assert ByteSize(1536 * 1024).human() == "1.5 MB"
    assert ByteSize(40).human() == "40 B"


@given(st.integers(min_value=0, max_value=2**63))
def test_reads_what_it_printed(size: int) -> None:
    """Printing loses nothing."""
    assert ByteSize.parse(str(ByteSize(size))) == size
