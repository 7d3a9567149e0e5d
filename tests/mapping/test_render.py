"""CSV rows of records."""

from __future__ import annotations

import csv
import io
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import NestedError, UserError
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
from stream.mapping.render import RowTooBig, compile_renderer, render_cells
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from tests.templates.inprocess import row

LIMIT = 1536 * 1024


def _record(
    body: bytes, content_type: str = "application/json", *more: tuple[bytes, bytes]
) -> RecordContext:
    raw = ((b"Content-Type", content_type.encode()), *more)
    return RecordContext(1714557600123, "203.0.113.7", RecordHeaders(raw), body)


def _row(record: RecordContext, *columns: Column, limit: int = LIMIT) -> str:
    return row(compile_renderer(Mapping(columns), limit), record).decode()


def _cell(record: RecordContext, column: Column) -> str:
    row = _row(record, column)
    assert row.endswith("\n")
    return row[:-1]


def _template(content: str, raw_string: bool = False) -> TemplateColumn:
    return TemplateColumn("t", template=Template("jsonnet", content), raw_string=raw_string)


def test_static_columns() -> None:
    """Every cell is quoted and quotes are doubled; the uuid is of version 7."""
    record = _record(
        b'{"a":"x \\"q\\""}',
        "application/json",
        (b"Host", b"in.example.com"),
        (b"accept", b"*/*"),
        (b"X-Forwarded-For", b"9.9.9.9"),
        (b"Content-Length", b"15"),
    )
    row = _row(
        record,
        UuidColumn("id"),
        DatetimeColumn("t"),
        IpColumn("ip"),
        BodyColumn("b"),
        HeadersColumn("h"),
    )
    identifier = row[1:37]
    assert uuid.UUID(identifier).version == 7 and identifier == identifier.lower()
    assert re.fullmatch(r'"[0-9a-f-]{36}","2024-05-01T10:00:00\.123Z","203\.0\.113\.7",.*\n', row)
    assert row.endswith(
        '"{""a"":""x \\""q\\""""}","{""Accept"":""*/*"",""Content-Length"":""15"",'
        '""Content-Type"":""application/json"",""Host"":""in.example.com"",'
        '""X-Forwarded-For"":""9.9.9.9""}"\n'
    )


JSON = b'{"o":{"id":10.50,"i":[{"s":"A<1>"},{"s":"y\\n"}]},"big":12345678901234567890}'


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        (PathColumn("p", path="o.id"), '"10.50"'),
        (_template("Body('o.id')"), '"10.5"'),
        (PathColumn("p", path="big"), '"12345678901234567890"'),
        (_template("Body('big')"), '"12345678901234567168"'),
        (PathColumn("p", path="o.i[0].s"), '"""A<1>"""'),
        (PathColumn("p", path="o.i[0].s", raw_string=True), '"A<1>"'),
        (PathColumn("p", path="o.i"), '"[{""s"":""A<1>""},{""s"":""y\\n""}]"'),
        (PathColumn("p", path="o.i[1].s", raw_string=True), '"y\n"'),
        (PathColumn("p", path="none", default_value="n/a"), '"""n/a"""'),
        (PathColumn("p", path="none", default_value="n/a", raw_string=True), '"n/a"'),
        (PathColumn("p", path="none", default_value=""), '""""""'),
        (PathColumn("p", path="none", default_value="", raw_string=True), '""'),
        (
            _template("{z: 1, a: Now('%Y-%m-%d'), h: Header('x-miss', null)}"),
            '"{""a"":""2024-05-01"",""h"":null,""z"":1}"',
        ),
    ],
)
def test_json_bodies(column: Column, cell: str) -> None:
    """Paths keep the spelling of the source, and templates print doubles."""
    assert _cell(_record(JSON), column) == cell


def test_form_bodies() -> None:
    """Paths and templates access the nested values of the form."""
    record = _record(
        b"user[name]=J%C3%A1n+%3Cb%3E&tags[]=a&tags[]=b&n=5",
        "application/x-www-form-urlencoded; charset=UTF-8",
    )
    row = _row(
        record,
        PathColumn("a", path="user.name", raw_string=True),
        PathColumn("b", path="user.name"),
        PathColumn("c", path="tags"),
        PathColumn("d", path="n"),
        _template("Body()"),
    )
    assert row == (
        '"Ján <b>","""Ján \\u003cb\\u003e""","[""a"",""b""]","""5""",'
        '"{""n"":""5"",""tags"":[""a"",""b""],""user"":{""name"":""Ján <b>""}}"\n'
    )


