"""A lease with a keep-alive, and the keys under it: registrations and locks.

The session knows from its own clock when the lease must have ended, even if etcd is unreachable. It
then notifies its user. As soon as etcd is available, it gets a new lease and puts every
registration again.

Note [Late puts]: a request may reach etcd long after its sender has given up or died. A late put of
a registration would restore an old value, or attach the key to a lease that is about to end. A late
deletion would remove a key that was registered again. So each request names the revision of the key
that it replaces, and etcd refuses it if that revision isn't current.

Note [Names first]: under a new lease the session claims its names before it puts anything. If
another process has taken one of them, the session is over. It overwrites nothing of that process,
and notifies its user, which must end.

Note [Back soon]: without a lease a source node refuses all records, so the session gets the next
one as soon as etcd can be reached. It retries at short intervals. A request on a connection that
doesn't answer causes no delay: a keep-alive ends with its lease, and a new lease is requested again
while earlier requests are pending. If those also get leases, these leases expire unused.

Note [Keep-alive first]: a busy process or a slow etcd must not lose a lease that etcd would extend.
The keep-alive doesn't wait until the names and registrations are put under a new lease. If a
keep-alive has no answer, the next one is sent on another connection and to another endpoint, but a
late answer still counts. A busy process may read an answer only after the deadline of its request.
The other callers of the client then also doubt the endpoint, and ask again when etcd has answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

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

from stream.concurrency.deadline import within
from stream.concurrency.hedged import hedged
from stream.etcd.claims import Claim, Claims, Holder, NameHeld
from stream.etcd.client import EtcdClient
from stream.etcd.errors import EtcdError, EtcdUnavailable, LeaseNotFound
from stream.etcd.lock import Lock, LockQueue, LockTimeout
from stream.etcd.request import (
    compare_modified,
    delete_operation,
    put_operation,
)
from stream.values.backoff import Backoff

__all__ = ["Registration", "Session"]

_log = Logger()
T = TypeVar("T")

_BACKOFF_FIRST_SECONDS = 0.05
_BACKOFF_MAX_SECONDS = 0.25
"""Maximum delay between attempts. A refused attempt costs nothing; see Note [Back soon]."""
_ASK_AGAIN_SECONDS = 0.25
"""Interval at which a lease is requested again while earlier requests have no answer."""
_UNEXPECTED_SECONDS = 5.0
"""Delay after an unexpected failure."""
_LOG_SECONDS = 5.0
"""Minimum seconds between log messages about failed attempts."""
_GIVE_BACK_SECONDS = 3.0
_PUT_ATTEMPTS = 5


class Registration:
    """A key that exists as long as the session.

    :ivar stored: lease and value that etcd is known to have.
    :ivar revision: revision of the key that the next put replaces; 0 if there is no key, ``None``
        if unknown.
    :ivar turn: serializes writes, so that an older value is never written after a newer one.
    """

    def __init__(self, session: Session, key: str, value: bytes) -> None:
        self._session = session
        self.key = key
        self.value = value
        self.stored: tuple[int, bytes] | None = None
        self.revision: int | None = None
        self.turn = DeferredLock()

    async def update(self, value: bytes) -> None:
        """Change the value. If etcd is unavailable, the session retries later."""
        self.value = value
        try:
            await self._session.store(self)
        except EtcdUnavailable as error:
            _log.warn("cannot write {key}, retrying: {error}", key=self.key, error=error)

    async def remove(self) -> None:
        """Delete the key. If etcd is unavailable, the session retries later."""
        await self._session.remove(self)


class Session(Service):
    """A lease in etcd that is kept alive, and the keys that belong to it.

    :param ttl: seconds that the lease lasts without a keep-alive.

    :ivar lease_id: id of the lease; ``None`` while there is no valid lease.
    :ivar on_lost: called when the lease has ended or must have ended.
    :ivar on_renewed: called after the registrations were put under a new lease.
    :ivar on_replaced: called when another process has taken a name of the session, which is then
        over.
    """

    def __init__(self, client: EtcdClient, *, ttl: int, reactor: Any) -> None:
        self.lease_id: int | None = None
        self.on_lost: list[Callable[[], None]] = []
        self.on_renewed: list[Callable[[], None]] = []
        self.on_replaced: list[Callable[[NameHeld], None]] = []
        self._client = client
        self._ttl = ttl
        self._reactor = reactor
        self._registrations: dict[str, Registration] = {}
        self._left_keys: set[str] = set()
        self._locks = LockQueue(client, reactor, lambda: self.lease_id)
        self._claims = Claims(client, reactor, lambda: self.lease_id, self._ended_in_etcd)
        self._lost_lease: int | None = None
        self._living: Deferred[None] | None = None
        self._expiry: Any = None
        self._extended_at = 0.0
        self._until_lost: Deferred[Any] | None = None
        self._log_at = 0.0

    async def startService(self) -> None:
        """Start the session, and wait until the first lease is granted."""
        super().startService()
        _log.info("creating etcd session")
        await self._grant()
        _log.info("created etcd session", ttl=self._ttl)
        self._living = ensureDeferred(self._live())
        self._living.addErrback(self._ended)

    async def stopService(self) -> None:
        """Revoke the lease, which deletes all keys that belong to it."""
        super().stopService()
        if self._living is not None:
            self._living.cancel()
            await self._living
        lease, self.lease_id = self.lease_id, None
        self._cancel_expiry()
        if lease is not None:
            try:
                await self._revoke(lease)
            except EtcdError as error:
                _log.warn("cannot revoke the lease, it will expire: {error}", error=error)

    async def _revoke(self, lease: int) -> None:
        await self._client.call("lease/revoke", {"ID": lease}, timeout=_GIVE_BACK_SECONDS)

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("session ended", failure)

    async def _grant(self) -> None:
        """Get a lease; see Note [Back soon]."""

        async def ask() -> tuple[float, int]:
            asked_at = self._reactor.seconds()
            answer = await self._client.call("lease/grant", {"TTL": self._ttl})
            return asked_at, int(answer["ID"])

        while True:
            asking = hedged(
                lambda: ensureDeferred(ask()),
                _ASK_AGAIN_SECONDS,
                self._reactor,
                (EtcdUnavailable,),
            )
            asked_at, lease = await asking
            if not self.running:
                return  # The lease expires.
            if self._reactor.seconds() < asked_at + self._ttl / 2:
                break  # otherwise the lease would soon count as lost
        self.lease_id = lease
        self._extend(asked_at)
        _log.debug("granted lease {lease}", lease=f"{self.lease_id:x}")

    def _extend(self, asked_at: float) -> None:
        """Extend the lease's deadline, counted from the time of the request.

        etcd can't have extended the lease before the request, so the deadline is never too late.
        """
        self._cancel_expiry()
        self._extended_at = asked_at
        delay = max(0.0, asked_at + self._ttl - self._reactor.seconds())
        self._expiry = self._reactor.callLater(delay, self._expired)

    def _cancel_expiry(self) -> None:
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        self._expiry = None

    def _ended_in_etcd(self, lease: int) -> None:
        """Note that etcd doesn't know *lease* any more."""
        if self.lease_id == lease:
            self._expired()

    def _expired(self) -> None:
        self._cancel_expiry()
        if self.lease_id is None:
            return
        _log.error("the lease has ended: etcd was not reached in time, or has revoked the lease")
        self._lost_lease, self.lease_id = self.lease_id, None
        self._claims.lost()
        _tell(self.on_lost)
        waiting, self._until_lost = self._until_lost, None
        if waiting is not None and not waiting.called:
            waiting.errback(LeaseNotFound("the lease has ended"))

    async def _live(self) -> None:
        backoff = Backoff(_BACKOFF_FIRST_SECONDS, _BACKOFF_MAX_SECONDS, jitter=0.2)
        while self.running:
            try:
                await self._turn()
                backoff.reset()
            except CancelledError:
                raise
            except NameHeld as error:
                await self._replaced(error)
                return
            except EtcdError as error:
                self._warn(error)
                await deferLater(self._reactor, backoff.next())
            except Exception:
                _log.failure("the session failed, retrying")
                await deferLater(self._reactor, _UNEXPECTED_SECONDS)

    def _warn(self, error: EtcdError) -> None:
        now = self._reactor.seconds()
        if now >= self._log_at:
            self._log_at = now + _LOG_SECONDS
            _log.warn("the session failed, retrying: {error}", error=error)

    async def _turn(self) -> None:
        if self.lease_id is None:
            await self._grant()
        keeping = ensureDeferred(self._keep())
        keeping.addErrback(self._ended)
        try:
            if self._lost_lease is not None:
                await self._restore(self._lost_lease)
            else:
                await self._catch_up()
        finally:
            keeping.cancel()
        await self._wait_and_keep_alive()

    async def _keep(self) -> None:
        """Keep the lease alive until it is lost; see Note [Keep-alive first]."""
        while self.lease_id is not None:
            try:
                await self._wait_and_keep_alive()
            except EtcdError as error:
                _log.debug("cannot keep the lease alive: {error}", error=error)
                await self._sleep(self._ttl / 15)

    async def _wait_and_keep_alive(self) -> None:
        """Extend the lease a third of its time after the latest extension."""
        await self._sleep(max(0.0, self._extended_at + self._ttl / 3 - self._reactor.seconds()))
        if self.lease_id is not None:
            await self._keep_alive(self.lease_id)

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the time has passed or the lease is lost."""
        try:
            await self._while_leased(deferLater(self._reactor, seconds))
        except LeaseNotFound:
            return

    async def _while_leased(self, waiting: Deferred[T]) -> T:
        """Wait for a result, and cancel it when the lease is lost. Raises LeaseNotFound."""
        outer: Deferred[T] = Deferred(lambda _: waiting.cancel())

        def pass_on(result: T | Failure) -> None:
            if not outer.called:
                outer.callback(result)

        waiting.addBoth(pass_on)
        if self.lease_id is None and not outer.called:
            outer.errback(LeaseNotFound("the lease has ended"))
        self._until_lost = outer
        try:
            return await outer
        finally:
            self._until_lost = None
            waiting.cancel()

    async def _keep_alive(self, lease: int) -> None:
        """Send keep-alive requests until one is answered, as long as the lease is valid.

        See Note [Keep-alive first].
        """
        while True:
            asking = self._hedged_keep_alive(lease)
            try:
                asked_at, answer = await self._while_leased(asking)
            except EtcdUnavailable:
                await self._sleep(self._ttl / 15)
                if self.lease_id != lease:
                    raise
                continue
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                self._ended_in_etcd(lease)
                raise LeaseNotFound("the lease has expired")
            if self.lease_id == lease:
                self._extend(asked_at)
            return

    def _hedged_keep_alive(self, lease: int) -> Deferred[tuple[float, dict[str, Any]]]:
        """Return the time of the request that was answered first, and its answer."""
        first_at: float | None = None

        async def ask() -> tuple[float, dict[str, Any]]:
            nonlocal first_at
            asked_at = self._reactor.seconds()
            if first_at is None:
                first_at = asked_at
            else:
                self._client.doubt(first_at)
            return asked_at, await self._client.call(
                "lease/keepalive", {"ID": lease}, repeatable=True, timeout=self._ttl / 3
            )

        return hedged(
            lambda: ensureDeferred(ask()), self._ttl / 6, self._reactor, (EtcdUnavailable,)
        )

    async def _restore(self, lost: int) -> None:
        """Revoke the lost lease, whose keys would conflict, and put everything under the new one.

        If this fails, the next iteration retries it.
        """
        try:
            await self._revoke(lost)
        except LeaseNotFound:
            _log.debug("the lost lease has expired")
        await self._catch_up()
        if self.lease_id is None:
            return
        self._lost_lease = None
        _log.info("the session has a new lease")
        _tell(self.on_renewed)

    async def _replaced(self, error: NameHeld) -> None:
        """End the session and revoke its useless new lease; see Note [Names first]."""
        _log.error("this process was replaced: {error}", error=str(error))
        lease, self.lease_id = self.lease_id, None
        self._cancel_expiry()
        for listener in list(self.on_replaced):
            try:
                listener(error)
            except Exception:
                _log.failure("a listener of the session failed")
        if lease is not None:
            try:
                await self._revoke(lease)
            except EtcdError as problem:
                _log.debug("cannot revoke the new lease, it will expire: {error}", error=problem)

    async def _catch_up(self) -> None:
        """Make the changes postponed while etcd was unavailable; see Note [Names first]."""
        await self._claims.retake()
        for registration in list(self._registrations.values()):
            await self.store(registration)
        for key in list(self._left_keys):
            await self._delete(key)
        await self._locks.tidy()

    # Names.

    async def claim(self, key: str, title: str) -> Claim:
        """Claim a name, waiting for the lease of a dead process that still holds it.

        Raises NameHeld: a live process holds it.

        :param key: key of the claim; its last part is the name.
        :param title: what holds the name, for messages.
        """
        claim = Claim(key, title, Holder.this_process(self._ttl))
        await self._claims.take(claim)
        _log.info('holds the name "{node}", life {life}', node=claim.node_id, life=claim.number)
        return claim

    # Registrations.

    async def register(self, key: str, value: bytes) -> Registration:
        """Put *key* under the lease, and again under each new lease.

        If there is no valid lease, the key is put when the next one is granted.
        """
        registration = Registration(self, key, value)
        self._registrations[key] = registration
        self._left_keys.discard(key)
        try:
            await self.store(registration)
        except BaseException:
            if self._registrations.get(key) is registration:
                del self._registrations[key]
                self._left_keys.add(key)
            raise
        return registration

    async def store(self, registration: Registration) -> None:
        """Put the registration's current value, unless etcd already has it."""
        await registration.turn.acquire()
        try:
            wanted = (self.lease_id or 0, registration.value)
            is_known = self._registrations.get(registration.key) is registration
            if not is_known or self.lease_id is None or registration.stored == wanted:
                return
            if not self._claims.are_held:
                return  # see Note [Names first]; the key is put when the names are claimed
            lease, value = wanted
            registration.stored = None
            await self._put(registration, value, lease)
            registration.stored = wanted
        except LeaseNotFound:
            self._ended_in_etcd(lease)
        finally:
            registration.turn.release()

    async def _put(self, registration: Registration, value: bytes, lease: int) -> None:
        """Put the registration if its revision is still current; see Note [Late puts]."""
        absolute = self._client.namespace + registration.key
        replaced, registration.revision = registration.revision, None
        for _ in range(_PUT_ATTEMPTS):
            if replaced is None:
                found = await self._client.get(registration.key)
                replaced = 0 if found is None else found.mod_revision
            result = await self._client.commit(
                [compare_modified(absolute, "==", replaced)],
                [put_operation(absolute, value, lease)],
            )
            if result.succeeded:
                registration.revision = result.revision
                return
            replaced = None
        raise EtcdUnavailable(f"{registration.key} is continuously changed by other processes")

    async def put_again(self, registration: Registration) -> None:
        """If there is a lease, put a registration again whose key was deleted."""
        registration.stored = None
        try:
            await self.store(registration)
        except EtcdUnavailable as error:
            _log.warn("cannot write {key}, retrying: {error}", key=registration.key, error=error)

    async def remove(self, registration: Registration) -> None:
        """Delete the registration's key after all its pending puts."""
        key = registration.key
        if self._registrations.get(key) is not registration:
            return
        del self._registrations[key]
        self._left_keys.add(key)
        await registration.turn.acquire()
        registration.turn.release()
        deleting = ensureDeferred(self._delete(key))
        within(deleting, _GIVE_BACK_SECONDS, self._reactor, "the deletion of a key")
        try:
            await deleting
        except (EtcdError, TimeoutError) as error:
            _log.warn("cannot delete {key}, retrying: {error}", key=key, error=error)

    async def _delete(self, key: str) -> None:
        """Delete the key if it is ours; the next life of the node may already have put its own.

        A key that belongs to an earlier lease of ours ends with that lease. A late request doesn't
        delete a key that was registered again; see Note [Late puts].
        """
        for _ in range(_PUT_ATTEMPTS):
            found = await self._client.get(key)
            if found is None or found.lease != self.lease_id:
                break
            absolute = self._client.namespace + key
            result = await self._client.commit(
                [compare_modified(absolute, "==", found.mod_revision)], [delete_operation(absolute)]
            )
            if result.succeeded:
                break
        else:
            raise EtcdUnavailable(f"{key} is continuously changed by other processes")
        self._left_keys.discard(key)
        again = self._registrations.get(key)
        if again is not None:  # registered again; the order of requests is unknown
            again.stored = again.revision = None
            await self.store(again)

    # Locks.

    async def lock(self, name: str, *, timeout: float) -> Lock:
        """Return the lock once it is held.

        Raises LockTimeout: it wasn't available within *timeout* seconds.
        """
        acquiring = ensureDeferred(self._locks.acquire(name))
        acquiring.addTimeout(timeout, self._reactor)
        try:
            return await acquiring
        except TimeoutError:
            raise LockTimeout(f'lock "{name}" is held by another process') from None

    async def try_lock(self, name: str) -> Lock | None:
        """Return the lock, or ``None`` if another caller holds it."""
        return await self._locks.try_acquire(name)


def _tell(callbacks: list[Callable[[], None]]) -> None:
    for callback in list(callbacks):
        try:
            callback()
        except Exception:
            _log.failure("a listener of the session failed")
