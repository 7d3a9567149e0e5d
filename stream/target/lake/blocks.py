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
    length = quotes = 0
    for chunk in chunks:
        kept.append(chunk)
        length += len(chunk)
        quotes += chunk.count(b'"')
        if length < size:
            continue
        block = b"".join(kept)
        end = _end(block, quotes)
        if end:
            yield block[:end]
        elif length > MAX_ROW_BYTES:
            raise ValueError(f"a row has more than {MAX_ROW_BYTES} bytes")
        kept = [block[end:]]
        length -= end
        quotes = kept[0].count(b'"')
    block = b"".join(kept)
    if block:
        if _end(block, quotes) != length:
            raise ValueError("the last row has no end")
        yield block


def _end(block: bytes, quotes: int) -> int:
    """Behind the last line feed of *block*, which has so many quotes, that ends a row; else 0."""
    before, position = quotes, len(block)
    while (feed := block.rfind(b"\n", 0, position)) >= 0:
        before -= block.count(b'"', feed, position)
        if before % 2 == 0:
            return feed + 1
        position = feed
    return 0


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same *items*; each is made in a thread while the one before is worked on."""
    nothing = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = thread.submit(next, items, nothing)
            yield item  # type: ignore[misc]
