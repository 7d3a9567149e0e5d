"""Columns that read headers which are masked in rejected records."""

from __future__ import annotations

import pytest

from stream.mapping.columns import (
    Column,
    HeadersColumn,
    IpColumn,
    PathColumn,
    Template,
    TemplateColumn,
)
from stream.record.headers import RecordHeaders
from stream.rejected.masked_headers import HeaderReads, notes_of

_HEADERS = RecordHeaders(
    (
        (b"Authorization", b"***"),
        (b"X-Signed", b"t=1,v=***"),
        (b"User-Agent", b"curl"),
    )
)


def _template(content: str) -> TemplateColumn:
    return TemplateColumn("c", template=Template("jsonnet", content))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (HeadersColumn("c"), {"authorization", "x-signed"}),
        (_template("HeaderStr()"), {"authorization", "x-signed"}),
        (_template("Header()"), {"authorization", "x-signed"}),
        (_template("Header('AUTHORIZATION')"), {"authorization"}),
        (_template('Header( "x-signed", "none")'), {"x-signed"}),
        (_template("Header(header='x-signed')"), {"x-signed"}),
        (_template("Header(Body('name'))"), {"authorization", "x-signed"}),
        (_template("Header('user-agent') + Body('a')"), set()),
        (_template("Body('Header')"), set()),
        (PathColumn("c", path="a"), set()),
        (IpColumn("c"), set()),
    ],
)
def test_columns_that_read_masked_headers(column: Column, expected: set[str]) -> None:
    """The headers are known by name, or all are affected if the template computes the name."""
    assert HeaderReads.of([column]).masked(_HEADERS) == {("c", name) for name in expected}


def test_notes() -> None:
    """There is one sentence for each column."""
    assert notes_of([]) == []
    assert notes_of([("b", "cookie"), ("a", "x"), ("a", "cookie"), ("b", "cookie")]) == [
        'The column "a" reads the headers "cookie", "x", which rejected records contain as "***": '
        'their rows contain "***" instead of the value.',
        'The column "b" reads the header "cookie", which rejected records contain as "***": '
        'their rows contain "***" instead of the value.',
    ]
