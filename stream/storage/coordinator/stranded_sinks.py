"""Deletion of active sinks that an interrupted undeletion has left below a deleted source.

See Note [Stranded sinks] in `stream.definition.repository`.
"""

from __future__ import annotations

from functools import partial

from twisted.logger import Logger

from stream.definition.change.making import (
    Author,
    DefinitionChange,
    DefinitionChanges,
    NoReaders,
)
from stream.definition.entity import SYSTEM
from stream.definition.key import SinkKey, SourceKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.storage.coordinator.context import CoordinatorContext
from stream.target.registry import Targets
from stream.task.entity import LOCK_PREFIX

__all__ = ["StrandedSinks"]

_log = Logger()


class StrandedSinks:
    """Finds active sinks of deleted sources and deletes them."""

    def __init__(self, context: CoordinatorContext, targets: Targets) -> None:
        self._context = context
        self._changes = DefinitionChanges(
            context.client,
            context.repository,
            targets,
            context.now,
            locks=context.session,
            readers=NoReaders(),
        )

    def sources(self) -> list[SourceKey]:
        """Return the sources that, as far as this node knows, may have stranded sinks."""
        keys = {sink.key.source_key for sink in self._context.sinks.items.values()}
        return sorted(key for key in keys if self._context.source(key) is None)

    async def delete(self, source: SourceKey) -> bool:
        """Delete the stranded sinks of *source*.

        Returns False if there are none, or if a task is working on the source.
        """
        change = DefinitionChange(key=source, write=partial(_delete, source))
        deleted = await self._changes.make(change, Author(SYSTEM))
        if deleted:
            _log.warn(
                "deleted the sinks of the deleted source {source} again, because its undeletion "
                "was interrupted",
                source=str(source),
            )
        return bool(deleted)


async def _delete(source: SourceKey, change: Change, definitions: Definitions) -> list[SinkKey]:
    if await change.txn.get(f"{LOCK_PREFIX}{source}") is not None:
        return []
    return await definitions.delete_stranded_sinks(change, source)
