"""Forms with nested keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.record.errors import InvalidForm
from stream.record.form import MAX_ARRAY_ITEMS, parse_form


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("", {}),
        ("a=1&&b=2&", {"a": "1", "b": "2"}),
        ("a&b=", {"a": "", "b": ""}),
        ("a=1&b=2&a=3", {"a": "3", "b": "2"}),
        ("a+b=c%20d%3D=", {"a b": "c d=="}),
        ("a[b]=1&a[c][d]=2", {"a": {"b": "1", "c": {"d": "2"}}}),
        ("a[0]=x&a[2]=y", {"a": ["x", None, "y"]}),
        ("a[]=x&a[]=y&b[c][]=z", {"a": ["x", "y"], "b": {"c": ["z"]}}),
        ("a[0][b]=1&a[0][c]=2", {"a": [{"b": "1", "c": "2"}]}),
        ("a.b=1", {"a.b": "1"}),
        ("%61%5Bb%5D=1", {"a": {"b": "1"}}),
        ("n=J%C3%A1n", {"n": "Ján"}),
        ("a=1;2&b=3", {"b": "3"}),
    ],
)
def test_forms(form: str, expected: dict[str, Any]) -> None:
    """Keys with brackets make objects and arrays; values are strings."""
    parsed = parse_form(form.encode())
    assert parsed == expected
    assert list(parsed) == list(expected)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("b=3&a=1;2", "invalid semicolon separator in query"),
        ("a[b]c=1", 'Unable to parse key "a[b]c"'),
        ("a[][b]=1", 'Unable to parse key "a[][b]"'),
        ("a[b=1", 'Unable to parse key "a[b"'),
        ("a=1&a[]=2", "invalid square brackets in query"),
        ("a=1&a[b]=2", 'path "a": expected object found "string"'),
        ("a[b]=1&a[0]=2", 'path "a": expected array found "object"'),
        ("a[-1]=x", 'path "a[-1]": array key can\'t be negative'),
        ("=x", "path cannot be empty"),
        ("a=%4", 'invalid URL escape "%4"'),
        (f"a[{MAX_ARRAY_ITEMS}]=x", "array index"),
        ("a[1000000000]=x", "array index"),
        ("&".join(f"a{i}[9999]=x" for i in range(11)), "more than 100000 array items"),
        ("a" + "[b]" * 101 + "=1", "a key has more than 100 brackets"),
    ],
)
def test_invalid_forms(form: str, reason: str) -> None:
    """The reason says what is wrong."""
    with pytest.raises(InvalidForm) as caught:
        parse_form(form.encode())
    assert str(caught.value).startswith(f"invalid form data: {reason}")


def test_last_allowed_index() -> None:
    """The cap is exact."""
    assert len(parse_form(b"a[%d]=x" % (MAX_ARRAY_ITEMS - 1))["a"]) == MAX_ARRAY_ITEMS


@given(st.lists(st.text(st.sampled_from("ab[]0-1=&;%+."), max_size=12)))
def test_any_input_is_parsed_or_refused(parts: list[str]) -> None:
    """No input breaks the parser."""
    try:
        parse_form("&".join(parts).encode())
    except InvalidForm:
        return
