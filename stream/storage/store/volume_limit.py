"""The maximum number of volumes per sink, derived from etcd's transaction limit."""

from __future__ import annotations

from twisted.logger import Logger

from stream.etcd import EtcdClient

__all__ = ["ALWAYS_POSSIBLE", "OPERATIONS_PER_VOLUME", "VolumeLimit"]

_log = Logger()

OPERATIONS_PER_VOLUME = 5
"""Operations per volume in the largest transaction, which closes a file and opens the next one."""

ALWAYS_POSSIBLE = 24
"""Number of volumes that fits etcd's default limit of 128 operations."""


class VolumeLimit:
    """Asks etcd for its limit if a sink needs more than `ALWAYS_POSSIBLE` volumes.

    A file with more volumes than etcd's limit allows could be opened, but never closed.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._most = ALWAYS_POSSIBLE

    async def of(self, wanted: int) -> int:
        """Return *wanted*, limited to the maximum number of volumes. Fails with `EtcdError`."""
        if wanted <= self._most:
            return wanted
        if await self._client.takes_operations(OPERATIONS_PER_VOLUME * (wanted + 1)):
            self._most = wanted
            return wanted
        _log.warn(
            "a sink gets {most} volumes instead of {wanted}: etcd accepts too few operations in "
            "one transaction; start it with --max-txn-ops=1024",
            most=self._most,
            wanted=wanted,
        )
        return self._most
