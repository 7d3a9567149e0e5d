"""A lock held by one session in the cluster, and by one user of it in this process.

The key ``lock/<name>/<lease>`` lives under the session's lease; the oldest key of a name holds the
lock, and each waits for the one before it to vanish.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from stream.etcd.errors import EtcdError

__all__ = ["Lock", "LockTimeout", "lock_key", "lock_prefix"]


class LockTimeout(EtcdError):
    """Somebody else held the lock for longer than the caller wanted to wait."""


def lock_prefix(name: str) -> str:
    return f"lock/{name}/"


def lock_key(name: str, lease_id: int) -> str:
    return f"{lock_prefix(name)}{lease_id:x}"


class Lock:
    """A held lock; also an asynchronous context manager that releases it.

    :ivar key: in etcd, under the session's lease.
    :ivar create_revision: of the key; proves in a transaction that the lock is still held.
    """

    def __init__(
        self, key: str, create_revision: int, release: Callable[[], Awaitable[None]]
    ) -> None:
        self.key = key
        self.create_revision = create_revision
        self._release: Callable[[], Awaitable[None]] | None = release

    async def release(self) -> None:
        """Give it up; only the first call counts."""
        release, self._release = self._release, None
        if release is not None:
            await release()

    async def __aenter__(self) -> Lock:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.release()
