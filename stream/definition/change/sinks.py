"""Changes of a sink, as values for `stream.definition.change.making`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stream.definition import lifecycle
from stream.definition.change.making import DefinitionChange
from stream.definition.entity import Sink, TableSink
from stream.definition.key import SinkKey
from stream.definition.repository import Definitions
from stream.definition.size import AtLimit
from stream.definition.transaction import Change

__all__ = ["create", "delete", "disable", "enable", "roll_back", "undelete", "update"]


def create(
    key: SinkKey, *, name: str, description: str, allowed_signals: Sequence[str], table: TableSink
) -> DefinitionChange[Sink]:
    """Return the change that creates a sink with its first file; see `Definitions.create_sink`."""

    async def write(change: Change, definitions: Definitions) -> Sink:
        new = lifecycle.new_sink(
            key,
            name=name,
            description=description,
            allowed_signals=tuple(allowed_signals),
            table=table,
            at=change.now,
            by=change.by,
        )
        return await definitions.create_sink(change, new)

    return DefinitionChange(key=key, write=write, makes_tables=True)


def update(
    key: SinkKey, description: str, patch: Callable[[Sink], Sink], *, makes_tables: bool
) -> DefinitionChange[Sink]:
    """Return the change that makes a new version of a sink; see `Definitions.update_sink`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.update_sink(change, key, description, patch),
        makes_tables=makes_tables,
    )


def roll_back(key: SinkKey, number: int) -> DefinitionChange[Sink]:
    """Return the change that restores an older version; see `Definitions.rollback_sink`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.rollback_sink(change, key, number),
        at_limit=AtLimit.REPLACE,
    )


def disable(key: SinkKey) -> DefinitionChange[Sink]:
    """Return the change that disables a sink; see `Definitions.disable_sink`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.disable_sink(change, key),
        at_limit=AtLimit.ALLOW,
    )


def enable(key: SinkKey) -> DefinitionChange[Sink]:
    """Return the change that enables a sink; see `Definitions.enable_sink`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.enable_sink(change, key),
        at_limit=AtLimit.ALLOW,
    )


def delete(key: SinkKey) -> DefinitionChange[Sink]:
    """Return the change that deletes a sink; see `Definitions.delete_sink`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.delete_sink(change, key),
        at_limit=AtLimit.ALLOW,
    )


def undelete(key: SinkKey) -> DefinitionChange[Sink]:
    """Return the change that undeletes a sink; see `Definitions.undelete_sink`."""
    return DefinitionChange(
        key=key,
        write=lambda change, definitions: definitions.undelete_sink(change, key),
        at_limit=AtLimit.ALLOW,
    )
