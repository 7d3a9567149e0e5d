"""The context of the coordinator's operators: sinks, the cluster lock of a file, the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import attrs

from stream.definition import prefix as definition_prefix
from stream.definition.entity import Sink, Source
from stream.definition.key import SinkKey, SourceKey
from stream.etcd import AtomicTxn, EtcdClient, Lock, Mirror, Session, atomic
from stream.ops.metrics.registry import Metrics
from stream.storage.model.key import FileKey
from stream.storage.reconcile.operation_meter import OperationMeter
from stream.storage.store.repository import StorageRepository

__all__ = ["CoordinatorContext"]


@attrs.frozen(kw_only=True)
class CoordinatorContext:
    """The context that all operators of a coordinator share.

    :ivar now: returns the current time in UTC.
    :ivar sinks: active sinks.
    :ivar sources: active sources.
    :ivar meter: metrics of the operators.
    """

    client: EtcdClient
    session: Session
    repository: StorageRepository
    reactor: Any
    now: Callable[[], datetime]
    sinks: Mirror[Sink]
    sources: Mirror[Source]
    meter: OperationMeter = attrs.field(
        default=attrs.Factory(
            lambda context: OperationMeter(Metrics(), context.reactor.seconds), takes_self=True
        )
    )

    def sink(self, key: SinkKey) -> Sink | None:
        """Return the active sink with this key; ``None`` if there is none."""
        return self.sinks.items.get(f"{definition_prefix.SINK_ACTIVE}{key}")

    def source(self, key: SourceKey) -> Source | None:
        """Return the active source with this key; ``None`` if there is none."""
        return self.sources.items.get(f"{definition_prefix.SOURCE_ACTIVE}{key}")

    def sink_enabled(self, key: SinkKey) -> bool:
        """Return whether the sink exists and is enabled."""
        sink = self.sink(key)
        return sink is not None and sink.is_enabled

    def table(self, key: SinkKey) -> str:
        """Return the sink's table name for the log; the sink's key if the sink is deleted."""
        sink = self.sink(key)
        return str(key) if sink is None else sink.table.label

    @asynccontextmanager
    async def file_lock(self, key: FileKey, timeout: float) -> AsyncIterator[Lock]:
        """Return the cluster-wide lock for changing a file or rotating its slices."""
        lock = await self.session.lock(f"operator.file.{key}", timeout=timeout)
        try:
            yield lock
        finally:
            await lock.release()

    async def file_failed(self, key: FileKey, error: Exception) -> None:
        """Record a failed attempt and the delay before the next one."""
        reason = str(error)

        async def body(txn: AtomicTxn) -> None:
            await self.repository.file_failed(txn, key, reason, self.now())

        await atomic(self.client, body)
