"""How many volumes one sink can write to, by the size of the transactions that etcd takes."""

from __future__ import annotations

from twisted.logger import Logger

from stream.etcd import EtcdClient

__all__ = ["ALWAYS_POSSIBLE", "OPERATIONS_PER_VOLUME", "VolumeLimit"]

_log = Logger()

OPERATIONS_PER_VOLUME = 5
"""Of the largest transaction, which closes a file and opens the next: a slice each."""

ALWAYS_POSSIBLE = 24
"""Volumes, with the 128 operations that etcd takes by default."""


class VolumeLimit:
    """Asks etcd, and only if a sink is to have more volumes than always work.

    With more than etcd takes a file could be opened, but never closed again.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._most = ALWAYS_POSSIBLE

    async def of(self, wanted: int) -> int:
        """*wanted* volumes, or as many as can be. Fails with `EtcdError`."""
        if wanted <= self._most:
            return wanted
        if await self._client.takes_operations(OPERATIONS_PER_VOLUME * (wanted + 1)):
            self._most = wanted
            return wanted
        _log.warn(
            "a sink gets {most} volumes instead of {wanted}: etcd takes too few operations in one "
            "transaction, please start it with --max-txn-ops=1024",
            most=self._most,
            wanted=wanted,
        )
        return self._most
