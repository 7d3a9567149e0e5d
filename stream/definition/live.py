"""Definitions in memory, for fast reads.

A watch updates them a few milliseconds after etcd changes. Three rules hide this delay. A
definition that isn't found here is read from etcd. A caller that learns of a finished change waits
until the change has arrived here (`LiveDefinitions.follow` for a change by this node, `settle` for
one by another node). While the node has lost its connection to etcd, nothing is answered from
memory.

Note [Late changes]: the wait for a change is limited, so a task may end before its change is in the
memory. Then all callers that learn of a finished change wait until the memory has caught up. For
this purpose the memory notes the highest revision that a wait has not reached in time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from twisted.application.service import Service
from twisted.internet.defer import TimeoutError, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.concurrency.together import together
from stream.definition import prefix
from stream.definition.entity import Branch, Sink, Source
from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.definition.mappings import with_mappings
from stream.definition.stored import UnreadableRecord, read_stored, warn_left_out
from stream.etcd import AtomicTxn, Batch, EtcdClient, KeyValue, Mirror, RangeResult, Session
from stream.values.backoff import Backoff

__all__ = ["Entry", "KnownPage", "LiveDefinitions"]

_log = Logger(namespace="stream.definition.live")

E = TypeVar("E", Branch, Source, Sink)

_FIRST_DELAY = 0.002
_PAGES = 16
"""Maximum number of cached pages of one list."""
_SETTLE_SECONDS = 2.0
"""Maximum time in seconds to wait for a change to arrive."""


class Entry(Generic[E]):
    """A definition that is decoded, and rendered, on first use.

    :ivar mod_revision: etcd revision of the last write.
    """

    __slots__ = ("_kind", "_shown", "_stored", "_value", "mod_revision")

    def __init__(self, kind: type[E], stored: KeyValue) -> None:
        self._kind: type[E] = kind
        self._stored = stored
        self._value: E | None = None
        self._shown: bytes | None = None
        self.mod_revision = stored.mod_revision

    @property
    def value(self) -> E:
        """The definition. Raises `UnreadableRecord`."""
        if self._value is None:
            self._value = read_stored(self._kind, self._stored)
        return self._value

    @property
    def is_readable(self) -> bool:
        """Return whether `value` can be decoded; if not, log the problem."""
        if self._value is None:
            try:
                self._value = read_stored(self._kind, self._stored)
            except UnreadableRecord as error:
                warn_left_out(error)
                return False
        return True

    @property
    def is_shown(self) -> bool:
        """Return whether `shown` has been called."""
        return self._shown is not None

    def replace(self, value: E) -> None:
        """Keep *value*, which is the same definition with the parts that are stored separately."""
        self._value = value

    def shown(self, show: Callable[[E], bytes]) -> bytes:
        """Return the definition as rendered by *show*; the result is cached."""
        if self._shown is None:
            self._shown = show(self.value)
        return self._shown


class KnownPage(Generic[E]):
    """A page of a list, rendered on first use.

    :ivar items: readable entries.
    :ivar total: number of entries on all pages.
    :ivar last: the last id on the page; empty if the page is empty.
    """

    __slots__ = ("_shown", "items", "last", "total")

    def __init__(self, items: tuple[Entry[E], ...], total: int, last: str) -> None:
        self.items: tuple[Entry[E], ...] = items
        self.total = total
        self.last = last
        self._shown: bytes | None = None

    def shown(self, show: Callable[[KnownPage[E]], bytes]) -> bytes:
        """Return the page as rendered by *show*; the result is cached."""
        if self._shown is None:
            self._shown = show(self)
        return self._shown


class LiveDefinitions(Service):
    """Definitions in memory.

    The Deferred of startService fires when everything is loaded.

    :param client: etcd client, already started.
    :param session: etcd session, already started; while it has no lease, the memory isn't used.
    """

    def __init__(self, reactor: Any, client: EtcdClient, session: Session) -> None:
        self._reactor = reactor
        self._client = client
        self._session = session
        self._sources_of = _Children()
        self._sinks_of = _Children()
        self._branches: Mirror[Entry[Branch]] = Mirror(
            client,
            prefix.BRANCH_ACTIVE,
            lambda stored: Entry(Branch, stored),
            on_change=self._branches_changed,
        )
        self._sources: Mirror[Entry[Source]] = Mirror(
            client,
            prefix.SOURCE_ACTIVE,
            lambda stored: Entry(Source, stored),
            on_change=self._sources_of.changed,
        )
        self._sinks: Mirror[Entry[Sink]] = Mirror(
            client,
            prefix.SINK_ACTIVE,
            lambda stored: Entry(Sink, stored),
            on_change=self._sinks_of.changed,
        )
        self._default_branches: dict[int, BranchKey] = {}
        self._late_revision = 0

    def _branches_changed(self, batch: Batch[Entry[Branch]]) -> None:
        if batch.reset:
            self._default_branches.clear()
        for change in batch.changes:
            entry = change.value or change.previous
            if entry is None or not entry.is_readable:
                continue
            key = entry.value.key
            if change.value is None:
                if self._default_branches.get(key.project_id) == key:
                    del self._default_branches[key.project_id]
            elif entry.value.is_default:
                self._default_branches[key.project_id] = key

    async def startService(self) -> None:
        super().startService()
        for mirror in (self._branches, self._sources, self._sinks):
            await mirror.startService()

    async def stopService(self) -> None:
        super().stopService()
        for mirror in (self._sinks, self._sources, self._branches):
            await mirror.stopService()

    @property
    def is_late(self) -> bool:
        """Whether changes may be missing that were waited for in vain; see Note [Late changes]."""
        return any(m.revision < self._late_revision for m in (self._sources, self._sinks))

    @property
    def _is_trusted(self) -> bool:
        return self._session.lease_id is not None

    def has_branch(self, key: BranchKey) -> bool:
        """Return whether the branch is in memory."""
        return self._is_trusted and f"{prefix.BRANCH_ACTIVE}{key}" in self._branches.items

    def default_branch(self, project_id: int) -> BranchKey | None:
        """Return the default branch of a project if it is in memory."""
        return self._default_branches.get(project_id) if self._is_trusted else None

    def source(self, key: SourceKey) -> Entry[Source] | None:
        """Return the live source if it is in memory and readable."""
        return self._find(self._sources, f"{prefix.SOURCE_ACTIVE}{key}")

    def _find(self, mirror: Mirror[Entry[E]], path: str) -> Entry[E] | None:
        entry = mirror.items.get(path) if self._is_trusted else None
        return entry if entry is not None and entry.is_readable else None

    def sink(self, key: SinkKey) -> Entry[Sink] | None:
        """Return the live sink of a live source if both are in memory and readable."""
        if self.source(key.source_key) is None:
            return None
        return self._find(self._sinks, f"{prefix.SINK_ACTIVE}{key}")

    def sources_page(self, branch: BranchKey, after: str, limit: int) -> KnownPage[Source] | None:
        """Return a page of live sources; ``None`` if it has to be read from etcd."""
        if not self._is_trusted:
            return None
        where = f"{prefix.SOURCE_ACTIVE}{branch}"
        return self._sources_of.page(self._sources.items, where, after, limit)

    def sinks_page(self, source: SourceKey, after: str, limit: int) -> KnownPage[Sink] | None:
        """Return a page of live sinks of a live source; ``None`` if it has to be read from etcd."""
        if self.source(source) is None:
            return None
        where = f"{prefix.SINK_ACTIVE}{source}"
        return self._sinks_of.page(self._sinks.items, where, after, limit)

    async def complete(self, entries: Sequence[Entry[Sink]]) -> Sequence[Entry[Sink]]:
        """Load the mappings of the sinks that weren't rendered yet.

        :returns: *entries* without those whose mapping is unreadable and those that have since been
            deleted for good.
        """
        unread = {
            entry.value.key: entry
            for entry in entries
            if not entry.is_shown and entry.value.table.mapping.content is None
        }
        if not unread:
            return entries
        for sink in await with_mappings(self._client, [each.value for each in unread.values()]):
            unread.pop(sink.key).replace(sink)
        return [entry for entry in entries if entry.value.key not in unread]

    async def follow(self, source: SourceKey, txn: AtomicTxn) -> None:
        """Wait until the memory contains what *txn*, which changed *source* or its sinks, wrote.

        If *txn* has written nothing, wait for the current state in etcd, because *txn* may have
        read what another change has written. The same applies if etcd didn't answer *txn*, because
        it is then unknown what *txn* has deleted.
        """
        changed = [
            mirror for mirror in (self._sources, self._sinks) if txn.has_changed(mirror.prefix)
        ]
        if not changed or txn.in_doubt:
            await self.settle(source)
            return
        arriving = ensureDeferred(_all_reached(changed, txn.written_at))
        try:
            await within(arriving, _SETTLE_SECONDS, self._reactor, "a change")
        except TimeoutError:
            self._is_slow(source, txn.written_at)

    def _is_slow(self, source: SourceKey, revision: int) -> None:
        self._late_revision = max(self._late_revision, revision)
        _log.warn("updates for {source} from etcd are delayed", source=str(source))

    async def settle(self, source: SourceKey) -> None:
        """Wait until the memory contains the state of a source and its sinks that etcd has.

        The caller's next read then finds an earlier change.
        """
        deadline = self._reactor.seconds() + _SETTLE_SECONDS
        backoff = Backoff(_FIRST_DELAY, _SETTLE_SECONDS)
        while revision := await self._missing(source):
            if self._reactor.seconds() >= deadline:
                self._is_slow(source, revision)
                return
            await deferLater(self._reactor, backoff.next())

    async def _missing(self, source: SourceKey) -> int:
        """Return the revision that the memory hasn't reached for this source; 0 if it has."""
        path = f"{prefix.SOURCE_ACTIVE}{source}"
        below = prefix.children(prefix.SINK_ACTIVE, source)
        stored, found = await together(
            self._client.read(path, keys_only=True), self._client.range(below, keys_only=True)
        )
        known = {path: self._sources.items[path]} if path in self._sources.items else {}
        keys = self._sinks_of.keys(below.rstrip("/"))
        if _is_caught_up(known, stored) and _is_caught_up(
            {key: self._sinks.items[key] for key in keys}, found
        ):
            return 0
        revision: int = max(stored.revision, found.revision)
        return revision


