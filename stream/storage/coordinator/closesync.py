"""The revision up to which every source node has closed slices. See `stream.sink.router`."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service

from stream.etcd import Batch, EtcdClient, KeyValue, Mirror
from stream.storage.model.prefix import CLOSE_SYNC

__all__ = ["CloseSync"]


class CloseSync(Service):
    """The revisions up to which source nodes have closed slices, from etcd.

    :param on_change: called after each change of `lowest`.
    """

    def __init__(self, client: EtcdClient, on_change: Callable[[], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._mirror: Mirror[int] = Mirror(client, CLOSE_SYNC, _decode, on_change=self._changed)

    async def startService(self) -> None:
        super().startService()
        await self._mirror.startService()

    async def stopService(self) -> None:
        super().stopService()
        await self._mirror.stopService()

    def reached(self, revision: int) -> bool:
        """Return whether no node still writes to slices closed up to *revision*.

        The answer comes from the mirror, which may lag behind. It is a hint; `confirm` decides.
        """
        return all(report >= revision for report in self._mirror.items.values())

    async def confirm(self, revision: int) -> bool:
        """Return the same as `reached`, but from data read from etcd.

        A node whose lease has ended doesn't count. If there are no nodes, nothing is written. A
        node that registers after this read already sees all slices that were closed before.
        """
        reports = await self._client.range(CLOSE_SYNC)
        return all(int(report.value) >= revision for report in reports.kvs)

    def _changed(self, batch: Batch[int]) -> None:
        self._on_change()


def _decode(kv: KeyValue) -> int:
    return int(kv.value)
