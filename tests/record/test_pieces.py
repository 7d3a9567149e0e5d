"""Large documents are parsed and checked in steps, with the results of one call."""

from __future__ import annotations

from collections.abc import Generator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import native
from stream.record import jsontree
from stream.record.errors import InvalidJson
from stream.record.jsontree import (
    MAX_DEPTH,
    MAX_VALUES,
    PIECE_BYTES,
    check_steps,
    parse_json,
    parse_steps,
)
from stream.record.steps import result_of
from tests.native.documents import document

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")

_KEYS = st.sampled_from(['"a"', '"b"', '"\\u0061"', '"\\ud800"', '"é"'])
_VALUES: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(
        ["1", "-1.5", "1e999", "null", '"x"', '"\\udfff,[{"', '"long text, {"', " [ ] "]
    ),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(st.tuples(_KEYS, inner), max_size=4).map(
            lambda items: "{ " + ",".join(f"{key} : {value}" for key, value in items) + "}"
        )
    ),
    max_leaves=30,
)


def _outcome(source: bytes, size: int) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontree, "PIECE_BYTES", size)
        return result_of(parse_steps(source, MAX_VALUES))


@given(_VALUES, st.integers(0, 40))
def test_pieces_of_any_size(source: str, size: int) -> None:
    """Members with equal keys, and members in another order, are the same as without pieces."""
    data = source.encode()
    expected = parse_json(data)
    found = _outcome(data, size)
    assert repr(found) == repr(expected)


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_valid_and_invalid_documents(seed: int, size: int) -> None:
    """The documents that the parser refuses are refused."""
    data = document(Random(seed))
    try:
        expected = parse_json(data)
    except InvalidJson:
        with pytest.raises(InvalidJson):
            _outcome(data, size)
    else:
        assert repr(_outcome(data, size)) == repr(expected)


def _distinct_keys(count: int) -> bytes:
    return b"{%b}" % b",".join(b'"%06d":1' % number for number in range(count))


def _sizes_of_calls(
    steps: Generator[None, None, Any], monkeypatch: pytest.MonkeyPatch
) -> list[list[int]]:
    """Return the sizes of the documents that are parsed in each of *steps*."""
    sizes: list[list[int]] = [[]]

    def parse(source: bytes, *given: Any, **options: Any) -> Any:
        sizes[-1].append(len(source))
        return parse_json(source, *given, **options)

    monkeypatch.setattr(jsontree, "parse_json", parse)
    for _ in steps:
        sizes += [[]]
    return sizes


@pytest.mark.parametrize(
    "body",
    [
        _distinct_keys(50_000),
        b'{"a":[[%b]],"b":%b}' % (b"1," * 60_000 + b"1", _distinct_keys(1000)),
        b"[%b]" % b",".join([_distinct_keys(100)] * 400),
    ],
    ids=["keys", "items", "objects"],
)
def test_a_step_parses_few_bytes(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step parses one piece, and a key."""
    expected = parse_json(body)
    for sizes in _sizes_of_calls(parse_steps(body, MAX_VALUES), monkeypatch):
        assert sum(sizes) <= PIECE_BYTES + 2000
        assert len(sizes) <= 3
    assert result_of(parse_steps(body, MAX_VALUES)) == expected


def test_a_small_document_is_parsed_at_once() -> None:
    """It needs no step."""
    assert list(parse_steps(b"[1]", MAX_VALUES)) == []


def test_faults_of_large_documents() -> None:
    """The message has the place of the fault, the encoding, or the limit."""
    start = b'["%b",' % (b"x" * PIECE_BYTES)
    place = len(start) + 3
    for end, reason in (
        (b"1,+]", f"invalid at byte {place}"),
        (b'1,"\xff"]', f"byte {place + 1} is not UTF-8"),
        (b"1," * 300_000 + b"1]", "more than 100000 values"),
    ):
        with pytest.raises(InvalidJson, match=reason):
            result_of(parse_steps(start + end, MAX_VALUES))
        with pytest.raises(InvalidJson, match=reason):
            result_of(check_steps(start + end))


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 1024])
def test_deep_documents(depth: int) -> None:
    """Exports may be as deep as the parser permits, and records less deep."""
    body = b'["%b",%b1%b]' % (b"x" * PIECE_BYTES, b"[" * depth, b"]" * depth)
    if depth < 1024:
        assert result_of(parse_steps(body, MAX_VALUES)) == parse_json(body, checks_depth=False)
    else:
        with pytest.raises(InvalidJson):
            result_of(parse_steps(body, MAX_VALUES))
    if depth < MAX_DEPTH:
        assert result_of(check_steps(body))
    else:
        with pytest.raises(InvalidJson):
            result_of(check_steps(body))


def test_checking_parses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code checks the document; unusual and small ones are left to the parser."""
    assert _sizes_of_calls(check_steps(_distinct_keys(50_000)), monkeypatch) == [[], [], []]
    assert not result_of(check_steps(b"[1]"))
    assert not result_of(check_steps(b'["%b"]' % (b"\\u0041" * (MAX_VALUES + 1))))
