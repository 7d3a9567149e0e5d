"""Changes of definitions in tests, without concurrent changes.

The size of the definitions is counted from the first key on, and compared with their true size
after each change.
"""

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
from stream.definition.size import SIZE, DefinitionSize, SizeLimit, counted_prefixes
from stream.definition.transaction import Change
from stream.etcd import EtcdClient, Lock
from stream.values.codec import decode

__all__ = ["ALWAYS_COUNTED", "Changes", "check_size", "true_size"]

T = TypeVar("T")
P = TypeVar("P", bound=Prepared)

ALWAYS_COUNTED = SizeLimit(2**40, uncounted_keys=0)


class _NoLocks:
    async def lock(self, name: str, *, timeout: float) -> Lock:
        raise AssertionError(f"a test's change asks for the lock {name}")


@attrs.frozen
class Changes:
    """Runs changes whose bodies tests write.

    :ivar source: the changed source, or the source of the changed sink.
    :ivar author: the author of the changes.
    """

    client: EtcdClient
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
        limit: SizeLimit = ALWAYS_COUNTED,
    ) -> Changes:
        """Return the changes of *source* with real files."""
        changes = DefinitionChanges(
            client, records, remote, now, locks=_NoLocks(), readers=NoReaders(), limit=limit
        )
        return cls(client, changes, source, Author(by, token))  # type: ignore[arg-type]

    async def run(self, body: Callable[[Change, Definitions], Awaitable[T]]) -> T:
        """Run one change."""
        change = DefinitionChange(key=self.source, write=body)
        result = await self.changes.make(change, self.author)
        await check_size(self.client, self.source.project_id)
        return result


async def true_size(client: EtcdClient, project_id: int) -> int:
    """Return the size of all definitions of a project, read from etcd."""
    size = 0
    for where in counted_prefixes(project_id):
        found = await client.range(where)
        size += sum(len(stored.key) + len(stored.value) for stored in found.kvs)
    return size


async def check_size(client: EtcdClient, project_id: int) -> int:
    """Check that the stored size is the true one, and return it."""
    stored = await client.get(f"{SIZE}{project_id}")
    assert stored is not None
    size = decode(DefinitionSize, stored.value).bytes
    assert size == await true_size(client, project_id)
    return size
