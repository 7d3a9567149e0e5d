"""Rows of a block of records are those of single records."""

from __future__ import annotations

import json
from collections.abc import Sequence

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream import native
from stream.errors import UserError
from stream.mapping import render
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.render import compile_renderer
from stream.record.block import RecordBlock
from stream.record.context import UNPARSED, RecordContext
from stream.record.headers import RecordHeaders
from stream.record.jsontree import MAX_DEPTH, canonical_documents

HEADERS = RecordHeaders([(b"Content-Type", b"application/json"), (b"X-Quote", b'"')])
COLUMNS: tuple[Column, ...] = (
    DatetimeColumn("d"),
    IpColumn("i"),
    HeadersColumn("h"),
    BodyColumn("b"),
    PathColumn("p1", path="a", default_value="none"),
    PathColumn("p2", path="a.b", default_value="", raw_string=True),
    PathColumn("p3", path="a[0]", default_value="x", raw_string=True),
    TemplateColumn("t", template=Template("jsonnet", "Body('a', 'no')")),
)
KEYS = st.sampled_from(["a", "b", "0", 'q"', "ü"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "text", 'a "quote"', "back\\slash", "line\nfeed", "€"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
SOURCES = (
    VALUES.map(lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        (
            b'{"a":1,"a":2}',
            b'{"a":1},{"a":2}',
            b'{"a":1.0}',
            b'{"a":1e5}',
            b'{"a":12345678901234567890123}',
            b'{"a":"\\ud800"}',
            b'{"a":[1',
            b"2]}",
            b"1,2",
            b"",
            b"nonsense",
            b"\xff",
        )
    )
)


def block(sources: Sequence[bytes]) -> RecordBlock:
    shared = RecordContext(1714557600123, "203.0.113.7", HEADERS, b"")
    return RecordBlock(shared, list(sources), [UNPARSED] * len(sources))


@given(sources=st.lists(SOURCES, min_size=1, max_size=5))
@example(sources=[b'{"a":1},{"a":2}', b'{"a":[1', b"2]}"])
@example(sources=[b'{"a":[{}', b"{}]}", b'{"a":1},{"a":2}'])
@example(sources=[b'{"a":"x"}', b'{"a":{"b":"y"}}', b'{"a":["z"]}'])
def test_rows_are_those_of_single_records(sources: list[bytes]) -> None:
    """The rows are equal byte for byte, and so are the errors."""
    for column in COLUMNS:
        renderer = compile_renderer(Mapping((column,)), 100_000)
        single: list[bytes | str] = []
        for source in sources:
            record = RecordContext(1714557600123, "203.0.113.7", HEADERS, source)
            try:
                single.append(renderer.row(record))
            except UserError as error:
                single.append(str(error))
        try:
            together: list[bytes] | None = renderer.rows(block(sources))
        except UserError:
            together = None
        if any(isinstance(row, str) for row in single):
            assert together is None
        else:
            assert together == single


@given(sources=st.lists(SOURCES, min_size=1, max_size=5))
def test_canonical_documents(sources: list[bytes]) -> None:
    """The source of a canonical document equals the output of its parsed form."""
    documents = canonical_documents(sources)
    printed: list[bytes | None] = []
    for source in sources:
        try:
            printed.append(orjson.dumps(orjson.loads(source)))
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            printed.append(None)
    if documents is not None:
        assert printed == sources
        assert documents == [orjson.loads(source) for source in sources]
    elif printed == sources:
        assert b'": ' in sources[0]  # in a text: a hint to skip the check


def test_identifiers_differ() -> None:
    """The identifier of each row is different."""
    rows = compile_renderer(Mapping((UuidColumn("u"),)), 100).rows(block([b"1", b"2"]))
    assert len(set(rows)) == 2
    assert all(len(row) == len(b'"019a-"\n') - 5 + 36 for row in rows)


def test_the_error_of_the_limit() -> None:
    """A row that is too long is refused as for a single record."""
    renderer = compile_renderer(Mapping((IpColumn("i"), BodyColumn("b"))), 50)
    assert len(renderer.rows(block([b"1", b"2"]))) == 2
    with pytest.raises(UserError, match='too big CSV row, column: "b"'):
        renderer.rows(block([b"1", b'"%b"' % (b"x" * 50)]))


def test_deep_documents_are_refused() -> None:
    """A deep document is refused as for a single record; many shallow ones aren't deep."""
    for depth in range(MAX_DEPTH + 1, MAX_DEPTH + 800, 10):
        assert canonical_documents([b"{}", b"[" * depth + b"]" * depth]) is None
    assert canonical_documents([b"[[[[[[]]]]]]"] * 64) is not None


@pytest.mark.parametrize("is_small", [True, False])
def test_large_blocks_are_rendered_record_by_record(
    is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that several columns print counts for each of them."""
    bodies = [b'{"a":{"b":1}}'] * 3
    size = sum(map(len, bodies)) * len(COLUMNS)
    monkeypatch.setattr(render, "MAX_BLOCK_BYTES", size if is_small else size - 1)
    monkeypatch.setattr(native, "is_built", False)
    renderer = compile_renderer(Mapping(COLUMNS), 10_000)
    shared = RecordContext(1, "192.0.2.1", HEADERS, b"")
    rows = renderer.rows(RecordBlock(shared, bodies, [UNPARSED] * 3))
    assert rows == [renderer.row(RecordContext(1, "192.0.2.1", HEADERS, body)) for body in bodies]
    read: list[RecordBlock] = []
    monkeypatch.setattr(RecordBlock, "documents", property(read.append))
    renderer.rows(RecordBlock(shared, bodies, [UNPARSED] * 3))
    assert bool(read) == is_small
