"""The layout of versioned definitions in etcd: live, deleted, and their history.

A live entity is written twice: under ``active`` and as the history record of its current version. A
deleted entity is moved to ``deleted`` and keeps its history. This module makes no decisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs

from stream.definition import prefix
from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.definition.mappings import load_sink_mapping, put_mapping
from stream.definition.stored import read_stored
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn
from stream.values.codec import encode

__all__ = ["SINKS", "SOURCES", "EntityStore"]

E = TypeVar("E", Source, Sink)

Key = SourceKey | SinkKey
Parent = BranchKey | SourceKey


@attrs.frozen
class EntityStore(Generic[E]):
    """The storage of one kind of definition.

    :ivar kind: class of the definitions.
    :ivar active: prefix of live definitions.
    :ivar deleted: prefix of deleted definitions.
    :ivar history: prefix of all versions.
    :ivar complete: adds the parts that are stored separately to an entity that was read.
    """

    kind: type[E]
    active: str
    deleted: str
    history: str
    complete: Callable[[AtomicTxn, E], Awaitable[E]]

    async def live(self, txn: AtomicTxn, key: Key) -> E | None:
        """Return the entity, if it exists and isn't deleted."""
        return await self._get(txn, f"{self.active}{key}")

    async def removed(self, txn: AtomicTxn, key: Key) -> E | None:
        """Return the entity, if it is deleted."""
        return await self._get(txn, f"{self.deleted}{key}")

    async def version(self, txn: AtomicTxn, key: Key, number: int) -> E | None:
        """Return one version of the entity."""
        return await self._get(txn, self.version_key(key, number))

    async def all_live(self, txn: AtomicTxn, parent: Parent) -> list[E]:
        """Return all live entities of *parent* by id. Large mappings of sinks aren't loaded."""
        return await self._range(txn, prefix.children(self.active, parent))

    async def all_removed(self, txn: AtomicTxn, parent: Parent) -> list[E]:
        """Return all deleted entities of *parent* by id. Large mappings of sinks aren't loaded."""
        return await self._range(txn, prefix.children(self.deleted, parent))

    async def count_live(self, txn: AtomicTxn, parent: Parent) -> int:
        """Return the number of live entities of *parent*."""
        return len(await txn.range(prefix.children(self.active, parent), track_deletes=False))

    def version_key(self, key: Key, number: int) -> str:
        """Return the etcd key of one version."""
        return f"{self.history}{key}/{prefix.version_text(number)}"

    def save(self, change: Change, entity: E) -> None:
        """Write *entity* under its prefix, and remove it from its previous prefix."""
        txn, key, data = change.txn, entity.key, encode(entity)
        if isinstance(entity, Sink):
            put_mapping(txn, entity.key, entity.table.mapping)
        if entity.deleted is not None:
            txn.put(f"{self.deleted}{key}", data)
            txn.delete(f"{self.active}{key}")
            return
        txn.put(f"{self.active}{key}", data)
        txn.put(self.version_key(key, entity.version.number), data)
        if entity.undeleted is not None and entity.undeleted.at == change.now:
            txn.delete(f"{self.deleted}{key}")

    def purge(self, change: Change, key: Key) -> None:
        """Remove every trace of one definition."""
        change.txn.delete(f"{self.active}{key}")
        change.txn.delete(f"{self.deleted}{key}")
        change.txn.delete_prefix(prefix.children(self.history, key))

    def purge_children(self, change: Change, parent: Parent) -> None:
        """Remove every trace of all definitions of *parent*."""
        for where in (self.active, self.deleted, self.history):
            change.txn.delete_prefix(prefix.children(where, parent))

    async def _get(self, txn: AtomicTxn, key: str) -> E | None:
        stored = await txn.get(key)
        return None if stored is None else await self.complete(txn, read_stored(self.kind, stored))

    async def _range(self, txn: AtomicTxn, where: str) -> list[E]:
        found = await txn.range(where, track_deletes=False)
        return [read_stored(self.kind, stored) for stored in found]


async def _nothing_more(txn: AtomicTxn, source: Source) -> Source:
    return source


SOURCES = EntityStore(
    Source,
    prefix.SOURCE_ACTIVE,
    prefix.SOURCE_DELETED,
    prefix.SOURCE_VERSION,
    _nothing_more,
)
SINKS = EntityStore(
    Sink, prefix.SINK_ACTIVE, prefix.SINK_DELETED, prefix.SINK_VERSION, load_sink_mapping
)
