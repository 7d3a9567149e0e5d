"""Marks in gzip members: a mark is present exactly if its rows are stored."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from stream.sink.compression import compressor
from stream.storage.model.encoding import Compression
from stream.storage.model.marks import (
    MAX_MARKS,
    Mark,
    content_digest,
    find_marks,
    key_digest,
    marked,
    marks_of,
)

_COMPRESS = compressor(Compression("gzip"))

_MARKS = st.lists(
    st.builds(
        Mark,
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=8, max_size=8),
        st.binary(min_size=8, max_size=8),
    ),
    min_size=1,
    max_size=5,
)


@given(st.binary(max_size=3000), _MARKS)
def test_decompressors_ignore_marks(rows: bytes, marks: list[Mark]) -> None:
    """Three programs return the original data, and the marks are parsed as written."""
    member = marked(_COMPRESS(rows), marks)
    assert gzip.decompress(member) == rows
    assert zlib.decompress(member, 31) == rows
    assert isal_zlib.decompress(member, 31) == rows
    assert marks_of(member) == tuple(marks)


@given(st.binary(max_size=300), _MARKS, st.data())
def test_an_incomplete_member_has_no_marks(
    rows: bytes, marks: list[Mark], data: st.DataObject
) -> None:
    """The member is truncated anywhere, or a byte after the name of the field has changed."""
    member = marked(_COMPRESS(rows), marks)
    length = data.draw(st.integers(0, len(member) - 1))
    assert marks_of(member[:length]) == ()
    assert list(find_marks(member[:length] + b"\0" * (len(member) - length))) in (
        [],
        [(len(member), tuple(marks))],  # the member ends with zeros
    )
    damaged = bytearray(member)
    damaged[data.draw(st.integers(16, len(member) - 1))] ^= 1
    assert list(find_marks(bytes(damaged))) == []


@given(st.lists(st.tuples(st.binary(max_size=50), st.one_of(st.none(), _MARKS)), max_size=6))
def test_all_marks_of_a_file(groups: list[tuple[bytes, list[Mark] | None]]) -> None:
    """All marks are found with the ends of their members, also next to members without marks."""
    content, expected = b"", []
    for rows, marks in groups:
        content += _COMPRESS(rows) if marks is None else marked(_COMPRESS(rows), marks)
        if marks is not None:
            expected.append((len(content), tuple(marks)))
    assert list(find_marks(content)) == expected
    assert list(find_marks(content + b"\x1f\x8b")) == expected


def test_data_without_marks() -> None:
    """Rows that look like a mark are compressed, and a member without marks has none."""
    assert marks_of(b"") == marks_of(b'"1"\n') == marks_of(_COMPRESS(b"\xf1StrMrk\x01")) == ()
    assert list(find_marks(b"\xf1StrMrk\x01" * 10)) == []


def test_the_limit_of_marks() -> None:
    """Too many marks are refused, and so is a header that already has extra fields."""
    mark = Mark(key_digest(1, "s", b"k"), content_digest(b"c" * 16), b"a" * 8)
    member = marked(_COMPRESS(b"row\n"), [mark] * MAX_MARKS)
    assert gzip.decompress(member) == b"row\n"
    with pytest.raises(ValueError, match="can't be marked"):
        marked(_COMPRESS(b"row\n"), [mark] * (MAX_MARKS + 1))
    with pytest.raises(ValueError, match="can't be marked"):
        marked(member, [mark])
