"""The bytes that the definitions of a project occupy in etcd, and their limit.

All projects share the database of etcd, whose size is limited (``--quota-backend-bytes``). When it
is full, no project can change anything, and no node can store a state. The other limits of
definitions are limits of numbers, and their product is far above any quota. So the bytes of each
project are counted and limited.

Note [Counted bytes]: the size of a project is the sum of the bytes of keys and values of its
sources and sinks, live and deleted, of all their versions, and of large mappings, in all branches.
The record ``definition/size/<project>`` contains the size. Each transaction that changes one of the
counted keys reads the record and puts it again, see `count_change`. So concurrent changes of a
project are conflicts, and anything that is read at the revision of the record is current if the
record is. A change therefore reads only what it replaces or deletes, and no conditions are needed
for these keys. Branches aren't counted: a project has at most a hundred, whose records are small.

Note [Small projects]: the size of a project with at most `UNCOUNTED_KEYS` keys isn't stored, since
it can't be near the limit. etcd counts the keys without reading them. Such projects contain exactly
what the original service stores.

Note [First count]: a project without the record, for example one that an earlier version of the
service has defined, is counted when it is changed and isn't small. `count_project` reads the
project page by page at one revision, and puts the record if it is as it was at that revision, and
no counted key is newer. If two nodes count at the same time, the transaction of one of them fails,
and its change continues with the record of the other. A deletion can't be recognised by a newer
key. So a change that only deletes counts a small project as well, and its record is then the
conflict.

Note [Written bytes]: etcd keeps what is replaced or deleted until its next compaction, by default
for 15 minutes. Many changes of a small project could therefore fill etcd as well. So the record
also contains the bytes that changes of definitions have written in the current quarter of an hour,
with the records of the files that they have opened and closed. At the limit, changes are refused
until the quarter of an hour is over. Only at twice the limit are changes refused that add no
content, for example disabling. A small project need not be counted: almost all of its changes add
keys.

Note [Drift]: during an upgrade, nodes of an earlier version change definitions and don't count
them, and an operator may change keys by hand. The record then differs from the true size. So the
coordinator counts each project again when the last count is a day old. The same happens to the
mapping of a sink that the original service has defined, which a file of the sink may store without
a change of the definition.

Note [Files of sinks]: the records of the files and slices of a sink take more space than its
definition, up to 220 KB. They are bounded for each sink, so the number of sinks of a project is
limited too. It is counted by etcd whenever sinks are created or undeleted. Concurrent changes on
several nodes may exceed it by a few sinks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from math import ceil

import attrs
from twisted.logger import Logger

from stream.definition import errors, prefix
from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.definition.stored import UnreadableRecord, read_stored
from stream.etcd import AtomicTxn, EtcdClient, KeyValue, atomic
from stream.values.bytesize import ByteSize
from stream.values.codec import Record, decode, encode, field
from stream.values.utctime import NO_TIME

__all__ = [
    "MAX_OPERATIONS",
    "SIZE",
    "UNCOUNTED_KEYS",
    "AtLimit",
    "DefinitionSize",
    "NoRoom",
    "NotCounted",
    "SizeLimit",
    "WriteFirst",
    "count_again",
    "count_change",
    "count_project",
    "counted_prefixes",
    "make_room",
    "projects_to_count",
    "stored_size",
]

_log = Logger()

SIZE = "definition/size/"
"""Sizes by project."""

UNCOUNTED_KEYS = 32
"""See Note [Small projects]. Their size is at most 16 MiB, which every limit must exceed."""

MAX_OPERATIONS = 128
"""Maximum number of operations in a transaction that etcd accepts by default."""

COUNTED_FOR = timedelta(days=1)
"""Age of a count after which the project is counted again."""

WRITTEN_PERIOD = timedelta(minutes=15)
"""See Note [Written bytes]; the period for which etcd keeps old revisions by default."""

_AT_ONCE = 50
"""Number of deleted objects that are checked for removable versions in one request."""

_REMOVED_AT_ONCE = 100
"""Maximum number of versions or mappings that one transaction removes."""

_COUNTED = (
    prefix.SOURCE_ACTIVE,
    prefix.SOURCE_DELETED,
    prefix.SOURCE_VERSION,
    prefix.SINK_ACTIVE,
    prefix.SINK_DELETED,
    prefix.SINK_VERSION,
    prefix.MAPPING,
)
_HISTORIES = (prefix.SOURCE_VERSION, prefix.SINK_VERSION)

InUse = Callable[[AtomicTxn, SinkKey], Awaitable[set[str]]]
"""Returns the hashes of the mappings to which the files of a sink refer."""


@attrs.frozen
class DefinitionSize(Record):
    """The stored size of the definitions of a project; see Note [Counted bytes].

    :ivar counted_at: when all definitions were last counted.
    :ivar written: bytes that were written since `written_since`; see Note [Written bytes].
    """

    bytes: int
    counted_at: datetime = NO_TIME
    written: int = field(default=0, omit_empty=True)
    written_since: datetime = NO_TIME

    def with_written(self, count: int, now: datetime) -> DefinitionSize:
        """Return the size after a change that writes *count* bytes.

        If the clock was set back, a new period begins.
        """
        if abs(now - self.written_since) >= WRITTEN_PERIOD:
            return attrs.evolve(self, written=count, written_since=now)
        return attrs.evolve(self, written=self.written + count)


@attrs.frozen
class SizeLimit:
    """The limit of the definitions of a project.

    :ivar most: maximum number of bytes.
    :ivar written: maximum number of bytes that are written within `WRITTEN_PERIOD`.
    :ivar sinks: maximum number of sinks that aren't deleted; see Note [Files of sinks].
    :ivar uncounted_keys: see Note [Small projects].
    """

    most: int
    written: int = 2**63
    sinks: int = 2**63
    uncounted_keys: int = UNCOUNTED_KEYS

    def check_written(self, size: DefinitionSize, at_limit: AtLimit, now: datetime) -> None:
        """Check the bytes that a project has written. Raises `TooManyChanges`."""
        factor = 2 if at_limit is AtLimit.ALLOW else 1
        if size.written > factor * self.written:
            seconds = (size.written_since + WRITTEN_PERIOD - now).total_seconds()
            raise errors.too_many_changes(factor * self.written, max(1, ceil(seconds)))


NO_LIMIT = SizeLimit(2**63)


class AtLimit(Enum):
    """What happens to a change that would exceed the limit.

    ``REFUSE``: it is refused. ``REPLACE``: its new version replaces as many of the oldest versions
    of the same object as are needed; it is refused if these aren't enough. ``ALLOW``: the same, but
    it is never refused. The change adds no content, so objects can't grow in this way.
    """

    REFUSE = "refuse"
    REPLACE = "replace"
    ALLOW = "allow"


class NotCounted(Exception):
    """The project must be counted first; see Note [First count]."""


@attrs.define
class WriteFirst(Exception):
    """The transaction has too many operations, so its mappings must be stored in an earlier one.

    A mapping may be stored before the sink that refers to it.
    """

    mappings: Mapping[str, bytes] = attrs.field(repr=False)


@attrs.define
class NoRoom(Exception):
    """The change would exceed the limit.

    :ivar size: current size in bytes.
    :ivar missing: number of bytes that must be removed first.
    """

    size: int
    missing: int

    def refusal(self, limit: SizeLimit) -> errors.DefinitionSizeLimitReached:
        """Return the error for the user."""
        size, most = ByteSize(self.size), ByteSize(limit.most)
        return errors.definition_size_limit_reached(size, self.missing, most)


def counted_prefixes(project_id: int) -> list[str]:
    """Return the prefixes of all counted keys of a project."""
    return [f"{where}{project_id}/" for where in _COUNTED]


async def stored_size(txn: AtomicTxn, project_id: int) -> DefinitionSize | None:
    """Return the stored size of a project, if it is counted. An unreadable size isn't used."""
    stored = await txn.get(f"{SIZE}{project_id}")
    try:
        return None if stored is None else read_stored(DefinitionSize, stored)
    except UnreadableRecord:
        return None


