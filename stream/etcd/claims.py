"""Names that only one process at a time may hold, and the number of each life of a name.

A claim is a key under the session's lease that is put only if it doesn't exist. Its create revision
is the *number* of the life, so a later life of the name has a higher number. A process that was
paused for longer than its lease doesn't know that it was replaced. So all writes of a life to
shared files contain its number, and late writes of an earlier life can be refused.

Note [Dead holders]: after a crash, the name is held until the lease of the dead process ends. A
restarted process waits for that. If the dead process ran under the same kernel and is certainly
gone, its lease is revoked immediately. If this conclusion is ever wrong, it does no harm. The
earlier life finds that its lease was revoked, and can't write any more because the number of each
write is checked.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.errors import UserError
from stream.etcd.client import EtcdClient
from stream.etcd.errors import EtcdUnavailable, LeaseNotFound
from stream.etcd.request import KeyValue, compare_created, get_operation, put_operation
from stream.values.codec import Record, decode, encode
from stream.values.utctime import format_time

__all__ = ["Claim", "Claims", "Holder", "NameHeld"]

_log = Logger()

_POLL_SECONDS = 0.25
_MARGIN_SECONDS = 3.0
"""Added to the time to live of the holder's lease, because etcd may end a lease a second late."""
_TOKEN_BYTES = 12


class NameHeld(UserError):
    """Another process, which is alive, holds the name."""

    status = 503
    name = "nameHeld"


@attrs.frozen(kw_only=True)
class Holder(Record):
    """The process that holds a name, as described by its claim.

    :ivar token: random text that is different in each process.
    :ivar since: when the process claimed the name.
    :ivar ttl: seconds that its lease lasts without a keep-alive.
    :ivar machine: id of the running kernel; empty if unknown.
    :ivar namespace: the namespace of process ids within the kernel.
    :ivar started: clock ticks from the start of the kernel to the start of the process.
    """

    token: str
    host: str = ""
    pid: int = 0
    since: str = ""
    ttl: int
    machine: str = ""
    namespace: str = ""
    started: int = 0

    @classmethod
    def this_process(cls, ttl: int) -> Holder:
        """Return the description of the calling process."""
        pid = os.getpid()
        return cls(
            token=secrets.token_hex(_TOKEN_BYTES),
            host=socket.gethostname(),
            pid=pid,
            since=format_time(datetime.now(UTC)),
            ttl=ttl,
            machine=_machine(),
            namespace=_namespace(),
            started=_started(pid) or 0,
        )

    def is_certainly_dead(self) -> bool:
        """Return whether the process, under this kernel and in this namespace, has ended."""
        if not self.started or not self.machine or self.machine != _machine():
            return False
        if self.namespace != _namespace() or not self.namespace:
            return False
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f'process {self.pid} on host "{self.host}" since {self.since}'


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Return when a process was started; ``None`` if it doesn't exist or has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may contain anything
    state, started = fields[0], fields[19]
    return None if state in "ZX" else int(started)


class Claim:
    """A name that the session holds, and claims again under each new lease.

    :param title: what holds the name, for messages; for example ``source node``.

    :ivar number: number of the current life; 0 while the name isn't held.
    :ivar lease: the lease that the key belongs to.
    """

    def __init__(self, key: str, title: str, holder: Holder) -> None:
        self.key = key
        self.title = title
        self.holder = holder
        self.number = 0
        self.lease = 0

    @property
    def node_id(self) -> str:
        """The id of the node, which is the claimed name."""
        return self.key.rpartition("/")[2]


