"""All changes of branches, sources and sinks, made within a running transaction.

The methods read definitions, check limits, decide which version a change makes and how it affects
children, and write the result. They notify `SinkHooks` of changes of sinks before the new
definition is written, so that files are opened and closed in the same transaction. The methods call
no other service, so the body of an atomic operation that uses them can run again.

Note [Pieces]: a change of a source also changes its sinks, and many sinks need more operations than
etcd accepts in one transaction. So sinks are changed first, as many as fit into each transaction,
and the source is changed with the last of them. The size is estimated from earlier sinks: the next
one is expected to need as many operations and bytes as the largest so far. The caller commits a
piece and repeats the call until `Definitions.unfinished` is false. If these repetitions are
interrupted, the source is unchanged, and the change can be finished later by repeating the call.

Note [Stranded sinks]: an interrupted undeletion leaves live sinks below a deleted source. They get
no records, because the source is unknown. Repeating the undeletion finishes it. Otherwise the sinks
are deleted again: by a cleanup when no task works on the source, or when a source with the same id
is created. The cleanup can't finish the undeletion, because the files of the sinks need the user's
token. The source can't be undeleted first, because it would accept records that the remaining sinks
don't get.

Note [Old versions]: at the limit of versions, an update is refused. Other changes also make
versions: a rollback, disabling, enabling, and creating or restoring what was deleted. They must
remain possible, so each of them removes the oldest version. Otherwise a loop of such changes could
fill etcd. The mapping of a removed version is kept like that of any other version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs

from stream.definition import errors, lifecycle, prefix
from stream.definition.entity import Branch, Created, Sink, Source
from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.definition.mappings import check_mapping_size
from stream.definition.slug import MAX_ID_LENGTH
from stream.definition.store import SINKS, SOURCES, EntityStore
from stream.definition.stored import read_stored
from stream.definition.transaction import Change, NoHooks, SinkHooks
from stream.errors import UserError
from stream.values.codec import encode

__all__ = [
    "MAX_BRANCHES",
    "MAX_DEFINITION_BYTES",
    "MAX_ID_LENGTH",
    "MAX_SINKS",
    "MAX_SOURCES",
    "MAX_VERSIONS",
    "Definitions",
]

E = TypeVar("E", Source, Sink)

MAX_BRANCHES = 100
"""Maximum number of branches in a project."""
MAX_SOURCES = 100
"""Maximum number of live sources in a branch."""
MAX_SINKS = 100
"""Maximum number of live sinks of a source."""
MAX_VERSIONS = 1000
"""Maximum number of versions of a source or sink; see Note [Old versions]."""
MAX_OPERATIONS = 110
"""Maximum number of operations in a transaction that changes several sinks.