async def count_change(
    txn: AtomicTxn,
    project_id: int,
    now: datetime,
    limit: SizeLimit = NO_LIMIT,
    at_limit: AtLimit = AtLimit.ALLOW,
) -> Sequence[str]:
    """Add what *txn* writes to the size of the project, at the end of the transaction's body.

    Raises NotCounted, NoRoom or WriteFirst: nothing may be written before the exception is handled.

    :returns: old versions that the transaction no longer deletes, because it has too many
        operations; they must be deleted in a later one.
    """
    prefixes = counted_prefixes(project_id)
    puts, deletions = txn.puts(prefixes), txn.deletions(prefixes)
    if not puts and not deletions:
        return ()
    mappings = [key for key in puts if key.startswith(prefix.MAPPING)]
    keys = [key for key in (*puts, *deletions) if not key.endswith("/")]
    values = [key for key in keys if key not in mappings]
    old = await txn.peek([f"{SIZE}{project_id}", *values])
    size = await stored_size(txn, project_id)
    if size is None:
        if puts and await txn.count(prefixes) + len(puts) <= limit.uncounted_keys:
            return ()
        raise NotCounted
    sinks = f"{prefix.SINK_ACTIVE}{project_id}/"
    new_sinks = sum(key.startswith(sinks) and old[key] is None for key in puts)
    if new_sinks and await txn.count([sinks]) + new_sinks > limit.sinks:
        raise errors.project_sink_limit_reached(limit.sinks)
    known = await txn.existing(mappings) if mappings else set()
    change = sum(len(key) + len(value) for key, value in puts.items() if key not in known)
    change -= sum(_bytes_of(stored) for key in values if (stored := old[key]) is not None)
    change -= await _below(txn, [key for key in deletions if key.endswith("/")], keys)
    if change > 0 and size.bytes + change > limit.most:
        if at_limit is not AtLimit.REFUSE:
            new = [key for key in values if key in puts and old[key] is None]
            over = min(change, size.bytes + change - limit.most)
            change -= await _remove_oldest(txn, new, over)
        missing = size.bytes + change - limit.most
        if at_limit is not AtLimit.ALLOW and min(change, missing) > 0:
            raise NoRoom(size.bytes, missing)
    size = size.with_written(_bytes_of_puts(txn), now)
    _put_size(txn, project_id, size, change)
    if txn.size <= MAX_OPERATIONS:
        return ()
    unknown = {key: puts[key] for key in mappings if key not in known}
    if unknown:
        raise WriteFirst(unknown)
    for key in mappings:
        txn.drop(key)
    later = [key for key in deletions if key.startswith(_HISTORIES) and key in old]
    for key in later:
        txn.drop(key)
        change += 0 if (stored := old[key]) is None else _bytes_of(stored)
    _put_size(txn, project_id, size, change)
    return later


