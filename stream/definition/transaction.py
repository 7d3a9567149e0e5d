"""The running transaction of a change, and the hooks that are called in it.

A *change* is made inside the body of an atomic operation. The repository of definitions calls its
`SinkHooks` when sinks change. `stream.definition.change.files` implements them, so that files are
opened, closed and rotated in the transaction that changes the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import attrs

from stream.definition.entity import By, Sink, Source
from stream.definition.key import SinkKey
from stream.etcd import AtomicTxn

__all__ = ["Change", "NoHooks", "SinkHooks"]


@attrs.frozen
class Change:
    """The context of one change: its transaction, its time and its author.

    :ivar txn: the running attempt of the atomic operation.
    :ivar now: the time used in everything that the change writes.
    :ivar by: the author of the change.
    """

    txn: AtomicTxn
    now: datetime
    by: By


class SinkHooks(Protocol):
    """Hooks that the repository calls in the transaction, before it writes the new definition."""

    def reads(self, key: SinkKey) -> Sequence[str]:
        """Return the prefixes that every change of a sink reads."""

    async def sink_activated(self, change: Change, source: Source, sink: Sink) -> None:
        """Called when a sink was created, undeleted or enabled, so it needs an open file."""

    async def sink_deactivated(self, change: Change, sink: Sink) -> None:
        """Called when a sink was deleted or disabled, so its open file is closed."""

    async def sink_modified(self, change: Change, source: Source, sink: Sink) -> None:
        """Called when an enabled sink has new content, so its file is rotated."""

    async def sink_deleted(self, change: Change, sink: Sink) -> None:
        """Called when a sink was deleted (after `sink_deactivated`, if it was enabled)."""


class NoHooks:
    """Hooks that do nothing, for changes of branches and for tests."""

    def reads(self, key: SinkKey) -> Sequence[str]:
        return ()

    async def sink_activated(self, change: Change, source: Source, sink: Sink) -> None: ...

    async def sink_deactivated(self, change: Change, sink: Sink) -> None: ...

    async def sink_modified(self, change: Change, source: Source, sink: Sink) -> None: ...

    async def sink_deleted(self, change: Change, sink: Sink) -> None: ...