etcd accepts 128 by default, and the change of the source comes in addition.
"""
MAX_BYTES = 1024 * 1024
"""Maximum size of such a transaction in bytes; etcd accepts 1.5 MiB by default."""
MAX_DEFINITION_BYTES = 64 * 1024
"""Maximum size of the JSON of a source, or of a sink without its mapping, when it is changed."""


@attrs.frozen
class _Size:
    """The size of a transaction, in operations and bytes."""

    operations: int
    bytes: int

    def since(self, before: _Size) -> _Size:
        return _Size(self.operations - before.operations, self.bytes - before.bytes)

    def at_least(self, other: _Size) -> _Size:
        return _Size(max(self.operations, other.operations), max(self.bytes, other.bytes))

    def has_room(self, more: _Size) -> bool:
        return (
            self.operations + more.operations <= MAX_OPERATIONS
            and self.bytes + more.bytes <= MAX_BYTES
        )


class Definitions:
    """Changes branches, sources and sinks within one transaction.

    :param hooks: called when sinks change.

    :ivar unfinished: whether the change must be committed and repeated; see Note [Pieces].
    """

    def __init__(self, hooks: SinkHooks | None = None) -> None:
        self._hooks: SinkHooks = hooks or NoHooks()
        self.unfinished = False
        self._before: _Size | None = None
        self._largest = _Size(0, 0)

    # Branches.

    async def branch(self, change: Change, key: BranchKey) -> Branch:
        """Return a branch. Raises `DefinitionNotFound`."""
        stored = await change.txn.get(f"{prefix.BRANCH_ACTIVE}{key}")
        if stored is None:
            raise errors.branch_not_found(key)
        return read_stored(Branch, stored)

    async def create_branch(
        self, change: Change, key: BranchKey, *, is_default: bool, name: str = ""
    ) -> Branch:
        """Return the branch *key*; record it if it is new. Raises `CountLimitReached`."""
        known = await change.txn.range(
            f"{prefix.BRANCH_ACTIVE}{key.project_id}/", track_deletes=False
        )
        path = f"{prefix.BRANCH_ACTIVE}{key}"
        for stored in known:
            if stored.key == path:
                return read_stored(Branch, stored)
        if len(known) >= MAX_BRANCHES:
            raise errors.branch_limit_reached(MAX_BRANCHES)
        branch = Branch(
            key=key, created=Created(change.now, change.by), is_default=is_default, name=name
        )
        change.txn.put(path, encode(branch))
        return branch

    # Sources.

    async def source(self, change: Change, key: SourceKey) -> Source:
        """Return the live source. Raises `DefinitionNotFound`."""
        source = await SOURCES.live(change.txn, key)
        if source is None:
            raise errors.source_not_found(key)
        return source

    async def create_source(self, change: Change, new: Source) -> Source:
        """Store *new*, made by `lifecycle.new_source`; continue the versions of a deleted source.

        Raises `DefinitionExists` or `CountLimitReached`.
        """
        _check_id("source", new.key.source_id)
        await change.txn.load(
            [f"{SOURCES.active}{new.key}", f"{SOURCES.deleted}{new.key}"],
            [prefix.children(SOURCES.active, new.key.branch_key)],
        )
        if await SOURCES.live(change.txn, new.key) is not None:
            raise errors.source_exists(new.key)
        await self._check_source_count(change, new.key.branch_key)
        deleted = await SOURCES.removed(change.txn, new.key)
        if deleted is not None:
            await self.delete_stranded_sinks(change, new.key)
            if self.unfinished:
                return new
            new = lifecycle.revive(new, deleted, change.now, change.by)
        _check_size("source", new)
        _save(SOURCES, change, new)
        return new

    async def update_source(
        self, change: Change, key: SourceKey, description: str, patch: Callable[[Source], Source]
    ) -> Source:
        """Make a new version of a source, even if *patch* changes nothing.

        :param description: description of the version.
        :param patch: returns the new content, given the current content.
        """
        source = await self.source(change, key)
        _check_version_count("source", source)
        updated = lifecycle.next_version(patch(source), description, change.now, change.by)
        _check_size("source", updated)
        _save(SOURCES, change, updated)
        return updated

    async def rollback_source(self, change: Change, key: SourceKey, number: int) -> Source:
        """Make the content of version *number* the newest version."""
        source = await self.source(change, key)
        target = await SOURCES.version(change.txn, key, number)
        if target is None:
            raise errors.source_version_not_found(key, number)
        rolled_back = lifecycle.rollback(source, target, change.now, change.by)
        _save(SOURCES, change, rolled_back)
        return rolled_back

    async def disable_source(self, change: Change, key: SourceKey) -> Source:
        """Disable a source and its enabled sinks; do nothing if the source is already disabled."""
        source = await self.source(change, key)
        if source.disabled is not None:
            return source
        disabled = lifecycle.disable(
            source, change.now, change.by, directly=True, reason=lifecycle.DISABLED_BY_API
        )
        sinks = [sink for sink in await SINKS.all_live(change.txn, key) if sink.disabled is None]
        for sink in sinks:
            if self._is_full(change):
                return source
            with_parent = lifecycle.disable(
                sink,
                change.now,
                change.by,
                directly=False,
                reason=lifecycle.DISABLED_WITH_SOURCE,
            )
            await self._save_sink(change, disabled, sink, with_parent)
        return self._new_source_version(change, disabled, "Disabled.")

    async def enable_source(self, change: Change, key: SourceKey) -> Source:
        """Enable a source and the sinks that were disabled with it."""
        source = await self.source(change, key)
        if source.disabled is None or not source.disabled.directly:
            return source
        enabled = lifecycle.enable(source, change.now, change.by)
        for sink in await SINKS.all_live(change.txn, key):
            if sink.disabled is not None and not sink.disabled.directly:
                if self._is_full(change):
                    return source
                with_parent = lifecycle.enable(sink, change.now, change.by)
                await self._save_sink(change, enabled, sink, with_parent)
        return self._new_source_version(change, enabled, "Enabled.")

    async def delete_source(self, change: Change, key: SourceKey) -> Source:
        """Delete a source and its live sinks, so that it can be undeleted."""
        source = await self.source(change, key)
        deleted = lifecycle.delete(source, change.now, change.by, directly=True)
        for sink in await SINKS.all_live(change.txn, key):
            if self._is_full(change):
                return source
            with_parent = lifecycle.delete(sink, change.now, change.by, directly=False)
            await self._save_sink(change, deleted, sink, with_parent)
        _save(SOURCES, change, deleted)
        return deleted

    async def purge_source(self, change: Change, key: SourceKey) -> tuple[Source, list[Sink]]:
        """Delete a source and its sinks for good, with their history.

        Returns the source and all its sinks: live ones first, then those deleted before. If the
        change needs several pieces, each piece deletes live sinks, and the last one removes
        everything else.
        """
        source = await self.source(change, key)
        live = await SINKS.all_live(change.txn, key)
        removed = await SINKS.all_removed(change.txn, key)
        for sink in live:
            if self._is_full(change):
                return source, [*live, *removed]
            deleted = lifecycle.delete(sink, change.now, change.by, directly=False)
            await self._save_sink(change, source, sink, deleted)
        SINKS.purge_children(change, key)
        SOURCES.purge(change, key)
        return source, [*live, *removed]

    async def undelete_source(self, change: Change, key: SourceKey) -> Source:
        """Restore a deleted source and the sinks that were deleted with it."""
        deleted = await SOURCES.removed(change.txn, key)
        if deleted is None or deleted.deleted is None:
            raise errors.deleted_source_not_found(key)
        if not deleted.deleted.directly:
            return deleted
        await self._check_source_count(change, key.branch_key)
        description = f'Undeleted to version "{deleted.version.number}".'
        source = lifecycle.undelete(deleted, change.now, change.by)
        for sink in await SINKS.all_removed(change.txn, key):
            if sink.deleted is not None and not sink.deleted.directly:
                if self._is_full(change):
                    return deleted
                with_parent = lifecycle.undelete(sink, change.now, change.by)
                await self._save_sink(change, source, sink, with_parent)
        return self._new_source_version(change, source, description)

    async def delete_stranded_sinks(self, change: Change, key: SourceKey) -> list[SinkKey]:
        """Delete the live sinks of a deleted source; see Note [Stranded sinks].

        Returns the sinks deleted in this piece; none if the source is live.
        """
        source = await SOURCES.removed(change.txn, key)
        if source is None:
            return []
        stranded: list[SinkKey] = []
        for sink in await SINKS.all_live(change.txn, key):
            if self._is_full(change):
                break
            deleted = lifecycle.delete(sink, change.now, change.by, directly=False)
            await self._save_sink(change, source, sink, deleted)
            stranded.append(sink.key)
        return stranded

    def _is_full(self, change: Change) -> bool:
        """Return whether the remaining sinks must wait for the next transaction; see Note [Pieces].

        It is called before each sink; the first sink always fits.
        """
        size = _Size(change.txn.size, change.txn.bytes)
        if self._before is not None:
            self._largest = self._largest.at_least(size.since(self._before))
            self.unfinished = not size.has_room(self._largest)
        self._before = size
        return self.unfinished

    def _new_source_version(self, change: Change, source: Source, description: str) -> Source:
        source = lifecycle.next_version(source, description, change.now, change.by)
        _save(SOURCES, change, source)
        return source

    async def _check_source_count(self, change: Change, branch: BranchKey) -> None:
        if await SOURCES.count_live(change.txn, branch) >= MAX_SOURCES:
            raise errors.source_limit_reached(MAX_SOURCES)

    # Sinks.

    async def sink(self, change: Change, key: SinkKey) -> Sink:
        """Return the live sink. Raises `DefinitionNotFound`."""
        sink = await SINKS.live(change.txn, key)
        if sink is None:
            raise errors.sink_not_found(key)
        return sink

    async def create_sink(self, change: Change, new: Sink) -> Sink:
        """Store *new*, made by `lifecycle.new_sink`; continue the versions of a deleted sink.

        Raises `DefinitionNotFound` if there is no such source, `DefinitionExists` or
        `CountLimitReached`.
        """
        _check_id("sink", new.key.sink_id)
        _check_mapping(new)
        await change.txn.load(
            [
                f"{SOURCES.active}{new.key.source_key}",
                f"{SINKS.active}{new.key}",
                f"{SINKS.deleted}{new.key}",
            ],
            [prefix.children(SINKS.active, new.key.source_key), *self._hooks.reads(new.key)],
        )
        source = await self.source(change, new.key.source_key)
        if await SINKS.live(change.txn, new.key) is not None:
            raise errors.sink_exists(new.key)
        await self._check_sink_count(change, source.key)
        deleted = await SINKS.removed(change.txn, new.key)
        if deleted is not None:
            new = lifecycle.revive(new, deleted, change.now, change.by)
        _check_size("sink", new)
        await self._save_sink(change, source, deleted, new)
        return new

    async def update_sink(
        self, change: Change, key: SinkKey, description: str, patch: Callable[[Sink], Sink]
    ) -> Sink:
        """Make a new version of a sink, even if *patch* changes nothing.

        :param description: description of the version.
        :param patch: returns the new content, given the current content.
        """
        await self._load(change, key)
        sink = await self.sink(change, key)
        _check_version_count("sink", sink)
        patched = patch(sink)
        _check_mapping(patched)
        source = await self.source(change, key.source_key)
        updated = lifecycle.next_version(patched, description, change.now, change.by)
        _check_size("sink", updated)
        await self._save_sink(change, source, sink, updated)
        return updated

    async def rollback_sink(self, change: Change, key: SinkKey, number: int) -> Sink:
        """Make the content of version *number* the newest version."""
        await self._load(change, key)
        source = await self.source(change, key.source_key)
        sink = await self.sink(change, key)
        target = await SINKS.version(change.txn, key, number)
        if target is None:
            raise errors.sink_version_not_found(key, number)
        rolled_back = lifecycle.rollback(sink, target, change.now, change.by)
        await self._save_sink(change, source, sink, rolled_back)
        return rolled_back

    async def disable_sink(self, change: Change, key: SinkKey) -> Sink:
        """Disable a sink; do nothing if it is already disabled."""
        await self._load(change, key)
        sink = await self.sink(change, key)
        if sink.disabled is not None:
            return sink
        disabled = lifecycle.disable(
            sink, change.now, change.by, directly=True, reason=lifecycle.DISABLED_BY_API
        )
        return await self._new_sink_version(change, sink, disabled, "Disabled.")

    async def enable_sink(self, change: Change, key: SinkKey) -> Sink:
        """Enable a sink. A sink disabled with its source can only be enabled with the source."""
        await self._load(change, key)
        sink = await self.sink(change, key)
        if sink.disabled is None or not sink.disabled.directly:
            return sink
        enabled = lifecycle.enable(sink, change.now, change.by)
        return await self._new_sink_version(change, sink, enabled, "Enabled.")

    async def delete_sink(self, change: Change, key: SinkKey) -> Sink:
        """Delete a sink, so that it can be undeleted."""
        await self._load(change, key)
        source = await self.source(change, key.source_key)
        sink = await self.sink(change, key)
        deleted = lifecycle.delete(sink, change.now, change.by, directly=True)
        await self._save_sink(change, source, sink, deleted)
        return deleted

    async def undelete_sink(self, change: Change, key: SinkKey) -> Sink:
        """Restore a deleted sink. A sink deleted with its source is only restored with it."""
        source = await self.source(change, key.source_key)
        deleted = await SINKS.removed(change.txn, key)
        if deleted is None or deleted.deleted is None:
            raise errors.deleted_sink_not_found(key)
        if not deleted.deleted.directly:
            return deleted
        await self._check_sink_count(change, source.key)
        sink = lifecycle.undelete(deleted, change.now, change.by)
        description = f'Undeleted to version "{deleted.version.number}".'
        return await self._new_sink_version(change, deleted, sink, description)

    async def _load(self, change: Change, key: SinkKey) -> None:
        """Read everything that a change of a sink needs, in one round trip."""
        await change.txn.load(
            [f"{SOURCES.active}{key.source_key}", f"{SINKS.active}{key}"], self._hooks.reads(key)
        )

    async def sinks(self, change: Change, key: SourceKey) -> Sequence[Sink]:
        """Return all live sinks of a source, sorted by id."""
        return await SINKS.all_live(change.txn, key)

    async def _new_sink_version(
        self, change: Change, old: Sink, new: Sink, description: str
    ) -> Sink:
        source = await self.source(change, old.key.source_key)
        new = lifecycle.next_version(new, description, change.now, change.by)
        await self._save_sink(change, source, old, new)
        return new

    async def _save_sink(self, change: Change, source: Source, old: Sink | None, new: Sink) -> None:
        await self._tell(change, source, old, new)
        _save(SINKS, change, new)

    async def _tell(self, change: Change, source: Source, old: Sink | None, new: Sink) -> None:
        """Call the hooks for the change from *old* to *new*.

        Only an enabled sink has an open file. So only the file of an enabled sink is rotated, and
        an undeleted sink that is still disabled gets no file.
        """
        was_active, is_active = lifecycle.is_active(old), lifecycle.is_active(new)
        if is_active and not was_active:
            await self._hooks.sink_activated(change, source, new)
        elif was_active and not is_active:
            await self._hooks.sink_deactivated(change, new)
        elif is_active and old != new:
            await self._hooks.sink_modified(change, source, new)
        if new.deleted is not None and (old is None or old.deleted is None):
            await self._hooks.sink_deleted(change, new)

    async def _check_sink_count(self, change: Change, source: SourceKey) -> None:
        if await SINKS.count_live(change.txn, source) >= MAX_SINKS:
            raise errors.sink_limit_reached(MAX_SINKS)


def _save(store: EntityStore[E], change: Change, entity: E) -> None:
    """Write *entity*; see Note [Old versions]."""
    store.save(change, entity)
    oldest = entity.version.number - MAX_VERSIONS
    if oldest > 0:
        change.txn.delete(store.version_key(entity.key, oldest))


def _check_id(of: str, made: str) -> None:
    # An id that was made from a name or another id can be longer than that.
    if len(made) > MAX_ID_LENGTH:
        raise UserError(f'the {of} id "{made}" is longer than {MAX_ID_LENGTH} characters')


def _check_size(of: str, entity: Source | Sink) -> None:
    size = len(encode(entity))
    if size > MAX_DEFINITION_BYTES:
        raise UserError(
            f"the definition of the {of} is too large: its JSON is {size} bytes, and the limit is "
            f"{MAX_DEFINITION_BYTES} bytes",
            name="definitionTooLarge",
            detail="use shorter descriptions and settings",
        )


def _check_mapping(sink: Sink) -> None:
    sink.table.mapping.mapping.validate()
    check_mapping_size(sink.table.mapping.mapping)


def _check_version_count(of: str, entity: Source | Sink) -> None:
    # Version numbers have no gaps, and only versions above the limit are removed.
    if entity.version.number >= MAX_VERSIONS:
        raise errors.version_limit_reached(of, MAX_VERSIONS)
