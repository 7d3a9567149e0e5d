"""A lock that is held by one session in the cluster, and by one user in this process.

The key ``lock/<name>/<lease>`` belongs to the session's lease. The session with the oldest key of a
name holds the lock. Every other session waits until the key before its own is deleted.

Note [Orphaned keys]: if no caller waits for a key in the queue, the key blocks all later keys as
long as the session exists. So a caller that gives up deletes its key, even if it is unknown whether
the key was put. If the key can't be deleted now, the session retries in its next iteration.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from twisted.internet.defer import Deferred, DeferredLock, TimeoutError, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.deadline import within
from stream.etcd.client import EtcdClient
from stream.etcd.errors import Compacted, EtcdError, EtcdUnavailable
from stream.etcd.request import compare_created, get_operation, put_operation

__all__ = ["Lock", "LockQueue", "LockTimeout"]

_log = Logger()
T = TypeVar("T")

_RELEASE_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.05
_OLDEST_FIRST = {"sort_order": "ASCEND", "sort_target": "CREATE"}


class LockTimeout(EtcdError):
    """Another caller held the lock for longer than the timeout."""


class Lock:
    """A held lock; also an asynchronous context manager that releases it.

    :ivar key: key in etcd, which belongs to the session's lease.
    :ivar create_revision: create revision of the key. A transaction compares it to ensure that the
        lock is still held.
    """

    def __init__(
        self, key: str, create_revision: int, release: Callable[[], Awaitable[None]]
    ) -> None:
        self.key = key
        self.create_revision = create_revision
        self._release: Callable[[], Awaitable[None]] | None = release

    async def release(self) -> None:
        """Release the lock; only the first call has an effect."""
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


class LockQueue:
    """The locks of one session.

    :param lease: returns the id of the session's valid lease.
    """

    def __init__(self, client: EtcdClient, reactor: Any, lease: Callable[[], int | None]) -> None:
        self._client = client
        self._reactor = reactor
        self._lease = lease
        self._local_locks: dict[str, DeferredLock] = {}
        self._left: dict[str, str] = {}

    async def acquire(self, name: str) -> Lock:
        """Wait for the lock, until cancelled."""
        local = self._local(name)
        await local.acquire()
        lock, is_first = await self._queue_up(name, local)
        if is_first:
            return lock
        try:
            while True:
                predecessor = await self._predecessor(name, lock)
                if predecessor is None:
                    await self._check_queued(lock)
                    return lock
                await self._wait_gone(*predecessor)
        except BaseException:
            await lock.release()
            raise

    async def try_acquire(self, name: str) -> Lock | None:
        """Return the lock, or ``None`` if another caller holds it."""
        local = self._local(name)
        if local.locked:
            return None
        await local.acquire()
        lock, is_first = await self._queue_up(name, local)
        if is_first:
            return lock
        await lock.release()
        return None

    async def tidy(self) -> None:
        """Delete the keys that could not be deleted before; see Note [Orphaned keys]."""
        for name in list(self._left):
            # While an earlier key was deleted, a caller may have reused this one.
            key = self._left.get(name)
            if key is None:
                continue
            local = self._local(name)
            if not local.locked:
                await local.acquire()
                del self._left[name]
                await self._leave(name, key, local)

    def _local(self, name: str) -> DeferredLock:
        return self._local_locks.setdefault(name, DeferredLock())

    async def _queue_up(self, name: str, local: DeferredLock) -> tuple[Lock, bool]:
        """Put this session's key in the lock's queue; return whether it is the oldest.

        The session with the oldest key holds the lock. If an earlier attempt left a key, it is
        reused.
        """
        lease = self._lease()
        if lease is None:
            self._release_local(name, local)
            raise EtcdUnavailable("there is no valid lease")
        key = f"{_prefix(name)}{lease:x}"
        self._left.pop(name, None)

        async def leave() -> None:
            await self._leave(name, key, local)

        def give_up(_: object) -> None:
            ensureDeferred(leave()).addErrback(_not_left)

        putting = ensureDeferred(self._put_key(name, key, lease))
        try:
            created, is_first = await _shielded(putting)
        except BaseException:
            # The key is deleted only when the put has ended; otherwise it might be put after its
            # deletion.
            putting.addBoth(give_up)
            raise
        return Lock(key, created, leave), is_first

    async def _put_key(self, name: str, key: str, lease: int) -> tuple[int, bool]:
        """Put *key* unless it exists, and read the queue, in one transaction."""
        absolute = self._client.namespace + key
        queue = self._client.namespace + _prefix(name)
        reads = [
            get_operation(absolute),
            get_operation(queue, limit=1, keys_only=True, **_OLDEST_FIRST),
        ]
        result = await self._client.commit(
            [compare_created(absolute, "==", 0)],
            [put_operation(absolute, b"", lease), *reads],
            reads,
        )
        (ours,), (oldest,) = result.reads
        return ours.create_revision, oldest.key == key

    async def _leave(self, name: str, key: str, local: DeferredLock) -> None:
        deleting = ensureDeferred(self._client.delete(key))
        within(deleting, _RELEASE_SECONDS, self._reactor, "the release of a lock")
        self._left[name] = key
        try:
            await deleting
            del self._left[name]
        except (EtcdError, TimeoutError) as error:
            _log.warn("cannot release {lock_key}: {error}", lock_key=key, error=error)
        finally:
            self._release_local(name, local)

    def _release_local(self, name: str, local: DeferredLock) -> None:
        local.release()
        if not local.locked and not local.waiting:
            self._local_locks.pop(name, None)

    async def _predecessor(self, name: str, lock: Lock) -> tuple[str, int] | None:
        """Return the key just before ours, and a revision at which it still existed."""
        found = await self._client.read(
            _prefix(name),
            max_create_revision=lock.create_revision - 1,
            limit=1,
            sort_order="DESCEND",
            sort_target="CREATE",
            keys_only=True,
        )
        return (found.kvs[0].key, found.revision) if found.kvs else None

    async def _check_queued(self, lock: Lock) -> None:
        """Check that our key still exists.

        If our lease has ended, our key is gone, and an empty queue doesn't mean that we hold the
        lock.
        """
        kv = await self._client.get(lock.key)
        if kv is None or kv.create_revision != lock.create_revision:
            raise EtcdUnavailable("the lease has ended while waiting for the lock")

    async def _wait_gone(self, key: str, revision: int) -> None:
        stream = None
        try:
            stream = await self._client.watch(key, revision + 1)
            while True:
                batch = await stream.next()
                if any(event.kv is None for event in batch.events):
                    return
        except (Compacted, EtcdUnavailable):
            await deferLater(self._reactor, _LOOK_AGAIN_SECONDS)
        finally:
            if stream is not None:
                stream.cancel()


def _prefix(name: str) -> str:
    """Return the prefix of a lock's keys.

    The name is quoted, so that lock ``a`` doesn't wait for keys of lock ``a/b``.
    """
    return f"lock/{quote(name, safe='')}/"


def _not_left(failure: Failure) -> None:
    _log.failure("cannot leave the queue of a lock", failure)


def _shielded(inner: Deferred[T]) -> Deferred[T]:
    """Return a Deferred like *inner* whose cancellation doesn't cancel *inner*."""
    outer: Deferred[T] = Deferred()

    def pass_on(result: T | Failure) -> None:
        if not outer.called:
            outer.callback(result)

    inner.addBoth(pass_on)
    return outer