async def _all_reached(mirrors: Sequence[Mirror[Any]], revision: int) -> None:
    for mirror in mirrors:
        await mirror.reached(revision)


def _is_caught_up(known: Mapping[str, Entry[Any]], found: RangeResult) -> bool:
    """Return whether *known* is as new as *found*, or newer.

    It may be newer because other callers continue to make changes.
    """
    stored = {kv.key: kv.mod_revision for kv in found.kvs}
    return all(
        key in known and known[key].mod_revision >= revision for key, revision in stored.items()
    ) and all(key in stored or entry.mod_revision > found.revision for key, entry in known.items())


class _Children:
    """Keys by the key of their parent, in the order in which lists show them."""

    def __init__(self) -> None:
        self._keys: dict[str, set[str]] = {}
        self._sorted: dict[str, list[str]] = {}
        self._pages: dict[str, dict[tuple[str, int], KnownPage[Any]]] = {}

    def changed(self, batch: Batch[Any]) -> None:
        if batch.reset:
            self._keys.clear()
            self._sorted.clear()
            self._pages.clear()
        for change in batch.changes:
            of = change.key.rpartition("/")[0]
            self._pages.pop(of, None)
            if change.value is None:
                self._keys.get(of, set()).discard(change.key)
                if not self._keys.get(of):
                    self._keys.pop(of, None)
                self._sorted.pop(of, None)
            elif change.key not in self._keys.setdefault(of, set()):
                self._keys[of].add(change.key)
                self._sorted.pop(of, None)

    def keys(self, of: str) -> list[str]:
        """All keys below *of*, sorted by id."""
        if of not in self._keys:
            return []
        if of not in self._sorted:
            self._sorted[of] = sorted(self._keys[of])
        return self._sorted[of]

    def page(self, items: Mapping[str, Entry[E]], of: str, after: str, limit: int) -> KnownPage[E]:
        """Return a page of the entries below *of*.

        :param after: start after this id.
        """
        known = self._pages.get(of, {}).get((after, limit))
        if known is not None:
            return cast(KnownPage[E], known)
        keys = self.keys(of)
        start = bisect_right(keys, f"{of}/{after}") if after else 0
        shown = keys[start : start + limit]
        found = tuple(items[key] for key in shown if items[key].is_readable)
        page = KnownPage(found, len(keys), shown[-1].rpartition("/")[2] if shown else "")
        if keys:
            pages = self._pages.setdefault(of, {})
            if len(pages) >= _PAGES:
                pages.clear()
            pages[after, limit] = page
        return page
