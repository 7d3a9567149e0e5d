"""All paths of a mapping are looked up in one pass, with the results of one lookup for each."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream import native
from stream.record import go_json, lookup
from stream.record.errors import InvalidJson
from stream.record.jsontree import MAX_DEPTH, parse_json
from stream.record.lookup import Paths
from tests.native.documents import document
from tests.record.by_column import JsonPath

_KEYS = ["a", "b", "0", "00", "1", "é", "a/b", 'q"', "\ufffd", "x\\y", "x\\b"]
_STEPS = st.sampled_from([*_KEYS, "[0]", "[1]"])
_PATHS = st.lists(st.lists(_STEPS, max_size=4).map(".".join), min_size=1, max_size=8)

_NAMES = [
    *('"a"', '"b"', '"0"', '"00"', '"1"', '"\\u0061"', '"\\u0062"', '"é"', '"\\u00e9"', '"a\\/b"'),
    *(
        '"a/b"',
        '"q\\""',
        '"\\ud800"',
        '"\\udfff"',
        '"\ufffd"',
        '"x\\\\y"',
        '"x\\b"',
        '"\\ud83d\\ude00"',
    ),
]
_SCALARS = [
    *("1", "-0", "1.50", "1e5", "1e999", "true", "null", "12345678901234567890123", '""', '"x y"'),
    *('"a"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\ude00\\ud83d"', '"\\n \\/"', '"{[,:"', '"é😀"'),
]
_BLANKS = st.sampled_from(["", "", "", " ", "\n\t"])


def _object(members: list[tuple[str, str, str]]) -> str:
    return "{" + ",".join(f"{blank}{name}{blank}:{value}" for name, value, blank in members) + "}"


_VALUES: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(_SCALARS),
    lambda inner: (
        st.lists(st.tuples(st.sampled_from(_NAMES), inner, _BLANKS), max_size=5).map(_object)
        | st.tuples(st.lists(inner, max_size=4), _BLANKS).map(
            lambda items: "[" + f"{items[1]},{items[1]}".join(items[0]) + items[1] + "]"
        )
    ),
    max_leaves=25,
)


def _check(source: bytes, paths: Sequence[str]) -> None:
    together = Paths(paths)
    compiled = together.in_json(source)
    try:
        parsed = parse_json(source)
    except InvalidJson:
        assert compiled is None
        return
    found = [together.in_document(source)]
    if compiled is None:
        assert not together.is_fast
    else:
        found.append(compiled)
    for path in paths:
        for raw_string in (True, False):
            expected = JsonPath(path).render(source, parsed, raw_string)
            for values in found:
                assert values.text(together.place(path), raw_string=raw_string) == expected


@example('{"a":1,"a":2,"\\u0061":3}', ["a"])
@example('{"a":{"b":1},"b":0,"a":{"b":2}}', ["a.b", "a"])
@example('{"x\\b":1,"x\\\\b":2}', ["x\\b"])
@given(_VALUES, _PATHS)
def test_documents_with_any_spelling(source: str, paths: list[str]) -> None:
    """Repeated and escaped keys, lone surrogates and numbers as written lead to the same values."""
    _check(source.encode(), paths)


@given(st.integers(0, 2**32), _PATHS)
def test_valid_and_invalid_documents(seed: int, paths: list[str]) -> None:
    """Compiled code accepts the documents that the parser accepts."""
    _check(document(Random(seed)), paths)


@pytest.mark.parametrize("depth", [1, 255, MAX_DEPTH, MAX_DEPTH + 1])
def test_deep_documents(depth: int) -> None:
    """Paths may be as deep as documents."""
    paths = [".".join(["a"] * count) for count in (depth, depth - 1, 1) if count]
    _check(b'{"a":' * depth + b"[1]" + b"}" * depth, paths)
    _check(b"[" * depth + b"]" * depth, [".".join(["0"] * (depth - 1)), "0"])


_FLAT: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(_KEYS), _FLAT), _PATHS)
def test_maps(flat: dict[str, Any], paths: list[str]) -> None:
    """Values in the printed map of an OTLP record are the printed values of the map."""
    together = Paths([*paths, "a", "a.0", "a[0]", "[0]", "0"])
    printed = together.in_map(flat, go_json.dumps(flat).encode())
    plain = together.in_map(flat)
    for place in range(len(together.steps)):
        for raw_string in (True, False):
            expected = plain.text(place, raw_string=raw_string)
            assert printed.text(place, raw_string=raw_string) == expected


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
def test_values_of_maps_are_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are copied from the printed map; without one, each is printed once."""
    flat = {"a": {"a": {"a": [1.5, "<"]}}}
    paths = Paths(["a", "a.a", "a.a.a"])
    expected = [paths.in_map(flat).text(place, raw_string=False) for place in range(3)]
    printed = paths.in_map(flat, go_json.dumps(flat).encode())
    once = paths.in_map(flat)
    texts = [once.text(place, raw_string=False) for place in range(3)]
    monkeypatch.setattr(lookup, "go_json", None)
    assert [printed.text(place, raw_string=False) for place in range(3)] == expected
    assert [once.text(place, raw_string=False) for place in range(3)] == texts == expected


class _Counted:
    """Counts the matches of a pattern."""

    def __init__(self, pattern: object) -> None:
        self._pattern = pattern
        self.matches = 0

    def match(self, *arguments: object) -> object:
        self.matches += 1
        found: object = self._pattern.match(*arguments)  # type: ignore[attr-defined]
        return found


@pytest.mark.parametrize("count", [1, 100])
def test_one_pass_for_all_paths(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of members that are searched is the same for one path and for a hundred."""
    members = _Counted(lookup._MEMBER)
    items = _Counted(lookup._ITEM)
    monkeypatch.setattr(lookup, "_MEMBER", members)
    monkeypatch.setattr(lookup, "_ITEM", items)
    names = b",".join([b'"\\u0061b":1', b'"c":{"d":2}', b'"c":[]'] * 100)
    source = b'{"o":{%b},"i":[%b1]}' % (names, b"1," * 99)
    wanted = [*(f"o.k{number}" for number in range(count)), "i[200]"]
    values = Paths(wanted).in_document(source)
    assert all(values.text(place, raw_string=True) is None for place in range(len(wanted)))
    assert members.matches <= 304
    assert items.matches <= 101


def test_blanks_are_removed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values in one another share the text without blanks."""
    source = b'{"a": {"a": {"a": [1, 2]}}}'
    paths = Paths(["", "a", "a.a", "a.a.a"])
    values = paths.in_document(source)
    monkeypatch.setattr(lookup, "_without_blanks", None)
    texts = [values.text(place, raw_string=False) for place in range(4)]
    assert texts == [b'{"a":{"a":{"a":[1,2]}}}', b'{"a":{"a":[1,2]}}', b'{"a":[1,2]}', b"[1,2]"]


def test_a_string_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns with the same path share the text of a string."""
    values = Paths(["a", "b", "a"]).in_document(b'{"a":"\\u00e9"}')
    assert values.text(0, raw_string=True) == "é".encode()
    monkeypatch.setattr(lookup, "_text_of", None)
    assert values.text(0, raw_string=True) == "é".encode()


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
def test_compiled_code_finds_nearly_all_paths() -> None:
    """Only paths to an item that is written in two ways are left to the Python code."""
    assert Paths(["a", "0.0", "[0]", "0"]).is_fast
    assert not Paths(["0", "00"]).is_fast
