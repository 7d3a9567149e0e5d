"""Conditions on records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.cli.filters import FilterFault, compile_filter

_BODY = {
    "user": {"name": "Ada", "tags": ["a", "b"], "x y": 1},
    "count": 3,
    "paid": False,
    "note": None,
    "list": [{"id": 7}],
}
_RECORD = {
    "ip": "127.0.0.1",
    "headers": {"User-Agent": "curl/8"},
    "body": json.dumps(_BODY),
    "isBase64": False,
}


@pytest.mark.parametrize(
    "text",
    [
        '.user.name == "Ada"',
        '.user.name != "Bob" and .count > 2',
        ".count >= 3 and .count <= 3 and not .count < 3",
        ".paid == false",
        "not .paid",
        ".note == null",
        ".missing == null",
        "not .missing.deeper[3]",
        '.user.tags[1] == "b"',
        '.user.tags contains "a"',
        '.user.name contains "d" or .never',
        '.user.name startswith "A"',
        '.user."x y" == 1',
        '.["user"]',
        ".list[0].id == 7.0",
        '$ip == "127.0.0.1"',
        '$headers.user-agent startswith "curl"',
        "(.paid or .count == 3) and (not (.paid))",
        '"é" == "\\u00e9"',
        "select(.count == 3) and not (select(.paid))",
        ".",
    ],
)
def test_matching_records(text: str) -> None:
    """Paths refer to the body, or with `$` to the request."""
    assert compile_filter(text)(_RECORD)


@pytest.mark.parametrize(
    "text",
    [
        ".paid",
        ".note",
        ".count == true",
        '.count > "2"',
        ".count > null",
        '.user.name == "ada"',
        ".list[1]",
        ".list.id",
        "$nothing",
        '.count contains "3"',
    ],
)
def test_other_records(text: str) -> None:
    """Values of different kinds aren't ordered, and nothing is converted."""
    assert not compile_filter(text)(_RECORD)


def test_bodies_that_are_not_json() -> None:
    """A body that isn't JSON is text."""
    assert compile_filter('. contains "llo"')({"body": "hello"})
    assert not compile_filter(".a")({"body": "AAAA", "isBase64": True})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "at its end"),
        ("user", "begins with a dot"),
        (".a = 1", "can't read this"),
        (".a == ", "expected a path or a value at its end"),
        ("(.a", "expected )"),
        ("select .a", "expected ("),
        (".a .b", "unexpected"),
        ("not " * 100 + ".a", "nested too deeply"),
        ("." + "a" * 5000, "longer than"),
        ('"\\x"', "not a JSON value"),
    ],
)
def test_mistakes(text: str, reason: str) -> None:
    """Mistakes are reported before a tail starts."""
    with pytest.raises(FilterFault) as raised:
        compile_filter(text)
    assert reason in str(raised.value)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=5,
)
_PARTS = st.sampled_from(
    [
        ".a",
        ".a.b[0]",
        "$ip",
        "==",
        "<",
        "and",
        "or",
        "not",
        "(",
        ")",
        "1",
        '"x"',
        "null",
        "contains",
    ]
)


@given(parts=st.lists(_PARTS, max_size=8) | st.text(max_size=10).map(lambda x: [x]), body=_JSON)
def test_any_filter(parts: list[str], body: Any) -> None:
    """Any filter is parsed or refused, and a parsed one returns a result for any record."""
    try:
        meets = compile_filter(" ".join(parts))
    except FilterFault:
        return
    assert meets({"body": json.dumps(body), "ip": body}) in (True, False)
