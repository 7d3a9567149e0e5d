"""Which slices a source node writes to, and which of them takes the next record. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Balancer", "slice_share"]

T = TypeVar("T")


def slice_share(slices: Sequence[T], nodes: Sequence[str], node_id: str, minimum: int) -> list[T]:
    """The slices of a sink that one of several source nodes writes to.

    Every slice gets at least one node and every node at least *minimum* slices, if there are that
    many. All nodes must give the same input.

    :param slices: sorted by key.
    :param nodes: sorted ids of all source nodes; a node that isn't among them gets nothing.
    """
    if node_id not in nodes or not slices:
        return []
    count = min(max(-(-len(slices) // len(nodes)), minimum), len(slices))
    start = list(nodes).index(node_id) * count
    return [slices[(start + i) % len(slices)] for i in range(count)]


class Balancer:
    """Where the search for a ready pipeline starts; one for all sinks of a node.

    :param kind: ``roundRobin`` or ``rand``.
    """

    def __init__(self, kind: str, generator: random.Random | None = None) -> None:
        self._random = (generator or random.Random()) if kind == "rand" else None
        self._next = 0

    def start(self, count: int) -> int:
        """An index below *count*."""
        if count == 1:
            return 0
        if self._random is not None:
            return self._random.randrange(count)
        index = self._next % count
        self._next += 1
        return index
