"""A prefix of etcd as a live dict.

Everything below the prefix is read at one revision, then watched from the next one, so there is no
gap. A broken watch goes on from the last revision seen; after a compaction everything is read again
and handed on as a batch that replaces the content. Batches are handled strictly in order.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Generic, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.etcd.client import EtcdClient
from stream.etcd.errors import Compacted, EtcdError
from stream.etcd.request import KeyValue
from stream.etcd.watch import Event, WatchStream

__all__ = ["Batch", "Change", "Mirror"]

_log = Logger()
T = TypeVar("T")

_BACKOFF_FIRST_SECONDS = 0.05
_BACKOFF_MAX_SECONDS = 60.0


@attrs.frozen
class Change(Generic[T]):
    """:ivar value: the new value; ``None`` if the key is gone.
    :ivar previous: what the mirror held before.
    """

    key: str
    value: T | None
    previous: T | None
    mod_revision: int


@attrs.frozen
class Batch(Generic[T]):
    """:ivar revision: everything up to it is contained in the mirror after this batch.
    :ivar reset: the changes are the whole content; what isn't among them is gone.
    """

    revision: int
    reset: bool
    changes: tuple[Change[T], ...]


class Mirror(Service, Generic[T]):
    """:param prefix: ends with a slash.
    :param decode: makes the value; a key that it can't decode is logged and left out.
    :param on_change: told of each batch after `items` has changed; the next one waits for it.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        decode: Callable[[KeyValue], T],
        *,
        on_change: Callable[[Batch[T]], Awaitable[None] | None] | None = None,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._decode = decode
        self._on_change = on_change
        self._items: dict[str, T] = {}
        self.revision = 0
        self._stream: WatchStream | None = None
        self._following: Deferred[None] | None = None
        self._waiters: list[tuple[int, Deferred[None]]] = []

    @property
    def items(self) -> Mapping[str, T]:
        """The values by key (without the namespace, with the prefix)."""
        return self._items

    async def startService(self) -> None:
        """Fires when the content is loaded and handed on."""
        super().startService()
        await self._load()
        self._following = ensureDeferred(self._follow())
        self._following.addErrback(self._stopped)

    async def stopService(self) -> None:
        super().stopService()
        if self._stream is not None:
            self._stream.cancel()
        if self._following is not None:
            self._following.cancel()
            await self._following

    def _stopped(self, failure: Failure) -> None:
        if self.running and failure.check(CancelledError) is None:
            _log.failure("mirror of {prefix} stopped", failure, prefix=self._prefix)

    def wait_revision(self, revision: int, timeout: float) -> Deferred[None]:
        """Fires when the mirror contains everything up to *revision*.

        Fails with ``TimeoutError`` of `twisted.internet.defer` after *timeout* seconds.
        """
        waiter: Deferred[None] = Deferred()
        if self.revision >= revision:
            waiter.callback(None)
            return waiter
        self._waiters.append((revision, waiter))
        waiter.addTimeout(timeout, self._client.reactor)
        return waiter

    def _reached(self, revision: int) -> None:
        self.revision = revision
        due = [waiter for wanted, waiter in self._waiters if wanted <= revision]
        self._waiters = [(w, waiter) for w, waiter in self._waiters if w > revision]
        for waiter in due:
            if not waiter.called:
                waiter.callback(None)

    async def _load(self) -> None:
        result = await self._client.range(self._prefix)
        previous, self._items = self._items, {}
        changes = []
        for kv in result.kvs:
            value = self._decoded(kv)
            if value is not None:
                self._items[kv.key] = value
                changes.append(Change(kv.key, value, previous.get(kv.key), kv.mod_revision))
        await self._hand_on(Batch(result.revision, True, tuple(changes)))

    async def _follow(self) -> None:
        delay = _BACKOFF_FIRST_SECONDS
        while self.running:
            seen = self.revision
            try:
                await self._watch()
            except Compacted:
                _log.warn("reading {prefix} again after a compaction", prefix=self._prefix)
                await self._load_until_done()
            except EtcdError as error:
                if not self.running:
                    return
                if self.revision > seen:
                    delay = _BACKOFF_FIRST_SECONDS
                _log.warn(
                    "watch of {prefix} broke, it goes on: {error}",
                    prefix=self._prefix,
                    error=error,
                )
                await self._pause(delay)
                delay = min(delay * 2, _BACKOFF_MAX_SECONDS)

    async def _load_until_done(self) -> None:
        delay = _BACKOFF_FIRST_SECONDS
        while self.running:
            try:
                await self._load()
            except EtcdError as error:
                _log.warn("cannot read {prefix}: {error}", prefix=self._prefix, error=error)
                await self._pause(delay)
                delay = min(delay * 2, _BACKOFF_MAX_SECONDS)
            else:
                return

    async def _pause(self, delay: float) -> None:
        await deferLater(self._client.reactor, delay * random.uniform(0.8, 1.2))

    async def _watch(self) -> None:
        self._stream = await self._client.watch(self._prefix, self.revision + 1)
        try:
            while True:
                batch = await self._stream.next()
                if batch.events:
                    changes = tuple(self._apply(event) for event in batch.events)
                    await self._hand_on(Batch(batch.revision, False, changes))
                else:
                    self._reached(max(self.revision, batch.revision))
        finally:
            self._stream.cancel()
            self._stream = None

    def _apply(self, event: Event) -> Change[T]:
        value = None if event.kv is None else self._decoded(event.kv)
        previous = self._items.get(event.key)
        if value is None:
            self._items.pop(event.key, None)
        else:
            self._items[event.key] = value
        return Change(event.key, value, previous, event.mod_revision)

    def _decoded(self, kv: KeyValue) -> T | None:
        try:
            return self._decode(kv)
        except Exception:
            _log.failure("cannot decode {key}, it is left out", key=kv.key)
            return None

    async def _hand_on(self, batch: Batch[T]) -> None:
        if self._on_change is not None:
            try:
                handled = self._on_change(batch)
                if isawaitable(handled):
                    await handled
            except CancelledError:
                raise
            except Exception:
                _log.failure("cannot handle a change of {prefix}", prefix=self._prefix)
        self._reached(batch.revision)
