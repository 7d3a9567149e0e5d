"""A lease with a keep-alive, and what lives under it: registrations and locks.

The session knows by its own clock when the lease must have ended, even if etcd can't be reached,
and tells its user then. It gets a new lease as soon as etcd is back, and puts every registration
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    TimeoutError,
    ensureDeferred,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.etcd.client import EtcdClient
from stream.etcd.errors import Compacted, EtcdError, EtcdUnavailable, LeaseNotFound
from stream.etcd.lock import Lock, LockTimeout, lock_key, lock_prefix
from stream.etcd.request import compare_created, get_operation, put_operation

__all__ = ["Registration", "Session"]

_log = Logger()

_BACKOFF_FIRST_SECONDS = 0.05
_BACKOFF_MAX_SECONDS = 5.0
_RELEASE_SECONDS = 10.0


class Registration:
    """A key that exists while the session lives."""

    def __init__(self, session: Session, key: str, value: bytes) -> None:
        self._session = session
        self.key = key
        self.value = value

    async def update(self, value: bytes) -> None:
        """Change the value; if etcd is away, it is put with the next lease."""
        self.value = value
        await self._session.put_registration(self)

    async def remove(self) -> None:
        await self._session.remove_registration(self)


class Session(Service):
    """:param ttl: seconds that the lease lives without a keep-alive.

    :ivar lease_id: ``None`` while there is no valid lease.
    :ivar on_lost: called when the lease has ended or must have ended.
    :ivar on_renewed: called after the registrations were put under a new lease.
    """

    def __init__(self, client: EtcdClient, *, ttl: int, reactor: Any) -> None:
        self.lease_id: int | None = None
        self.on_lost: list[Callable[[], None]] = []
        self.on_renewed: list[Callable[[], None]] = []
        self._client = client
        self._ttl = ttl
        self._reactor = reactor
        self._valid_until = 0.0
        self._registrations: dict[str, Registration] = {}
        self._local_locks: dict[str, DeferredLock] = {}
        self._living: Deferred[None] | None = None
        self._expiry: Any = None

    async def startService(self) -> None:
        """Fires when the first lease is granted."""
        super().startService()
        await self._grant()
        self._living = ensureDeferred(self._live())
        self._living.addErrback(self._ended)

    async def stopService(self) -> None:
        """Give the lease back, and with it everything under it."""
        super().stopService()
        if self._living is not None:
            self._living.cancel()
            await self._living
        lease, self.lease_id = self.lease_id, None
        self._cancel_expiry()
        if lease is not None:
            try:
                await self._client.call("lease/revoke", {"ID": lease})
            except EtcdError as error:
                _log.warn("cannot revoke the lease, it will expire: {error}", error=error)

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("session ended", failure)

    async def _grant(self) -> None:
        asked_at = self._reactor.seconds()
        answer = await self._client.call("lease/grant", {"TTL": self._ttl})
        self.lease_id = int(answer["ID"])
        self._extend(asked_at)
        _log.debug("granted lease {lease}", lease=f"{self.lease_id:x}")

    def _extend(self, asked_at: float) -> None:
        """The lease lives for its time from when we asked: etcd's clock started not before."""
        self._valid_until = asked_at + self._ttl
        self._cancel_expiry()
        delay = max(0.0, self._valid_until - self._reactor.seconds())
        self._expiry = self._reactor.callLater(delay, self._expired)

    def _cancel_expiry(self) -> None:
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        self._expiry = None

    def _expired(self) -> None:
        self._expiry = None
        if self.lease_id is None:
            return
        _log.error("the lease has ended, etcd was not reached in time")
        self.lease_id = None
        for callback in list(self.on_lost):
            callback()

    async def _live(self) -> None:
        delay = _BACKOFF_FIRST_SECONDS
        while self.running:
            try:
                if self.lease_id is None:
                    await self._renew()
                await deferLater(self._reactor, self._ttl / 3)
                if self.lease_id is not None:
                    await self._keep_alive(self.lease_id)
                delay = _BACKOFF_FIRST_SECONDS
            except EtcdError as error:
                _log.warn("session: {error}", error=error)
                await deferLater(self._reactor, delay)
                delay = min(delay * 2, _BACKOFF_MAX_SECONDS)

    async def _keep_alive(self, lease: int) -> None:
        while True:
            asked_at = self._reactor.seconds()
            try:
                answer = await self._client.call("lease/keepalive", {"ID": lease})
            except EtcdUnavailable:
                if self.lease_id != lease:
                    raise
                await deferLater(self._reactor, self._ttl / 15)
                continue
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                if self.lease_id == lease:
                    self._expired()
                raise LeaseNotFound("the lease has expired")
            if self.lease_id == lease:
                self._extend(asked_at)
            return

    async def _renew(self) -> None:
        await self._grant()
        for registration in list(self._registrations.values()):
            await self.put_registration(registration)
        _log.info("the session has a new lease")
        for callback in list(self.on_renewed):
            callback()

    # Registrations.

    async def register(self, key: str, value: bytes) -> Registration:
        """Put *key* under the lease, and again in every new session."""
        registration = Registration(self, key, value)
        self._registrations[key] = registration
        await self.put_registration(registration)
        return registration

    async def put_registration(self, registration: Registration) -> None:
        lease = self.lease_id
        if lease is None:
            return  # it is put with the next lease
        try:
            await self._client.put(registration.key, registration.value, lease=lease)
        except LeaseNotFound:
            if self.lease_id == lease:
                self._expired()

    async def remove_registration(self, registration: Registration) -> None:
        if self._registrations.pop(registration.key, None) is not None:
            await self._client.delete(registration.key)

    # Locks.

    async def lock(self, name: str, *, timeout: float) -> Lock:
        """Wait for the lock; raises `LockTimeout` after *timeout* seconds."""
        acquiring = ensureDeferred(self._acquire(name))
        acquiring.addTimeout(timeout, self._reactor)
        try:
            return await acquiring
        except TimeoutError:
            raise LockTimeout(f'lock "{name}" is held by somebody else') from None

    async def try_lock(self, name: str) -> Lock | None:
        """The lock, or ``None`` if somebody holds it."""
        local = self._local_locks.setdefault(name, DeferredLock())
        if local.locked:
            return None
        await local.acquire()
        try:
            lock = await self._queue_up(name, local)
            if await self._predecessor(name, lock.create_revision) is None:
                return lock
            await lock.release()
        except BaseException:
            self._release_local(name, local)
            raise
        return None

    async def _acquire(self, name: str) -> Lock:
        local = self._local_locks.setdefault(name, DeferredLock())
        await local.acquire()
        lock: Lock | None = None
        try:
            lock = await self._queue_up(name, local)
            while True:
                predecessor = await self._predecessor(name, lock.create_revision)
                if predecessor is None:
                    return lock
                await self._wait_gone(*predecessor)
        except BaseException:
            if lock is not None:
                await lock.release()
            else:
                self._release_local(name, local)
            raise

    async def _queue_up(self, name: str, local: DeferredLock) -> Lock:
        """Put our key of the lock; an own key left by a failed release is used on."""
        lease = self.lease_id
        if lease is None:
            raise EtcdUnavailable("there is no valid lease")
        key = lock_key(name, lease)
        absolute = self._client.namespace + key
        result = await self._client.commit(
            [compare_created(absolute, "==", 0)],
            [put_operation(absolute, b"", lease), get_operation(absolute)],
            [get_operation(absolute)],
        )
        created = result.reads[0][0].create_revision

        async def release() -> None:
            deleting = ensureDeferred(self._client.delete(key))
            deleting.addTimeout(_RELEASE_SECONDS, self._reactor)
            try:
                await deleting
            except (EtcdError, TimeoutError) as error:
                _log.warn(
                    "cannot release {key}, it goes with the lease: {error}", key=key, error=error
                )
            finally:
                self._release_local(name, local)

        return Lock(key, created, release)

    def _release_local(self, name: str, local: DeferredLock) -> None:
        local.release()
        if not local.locked and not local.waiting:
            self._local_locks.pop(name, None)

    async def _predecessor(self, name: str, created: int) -> tuple[str, int] | None:
        """The youngest key older than ours, and the revision up to which it was there."""
        found = await self._client.read(
            lock_prefix(name),
            max_create_revision=created - 1,
            limit=1,
            sort_order="DESCEND",
            sort_target="CREATE",
            keys_only=True,
        )
        return (found.kvs[0].key, found.revision) if found.kvs else None

    async def _wait_gone(self, key: str, revision: int) -> None:
        stream = None
        try:
            stream = await self._client.watch(key, revision + 1)
            while True:
                batch = await stream.next()
                if any(event.kv is None for event in batch.events):
                    return
        except (Compacted, EtcdUnavailable):
            await deferLater(self._reactor, _BACKOFF_FIRST_SECONDS)  # look again
        finally:
            if stream is not None:
                stream.cancel()
