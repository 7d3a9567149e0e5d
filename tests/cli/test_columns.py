"""Columns on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.cli import columns
from stream.cli.columns import column_of
from stream.mapping.columns import COLUMN_TYPES, column_from_plain
from stream.mapping.types import DATA_TYPES

_RAW = {"rawString": True}
_EMPTY = {"defaultValue": ""}


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("id:uuid", {"type": "uuid", "name": "id"}),
        ("id:uuid,key", {"type": "uuid", "name": "id", "primaryKey": True}),
        ("id:uuid:uuid", {"type": "uuid", "name": "id", "dataType": "uuid"}),
        ("u:path=a.b[0]", {"type": "path", "name": "u", "path": "a.b[0]", **_RAW}),
        (
            "u:path=user.name:string",
            {"type": "path", "name": "u", "path": "user.name", **_RAW, "dataType": "string"},
        ),
        (
            "p:path=a:decimal(10,2),nullable",
            {
                "type": "path",
                "name": "p",
                "path": "a",
                **_RAW,
                "dataType": "decimal(10,2)",
                "nullable": True,
            },
        ),
        (
            "c:path=n:integer,key,default=1,5",
            {
                "type": "path",
                "name": "c",
                "path": "n",
                **_RAW,
                "defaultValue": "1,5",
                "dataType": "integer",
                "primaryKey": True,
            },
        ),
        (
            "c:path=n,default=",
            {"type": "path", "name": "c", "path": "n", **_RAW, **_EMPTY},
        ),
        ("j:path=a,json", {"type": "path", "name": "j", "path": "a", "rawString": False}),
        ("x:path=xml:lang", {"type": "path", "name": "x", "path": "xml:lang", **_RAW}),
        (
            "t:template=std.asciiUpper(Body('a')),key",
            {
                "type": "template",
                "name": "t",
                **_RAW,
                "template": {"language": "jsonnet", "content": "std.asciiUpper(Body('a')),key"},
            },
        ),
    ],
)
def test_columns(text: str, column: dict[str, Any]) -> None:
    """The columns have the form that the API expects."""
    assert column_of(text) == column
    column_from_plain(column)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id", "is not NAME:TYPE"),
        (":uuid", "is not NAME:TYPE"),
        ("id:uid", 'did you mean "uuid"?'),
        ("id:uuid=x", "takes no value"),
        ("id:uuid:integr", 'did you mean "integer"?'),
        ("u:path", "needs a path"),
        ("u:path=a:stringg", 'did you mean "string"?'),
        ("u:path=a,kye", 'did you mean "key"?'),
        ("u:path=a,key,nulable", 'did you mean "nullable"?'),
        ("b:body,json", 'no option "json"'),
        ("t:template", "needs a template"),
    ],
)
def test_mistakes(text: str, reason: str) -> None:
    """The message shows the expected form, or the possible values."""
    with pytest.raises(ValueError) as raised:
        column_of(text)
    assert reason in str(raised.value)


@given(st.text("ab:=,.(uidpathkeyjson)", max_size=30))
def test_any_text(text: str) -> None:
    """Any text is parsed as a column or raises a ValueError."""
    try:
        column = column_of(text)
    except ValueError:
        return
    assert column["name"]
    assert column["type"] in columns.COLUMN_TYPES


def test_types() -> None:
    """The types are those of the service."""
    assert set(columns.COLUMN_TYPES) == set(COLUMN_TYPES)
    assert {*columns.DATA_TYPES, "decimal(p,s)"} == set(DATA_TYPES)
