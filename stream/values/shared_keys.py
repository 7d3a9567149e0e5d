"""Remembered keys of many owners, each with a share of the memory. Pure.

Note [Shares]: if there are too many keys, the oldest ones of the source that has the most are
forgotten, of the project that has the most. So a source with less than an equal share keeps its
keys, regardless of others. A hundredth of all is forgotten at once, but at most half of those of
the source: looking for it takes time in proportion to the number of sources.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["Owner", "SharedKeys"]

_AT_ONCE = 100

K = TypeVar("K", bound=Hashable)

Owner = tuple[int, Hashable]
"""Project and source."""


class _OwnKeys(Generic[K]):
    """The keys of one owner, the oldest first, with their sizes; and the total size."""

    def __init__(self) -> None:
        self.sizes: dict[K, int] = {}
        self.bytes = 0


class SharedKeys(Generic[K]):
    """The keys of all owners; see Note [Shares].

    :param max_keys: maximum number of keys.
    :param max_bytes: maximum size of what is remembered with them.
    """

    def __init__(self, max_keys: int, max_bytes: float = float("inf")) -> None:
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._owners: dict[Owner, _OwnKeys[K]] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def add(self, owner: Owner, key: K, size: int = 0) -> None:
        """Add the newest key of *owner*, which doesn't have it."""
        own = self._owners.setdefault(owner, _OwnKeys())
        own.sizes[key] = size
        own.bytes += size
        self._bytes += size
        self._count += 1

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
        """Return some keys to forget, the oldest first; none if there aren't too many."""
        if self._count <= self._max_keys and self._bytes <= self._max_bytes:
            return []
        projects: dict[int, float] = {}
        for (project_id, _), own in self._owners.items():
            projects[project_id] = projects.get(project_id, 0) + self._share(own)
        most = max(self._owners, key=lambda o: (projects[o[0]], self._share(self._owners[o])))
        keys = self._owners[most].sizes
        count = min(1 + self._max_keys // _AT_ONCE, max(1, len(keys) // 2))
        return list(islice(keys, count))

    def _share(self, own: _OwnKeys[K]) -> float:
        """Return the share of an owner in the keys, or in the bytes if that is greater."""
        return max(len(own.sizes) / self._max_keys, own.bytes / self._max_bytes)
