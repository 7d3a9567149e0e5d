"""Values of JSON bodies as spelled in the source."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.record.errors import InvalidJson
from stream.record.jsontree import (
    _TO_VALUE,
    _VALUES_AT_ONCE,
    MAX_DEPTH,
    MAX_VALUES,
    _read_integer,
    _refuse_constant,
    _without_surrogates,
    array_items,
    has_more_values,
    parse_json,
)
from stream.record.lookup import Paths
from tests.effort import examples


def _find(source: str | bytes, path: str, raw_string: bool = False) -> str | None:
    data = source.encode() if isinstance(source, str) else source
    parse_json(data)
    paths = Paths([path])
    found = paths.in_document(data).text(0, raw_string=raw_string)
    compiled = paths.in_json(data)
    assert compiled is None or compiled.text(0, raw_string=raw_string) == found
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
def test_values_keep_their_spelling(path: str, raw_string: bool, expected: str | None) -> None:
    """Numbers, strings and containers are returned as in the source."""
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
def test_details_of_the_spelling(source: str, path: str, expected: str | None) -> None:
    """The first of repeated keys counts, blanks are removed, and everything else is kept."""
    assert _find(source, path) == expected


@pytest.mark.parametrize(
    "source", [b"", b"{", b'{"a":nan}', b"[1,]", b"01", b'{"a":"\xff"}', b"1 2", b"'a'"]
)
def test_invalid_documents(source: bytes) -> None:
    """Invalid JSON is refused for every path."""
    with pytest.raises(InvalidJson, match="cannot parse request json"):
        parse_json(source)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        (b'{"a": NaN}', "line 1 column 7"),
        (b'{"a":\n [Infinity]}', "line 2 column 3"),
        (b'{"a": 01}', "line 1 column 7"),
        (b'{"a":\n "x\x01y"}', "line 2 column 4"),
        (b'{"a": "x\ty"}', "line 1 column 9"),
    ],
)
def test_lenient_json_is_refused(source: bytes, place: str) -> None:
    """Other parsers accept it as a value; here the error has its position."""
    with pytest.raises(InvalidJson) as caught:
        parse_json(source)
    assert place in caught.value.reason


def test_a_lone_surrogate() -> None:
    """A lone surrogate is accepted, and becomes U+FFFD when it is decoded."""
    source = '{"a":"x\\ud83d","b":1}'
    assert _find(source, "b") == "1"
    assert _find(source, "a") == '"x\\ud83d"'
    assert _find(source, "a", True) == "x�"
    for invalid in ('{"a":"\\ud83d",}', '{"a":"\\ud83d","b":NaN}'):
        with pytest.raises(InvalidJson):
            parse_json(invalid.encode())


@pytest.mark.parametrize(
    "number", ["1e400", "-1E+400", "1" * 400, "-" + "9" * 5000, "1" * 309, "2.5e308", "0.1e999999"]
)
def test_a_number_beyond_doubles_is_copied(number: str) -> None:
    """The number may be anywhere, and other values are parsed as usual."""
    source = f'{{"a":{number},"b":[{number},1.0],"c":"x","d":18446744073709551616}}'
    assert _find(source, "a") == number
    assert _find(source, "b[0]") == number
    assert _find(source, "b") == f"[{number},1.0]"
    assert _find(source, "c", True) == "x"
    assert parse_json(source.encode())["d"] == 2.0**64
    for invalid in (f"[{number},]", f"[{number},NaN]", f"[0{number}]", f"[{number}.]"):
        with pytest.raises(InvalidJson):
            parse_json(invalid.encode())


@pytest.mark.parametrize("key", ['"k\\ud83d"', '"k\\udc00"', '"k\\uDBFF"'])
def test_a_lone_surrogate_in_a_key(key: str) -> None:
    """A path with U+FFFD finds the key; pairs and escaped backslashes keep their meaning."""
    source = f'{{{key}:{{{key}:1}},"x":"\\ud83d\\ude00 \\\\ud83d"}}'
    assert _find(source, "k�.k�") == "1"
    assert parse_json(source.encode()) == {"k�": {"k�": 1}, "x": "😀 \\ud83d"}
    assert _find(source, "x", True) == "😀 \\ud83d"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_wide_encodings_are_named(encoding: str) -> None:
    """The message names the encoding instead of a position."""
    with pytest.raises(InvalidJson, match="please send UTF-8"):
        parse_json('{"a":1}'.encode(encoding))


_fragments = st.sampled_from(
    [
        *"{}[],:",
        *('"a"', '"k\\ud83d"', '"\\udc00x"', '"\\ud83d\\ude00"', '"\\\\ud83d"', '"é😀"', '"'),
        *("1", "-0", "1e400", "-1e400", "1" * 400, "18446744073709551616", "1.5e-400", "01"),
        *("true", "null", "NaN", "Infinity", "-", "1.", "\\", " ", "\n", "\x0b", "\ufeff", "\x00"),
    ]
)


def _read(reader: Callable[[bytes], Any], source: bytes) -> Any:
    try:
        return reader(source)
    except (ValueError, InvalidJson, RecursionError):
        return "refused"


def _second_reader(source: bytes) -> Any:
    text = source.decode()
    if text.startswith("\ufeff"):
        raise ValueError
    value = json.loads(text, parse_int=_read_integer, parse_constant=_refuse_constant)
    return _without_surrogates(value)


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, _typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return type(value), repr(value)


@given(
    st.lists(_fragments, max_size=12).map("".join).map(str.encode)
    | st.recursive(
        _fragments,
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
            | st.lists(inner, max_size=3).map(
                lambda items: (
                    "{" + ",".join(f'"k{i % 2}":{item}' for i, item in enumerate(items)) + "}"
                )
            )
        ),
    ).map(str.encode)
    | st.binary(max_size=20)
)
@settings(max_examples=examples(200))
def test_the_parsers_agree(source: bytes) -> None:
    """The parsers agree on validity, values, types of numbers, repeated keys and surrogates."""
    ours, theirs = _read(parse_json, source), _read(_second_reader, source)
    assert _typed(ours) == _typed(theirs)
    fast = _read(orjson.loads, source)
    if fast != "refused":
        assert _typed(fast) == _typed(ours)


def test_values_are_counted_before_they_are_parsed() -> None:
    """The limit is exact to a few values, and signs in strings don't count."""
    parse_json(b"[" + b"1," * (MAX_VALUES - 2) + b"1]")
    parse_json(b'["' + b"[,{" * MAX_VALUES + b'"]')
    for source in (b"[" + b"1," * MAX_VALUES + b"1]", b"[" * 3 * MAX_VALUES, b'[],"' * MAX_VALUES):
        with pytest.raises(InvalidJson, match=f"more than {MAX_VALUES} values") as caught:
            parse_json(source)
        assert caught.value.status == 413
    half_emojis = b"\\ud83d" * (MAX_VALUES + 1)
    with pytest.raises(InvalidJson, match="escapes"):
        parse_json(b'["%b"]' % half_emojis)