def test_numbers_of_body_maps() -> None:
    """Paths into a map that was not parsed from text print doubles in their shortest form."""
    record = RecordContext(
        0, "::1", RecordHeaders(()), b"", body_map={"d": 5.0, "i": 2**53 + 1, "l": [1e-7]}
    )
    columns = [PathColumn("p", path=path) for path in ("d", "i", "l")]
    assert _row(record, *columns) == '"5","9007199254740993","[1e-7]"\n'


def test_the_error_of_a_missing_value() -> None:
    """The error names the missing path and its column."""
    with pytest.raises(NestedError) as caught:
        _row(_record(b"{}"), PathColumn("p", path="a.b"))
    assert caught.value.sentences() == (
        'Cannot convert column "p" to CSV value:\n- Path "a.b" not found in the body.'
    )
    assert (caught.value.status, caught.value.name) == (400, "badRequest")


def test_an_invalid_body_with_a_default() -> None:
    """A default replaces a missing value, but not an invalid document."""
    column = PathColumn("p", path="a", default_value="x")
    with pytest.raises(UserError, match='column "p"') as caught:
        _row(_record(b"{"), column)
    assert caught.value.status == 400
    with pytest.raises(UserError, match=r"^unsupported charset \"klingon\"") as caught:
        _row(_record(b"a=1", "application/x-www-form-urlencoded; charset=klingon"), column)
    assert caught.value.status == 415
    with pytest.raises(UserError, match=r'^unsupported content type "text/plain"') as caught:
        _row(_record(b"{}", "text/plain"), column)
    assert caught.value.status == 415


def test_the_limit_of_a_row() -> None:
    """Quotes and commas count, the line feed doesn't; the error names the first column above the
    limit.
    """
    columns = (BodyColumn("a"), BodyColumn("b"), IpColumn("c"))
    row = '"xy","xy","203.0.113.7"\n'
    record = _record(b"xy")
    assert _row(record, *columns, limit=len(row) - 1) == row
    for limit, name in [(len(row) - 2, "c"), (8, "b"), (3, "a")]:
        with pytest.raises(RowTooBig) as caught:
            _row(record, *columns, limit=limit)
        assert str(caught.value) == f'too big CSV row, column: "{name}", row limit: {limit} B'
        assert (caught.value.status, caught.value.name) == (413, "payloadTooLarge")


def test_the_first_fault_is_reported() -> None:
    """Columns are checked in order, so the row limit comes before a later fault."""
    with pytest.raises(RowTooBig, match=r"1\.5 KB"):
        _row(
            _record(b'"' + b"x" * 2000 + b'"'),
            BodyColumn("b"),
            PathColumn("p", path="missing"),
            limit=1536,
        )


def test_cells_of_previews() -> None:
    """Cells are unquoted, and the first failing column is named."""
    mapping = Mapping((PathColumn("p", path="key"), BodyColumn("b")))
    assert render_cells(mapping, _record(b'{"key":"v"}')) == [("p", '"v"'), ("b", '{"key":"v"}')]
    with pytest.raises(UserError) as caught:
        render_cells(mapping, _record(b"{}"))
    assert str(caught.value) == 'invalid value for column "p": path "key" not found in the body'
    assert (caught.value.status, caught.value.name) == (422, "unprocessableContent")


def test_bytes_are_unchanged() -> None:
    """No byte of a body is changed, in any encoding."""
    record = _record(b'\x00\xff"\r\n', "application/octet-stream")
    assert compile_renderer(Mapping((BodyColumn("b"),)), LIMIT).row(record) == b'"\x00\xff""\r\n"\n'


_text = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=20)


@given(_text, st.lists(_text, min_size=1, max_size=3))
def test_rows_are_parsed(body: str, defaults: list[str]) -> None:
    """A CSV reader gets exactly the cells that were written."""
    columns: tuple[Column, ...] = (
        BodyColumn("b"),
        *(PathColumn("p", path="x", default_value=d, raw_string=True) for d in defaults),
    )
    record = RecordContext(
        0,
        "::1",
        RecordHeaders(((b"content-type", b"application/x-www-form-urlencoded"),)),
        body.encode(),
        body_map={},
    )
    row = _row(record, *columns)
    assert list(csv.reader(io.StringIO(row, newline=""), strict=True)) == [[body, *defaults]]
