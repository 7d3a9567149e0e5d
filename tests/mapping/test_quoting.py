"""CSV readers can parse every column of every row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream import native
from stream.errors import UserError
from stream.mapping import render, render_block
from stream.mapping.columns import (
    COLUMN_TYPES,
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
from stream.sandbox.csvrows import row_batches

COLUMNS: tuple[Column, ...] = (
    UuidColumn("u"),
    DatetimeColumn("d"),
    IpColumn("i"),
    BodyColumn("b"),
    HeadersColumn("h"),
    PathColumn("p", path="a", default_value='none"'),
    PathColumn("r", path="a", default_value='none"', raw_string=True),
    TemplateColumn("t", template=Template("jsonnet", "Body('a', 'n\"o')"), raw_string=True),
    TemplateColumn("j", template=Template("jsonnet", "Header('X-Any', 'n\"o')")),
)
ANY_TEXT = st.text() | st.text('",\r\n\\\x00;x') | st.just("\ufeff")
JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text('",\r\n\\\x00;x')
LIMIT = 1536 * 1024


def _read_by_python(rows: bytes) -> list[list[str]]:
    text = io.StringIO(rows.decode("utf-8", "replace"), newline="")
    return list(csv.reader(text, strict=True))


def _read_by_the_sandbox(rows: bytes, fields: int) -> list[list[str]]:
    return [row for batch in row_batches(io.BytesIO(rows), fields) for row in batch]


def _check(rows: Sequence[bytes], cells: Sequence[str | None], count: int) -> None:
    """Check that all rows in one file are parsed as *cells*, in which ``None`` matches any text."""
    joined = b"".join(rows)
    for read in (_read_by_python(joined), _read_by_the_sandbox(joined, len(cells))):
        assert len(read) == count
        for row in read:
            assert len(row) == len(cells)
            assert [text for text, cell in zip(row, cells, strict=True) if cell is not None] == [
                cell for cell in cells if cell is not None
            ]


def test_all_types_are_covered() -> None:
    assert {column.type for column in COLUMNS} == set(COLUMN_TYPES)


@given(JSON_TEXT, ANY_TEXT.map(lambda text: text.encode("utf-8", "replace")), JSON_TEXT)
@example('a "quote" \\ and\n', b'x"', 'fe80::1%x"')
def test_rows_are_parsed(value: str, header: bytes, client: str) -> None:
    """Rows with any value, header and address are parsed, from single records and from blocks."""
    body = json.dumps({"a": value}, separators=(",", ":"), ensure_ascii=False).encode()
    headers = RecordHeaders([(b"Content-Type", b"application/json"), (b"X-Any", header)])
    shared = RecordContext(1714557600123, client, headers, b"")
    renderer = compile_renderer(Mapping(COLUMNS), LIMIT)
    single = renderer.row(RecordContext(1714557600123, client, headers, body))
    bodies = [body, body]
    block = renderer.rows(RecordBlock(shared, bodies, [UNPARSED, UNPARSED]))
    cells = [
        None,
        "2024-05-01T10:00:00.123Z",
        client,
        body.decode(),
        headers.json,
        None,
        value,
        value,
        None,
    ]
    _check([single, *block], cells, 3)


@given(
    st.binary(),
    st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded"]),
)
def test_any_body_results_in_one_row_or_none(body: bytes, content_type: str) -> None:
    """Any bytes result in one row with the right number of fields or in none."""
    headers = RecordHeaders([(b"Content-Type", content_type.encode())])
    record = RecordContext(1714557600123, "203.0.113.7", headers, body)
    for columns in (COLUMNS[:5], COLUMNS):
        try:
            row = compile_renderer(Mapping(columns), LIMIT).row(record)
        except UserError:
            assert columns is COLUMNS
            continue
        _check([row], [None] * len(columns), 1)


@pytest.mark.parametrize("column", COLUMNS[:3], ids=lambda column: str(column.type))
def test_quotes_are_doubled_in_all_columns(column: Column) -> None:
    """Quotes are doubled even in columns that never contain one: uuid, time and address."""
    record = RecordContext(12345, 'a"b', RecordHeaders(()), b"")
    block = RecordBlock(record, [b"1"], [1])
    bad = b'a"b'
    with (
        mock.patch.object(native, "is_built", False),
        mock.patch.object(render, "datetime_text", return_value=bad),
        mock.patch.object(render_block, "datetime_text", return_value=bad),
        mock.patch("uuid_utils.uuid7", return_value='a"b'),
    ):
        render._quoted_time.cache_clear()
        renderer = compile_renderer(Mapping((column,)), LIMIT)
        assert renderer.row(record) == b'"a""b"\n'
        assert renderer.rows(block) == [b'"a""b"\n']
        render._quoted_time.cache_clear()
