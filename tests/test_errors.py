"""The layout of error messages."""

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
    """A sentence has a capital letter, and a full stop only after a word."""
    assert sentence(text) == expected


def test_a_short_cause_is_on_the_same_line() -> None:
    """Prefix and cause share a line of up to sixty characters."""
    assert format_nested("cannot do", ["reason"]) == "cannot do: reason"
    prefix = "p" * 30
    assert format_nested(prefix, ["c" * 28]) == f"{prefix}: {'c' * 28}"
    assert format_nested(prefix, ["c" * 29]) == f"{prefix}:\n- {'c' * 29}"


def test_causes_are_list_items() -> None:
    """Several causes, and nested ones, are indented lists."""
    inner = format_nested("inner", ["a", "b"])
    assert format_nested("outer", [inner]) == "outer:\n- inner:\n  - a\n  - b"


def test_every_message_of_a_tree_is_a_sentence() -> None:
    """The sentence form also applies to the leaves."""
    error = NestedError("cannot convert column", [NestedError("cannot parse", ["bad", "worse"])])
    assert error.sentences() == "Cannot convert column:\n- Cannot parse:\n  - Bad.\n  - Worse."


def test_camel_case() -> None:
    """Names in the API are lowerCamelCase."""
    assert camel_case("missing_field") == "missingField"
    assert camel_case("deleted source not found") == "deletedSourceNotFound"
