"""The readable length of a slice file that a crash has truncated."""

from __future__ import annotations

import gzip
import io
import os
import tracemalloc
from collections.abc import Callable
from itertools import accumulate

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.volumes.recovery import Readable, RowCounter, readable_prefix

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}

_cells = st.text(alphabet='a"\n\0,ž', max_size=8)
_rows = st.lists(_cells, min_size=1, max_size=3).map(
    lambda cells: ",".join('"' + cell.replace('"', '""') + '"' for cell in cells).encode() + b"\n"
)
_groups = st.lists(st.lists(_rows, min_size=1, max_size=4), max_size=5)


@given(_groups, st.sampled_from(sorted(_COMPRESSORS)), st.data())
def test_the_longest_readable_prefix(
    groups: list[list[bytes]], compression: str, data: st.DataObject
) -> None:
    """Any prefix of a file is readable exactly up to the end of its last complete part."""
    parts = [_COMPRESSORS[compression](b"".join(rows)) for rows in groups]
    if compression == "none":
        parts = [row for rows in groups for row in rows]
    ends = [0, *accumulate(len(part) for part in parts)]
    file = b"".join(parts)
    cut = data.draw(st.integers(min_value=0, max_value=len(file)))
    readable = readable_prefix(io.BytesIO(file[:cut]), compression)
    assert readable.length == max(end for end in ends if end <= cut)
    if cut == len(file):
        rows = [row for group in groups for row in group]
        assert (readable.rows, readable.uncompressed) == (len(rows), len(b"".join(rows)))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_zeros_at_the_end_are_truncated(compression: str) -> None:
    """A power loss can leave a file longer than the written data."""
    part = _COMPRESSORS[compression](b'"a"\n')
    assert readable_prefix(io.BytesIO(part + bytes(4096)), compression).length == len(part)


def test_a_damaged_member_ends_the_readable_data() -> None:
    """Bytes after a damaged part aren't used."""
    parts = [gzip.compress(b'"%d"\n' % i) for i in range(3)]
    damaged = bytearray(b"".join(parts))
    damaged[len(parts[0]) + 14] ^= 0xFF
    assert readable_prefix(io.BytesIO(bytes(damaged)), "gzip") == Readable(len(parts[0]), 1, 4)


def test_parts_across_blocks() -> None:
    """A part larger than a read block is found too."""
    rows = b"".join(b'"%s"\n' % os.urandom(60).hex().encode() for _ in range(40_000))
    for compression, compress in _COMPRESSORS.items():
        file = compress(rows)
        assert readable_prefix(io.BytesIO(file), compression).length == len(file)
        assert readable_prefix(io.BytesIO(file), compression).rows == 40_000


@given(st.lists(_rows, max_size=6), st.integers(min_value=1, max_value=9))
def test_line_feeds_in_quotes(rows: list[bytes], size: int) -> None:
    """Line feeds inside values don't end a row, however the stream is split into blocks."""
    stream = b"".join(rows)
    counter = RowCounter(strict=True)
    for start in range(0, len(stream), size):
        counter.feed(stream[start : start + size])
    assert (counter.rows, counter.is_broken) == (len(rows), False)


@given(st.lists(_rows, max_size=6), st.lists(_rows, max_size=2), st.binary(min_size=1, max_size=3))
def test_a_hole_between_rows(rows: list[bytes], later: list[bytes], hole: bytes) -> None:
    """Zeros from a power loss, and the data written after them, aren't rows."""
    file = b"".join(rows) + b"\0" + hole + b"".join(later)
    readable = readable_prefix(io.BytesIO(file), "none")
    assert (readable.length, readable.rows) == (len(b"".join(rows)), len(rows))


def test_compressible_data_needs_little_memory() -> None:
    """A small file with much data is decompressed piece by piece."""
    member = gzip.compress(b'"' + b"x" * 200_000_000 + b'"\n', 1)
    tracemalloc.start()
    readable = readable_prefix(io.BytesIO(member), "gzip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (readable.length, readable.rows) == (len(member), 1)
    assert peak < 100_000_000
