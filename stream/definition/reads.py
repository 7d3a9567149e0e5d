"""Reading definitions outside of changes: single ones, and pages of lists.

Sinks are returned without the contents of large mappings; `DefinitionReads.with_mapping` and
`with_mappings` add them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import attrs

from stream.definition import errors, prefix
from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.definition.mappings import with_mapping, with_mappings
from stream.definition.store import SINKS, SOURCES, EntityStore
from stream.definition.stored import read_stored, readable
from stream.etcd import EtcdClient, RangeResult

__all__ = ["DefinitionReads", "Page", "padded"]

E = TypeVar("E", Source, Sink)

_VERSION_DIGITS = len(prefix.version_text(0))


@attrs.frozen
class Page(Generic[E]):
    """A page of a list.

    :ivar items: readable entries.
    :ivar total: number of entries on all pages; for versions, the number from the start of this
        page.
    :ivar last: the last id or number on the page; empty if the page is empty.
    """

    items: tuple[E, ...]
    total: int
    last: str


def padded(version: str) -> str:
    """Return the number of a version in the form used in keys; an empty string stays empty."""
    return version.rjust(_VERSION_DIGITS, "0") if version else ""


class DefinitionReads:
    """Reads definitions from etcd.

    :param client: etcd client, already started.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def find_source(self, key: SourceKey) -> Source | None:
        """Return the live source, if it exists."""
        return await self._get(Source, f"{SOURCES.active}{key}", key.source_id)

    async def source(self, key: SourceKey) -> Source:
        """Return the live source. Raises `DefinitionNotFound`."""
        source = await self.find_source(key)
        if source is None:
            raise errors.source_not_found(key)
        return source

    async def deleted_source(self, key: SourceKey) -> Source:
        """Return the deleted source. Raises `DefinitionNotFound`."""
        source = await self._get(Source, f"{SOURCES.deleted}{key}", key.source_id)
        if source is None:
            raise errors.deleted_source_not_found(key)
        return source

    async def find_sink(self, key: SinkKey) -> Sink | None:
        """Return the live sink, if it exists."""
        return await self._get(Sink, f"{SINKS.active}{key}", key.source_id, key.sink_id)

    async def sink(self, key: SinkKey) -> Sink:
        """Return the live sink. Raises `DefinitionNotFound`."""
        sink = await self.find_sink(key)
        if sink is None:
            raise errors.sink_not_found(key)
        return sink

    async def sink_in_source(self, key: SinkKey) -> Sink:
        """Return the live sink of a live source.

        Raises DefinitionNotFound: the source or the sink is missing; the source is checked first.
        """
        if "/" in key.source_id or "/" in key.sink_id:
            raise errors.source_not_found(key.source_key)
        source, sink = f"{SOURCES.active}{key.source_key}", f"{SINKS.active}{key}"
        found, _ = await self._client.get_many([source, sink])
        if found[source] is None:
            raise errors.source_not_found(key.source_key)
        stored = found[sink]
        if stored is None:
            raise errors.sink_not_found(key)
        return read_stored(Sink, stored)

    async def deleted_sink(self, key: SinkKey) -> Sink:
        """Return the deleted sink. Raises `DefinitionNotFound`."""
        sink = await self._get(Sink, f"{SINKS.deleted}{key}", key.source_id, key.sink_id)
        if sink is None:
            raise errors.deleted_sink_not_found(key)
        return sink

    async def source_version(self, key: SourceKey, number: int) -> Source:
        """Return a version of a source. Raises `DefinitionNotFound`."""
        version = await self._get(Source, SOURCES.version_key(key, number), key.source_id)
        if version is None:
            raise errors.source_version_not_found(key, number)
        return version

    async def sink_version(self, key: SinkKey, number: int) -> Sink:
        """Return a version of a sink. Raises `DefinitionNotFound`."""
        version = await self._get(Sink, SINKS.version_key(key, number), key.source_id, key.sink_id)
        if version is None:
            raise errors.sink_version_not_found(key, number)
        return version

    async def sinks(self, key: SourceKey) -> list[Sink]:
        """Return all readable live sinks of a source, sorted by id."""
        found = await self._client.range(prefix.children(SINKS.active, key))
        return [sink for _, sink in readable(Sink, found.kvs)]

    async def with_mappings(self, sinks: Sequence[Sink]) -> list[Sink]:
        """Return *sinks* with their mappings loaded; sinks whose mapping is missing are skipped."""
        return await with_mappings(self._client, sinks)

    async def with_mapping(self, sink: Sink) -> Sink:
        """Return *sink* with its mapping loaded.

        Raises DefinitionNotFound: the sink was deleted for good after it was read. Raises
        UnreadableRecord: its mapping is unreadable.
        """
        return await with_mapping(self._client, sink)

    async def sources_page(
        self, branch: BranchKey, after: str, limit: int, *, deleted: bool = False
    ) -> Page[Source]:
        """Return a page of the sources of a branch, in the order of their ids.

        :param after: start after this id.
        """
        return await self._page(SOURCES, branch, after, limit, deleted)

    async def sinks_page(
        self, source: SourceKey, after: str, limit: int, *, deleted: bool = False
    ) -> Page[Sink]:
        """Return a page of the sinks of a source, in the order of their ids.

        :param after: start after this id.
        """
        return await self._page(SINKS, source, after, limit, deleted)

    async def source_versions_page(self, key: SourceKey, after: str, limit: int) -> Page[Source]:
        """Return a page of the versions of a source, in their order.

        :param after: start after this number.
        """
        return await self._versions_page(SOURCES, key, after, limit)

    async def sink_versions_page(self, key: SinkKey, after: str, limit: int) -> Page[Sink]:
        """Return a page of the versions of a sink, in their order.

        :param after: start after this number.
        """
        return await self._versions_page(SINKS, key, after, limit)

    async def _page(
        self,
        store: EntityStore[E],
        parent: BranchKey | SourceKey,
        after: str,
        limit: int,
        deleted: bool,
    ) -> Page[E]:
        where = prefix.children(store.deleted if deleted else store.active, parent)
        found = await self._client.range(where, limit=limit, start_after=after)
        total = found.count
        if after:
            # The count of a range with a later start doesn't include the keys before it. So all
            # keys are counted, at the same revision.
            whole = await self._client.range(
                where, limit=1, revision=found.revision, keys_only=True
            )
            total = whole.count
        return _page(store, found, total)

    async def _versions_page(
        self, store: EntityStore[E], key: SourceKey | SinkKey, after: str, limit: int
    ) -> Page[E]:
        where = prefix.children(store.history, key)
        found = await self._client.range(where, limit=limit, start_after=padded(after))
        return _page(store, found, found.count)

    async def _get(self, kind: type[E], path: str, *ids: str) -> E | None:
        # An id that contains a slash would name another key.
        if any("/" in part for part in ids):
            return None
        stored = await self._client.get(path)
        return None if stored is None else read_stored(kind, stored)


def _page(store: EntityStore[E], found: RangeResult, total: int) -> Page[E]:
    last = found.kvs[-1].key.rpartition("/")[2] if found.kvs else ""
    return Page(tuple(item for _, item in readable(store.kind, found.kvs)), total, last)
