"""CSV in blocks of whole rows, the next one made while one is worked on. No I/O of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["BLOCK_BYTES", "MAX_ROW_BYTES", "prefetched", "whole_rows"]

BLOCK_BYTES = 1024 * 1024
"""From this size on a block ends with its last whole row."""

MAX_ROW_BYTES = 8 * 1024 * 1024
"""A longer row is none; the longest that a sink may be allowed to write has 4 MB."""

T = TypeVar("T")


def whole_rows(chunks: Iterable[bytes], size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The same bytes in blocks that end with rows.

    A line feed ends a row if the quotes before it are even: values are between quotes, and quotes
    in values are doubled.

    Raises ValueError if a row doesn't end, or is too long.
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
        raise ValueError("the last row has no end")
    if length:
        yield b"".join(kept)


def _end(chunk: bytes, quotes: int) -> int:
    """Behind the last line feed of *chunk* that ends a row; 0 if none does.

    :param quotes: in front of the chunk.
    """
    before, position = quotes + chunk.count(b'"'), len(chunk)
    while (feed := chunk.rfind(b"\n", 0, position)) >= 0:
        before -= chunk.count(b'"', feed, position)
        if before % 2 == 0:
            return feed + 1
        # It is in a value, as all others are behind the quote in front of it.
        position = chunk.rfind(b'"', 0, feed)
        if position < 0:
            return 0
        before -= 1
    return 0


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same *items*; each is made in a thread while the one before is worked on."""
    nothing = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = thread.submit(next, items, nothing)
            yield item  # type: ignore[misc]
