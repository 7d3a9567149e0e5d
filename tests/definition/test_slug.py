from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.definition.slug import slug


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My Source", "my-source"),
        ("CamelCase", "camel-case"),
        ("!!!!~~~~weird|||id##", "weird-id"),
        ("__abc_def_xyz___", "abc-def-xyz"),
        ("a B cd-eF   x_y___z__", "a-b-cd-e-f-x-y-z"),
        ("ABc", "abc"),
        ("Příliš žluťoučký", "prilis-zlutoucky"),
        ("!!!", ""),
    ],
)
def test_known_ids(text: str, expected: str) -> None:
    """Ids consist of words joined by dashes, without accents."""
    assert slug(text) == expected


@given(st.text())
def test_the_id_of_an_id(text: str) -> None:
    """The id of an id is the same, and contains no slash or blank."""
    made = slug(text)
    assert slug(made) == made
    assert re.search(r"[/\s]", made) is None
