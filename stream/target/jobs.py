"""Counts the running imports of each sink in the whole cluster by records in etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
from twisted.application.service import Service

from stream.definition.key import SinkKey
from stream.etcd import Batch, EtcdClient, Mirror, Session, json_values
from stream.storage.model.key import FileKey, JobKey
from stream.storage.reconcile.operator import Requeue
from stream.values.codec import Record, encode, field

__all__ = ["WAIT_SECONDS", "JobRecord", "JobSlots", "RunningJobs"]

WAIT_SECONDS = 10.0
"""How long a file waits for a free slot, unless an import of its sink ends earlier."""


@attrs.frozen
class JobRecord(Record):
    """A running import job; it occupies one of the sink's slots."""

    key: JobKey = field(flatten=True)


class RunningJobs(Service):
    """The number of running import jobs per sink, counted from their records.

    :param prefix: prefix of the records' keys, before the key of the job.
    :param limit: maximum number of concurrent jobs per sink.
    """

    def __init__(self, client: EtcdClient, prefix: str, limit: int) -> None:
        self._limit = limit
        self._counts: dict[SinkKey, int] = {}
        self._mirror: Mirror[JobRecord] = Mirror(
            client, prefix, json_values(JobRecord), on_change=self._changed
        )

    async def startService(self) -> None:
        super().startService()
        await self._mirror.startService()

    async def stopService(self) -> None:
        super().stopService()
        await self._mirror.stopService()

    def allow(self, file: FileKey) -> bool:
        """Return whether the sink may start another job."""
        return self._counts.get(file.sink_key, 0) < self._limit

    @property
    def records(self) -> list[JobRecord]:
        """Return the records of all running jobs."""
        return list(self._mirror.items.values())

    def _changed(self, batch: Batch[JobRecord]) -> None:
        self._counts = {}
        for record in self._mirror.items.values():
            sink = record.key.sink_key
            self._counts[sink] = self._counts.get(sink, 0) + 1


class JobSlots:
    """Slots for imports that run in Stream's own processes.

    The record of a running import is bound to the lease of its node, so it ends with the node.

    :param target: name of the target.
    :param limit: maximum number of concurrent imports per sink.
    """

    def __init__(self, client: EtcdClient, session: Session, target: str, limit: int) -> None:
        self._client = client
        self._session = session
        self._prefix = f"storage/{target}/job/"
        self._limit = limit
        self.running = RunningJobs(client, self._prefix, limit)

    @asynccontextmanager
    async def taken(self, job: JobKey) -> AsyncIterator[None]:
        """Hold a slot of the sink while the context is open. Raises `Requeue` if none is free."""
        key = f"{self._prefix}{job}"
        registration = await self._session.register(key, encode(JobRecord(job)))
        try:
            await self._check(key, job.sink_key)
            yield
        except Exception:
            await registration.remove()
            raise
        # not needed when the process ends, since its lease ends as well
        await registration.remove()

    async def _check(self, key: str, sink: SinkKey) -> None:
        """Check that this import is within the limit, which concurrent ones may have exceeded."""
        found = await self._client.range(f"{self._prefix}{sink}/")
        oldest = sorted(found.kvs, key=lambda kv: kv.create_revision)[: self._limit]
        if key not in (kv.key for kv in oldest):
            raise Requeue(
                f"the sink {sink} already has {self._limit} running imports", seconds=WAIT_SECONDS
            )
