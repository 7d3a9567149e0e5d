"""CSV is split between rows, for any chunks and values."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.target.lake.blocks import MAX_ROW_BYTES, prefetched, whole_rows

_VALUES = st.none() | st.text('",\n\r\\a', max_size=6)
_ROWS = st.lists(st.tuples(_VALUES, _VALUES), max_size=12)


def _csv(rows: list[tuple[str | None, str | None]]) -> bytes:
    def cell(value: str | None) -> str:
        return "" if value is None else f'"{value.replace(chr(34), chr(34) * 2)}"'

    return "".join(f"{','.join(map(cell, row))}\n" for row in rows).encode()


def _count(block: bytes) -> int:
    return len(list(csv.reader(io.StringIO(block.decode(), newline=""), strict=True)))


@given(_ROWS, st.integers(1, 20), st.integers(1, 40))
def test_blocks_contain_whole_rows(
    rows: list[tuple[str | None, str | None]], chunk: int, size: int
) -> None:
    """All bytes are in order; each block is valid CSV, and not much longer than requested."""
    data = _csv(rows)
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    blocks = list(whole_rows(chunks, size))
    assert b"".join(blocks) == data
    assert sum(map(_count, blocks)) == len(rows)
    longest = max((len(_csv([row])) for row in rows), default=0)
    assert all(len(block) <= size + chunk + longest for block in blocks)


@pytest.mark.parametrize("data", [b'"a"', b'"a\n', b'"a"\n"b', b"\n\n,"])
def test_incomplete_rows_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="is incomplete"):
        list(whole_rows([data]))


def test_a_row_without_an_end_is_refused() -> None:
    """The row is refused before it fills the memory."""
    taken = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield b'"' + b"x" * 99_998 + b"y" if len(taken) == 1 else b"\n" * 100_000

    with pytest.raises(ValueError, match="more than"):
        list(whole_rows(endless()))  # type: ignore[arg-type]
    assert len(taken) * 100_000 < 2 * MAX_ROW_BYTES


def test_items_read_ahead_are_the_same() -> None:
    """All items are returned, and an error is raised at its position."""
    assert list(prefetched(iter([1, None, 0, "x"]))) == [1, None, 0, "x"]
    assert list(prefetched(iter(()))) == []

    def failing() -> object:
        yield 1
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        for item in prefetched(failing()):  # type: ignore[arg-type, var-annotated]
            found.append(item)  # noqa: PERF402
    assert found == [1]
