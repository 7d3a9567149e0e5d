"""The layout of error texts."""

from __future__ import annotations

import pytest

from stream.errors import NestedError, camel_case, format_nested, sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("invalid value", "Invalid value."),
        ('ends with a quote "x"', 'Ends with a quote "x".'),
        ("in brackets (len=0)", "In brackets (len=0)"),
        ("done.", "Done."),
        ("", ""),
    ],
)
def test_sentence_form(text: str, expected: str) -> None:
    """A capital letter, and a dot only after what ends like a word."""
    assert sentence(text) == expected


def test_a_short_cause_stays_on_the_line() -> None:
    """Up to sixty characters prefix and cause share a line."""
    assert format_nested("cannot do", ["reason"]) == "cannot do: reason"
    prefix = "p" * 30
    assert format_nested(prefix, ["c" * 28]) == f"{prefix}: {'c' * 28}"
    assert format_nested(prefix, ["c" * 29]) == f"{prefix}:\n- {'c' * 29}"


def test_causes_are_bullets() -> None:
    """Several causes, and nested ones, are indented lists."""
    inner = format_nested("inner", ["a", "b"])
    assert format_nested("outer", [inner]) == "outer:\n- inner:\n  - a\n  - b"


def test_every_message_of_a_tree_becomes_a_sentence() -> None:
    """The sentence form reaches the leaves."""
    error = NestedError("cannot convert column", [NestedError("cannot parse", ["bad", "worse"])])
    assert error.sentences() == "Cannot convert column:\n- Cannot parse:\n  - Bad.\n  - Worse."


def test_camel_case() -> None:
    """Names on the wire are lowerCamelCase."""
    assert camel_case("missing_field") == "missingField"
    assert camel_case("deleted source not found") == "deletedSourceNotFound"
