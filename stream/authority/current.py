"""The current tokens in etcd, known without a read for each of them.

Note [Current tokens]: a mirror holds the tokens of all projects, so a revocation takes effect when
its event arrives. But a watch may break silently, so a token in the mirror may already be revoked.
Each revocation therefore also writes the key `REVOKED`, in the same transaction. The revision of
this key in etcd is that of the last revocation. A node asks etcd for this revision. If the mirror
has reached it, the mirror contains no token that was revoked before the request. The answer is
valid for all tokens, for `TRUSTED_SECONDS` after the request. So a node asks at most every
`RENEWED_SECONDS`, however many tokens are in use, and never if none is in use. If the mirror lacks
the revocation, or etcd was restored to an earlier revision, nothing in the mirror is used: each
token is read until the mirror has caught up.
"""

from __future__ import annotations

import hmac
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.authority.tokens import PREFIX, REVOKED, TokenRecord, digest, key_in, path_of
from stream.concurrency.waiters import Waiters
from stream.etcd import Batch, EtcdClient, KeyValue, Mirror
from stream.values.codec import decode

__all__ = ["RENEWED_SECONDS", "TRUSTED_SECONDS", "CurrentTokens"]

_log = Logger(namespace="stream.authority")

TRUSTED_SECONDS = 0.9
"""How long an answer from etcd is valid, so that a revoked token is refused within a second."""
RENEWED_SECONDS = 0.45
"""Age at which an answer in use is renewed, so that no request waits for the next one."""


@attrs.frozen
class _Revocation:
    """The last revocation in the mirror.

    :ivar number: number of revocations.
    """

    revision: int
    number: int


class CurrentTokens(Service):
    """The tokens of all projects; see Note [Current tokens].

    The Deferred of startService fires when the tokens are loaded.

    :param reactor: clock.
    :param client: etcd client, already started.
    """

    def __init__(self, reactor: Any, client: EtcdClient) -> None:
        self._reactor = reactor
        self._client = client
        self._mirror: Mirror[TokenRecord | _Revocation] = Mirror(
            client, PREFIX, _decoded, on_change=self._changed
        )
        self._has_missed = False
        self._proven_at: float | None = None
        self._asked_at: float | None = None
        self._asking: Waiters[bool] | None = None

    async def startService(self) -> None:
        super().startService()
        await self._mirror.startService()

    async def stopService(self) -> None:
        super().stopService()
        await self._mirror.stopService()

    async def find(self, text: str) -> TokenRecord | None:
        """Return the record of the token with this *text*.

        ``None`` if the token is unknown here, or if the mirror isn't current; the caller then reads
        the record from etcd.

        Raises EtcdError: etcd has to be asked and doesn't answer.
        """
        if self._known(text) is None or not await self._is_current():
            return None
        return self._known(text)

    def _known(self, text: str) -> TokenRecord | None:
        key = key_in(text)
        record = None if key is None else self._mirror.items.get(path_of(key))
        if not isinstance(record, TokenRecord):
            return None
        return record if hmac.compare_digest(record.digest, digest(text)) else None

    async def _is_current(self) -> bool:
        age = self._age(self._proven_at)
        if age < TRUSTED_SECONDS:
            if age >= RENEWED_SECONDS and self._age(self._asked_at) >= RENEWED_SECONDS:
                self._ask().addErrback(lambda _: None)  # the next call asks again
            return True
        if self._asking is None and self._age(self._asked_at) < RENEWED_SECONDS:
            return False  # the mirror was behind a moment ago
        return await self._ask()

    def _age(self, at: float | None) -> float:
        """Return the seconds since *at*; infinity if the clock was set back."""
        age = float("inf") if at is None else self._reactor.seconds() - at
        return age if age >= 0 else float("inf")

    def _ask(self) -> Deferred[bool]:
        if self._asking is None:
            self._asking = Waiters()
            waiter = self._asking.wait()
            ensureDeferred(self._question()).addCallbacks(self._answered, self._failed)
            return waiter
        return self._asking.wait()

    async def _question(self) -> bool:
        self._asked_at = asked_at = self._reactor.seconds()
        seen = self._mirror.revision
        found = await self._client.read(REVOKED)
        last = found.kvs[0].mod_revision if found.kvs else 0
        is_restored = found.revision < seen
        is_current = not (self._has_missed or is_restored or last > self._last_revocation())
        self._proven_at = asked_at if is_current else None
        return is_current

    def _answered(self, is_current: bool) -> None:
        waiters, self._asking = self._asking, None
        if waiters is not None:
            waiters.fire(is_current)

    def _failed(self, failure: Failure) -> None:
        waiters, self._asking = self._asking, None
        self._asked_at = None
        if waiters is not None:
            waiters.fail(failure)

    def _last_revocation(self) -> int:
        found = self._mirror.items.get(REVOKED)
        return found.revision if isinstance(found, _Revocation) else 0

    def _changed(self, batch: Batch[TokenRecord | _Revocation]) -> None:
        """Detect a revocation that never arrived, although a later one did."""
        if batch.reset:
            self._has_missed = False
            return
        for change in batch.changes:
            if isinstance(change.value, _Revocation):
                before = change.previous
                known = before.number if isinstance(before, _Revocation) else 0
                if change.value.number != known + 1:
                    _log.warn("the token watch missed a revocation")
                    self._has_missed = True


def _decoded(kv: KeyValue) -> TokenRecord | _Revocation:
    if kv.key == REVOKED:
        return _Revocation(kv.mod_revision, kv.version)
    return decode(TokenRecord, kv.value)