@given(st.lists(_fragments, max_size=15).map("".join))
def test_items_of_arrays(text: str) -> None:
    """The items are those of the parser, and invalid JSON is reported as invalid."""
    source = f"[{text}]".encode()
    expected = _read(parse_json, source)
    try:
        found = [parse_json(item) for item in array_items(source, 1000) if item is not None]
    except InvalidJson:
        assert expected == "refused"
    else:
        assert _typed(found) == _typed(expected)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_the_limit_of_nesting(opening: str) -> None:
    """The exact limit is accepted and one level more is refused; brackets in strings don't
    count.
    """
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
    """In any layout, each value keeps the text of its numbers."""
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


_PARTS = st.sampled_from([b"1,", b'"a,[",', b'{"x":[1]},', b"[],", b" ", b'"', b"\\", b"]", b":"])


@given(
    repeated=st.lists(st.tuples(_PARTS, st.integers(1, _VALUES_AT_ONCE)), max_size=8),
    limit=st.integers(0, 3 * _VALUES_AT_ONCE),
)
def test_values_are_counted_alike_one_by_one(repeated: list[tuple[bytes, int]], limit: int) -> None:
    """Counting hundreds of values with one match finds as many as counting each, in any text."""
    source = b"".join(part * times for part, times in repeated)
    signs = sum(source.count(sign) for sign in (b",", b"[", b"{"))
    one_by_one = sum(1 for _ in _TO_VALUE.finditer(source))
    assert has_more_values(source, limit) is (signs > limit and one_by_one > limit + 1)
