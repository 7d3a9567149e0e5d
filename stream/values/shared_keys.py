"""Remembered keys of many owners, each of which has a share of the memory. Pure.

Note [Shares]: if there are too many keys, the project with the most keys is chosen, then the source
with the most keys in it, and the oldest key of this source is forgotten. This is repeated as
needed. So a source with less than an equal share keeps its keys, regardless of others. Comparing
the shares takes time in proportion to the number of sources, so a hundredth of the keys is
forgotten each time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import Generic, TypeVar

import attrs

__all__ = ["Owner", "SharedKeys"]

_AT_ONCE = 100

K = TypeVar("K", bound=Hashable)

Owner = tuple[int, Hashable]
"""Project and source."""


class _OwnKeys(Generic[K]):
    """The keys of one owner with their sizes, the oldest first, and the total size."""

    def __init__(self) -> None:
        self.sizes: dict[K, int] = {}
        self.bytes = 0


@attrs.define(eq=False)
class _Left(Generic[K]):
    """The keys of one owner that haven't been chosen yet while keys to forget are chosen.

    :ivar keys: keys with their sizes, the oldest first.
    """

    keys: Iterator[tuple[K, int]]
    count: int
    bytes: int


class SharedKeys(Generic[K]):
    """The keys of all owners; see Note [Shares].

    :param max_keys: maximum number of keys.
    :param max_bytes: maximum total size of the data that is remembered with the keys.
    """

    def __init__(self, max_keys: int, max_bytes: float = float("inf")) -> None:
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._owners: dict[Owner, _OwnKeys[K]] = {}
        self._count = 0
        self._bytes = 0
        self._newest: K | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, owner: Owner, key: K, size: int = 0) -> None:
        """Add a new key of *owner* as its newest one."""
        own = self._owners.setdefault(owner, _OwnKeys())
        own.sizes[key] = size
        own.bytes += size
        self._bytes += size
        self._count += 1
        self._newest = key

    def remove(self, owner: Owner, key: K) -> None:
        """Remove a key of *owner*."""
        own = self._owners[owner]
        size = own.sizes.pop(key)
        own.bytes -= size
        self._bytes -= size
        self._count -= 1
        if not own.sizes:
            del self._owners[owner]

    def surplus(self) -> list[K]:
        """Return the keys to forget; none if there aren't too many.

        The newest of all keys isn't among them, unless it is the only key.
        """
        if self._count <= self._max_keys and self._bytes <= self._max_bytes:
            return []
        if self._count == 1:
            return [key for own in self._owners.values() for key in own.sizes]
        return list(self._chosen())

    def _chosen(self) -> Iterator[K]:
        """Return keys to forget, so that a hundredth of the capacity becomes free."""
        count, size = self._count, self._bytes
        max_count = self._max_keys - self._max_keys // _AT_ONCE
        max_size = self._max_bytes * (1 - 1 / _AT_ONCE)
        # The heaps begin with the largest share. The numbers decide between equal shares.
        sources: dict[int, list[tuple[float, int, _Left[K]]]] = {}
        totals: dict[int, float] = {}
        for number, ((project_id, _), own) in enumerate(self._owners.items()):
            left = _Left(iter(own.sizes.items()), len(own.sizes), own.bytes)
            share = self._share(left)
            sources.setdefault(project_id, []).append((-share, number, left))
            totals[project_id] = totals.get(project_id, 0.0) + share
        projects = [(-total, project_id) for project_id, total in totals.items()]
        heapify(projects)
        for of_project in sources.values():
            heapify(of_project)
        while projects and (count > max_count or size > max_size):
            total, project_id = projects[0]
            of_project = sources[project_id]
            share, number, left = of_project[0]
            key, key_size = next(left.keys)
            left.count -= 1
            left.bytes -= key_size
            if key != self._newest:
                count -= 1
                size -= key_size
                yield key
            now = -self._share(left)
            if left.count:
                heapreplace(of_project, (now, number, left))
            else:
                heappop(of_project)
            if of_project:
                heapreplace(projects, (total - share + now, project_id))
            else:
                heappop(projects)

    def _share(self, left: _Left[K]) -> float:
        """Return the share of an owner in the keys or in the bytes, whichever is greater."""
        return max(left.count / self._max_keys, left.bytes / self._max_bytes)
