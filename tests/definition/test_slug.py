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
    """Ids are made of words joined by dashes, without accents."""
    assert slug(text) == expected


@given(st.text())
def test_an_id_is_its_own_id(text: str) -> None:
    """Making an id of an id changes nothing, and there is no slash or blank in it."""
    made = slug(text)
    assert slug(made) == made
    assert re.search(r"[/\s]", made) is None
