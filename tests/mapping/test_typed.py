"""Rows of columns with types."""

from __future__ import annotations

from typing import Any

import pytest

from stream.errors import UserError
from stream.mapping.columns import Mapping, column_from_plain
from stream.mapping.render import compile_renderer, render_cells
from stream.mapping.typed import check_types
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from tests.templates.inprocess import row

LIMIT = 1024 * 1024


def _mapping(*columns: dict[str, Any]) -> Mapping:
    plain = [{"type": "path", "dataType": "string", **column} for column in columns]
    mapping = Mapping(tuple(map(column_from_plain, plain)))
    check_types(mapping)
    return mapping


def _record(body: bytes, content_type: str = "application/json") -> RecordContext:
    headers = RecordHeaders([(b"Content-Type", content_type.encode())])
    return RecordContext(1714557600123, "203.0.113.7", headers, body)


def _row(body: bytes, *columns: dict[str, Any], content_type: str = "application/json") -> str:
    renderer = compile_renderer(_mapping(*columns), LIMIT)
    return row(renderer, _record(body, content_type)).decode()


INTEGER = {"name": "n", "path": "n", "dataType": "integer"}


@pytest.mark.parametrize(
    ("body", "column", "expected"),
    [
        (b'{"n":5}', INTEGER, '"5"'),
        (b'{"n":"5"}', INTEGER, '"5"'),
        (b'{"n":null}', INTEGER | {"nullable": True}, ""),
        (b'{"n":""}', INTEGER | {"nullable": True}, ""),
        (b"{}", INTEGER | {"nullable": True}, ""),
        (b"{}", INTEGER | {"defaultValue": "7"}, '"7"'),
        (b'{"n":null}', INTEGER | {"defaultValue": "7", "nullable": True}, '"7"'),
        (b'{"n":""}', {"name": "n", "path": "n", "rawString": True, "nullable": True}, '""'),
        (b'{"n":null}', {"name": "n", "path": "n", "nullable": True}, ""),
        (b'{"n":"null"}', {"name": "n", "path": "n", "rawString": True}, '"null"'),
        (b'{"n":"a\\"b"}', {"name": "n", "path": "n", "rawString": True}, '"a""b"'),
        (b'{"n":"a"}', {"name": "n", "path": "n"}, '"""a"""'),
        (b'{"n":{"a":[1]}}', {"name": "n", "path": "n", "dataType": "json"}, '"{""a"":[1]}"'),
        (b'{"n":"a"}', {"name": "n", "path": "n", "dataType": "json"}, '"""a"""'),
        (b'{"n":true}', {"name": "n", "path": "n", "dataType": "boolean"}, '"true"'),
        (b"[1]", {"type": "body", "name": "n", "dataType": "json"}, '"[1]"'),
        (b"{}", {"type": "datetime", "name": "n", "dataType": "timestamp"}, None),
        (b"{}", {"type": "uuid", "name": "n", "dataType": "uuid"}, None),
        (b"{}", {"type": "ip", "name": "n"}, '"203.0.113.7"'),
        (
            b'{"n":4}',
            {
                "type": "template",
                "name": "n",
                "dataType": "integer",
                "template": {"language": "jsonnet", "content": 'Body("n") + 1'},
            },
            '"5"',
        ),
        (
            b"{}",
            {
                "type": "template",
                "name": "n",
                "nullable": True,
                "template": {"language": "jsonnet", "content": "if 1 > 0 then null"},
            },
            "",
        ),
    ],
)
def test_cells(body: bytes, column: dict[str, Any], expected: str | None) -> None:
    """NULL is an empty cell without quotes; all other cells are quoted."""
    rendered = _row(body, column)
    assert rendered.endswith("\n")
    if expected is None:
        assert rendered[0] == rendered[-2] == '"'
    else:
        assert rendered == f"{expected}\n"


def test_values_of_forms_are_typed() -> None:
    form = "application/x-www-form-urlencoded"
    assert _row(b"n=5", INTEGER, content_type=form) == '"5"\n'
    assert _row(b"m=5", INTEGER | {"nullable": True}, content_type=form) == "\n"


def test_rows_of_a_block() -> None:
    renderer = compile_renderer(_mapping(INTEGER, INTEGER | {"name": "m", "path": "m"}), LIMIT)
    assert renderer.row(_record(b'{"n":1,"m":2}')) == b'"1","2"\n'


@pytest.mark.parametrize(
    ("body", "column", "message"),
    [
        (b'{"n":"abc"}', INTEGER, 'the value "abc" is not an integer from -2^63 to 2^63-1'),
        (b"{}", INTEGER, 'path "n" not found in the body, and the column of type integer is'),
        (b'{"n":null}', INTEGER, "the value is null, and the column of type integer is neither"),
        (b"{", INTEGER, "cannot convert column"),
        (
            b'{"n":"\\u0000"}',
            {"name": "n", "path": "n", "rawString": True},
            "is not a text without the character NUL",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(
    body: bytes, column: dict[str, Any], message: str
) -> None:
    """The error names the column; an invalid body is never treated as NULL."""
    with pytest.raises(UserError) as raised:
        _row(body, column)
    assert raised.value.status == 400
    assert 'cannot convert column "n" to CSV value' in str(raised.value)
    assert message in str(raised.value)


def test_a_primary_key_that_can_not_be_indexed_is_refused() -> None:
    keys = [{"name": name, "path": name, "primaryKey": True} for name in ("a", "b")]
    assert _row(b'{"a":"%b","b":"x"}' % (b"a" * 2300), *keys)
    with pytest.raises(UserError) as raised:
        _row(b'{"a":"%b","b":"%b"}' % (b"a" * 2300, b"b" * 200), *keys)
    assert raised.value.name == "primaryKeyTooLong"
    assert '"b"' in str(raised.value)


def test_a_preview_shows_null() -> None:
    mapping = _mapping(INTEGER | {"nullable": True}, INTEGER | {"name": "m", "path": "m"})
    assert render_cells(mapping, _record(b'{"m":3}')) == [("n", "NULL"), ("m", "3")]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"dataType": "text"}, 'unknown data type "text"'),
        ({"primaryKey": True, "nullable": True}, "can't be nullable"),
        ({"primaryKey": True, "dataType": "json"}, "JSON can't be a part of the primary key"),
        ({"dataType": "integer", "defaultValue": "x"}, "the default value doesn't fit its type"),
        (
            {"type": "ip", "dataType": "integer"},
            'a column of type "ip" must have the dataType string',
        ),
    ],
)
def test_invalid_columns(column: dict[str, Any], message: str) -> None:
    """The message names the column."""
    with pytest.raises(UserError) as raised:
        _mapping({"name": "n", "path": "n", **column})
    assert str(raised.value).startswith('column "n": ')
    assert message in str(raised.value)
