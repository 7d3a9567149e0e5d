"""Changes of a source, as values for `stream.definition.change.making`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from stream.definition import lifecycle
from stream.definition.change.making import DefinitionChange
from stream.definition.entity import Sink, Source, SourceType
from stream.definition.key import SourceKey
from stream.definition.repository import Definitions
from stream.definition.size import AtLimit
from stream.definition.transaction import Change

__all__ = ["create", "delete", "disable", "enable", "purge", "roll_back", "undelete", "update"]


def create(
    key: SourceKey, *, type: SourceType, name: str, description: str, secret: str
) -> DefinitionChange[Source]:
    """Return the change that creates a source; see `Definitions.create_source`."""

    async def write(change: Change, definitions: Definitions) -> Source:
        new = lifecycle.new_source(
            key,
            type=type,
            name=name,
            description=description,
            secret=secret,
            at=change.now,
            by=change.by,
        )
        return await definitions.create_source(change, new)

    return DefinitionChange(key=key, write=write)


def update(
    key: SourceKey,
    description: str,
    patch: Callable[[Source], Source],
    *,
    at_limit: AtLimit = AtLimit.REFUSE,
) -> DefinitionChange[Source]:
    """Return the change that makes a new version of a source; see `Definitions.update_source`.

    :param at_limit: other than ``REFUSE`` only if *patch* adds no content.
    """
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.update_source(
            change, key, description, patch
        ),
        at_limit=at_limit,
    )


def roll_back(key: SourceKey, number: int) -> DefinitionChange[Source]:
    """Return the change that restores an older version; see `Definitions.rollback_source`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.rollback_source(change, key, number),
        at_limit=AtLimit.REPLACE,
    )


def disable(key: SourceKey) -> DefinitionChange[Source]:
    """Return the change that disables a source and its sinks; see `Definitions.disable_source`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.disable_source(change, key),
        at_limit=AtLimit.ALLOW,
    )


def enable(key: SourceKey) -> DefinitionChange[Source]:
    """Return the change that enables a source and its sinks; see `Definitions.enable_source`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.enable_source(change, key),
        at_limit=AtLimit.ALLOW,
    )


def delete(key: SourceKey) -> DefinitionChange[Source]:
    """Return the change that deletes a source and its sinks; see `Definitions.delete_source`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.delete_source(change, key),
        at_limit=AtLimit.ALLOW,
    )


def undelete(key: SourceKey) -> DefinitionChange[Source]:
    """Return the change that restores a source and its sinks; see `Definitions.undelete_source`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.undelete_source(change, key),
        at_limit=AtLimit.ALLOW,
    )


def purge(
    key: SourceKey, delete_tables: Callable[[Sequence[Sink]], Awaitable[None]]
) -> DefinitionChange[tuple[Source, list[Sink]]]:
    """Return the change that deletes a source for good; see `Definitions.purge_source`.

    Its sinks and their tables are deleted as well.

    :param delete_tables: called after the source is deleted; if it fails, the source isn't
        restored.
    """
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.purge_source(change, key),
        makes_tables=True,
        at_limit=AtLimit.ALLOW,
        after=lambda purged: delete_tables(purged[1]),
    )
