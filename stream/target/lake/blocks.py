"""Splits CSV into blocks of complete rows, and prefetches in a thread. Does no I/O itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["BLOCK_BYTES", "MAX_ROW_BYTES", "prefetched", "whole_rows"]

BLOCK_BYTES = 1024 * 1024
"""Size from which a block is ended after its last complete row."""

MAX_ROW_BYTES = 8 * 1024 * 1024
"""Maximum size of a row; sinks can be configured for rows of at most 4 MB."""

T = TypeVar("T")


def whole_rows(chunks: Iterable[bytes], size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Regroup the bytes into blocks that end at the end of a row.

    A line feed ends a row if the number of quotes before it is even, because values are quoted and
    quotes in values are doubled.

    Raises ValueError: a row isn't complete or is too long.
    """
    kept: list[bytes] = []
    length = quotes = end = 0
    for chunk in chunks:
        found = _end(chunk, quotes)
        if found:
            end = length + found
        kept.append(chunk)
        length += len(chunk)
        quotes += chunk.count(b'"')
        if length < size:
            continue
        if end:
            block = b"".join(kept)
            yield block[:end]
            kept = [block[end:]]
            length -= end
            quotes, end = kept[0].count(b'"'), 0
        elif length > MAX_ROW_BYTES:
            raise ValueError(f"a row has more than {MAX_ROW_BYTES} bytes")
    if end != length:
        raise ValueError("the last row is incomplete")
    if length:
        yield b"".join(kept)


def _end(chunk: bytes, quotes: int) -> int:
    """Return the position after the last line feed of *chunk* that ends a row; 0 if none does.

    :param quotes: number of quotes in the row before the chunk.
    """
    before, position = quotes + chunk.count(b'"'), len(chunk)
    while (feed := chunk.rfind(b"\n", 0, position)) >= 0:
        before -= chunk.count(b'"', feed, position)
        if before % 2 == 0:
            return feed + 1
        # It is in a value, like all others after the last quote before it.
        position = chunk.rfind(b'"', 0, feed)
        if position < 0:
            return 0
        before -= 1
    return 0


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Iterate over *items*; a thread computes each one while the previous one is processed."""
    nothing = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = thread.submit(next, items, nothing)
            yield item  # type: ignore[misc]
