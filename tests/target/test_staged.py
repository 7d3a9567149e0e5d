"""What staged objects hold comes in pieces of a bounded size."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.staging import StagingError
from stream.target.staged import MAX_PIECE_BYTES, decompressed

MEMBERS = st.lists(
    st.binary(max_size=50)
    | st.integers(0, 3 * MAX_PIECE_BYTES).map(lambda size: bytes(size))
    | st.just(random.Random(1).randbytes(2 * MAX_PIECE_BYTES)),
    max_size=4,
)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(MEMBERS, st.sampled_from([1000, 64 * 1024, 1024 * 1024]))
def test_all_bytes_come_in_pieces_of_a_bounded_size(members: list[bytes], size: int) -> None:
    """However many members there are, and whatever they hold."""
    packed = b"".join(gzip.compress(member, 1) for member in members)
    pieces = list(decompressed(_cut(packed, size), "gzip"))
    assert b"".join(pieces) == b"".join(members)
    assert all(0 < len(piece) <= MAX_PIECE_BYTES for piece in pieces)


def test_bytes_without_compression_are_cut_too() -> None:
    data = bytes(range(256)) * 5000
    pieces = list(decompressed([data, b"end"], "none"))
    assert b"".join(pieces) == data + b"end"
    assert max(map(len, pieces)) == MAX_PIECE_BYTES


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_an_end_that_is_missing_is_an_error(cut: int) -> None:
    packed = gzip.compress(b"a" * 1000) + gzip.compress(random.Random(1).randbytes(100))
    with pytest.raises(StagingError, match="its end is missing") as raised:
        list(decompressed([packed[:-cut]], "gzip"))
    assert not raised.value.retryable


def test_damage_is_an_error() -> None:
    packed = bytearray(gzip.compress(random.Random(1).randbytes(1000)))
    packed[500] ^= 255
    with pytest.raises(StagingError, match="is damaged"):
        list(decompressed([bytes(packed)], "gzip"))
