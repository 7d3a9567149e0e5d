"""A snapshot of all keys of a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from stream.definition import prefix as definitions
from stream.definition.entity import Sink, Source
from stream.definition.key import SinkKey, SourceKey
from stream.etcd import EtcdClient
from stream.storage.model import prefix as storage
from stream.storage.model.entity import File, Slice
from stream.task.entity import TASK_PREFIX, Task
from stream.values.codec import decode

__all__ = ["Snapshot", "read_snapshot"]

PREFIXES = ("definition/", "storage/", "task/", "runtime/lock/task/")

T = TypeVar("T")
Key = SourceKey | SinkKey


@attrs.frozen
class Snapshot:
    """All keys of a deployment at one revision, with decoded values.

    :ivar kvs: values by key, read at one revision.
    """

    kvs: Mapping[str, bytes] = attrs.field(repr=False)

    def below(self, prefix: str) -> dict[str, bytes]:
        """Return values by the part of their keys after *prefix*."""
        return {key[len(prefix) :]: kv for key, kv in self.kvs.items() if key.startswith(prefix)}

    def decoded(self, prefix: str, kind: type[T]) -> dict[str, T]:
        """Return the decoded values below a prefix."""
        return {key: decode(kind, value) for key, value in self.below(prefix).items()}

    @property
    def sources(self) -> dict[str, Source]:
        """Return the active sources."""
        return self.decoded(definitions.SOURCE_ACTIVE, Source)

    @property
    def sinks(self) -> dict[str, Sink]:
        """Return the active sinks."""
        return self.decoded(definitions.SINK_ACTIVE, Sink)

    @property
    def files(self) -> dict[str, File]:
        """Return all files."""
        return self.decoded(storage.FILE_ALL, File)

    @property
    def slices(self) -> dict[str, Slice]:
        """Return all slices."""
        return self.decoded(storage.SLICE_ALL, Slice)

    @property
    def tasks(self) -> dict[str, Task]:
        """Return all tasks."""
        return self.decoded(TASK_PREFIX, Task)


async def _read(reactor: Any, endpoint: str, namespace: str, kvs: dict[str, bytes]) -> None:
    client = EtcdClient(reactor, [endpoint], namespace)
    await client.startService()
    try:
        revision = 0
        for prefix in PREFIXES:
            result = await client.range(prefix, revision=revision)
            revision = result.revision
            kvs.update((kv.key, kv.value) for kv in result.kvs)
    finally:
        await client.stopService()


def read_snapshot(endpoint: str, namespace: str) -> Snapshot:
    """Read everything. Runs the reactor, so it can be called once per process.

    :param endpoint: ``host:port`` of etcd.
    """
    kvs: dict[str, bytes] = {}

    def main(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(_read(reactor, endpoint, namespace, kvs))

    try:
        react(main)
    except SystemExit as ended:
        if ended.code:
            raise
    return Snapshot(kvs)
