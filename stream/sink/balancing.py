"""The slices that a source node writes to, and the choice among them for each record. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar, cast

__all__ = ["Balancer", "slice_share"]

T = TypeVar("T")

_NONE = object()


def slice_share(
    slices: Sequence[T],
    nodes: Sequence[str],
    node_id: str,
    minimum: int,
    writer_of: Callable[[T], str],
) -> list[T]:
    """Return the slices of a sink to which one of several source nodes writes.

    Every slice gets at least one node, and every node gets at least *minimum* slices of different
    writers, if there are that many. So the loss of one writer doesn't leave a node without a slice.
    All nodes must use the same input; if a node uses another input, the worst result is an unused
    slice.

    :param slices: slices, sorted by key.
    :param nodes: sorted IDs of all source nodes; a node that isn't in it gets nothing.
    :param writer_of: returns the ID of the writer that has a slice; empty if unknown.
    """
    if node_id not in nodes or not slices:
        return []
    ordered = _alternating(slices, writer_of)
    count = min(max(-(-len(slices) // len(nodes)), minimum), len(slices))
    start = list(nodes).index(node_id) * count
    turned = [ordered[(start + i) % len(ordered)] for i in range(len(ordered))]
    share = turned[:count]
    writers = {writer_of(slice_) for slice_ in share} - {""}
    for slice_ in turned[count:]:
        writer = writer_of(slice_)
        if len(writers) >= minimum:
            break
        if writer and writer not in writers:
            writers.add(writer)
            share.append(slice_)
    return share


def _alternating(slices: Sequence[T], writer_of: Callable[[T], str]) -> list[T]:
    """Return the first slice of each writer, then the second slice of each, and so on."""
    by_writer: dict[str, list[T]] = {}
    for slice_ in slices:
        by_writer.setdefault(writer_of(slice_), []).append(slice_)
    rounds = zip_longest(*(by_writer[writer] for writer in sorted(by_writer)), fillvalue=_NONE)
    return [cast(T, slice_) for turn in rounds for slice_ in turn if slice_ is not _NONE]


class Balancer:
    """Chooses where the search for a ready pipeline starts, for all sinks of a node.

    :param kind: ``roundRobin`` or ``rand``.
    """

    def __init__(self, kind: str, generator: random.Random | None = None) -> None:
        self._random = (generator or random.Random()) if kind == "rand" else None
        self._next = 0

    def start(self, count: int) -> int:
        """Return an index below *count*."""
        if count == 1:
            return 0
        if self._random is not None:
            return self._random.randrange(count)
        index = self._next % count
        self._next += 1
        return index