def _put_size(txn: AtomicTxn, project_id: int, size: DefinitionSize, change: int) -> None:
    new = attrs.evolve(size, bytes=max(0, size.bytes + change))
    txn.put(f"{SIZE}{project_id}", encode(new))


def _bytes_of_puts(txn: AtomicTxn) -> int:
    return sum(len(key) + len(value) for key, value in txn.puts([""]).items())


def _bytes_of(stored: KeyValue) -> int:
    return len(stored.key) + len(stored.value)


async def _below(txn: AtomicTxn, prefixes: Sequence[str], counted: Sequence[str]) -> int:
    """Return the bytes below *prefixes*, except the keys that are already *counted*."""
    done, size = set(counted), 0
    for where in prefixes:
        async for page in txn.pages(where):
            size += sum(_bytes_of(stored) for stored in page if stored.key not in done)
    return size


async def _remove_oldest(txn: AtomicTxn, new: Sequence[str], wanted: int) -> int:
    """Delete the oldest versions of the objects that get a *new* version.

    :param wanted: number of bytes after which no more versions are deleted.
    :returns: the number of deleted bytes.
    """
    removed, room = 0, MAX_OPERATIONS - txn.size - 1
    gone = set(txn.deletions(_HISTORIES))
    for version in (key for key in new if key.startswith(_HISTORIES)):
        history = version.rpartition("/")[0] + "/"
        async for page in txn.pages(history):
            for stored in page:
                if removed >= wanted or room <= 0:
                    return removed
                if stored.key not in gone:
                    txn.delete(stored.key)
                    removed += _bytes_of(stored)
                    room -= 1
    return removed


async def count_project(client: EtcdClient, project_id: int, now: datetime) -> int:
    """Count all definitions of a project, and store their size; see Note [First count].

    :returns: the difference between the size and the one that was stored.
    """

    async def count(txn: AtomicTxn) -> int:
        before = await stored_size(txn, project_id)
        size = 0
        for where in counted_prefixes(project_id):
            txn.require_unchanged(where)
            async for page in txn.pages(where):
                size += sum(map(_bytes_of, page))
        counted = attrs.evolve(before or DefinitionSize(0), bytes=size, counted_at=now)
        txn.put(f"{SIZE}{project_id}", encode(counted))
        return size - (0 if before is None else before.bytes)

    return await atomic(client, count)


