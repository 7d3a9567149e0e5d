from __future__ import annotations

import csv
import io
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.sandbox.csvrows import CsvError, row_batches

# Every character that a parser of lines or of CSV could misinterpret.
_special = st.sampled_from([*',"\n\r\0;\x0b\x0c\x1c\x85\u2028é𝄞', "\r\n", '""', "a"])
fields = st.lists(_special | st.characters(exclude_categories=["Cs"]), max_size=8).map("".join)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(fields, min_size=width, max_size=width), max_size=12)
)


class Trickle(io.RawIOBase):
    """A stream that returns its pieces, one at a time."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        self._pieces = [data[a:b] for a, b in pairwise(bounds) if a < b]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._pieces:
            return 0
        piece = self._pieces[0][: len(buffer)]
        buffer[: len(piece)] = piece
        self._pieces[0] = self._pieces[0][len(piece) :]
        if not self._pieces[0]:
            del self._pieces[0]
        return len(piece)


def parse(data: bytes, width: int, **options: Any) -> list[list[str]]:
    return [row for batch in row_batches(io.BytesIO(data), width, **options) for row in batch]


def rendered(table: list[list[str]], quoting: int, end: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=cast(Any, quoting), lineterminator=end).writerows(table)
    return text.getvalue().encode()


# With LF as the line end, the csv module doesn't quote a field with a lone CR.
dialects = st.sampled_from(
    [(csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_MINIMAL, "\r\n")]
)


@given(tables, dialects)
def test_written_csv_is_parsed(table: list[list[str]], dialect: tuple[int, str]) -> None:
    """Rows of any text are the same after they are written as CSV and parsed."""
    quoting, end = dialect
    width = len(table[0]) if table else 1
    assert parse(rendered(table, quoting, end), width) == table


@given(tables, st.lists(st.integers(0, 10_000), max_size=20))
def test_chunk_boundaries_have_no_effect(table: list[list[str]], cuts: list[int]) -> None:
    """The rows don't depend on how the bytes are split, even inside a character."""
    data = rendered(table, csv.QUOTE_ALL, "\n")
    stream = io.BufferedReader(Trickle(data, cuts), buffer_size=1)
    width = len(table[0]) if table else 1
    assert [row for batch in row_batches(stream, width) for row in batch] == table


@given(st.binary(max_size=200), st.integers(1, 3))
def test_any_bytes_are_rows_or_a_csv_error(data: bytes, width: int) -> None:
    """Any bytes result in rows of the right width or in a CSV error, as in the csv module."""
    text = data.decode("utf-8", "replace")
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    try:
        expected: list[list[str]] | None = [
            row or [""] for row in csv.reader([line for line in lines if line], strict=True)
        ]
    except csv.Error:
        expected = None
    if expected is not None and any(len(row) != width for row in expected):
        expected = None
    try:
        found: list[list[str]] | None = parse(data, width)
    except CsvError:
        found = None
    assert found == expected


@given(tables, st.integers(1, 5), st.integers(1, 30))
def test_batches_are_bounded(table: list[list[str]], max_rows: int, max_chars: int) -> None:
    """A batch ends at the maximum number of rows or at the maximum size."""
    width = len(table[0]) if table else 1
    stream = io.BytesIO(rendered(table, csv.QUOTE_ALL, "\n"))
    batches = list(row_batches(stream, width, max_rows=max_rows, max_chars=max_chars))
    assert [row for batch in batches for row in batch] == table
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert len(rendered(batch[:-1], csv.QUOTE_ALL, "\n").decode()) < max_chars


def test_invalid_utf8_becomes_a_replacement_character() -> None:
    """A damaged value is stored with U+FFFD, and its neighbours are unchanged."""
    assert parse(b'"a\xff\xe2\x82","b"\n"\xe2\x82\xac","d"\n', 2) == [["a��", "b"], ["€", "d"]]


def test_nul_characters_are_kept() -> None:
    """NUL characters are kept like others."""
    assert parse(b'"a\0b"\n', 1) == [["a\0b"]]


def test_fields_beyond_the_default_limit() -> None:
    """A field of a megabyte is parsed."""
    assert parse(b'"' + b"x" * 1_000_000 + b'"\n', 1) == [["x" * 1_000_000]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'"a","b"\n"c"\n', "row 2 has 1 fields, expected 2"),
        (b'"a","b","c"\n', "row 1 has 3 fields, expected 2"),
        (b'"a","b"\n\n', "row 2 has 1 fields, expected 2"),
        (b'"a","b"\n"c","d', "row 2 is not valid CSV: unexpected end of data"),
        (b'"a","b"x\n', "row 1 is not valid CSV: ',' expected after '\"'"),
    ],
)
def test_errors_name_the_row(data: bytes, message: str) -> None:
    """The error of an invalid row has its number and the fault."""
    with pytest.raises(CsvError) as caught:
        parse(data, 2)
    assert str(caught.value) == message


@pytest.mark.parametrize("row", [b'"' + b"x" * 98 + b'"\n', b'"' + b"x\n" * 49 + b'"\n'])
def test_the_limit_of_a_row(row: bytes) -> None:
    """The limit applies to one long line and to a field of many lines."""
    assert len(parse(row, 1, max_row_chars=len(row))) == 1
    with pytest.raises(CsvError, match="row 1 is longer than"):
        parse(row, 1, max_row_chars=len(row) - 1)