class Claims:
    """The claims of one session.

    :param lease: returns the id of the session's valid lease.
    :param ended: called with the id of a lease that no longer exists in etcd.
    """

    def __init__(
        self,
        client: EtcdClient,
        reactor: Any,
        lease: Callable[[], int | None],
        ended: Callable[[int], None],
    ) -> None:
        self._client = client
        self._reactor = reactor
        self._lease = lease
        self._ended = ended
        self._claims: list[Claim] = []

    @property
    def are_held(self) -> bool:
        """Return whether every name is held under the current lease."""
        lease = self._lease()
        return all(claim.number and claim.lease == lease for claim in self._claims)

    def lost(self) -> None:
        """Mark all names as not held, because the lease has ended."""
        for claim in self._claims:
            claim.number = 0

    async def take(self, claim: Claim) -> None:
        """Claim a name for the first time, waiting for the lease of a dead holder to end.

        If the session's own lease ends meanwhile, the wait begins again with the next lease. A slow
        or paused host then delays the start of a process, but doesn't make it fail.

        Raises NameHeld: another process still holds the name after the time to live of its lease.
        Raises EtcdUnavailable: etcd doesn't answer during this time.
        """
        seen = claim.holder.token  # The session revokes an earlier lease of its own.
        patience = claim.holder.ttl + _MARGIN_SECONDS
        deadline = self._reactor.seconds() + patience
        lease = self._lease()
        while True:
            problem: Exception
            asked_at = self._reactor.seconds()
            try:
                kv = await self._try(claim)
            except EtcdUnavailable as error:
                _log.debug("cannot claim {key}, retrying: {error}", key=claim.key, error=error)
                problem = EtcdUnavailable(f"cannot claim {claim.key}: {error}")
            else:
                if kv is None:
                    self._claims.append(claim)
                    return
                holder = _decode(kv)
                problem = _held(claim, holder)
                if holder.token != seen:
                    seen = holder.token
                    patience = max(patience, holder.ttl + _MARGIN_SECONDS)
                    deadline = self._reactor.seconds() + patience
                    await self._look_at(claim, kv, holder)
            if self._lease() != lease:
                lease = self._lease()
                deadline = self._reactor.seconds() + patience
            elif asked_at >= deadline:
                raise problem
            await deferLater(self._reactor, _POLL_SECONDS)

    async def _look_at(self, claim: Claim, kv: KeyValue, holder: Holder) -> None:
        """Revoke the lease of a dead holder; otherwise log who holds the name.

        See Note [Dead holders].
        """
        if holder.is_certainly_dead():
            _log.info(
                'the name "{node}" is held by {holder}, which no longer runs: revoking its lease',
                node=claim.node_id,
                holder=str(holder),
            )
            try:
                await self._client.call("lease/revoke", {"ID": kv.lease})
            except (EtcdUnavailable, LeaseNotFound) as error:
                _log.debug("cannot revoke the lease: {error}", error=error)
            return
        _log.warn(
            'the {title} name "{node}" is already in use by {holder}: waiting up to {seconds:g} s '
            "for its lease to end",
            node=claim.node_id,
            title=claim.title,
            holder=str(holder),
            seconds=holder.ttl + _MARGIN_SECONDS,
        )

    async def retake(self) -> None:
        """Claim all names again under a new lease.

        Raises NameHeld: another process holds one of them.
        """
        for claim in self._claims:
            if claim.number and claim.lease == self._lease():
                continue
            kv = await self._try(claim)
            if kv is None:
                continue
            holder = _decode(kv)
            if holder.token != claim.holder.token:
                raise _held(claim, holder)
            await self._client.call("lease/revoke", {"ID": kv.lease})
            raise EtcdUnavailable(f"{claim.key} belongs to an earlier lease of this process")

    async def _try(self, claim: Claim) -> KeyValue | None:
        """Put the key unless it exists; return the existing key if it belongs to another lease.

        Raises EtcdUnavailable: there is no valid lease, or etcd doesn't answer.
        """
        lease = self._lease()
        if lease is None:
            raise EtcdUnavailable("there is no valid lease")
        absolute = self._client.namespace + claim.key
        try:
            result = await self._client.commit(
                [compare_created(absolute, "==", 0)],
                [put_operation(absolute, encode(claim.holder), lease)],
                [get_operation(absolute)],
            )
        except LeaseNotFound:
            self._ended(lease)
            raise EtcdUnavailable("the lease ended before the name was claimed") from None
        number = result.revision
        if not result.succeeded:
            [kv] = result.reads[0]
            if kv.lease != lease:
                return kv
            number = kv.create_revision  # an earlier request, whose answer was lost
        if self._lease() != lease:
            raise EtcdUnavailable("the lease ended while the name was being claimed")
        claim.number, claim.lease = number, lease
        return None


def _decode(kv: KeyValue) -> Holder:
    try:
        return decode(Holder, kv.value)
    except ValueError:  # The holder runs another version, which describes itself differently.
        return Holder(token=str(kv.create_revision), host="?", pid=0, since="?", ttl=30)


def _held(claim: Claim, holder: Holder) -> NameHeld:
    return NameHeld(
        f'the name "{claim.node_id}" of the {claim.title} is held by {holder}; that process is '
        "still running: stop it, or give this process another name (nodeID, STREAM_NODE_ID)"
    )
