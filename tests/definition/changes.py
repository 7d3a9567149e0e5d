"""Changes of definitions in tests, without concurrent changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import attrs

from stream.definition.change.files import FileRecords, Prepared, RemoteFiles
from stream.definition.change.making import Author, DefinitionChange, DefinitionChanges, NoReaders
from stream.definition.entity import By
from stream.definition.key import SinkKey, SourceKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.etcd import EtcdClient, Lock

__all__ = ["Changes"]

T = TypeVar("T")
P = TypeVar("P", bound=Prepared)


class _NoLocks:
    async def lock(self, name: str, *, timeout: float) -> Lock:
        raise AssertionError(f"a test's change asks for the lock {name}")


@attrs.frozen
class Changes:
    """Runs changes whose bodies tests write.

    :ivar source: the changed source, or the source of the changed sink.
    :ivar author: the author of the changes.
    """

    changes: DefinitionChanges[Prepared]
    source: SourceKey | SinkKey
    author: Author

    @classmethod
    def of(
        cls,
        client: EtcdClient,
        records: FileRecords[P],
        remote: RemoteFiles[P],
        now: Callable[[], datetime],
        *,
        source: SourceKey,
        by: By,
        token: str,
    ) -> Changes:
        """Return the changes of *source* with real files."""
        changes = DefinitionChanges(
            client, records, remote, now, locks=_NoLocks(), readers=NoReaders()
        )
        return cls(changes, source, Author(by, token))  # type: ignore[arg-type]

    async def run(self, body: Callable[[Change, Definitions], Awaitable[T]]) -> T:
        """Run one change."""
        return await self.changes.make(DefinitionChange(key=self.source, write=body), self.author)