async def projects_to_count(client: EtcdClient, now: datetime) -> list[int]:
    """Return the projects that must be counted again; see Note [Drift].

    If the clock was set back, the time of the last count may be in the future.
    """
    due = []
    for stored in (await client.range(SIZE)).kvs:
        project_id = stored.key.removeprefix(SIZE)
        try:
            is_due = abs(now - decode(DefinitionSize, stored.value).counted_at) >= COUNTED_FOR
        except ValueError:
            is_due = True
        if is_due and project_id.isdigit():
            due.append(int(project_id))
    return due


async def count_again(client: EtcdClient, project_id: int, *, now: datetime) -> bool:
    """Count a project again; return whether its stored size was correct."""
    difference = await count_project(client, project_id, now)
    if difference:
        _log.warn(
            "the size of the definitions of the project {project_id} was corrected by {bytes} "
            "bytes, because they were changed without being counted",
            project_id=project_id,
            bytes=difference,
        )
    return not difference


async def make_room(client: EtcdClient, project_id: int, missing: int, in_use: InUse) -> int:
    """Remove versions of deleted sources and sinks until *missing* bytes are removed.

    The deleted objects themselves remain, and can be undeleted. The oldest versions of an object
    are removed first. When a deleted sink has no versions, the mappings that only they needed are
    removed as well.

    :returns: the number of removed bytes; 0 if nothing can be removed.
    """
    removed = 0
    for deleted, history in (
        (prefix.SINK_DELETED, prefix.SINK_VERSION),
        (prefix.SOURCE_DELETED, prefix.SOURCE_VERSION),
    ):
        after, more = "", True
        while more and removed < missing:
            where = f"{deleted}{project_id}/"
            page = await client.range(where, limit=_AT_ONCE, start_after=after, keys_only=True)
            paths = [stored.key.removeprefix(deleted) for stored in page.kvs]
            for path in await _removable(client, history, paths):
                step = partial(_remove, project_id, deleted, history, path, in_use)
                while removed < missing:
                    some = await atomic(client, partial(step, missing - removed))
                    if not some:
                        break
                    removed += some
            more = page.more and bool(paths)
            after = paths[-1].partition("/")[2] if paths else ""
    return removed


async def _removable(client: EtcdClient, history: str, paths: Sequence[str]) -> list[str]:
    """Return the deleted objects with versions, or with a mapping that may be removable."""
    if not paths:
        return []
    versions = {path: f"{history}{path}/" for path in paths}
    are_sinks = history == prefix.SINK_VERSION
    mappings = {path: f"{prefix.MAPPING}{path}/" for path in paths if are_sinks}
    counts, _ = await client.count_many([*versions.values(), *mappings.values()])
    return [
        path
        for path in paths
        if counts[versions[path]] or (are_sinks and counts[mappings[path]] > 1)
    ]


async def _remove(
    project_id: int,
    deleted: str,
    history: str,
    path: str,
    in_use: InUse,
    wanted: int,
    txn: AtomicTxn,
) -> int:
    """Remove some versions of a deleted object, or its unused mappings; return their bytes."""
    stored = await txn.get(f"{deleted}{path}")
    size = await stored_size(txn, project_id)
    if stored is None or size is None:
        return 0
    removed = await _remove_some(txn, f"{history}{path}/", set(), wanted)
    if not removed and deleted == prefix.SINK_DELETED:
        try:
            sink = read_stored(Sink, stored)
            kept = {sink.table.mapping.hash, *await in_use(txn, sink.key)}
        except UnreadableRecord:
            return 0
        below = f"{prefix.MAPPING}{path}/"
        removed = await _remove_some(txn, below, {f"{below}{each}" for each in kept}, wanted)
    if removed:
        _put_size(txn, project_id, size, -removed)
    return removed


async def _remove_some(txn: AtomicTxn, below: str, kept: set[str], wanted: int) -> int:
    removed, count = 0, 0
    async for page in txn.pages(below):
        for stored in page:
            if removed >= wanted or count >= _REMOVED_AT_ONCE:
                return removed
            if stored.key not in kept:
                txn.delete(stored.key)
                removed += _bytes_of(stored)
                count += 1
    return removed
