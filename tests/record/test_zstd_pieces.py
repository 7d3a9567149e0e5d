"""Pieces of a zstd body: each expands to a bounded size, and together they are the body."""

from __future__ import annotations

import random

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream.record.encoding import decode_body
from stream.record.zstd_pieces import MAX_OUTPUT_BYTES, frame_pieces

LIMIT = 16 * 1024 * 1024

EMPTY_BLOCK = b"\0\0\0"
LAST_BLOCK = b"\1\0\0"


def _blocks(parts: list[bytes], *, checksum: bool, dictionary_size: bool) -> bytes:
    """Return a frame with at least one block for each of *parts*."""
    compressor = zstandard.ZstdCompressor(
        write_checksum=checksum, write_content_size=dictionary_size
    ).compressobj(sum(map(len, parts)) if dictionary_size else -1)
    data = b""
    for part in parts:
        data += compressor.compress(part) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return data + compressor.flush()


def _pieces(body: bytes) -> list[bytes]:
    ends = list(frame_pieces(body, 0))
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _outputs(body: bytes) -> list[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    outputs = [frame.decompress(piece) for piece in _pieces(body)]
    assert frame.eof
    return outputs


@given(
    parts=st.lists(st.binary(max_size=2000) | st.integers(0, 400_000).map(bytes), max_size=6),
    checksum=st.booleans(),
    size=st.booleans(),
)
def test_the_size_of_pieces(parts: list[bytes], checksum: bool, size: bool) -> None:
    """No piece expands to more than the limit, and the last piece ends with the frame."""
    body = _blocks(parts, checksum=checksum, dictionary_size=size)
    outputs = _outputs(body)
    assert b"".join(outputs) == b"".join(parts)
    assert max(map(len, outputs)) <= MAX_OUTPUT_BYTES
    assert list(frame_pieces(b"??" + body, 2))[-1] == 2 + len(body)
    assert decode_body(b"zstd", body * 2, LIMIT) == b"".join(parts) * 2


def test_a_bomb_is_split() -> None:
    """The body is split at every second of its blocks of four bytes."""
    outputs = _outputs(zstandard.compress(bytes(LIMIT)))
    assert set(map(len, outputs)) == {MAX_OUTPUT_BYTES}


def test_incompressible_data_is_split_rarely() -> None:
    """Data that doesn't expand has few pieces, since each of them costs some microseconds."""
    body = zstandard.compress(random.Random(1).randbytes(1_000_000))
    assert len(_pieces(body)) <= 10


def test_empty_blocks_are_one_piece() -> None:
    """Any number of empty blocks is one piece."""
    start = _blocks([], checksum=False, dictionary_size=False)[: -len(LAST_BLOCK)]
    body = start + 100_000 * EMPTY_BLOCK + LAST_BLOCK
    assert _pieces(body) == [body]
    assert decode_body(b"zstd", body, 0) == b""


def test_frames_without_data_are_skipped() -> None:
    """Frames without data are skipped at any position."""
    skipped = b"\x55\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"???"
    body = skipped + zstandard.compress(b"data") + skipped
    assert decode_body(b"zstd", body, 4) == b"data"
    assert _pieces(skipped) == [skipped]
