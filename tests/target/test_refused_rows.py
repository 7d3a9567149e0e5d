"""Rows are found in staged objects, even if some rows or bytes are invalid."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from stream.target.refused_rows import Damage, Row, RowSplitter, read_rows

_VALUES = st.text('",\n\r\\a', max_size=6) | st.text(max_size=6)
_ROWS = st.lists(st.tuples(_VALUES, _VALUES), max_size=8)
MALFORMED = (
    b'"a"b","c"\n',
    b'"a"",\n"c"\n',
    b'"one value"\n',
    b'"a","b","three"\n',
    b"plain,text\n",
    b'"never closed\n',
    b"\n",
    b'"a","b" \n',
)


def _row(*values: str) -> bytes:
    return ",".join(f'"{value.replace(chr(34), chr(34) * 2)}"' for value in values).encode() + b"\n"


def _split(pieces: Sequence[bytes], max_row: int = 10_000) -> list[Row]:
    splitter = RowSplitter(2, max_row)
    rows = [row for piece in pieces for row in splitter.feed(piece)]
    return rows + list(splitter.end())


@given(_ROWS, st.integers(1, 20))
def test_valid_rows(values: list[tuple[str, str]], size: int) -> None:
    """Each row is unchanged, however the bytes are split."""
    rows = [_row(*pair) for pair in values]
    data = b"".join(rows)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert _split(pieces) == [Row(row) for row in rows]


@given(st.lists(_ROWS.map(tuple), min_size=2, max_size=4), st.data(), st.integers(1, 30))
def test_a_malformed_row_affects_no_other(
    groups: list[tuple[tuple[str, str], ...]], data: st.DataObject, size: int
) -> None:
    """The rows before and after it are found, and the malformed row is reported unchanged."""
    simple = [[_row(f"a{x}", "b") for x, _ in enumerate(group)] for group in groups]
    expected: list[Row] = []
    for group in simple:
        expected += [Row(row) for row in group]
        if group is not simple[-1]:
            bad = data.draw(st.sampled_from(MALFORMED))
            if expected and expected[-1].is_malformed:  # adjacent malformed rows can't be separated
                expected[-1] = Row(expected[-1].text + bad, is_malformed=True)
            else:
                expected.append(Row(bad, is_malformed=True))
    stream = b"".join(row.text for row in expected)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert _split(pieces) == expected


@given(st.binary(max_size=200), st.integers(1, 50), st.integers(1, 60))
@example(b'"' * 100, 7, 10)
@example(b"\n" * 100, 7, 10)
def test_every_byte_is_part_of_a_row(data: bytes, size: int, max_row: int) -> None:
    """The rows contain every byte of the input in order."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert b"".join(row.text for row in _split(pieces, max_row)) == data


def test_a_row_without_an_end_is_split() -> None:
    """The row is split into malformed rows of a maximum size."""
    splitter = RowSplitter(2, 1000)
    found = [row for _ in range(100) for row in splitter.feed(b'"' + b"x" * 99)]
    assert found
    assert all(row.is_malformed and len(row.text) <= 1100 for row in found)


@pytest.fixture
def file() -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile(buffering=0) as opened:
        yield opened


def _members(compression: str, groups: Sequence[bytes]) -> list[bytes]:
    if compression == "none":
        return list(groups)
    if compression == "gzip":
        return [gzip.compress(group) for group in groups]
    return [zstandard.ZstdCompressor().compress(group) for group in groups]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_objects_of_several_members(file: BinaryIO, compression: str) -> None:
    """All members are read, and a malformed row is reported with its number."""
    groups = [_row("1", "a") + _row("2", "b"), b'"x"y","z"\n', _row("3", "c")]
    file.write(b"".join(_members(compression, groups)))
    assert list(read_rows(file, compression, RowSplitter(2))) == [
        Row(_row("1", "a")),
        Row(_row("2", "b")),
        Row(b'"x"y","z"\n', is_malformed=True),
        Row(_row("3", "c")),
    ]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_damaged_objects(file: BinaryIO, compression: str) -> None:
    """The readable part is read, and the position of the unreadable part is reported."""
    members = _members(compression, [_row(str(i), "x" * 50) for i in range(4)])
    start = len(members[0])
    damaged = members[1][:14] + bytes([members[1][14] ^ 0xFF]) + members[1][15:-4] + b"\0\0\0\1"
    file.write(members[0] + damaged + members[2] + members[3])
    found = list(read_rows(file, compression, RowSplitter(2)))
    assert found == [
        Row(_row("0", "x" * 50)),
        Damage(start, start + len(damaged)),
        Row(_row("2", "x" * 50)),
        Row(_row("3", "x" * 50)),
    ]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_truncated_object(file: BinaryIO, compression: str) -> None:
    """A missing end is reported as damage."""
    members = _members(compression, [_row("1", "a"), _row("2", "b")])
    file.write(members[0] + members[1][:-3])
    found = list(read_rows(file, compression, RowSplitter(2)))
    assert found[0] == Row(_row("1", "a"))
    assert found[1:] == [Damage(len(members[0]), len(members[0] + members[1]) - 3)]
