"""Values of JSON bodies as they are spelled in the source."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.record.errors import InvalidJson
from stream.record.jsontree import MAX_DEPTH, JsonPath, parse_json


def _find(source: str | bytes, path: str, raw_string: bool = False) -> str | None:
    data = source.encode() if isinstance(source, str) else source
    found = JsonPath(path).render(data, parse_json(data), raw_string)
    return None if found is None else found.decode()


BODY = '{"o":{"id":10.50,"i":[{"s":"A<1>"},{"s":"y\\n"}]},"big":12345678901234567890123}'


@pytest.mark.parametrize(
    ("path", "raw_string", "expected"),
    [
        ("o.id", False, "10.50"),
        ("big", False, "12345678901234567890123"),
        ("o.i[0].s", False, '"A<1>"'),
        ("o.i[0].s", True, "A<1>"),
        ("o.i[1].s", False, '"y\\n"'),
        ("o.i[1].s", True, "y\n"),
        ("o.i", False, '[{"s":"A<1>"},{"s":"y\\n"}]'),
        ("o.i.0.s", True, "A<1>"),
        ("o.i[2]", False, None),
        ("o.x", False, None),
        ("o.id.x", False, None),
        ("", False, BODY),
    ],
)
def test_lookup(path: str, raw_string: bool, expected: str | None) -> None:
    """Numbers, strings and containers come out as they went in."""
    assert _find(BODY, path, raw_string) == expected


@pytest.mark.parametrize(
    ("source", "path", "expected"),
    [
        ('{"a":1e5}', "a", "1e5"),
        ('{"a":-0}', "a", "-0"),
        ('{"a":0}', "a", "0"),
        ('{"a":1.0}', "a", "1.0"),
        ('{"a":18446744073709551616}', "a", "18446744073709551616"),
        ('{"a":null}', "a", "null"),
        ('{"a":false}', "a", "false"),
        ('{"a": [ 1 , "x y" , { "b" : 2.0 } ] }', "a", '[1,"x y",{"b":2.0}]'),
        ('{"a":{"b":1,"b":2},"c":3}', "a", '{"b":1,"b":2}'),
        ('{"a":1,"a":2}', "a", "1"),
        ('{"a":1,"a":{"b":2}}', "a.b", None),
        ('{"a":{"b":2},"a":1}', "a.b", "2"),
        ('{"\\u0061":1,"a":2}', "a", "1"),
        ('{"x":"\\u00e9","é":2}', "é", "2"),
        ('{"a\\"b":1}', 'a"b', "1"),
        ('{"a\\/b":1,"a/b":2}', "a/b", "1"),
        ('{"1":"x"}', "[1]", '"x"'),
        ('[5,{"a":6}]', "[1].a", "6"),
        ("[5]", "0", "5"),
        ("[[1],[2,[3.0]]]", "[1][1][0]", "3.0"),
        ("[]", "[0]", None),
        ("{}", "a", None),
        ('"x"', "a", None),
        (" 7 ", "", "7"),
        ('{"x]":1}', "x]", "1"),
        ('{"s":"\\/\\u00e9"}', "s", '"\\/\\u00e9"'),
    ],
)
def test_details_of_spelling(source: str, path: str, expected: str | None) -> None:
    """The first of repeated keys counts, blanks vanish, everything else stays."""
    assert _find(source, path) == expected


@pytest.mark.parametrize(
    "source", [b"", b"{", b'{"a":nan}', b"[1,]", b"01", b'{"a":"\xff"}', b"1 2", b"'a'"]
)
def test_invalid_documents(source: bytes) -> None:
    """What isn't JSON is refused, whatever is looked for."""
    with pytest.raises(InvalidJson, match="cannot parse request json"):
        parse_json(source)


def test_half_an_emoji_does_not_cost_the_document() -> None:
    """A lone surrogate is accepted, and becomes U+FFFD when it has to be decoded."""
    source = '{"a":"x\\ud83d","b":1}'
    assert _find(source, "b") == "1"
    assert _find(source, "a") == '"x\\ud83d"'
    assert _find(source, "a", True) == "x�"
    for invalid in ('{"a":"\\ud83d",}', '{"a":"\\ud83d","b":NaN}'):
        with pytest.raises(InvalidJson):
            parse_json(invalid.encode())


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_limit_is_exact(opening: str) -> None:
    """Exactly the limit passes; one more doesn't; brackets in strings don't count."""
    closing = "]" if opening == "[" else "}"

    def nested(depth: int) -> bytes:
        return (opening * depth + "1" + closing * depth).encode()

    parse_json(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 1000, 5000):
        with pytest.raises(InvalidJson, match=r"nested deeper|depth limit"):
            parse_json(nested(depth))
    parse_json(json.dumps(["[" * 5000, *([[]] * 400)]).encode())


_documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('ab"\\/\n é{}[],:😀'), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "c d", "é", "1", 'q"', "/"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def _paths(value: Any, path: str = "") -> list[tuple[str, Any]]:
    found = [(path, value)]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _paths(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _paths(item, f"{path}[{index}]")
    return found


class _Number(str):
    pass


def _with_number_texts(text: str) -> Any:
    return json.loads(text, parse_float=_Number, parse_int=_Number)


@given(
    _documents,
    st.booleans(),
    st.sampled_from([None, 1, " \t", "\n"]),
    st.sampled_from([(",", ":"), (" , ", " : ")]),
)
def test_every_value_keeps_its_spelling(
    document: Any, ascii_only: bool, indent: Any, separators: tuple[str, str]
) -> None:
    """Whatever the layout, each value read back has the same texts of numbers."""
    source = json.dumps(document, ensure_ascii=ascii_only, indent=indent, separators=separators)
    for path, value in _paths(_with_number_texts(source)):
        found = _find(source, path)
        assert found is not None
        assert _with_number_texts(found) == value
        if isinstance(value, _Number):
            assert found == str(value)
        elif isinstance(value, str):
            assert found in (json.dumps(value), json.dumps(value, ensure_ascii=False))
            assert _find(source, path, True) == value
