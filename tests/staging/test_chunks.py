"""Bodies that are sent in parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.staging import bytes_chunks, file_chunks
from stream.staging.chunks import SentBody


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_parts_of_a_body(chunks: list[bytes], part_size: int) -> None:
    """The joined parts equal the body, and all parts except the last have the requested size."""
    sent = SentBody(iter(chunks), part_size, lambda: False)
    parts = list(sent.parts())
    assert b"".join(parts) == b"".join(chunks)
    assert all(len(part) == part_size for part in parts[:-1])
    assert all(0 < len(part) <= part_size for part in parts)
    assert sent.size == len(b"".join(chunks))
    assert sent.digests == [hashlib.md5(part).digest() for part in parts]


def test_the_expected_etag() -> None:
    """The expected ETag is the body's MD5, or that of the parts' digests with their number."""
    sent = SentBody(iter([b"abc"]), 2, lambda: False)
    assert sent.expected_etag(multipart=False) == hashlib.md5(b"").hexdigest()
    list(sent.parts())
    digests = hashlib.md5(b"ab").digest() + hashlib.md5(b"c").digest()
    assert sent.expected_etag(multipart=True) == f"{hashlib.md5(digests).hexdigest()}-2"


def test_a_cancelled_body() -> None:
    """A cancelled body ends at its next chunk."""
    sent = SentBody(iter([b"a", b"b"]), 1, lambda: sent.size > 0)
    with pytest.raises(InterruptedError):
        list(sent.parts())
    assert sent.size == 1


def test_a_body_of_several_files(tmp_path: Path) -> None:
    """The bytes of the files are read in the given order, from the start each time."""
    (tmp_path / "a").write_bytes(b"1" * 3_000_000)
    (tmp_path / "b").write_bytes(b"2")
    chunks = file_chunks([tmp_path / "a", tmp_path / "b"])
    assert b"".join(chunks()) == b"".join(chunks()) == b"1" * 3_000_000 + b"2"
    assert max(map(len, chunks())) <= 1024 * 1024
    assert list(bytes_chunks(b"x")()) == [b"x"]
