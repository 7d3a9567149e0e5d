"""Rows read from the pipe equal the rows written to it, for any blocks."""

from __future__ import annotations

import io
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import UserError
from stream.target.lake.frames import answer_of, failure, framed, slices_of


@given(st.lists(st.lists(st.binary(max_size=20), max_size=4), max_size=4))
def test_slices_are_unchanged(slices: list[list[bytes]]) -> None:
    pipe = b"".join(block for slice_ in slices for block in framed(iter(slice_)))
    found = [b"".join(blocks) for blocks in slices_of(io.BytesIO(pipe).read, len(slices))]
    assert found == [b"".join(slice_) for slice_ in slices]


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=6))
def test_blocks_do_not_depend_on_chunks(sizes: list[int]) -> None:
    """A retry writes the same objects, even if a store returns other chunks."""
    data = bytes(range(256)) * (sum(sizes) // 256 + 1)
    ends = list(accumulate(sizes))
    chunks = [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    assert list(framed(iter(chunks))) == list(framed(iter([data[: ends[-1]]])))


def test_blocks_are_limited() -> None:
    assert max(map(len, framed(iter([b"x" * 3_000_000])))) < 300_000


@given(st.integers(0, 30))
def test_a_pipe_that_ends_early(size: int) -> None:
    """An incomplete message is an error, wherever it ends."""
    pipe = b"".join(framed(iter([b"some", b"rows"])))
    with pytest.raises(EOFError):
        for blocks in slices_of(io.BytesIO(pipe[: min(size, len(pipe) - 1)]).read, 1):
            for _ in blocks:
                pass


def test_answers() -> None:
    assert answer_of(b'{"rows": 1}\n') == {"rows": 1}
    error = UserError("no", status=503, name="connectionFailed", detail="d", param="p")
    with pytest.raises(UserError) as raised:
        answer_of(failure(error))
    found = raised.value
    assert (found.message, found.status, found.name, found.detail, found.param) == (
        *("no", 503, "connectionFailed", "d", "p"),
    )
    with pytest.raises(RuntimeError, match="broken"):
        answer_of(failure("broken"))
