"""A local copy of an etcd prefix, as a dict.

Everything below the prefix is read at one revision and watched from the next one, so no change is
missed. A broken watch resumes from the last revision seen. After a compaction, everything is read
again, and delivered as a batch that replaces the content. Batches are handled strictly in order.

Note [Restored]: when etcd is restored from a snapshot, it continues from the snapshot's revision. A
watch from a later revision would stay silent, and would never report the changes that were undone.
So a new watch first checks whether etcd's revision is behind the mirror's. If it is, everything is
read again.

Note [Missed]: a silent watch may have lost changes. A new watch would report the changes after the
last revision seen. But if a change was lost and a later one wasn't, no watch reports the lost
change again, and only the number of keys shows that it exists. So everything is read again,
whatever was lost.

Note [Late changes]: when etcd becomes unreachable, the connection of a watch stays open for a
while. Changes that etcd sends during the outage arrive late, because the operating system
retransmits them at growing intervals. The delay may be as long as the outage. A new watch reports
the changes at once. A watch that has reported something since the outage works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Generic, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.paced import in_turns
from stream.concurrency.waiters import Waiters
from stream.etcd.client import EtcdClient
from stream.etcd.errors import Compacted, EtcdError, TooManyChanges
from stream.etcd.request import KeyValue
from stream.etcd.watch import Event, WatchStream
from stream.values.backoff import Backoff
from stream.values.codec import decode

__all__ = ["Batch", "Change", "Mirror", "json_values"]

_log = Logger()
T = TypeVar("T")

_BACKOFF_FIRST_SECONDS = 0.05
_BACKOFF_MAX_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""Seconds without changes after which the mirror asks etcd whether there were any."""


class _Restored(EtcdError):
    """etcd was restored to an earlier revision; see Note [Restored]."""


class _Missed(EtcdError):
    """The watch has missed changes; see Note [Missed]."""


@attrs.frozen
class Change(Generic[T]):
    """A change of one key of a mirror.

    :ivar value: the new value; ``None`` if the key was deleted.
    :ivar previous: the value in the mirror before the change.
    """

    key: str
    value: T | None
    previous: T | None
    mod_revision: int


@attrs.frozen
class Batch(Generic[T]):
    """The changes that a mirror applied together.

    :ivar revision: revision up to which the mirror contains all changes after this batch.
    :ivar reset: whether the changes are the whole content, and all other keys are gone.
    """

    revision: int
    reset: bool
    changes: tuple[Change[T], ...]


class Mirror(Service, Generic[T]):
    """A local copy of a prefix, kept current by a watch.

    :param prefix: the mirrored prefix; ends with a slash.
    :param decode: returns the value of a key; a key that it can't decode is logged and skipped.
    :param on_change: called with each batch after `items` has changed; the next batch waits for it.
    :param keys_only: whether to load only keys. Values are then empty, so *decode* must not need
        them.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        decode: Callable[[KeyValue], T],
        *,
        on_change: Callable[[Batch[T]], Awaitable[None] | None] | None = None,
        keys_only: bool = False,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._decode = decode
        self._keys_only = keys_only
        self._listeners = [] if on_change is None else [on_change]
        self._items: dict[str, T] = {}
        self._undecoded: set[str] = set()
        self.revision = 0
        self._stream: WatchStream | None = None
        self._watches = 0
        self._is_again = False
        self._following: Deferred[None] | None = None
        self._behind_since: float | None = None
        self._sizes = (0, 0)
        self._reached: Waiters[None] = Waiters()

    def listen(self, on_change: Callable[[Batch[T]], Awaitable[None] | None]) -> None:
        """Add a listener that is called with each batch; must be called before the start."""
        self._listeners.append(on_change)

    @property
    def prefix(self) -> str:
        """The mirrored prefix."""
        return self._prefix

    @property
    def lag_seconds(self) -> float:
        """Seconds for which the mirror may have been out of date; 0 while it is current.

        The time is counted from when the watch broke, or from the first change that isn't handled
        yet. A silent watch is trusted for a minute.
        """
        if self._behind_since is None:
            return 0.0
        now: float = self._client.reactor.seconds()
        return max(0.0, now - self._behind_since)

    @property
    def stored_bytes(self) -> int:
        """Estimated size of the mirrored keys and values in bytes: number of keys × mean size."""
        count, size = self._sizes
        return len(self._items) * size // count if count else 0

    @property
    def items(self) -> Mapping[str, T]:
        """The values by key (without the namespace, with the prefix)."""
        return self._items

    async def reached(self, revision: int) -> None:
        """Wait until the mirror contains the change that was made at *revision*.

        The change must be below the prefix. While etcd is unavailable, this may wait forever.
        """
        while self.revision < revision:
            await self._reached.wait()

    async def startService(self) -> None:
        """Start the mirror, and wait until the content is loaded and delivered."""
        super().startService()
        self._client.mirrors.add(self)
        await self._load()
        self._following = ensureDeferred(self._follow())
        self._following.addErrback(self._stopped)

    async def stopService(self) -> None:
        super().stopService()
        self._client.mirrors.discard(self)
        if self._stream is not None:
            self._stream.cancel()
        if self._following is not None:
            self._following.cancel()
            await self._following

    def _stopped(self, failure: Failure) -> None:
        if self.running and failure.check(CancelledError) is None:
            _log.failure("mirror of {prefix} stopped", failure, prefix=self._prefix)

    async def _load(self) -> None:
        result = await self._client.range(self._prefix, keys_only=self._keys_only)
        previous = self._items
        items: dict[str, T] = {}
        undecoded, self._undecoded = self._undecoded, set()
        changes: list[Change[T]] = []

        def take(kv: KeyValue) -> None:
            value = self._decoded(kv)
            if value is not None:
                items[kv.key] = value
                changes.append(Change(kv.key, value, previous.get(kv.key), kv.mod_revision))

        try:
            await in_turns(result.kvs, take, self._client.reactor)
        except BaseException:
            self._undecoded = undecoded
            raise
        self._items = items
        await self._hand_on(Batch(result.revision, True, tuple(changes)))

    async def _follow(self) -> None:
        """Watch the prefix, and start again after any failure."""
        backoff = Backoff(_BACKOFF_FIRST_SECONDS, _BACKOFF_MAX_SECONDS, jitter=0.2)
        is_lost = False
        while self.running:
            seen = self._watches
            try:
                if is_lost:
                    await self._load()
                    is_lost = False
                await self._watch()
            except CancelledError:
                raise
            except TooManyChanges as error:
                _log.warn("reading {prefix} again: {error}", prefix=self._prefix, error=error)
                is_lost = True
            except Compacted:
                _log.warn("reading {prefix} again after a compaction", prefix=self._prefix)
                is_lost = True
            except _Restored:
                _log.error(
                    "etcd was restored to an earlier revision, reading {prefix} again",
                    prefix=self._prefix,
                )
                is_lost = True
            except _Missed:
                _log.warn("the watch of {prefix} missed changes", prefix=self._prefix)
                is_lost = True
            except Exception as error:
                if not self.running:
                    return
                self._warn(error)
                if self._watches > seen:
                    backoff.reset()
                await self._client.pause(backoff.next())

    def doubt(self, since: float) -> None:
        """Replace the watch if it has been silent since an outage; see Note [Late changes].

        :param since: the time of the last failed call.
        """
        if self._stream is not None and self._stream.heard_at <= since:
            self._stream.cancel()

    def _warn(self, error: Exception) -> None:
        if isinstance(error, EtcdError):
            _log.warn("watch of {prefix} failed: {error}", prefix=self._prefix, error=error)
        else:
            _log.failure("watch of {prefix} failed", prefix=self._prefix)

    async def _watch(self) -> None:
        if self._is_again:
            asked = await self._client.read(self._prefix, limit=1, keys_only=True)
            self._check_not_restored(asked.revision)
        self._is_again = True
        self._stream = stream = await self._client.watch(self._prefix, self.revision + 1)
        self._watches += 1
        self._behind_since = None
        try:
            while self.running:  # Cancelling a Deferred that is already firing has no effect.
                try:
                    batch = await stream.next().addTimeout(_SILENCE_SECONDS, self._client.reactor)
                except TimeoutError:
                    await self._check_unchanged()
                    continue
                if batch.events:
                    self._behind_since = self._client.reactor.seconds()
                    found = [self._apply(event) for event in batch.events]
                    changes = tuple(change for change in found if change is not None)
                    await self._hand_on(Batch(batch.revision, False, changes))
                    self._behind_since = None
                else:
                    self.revision = max(self.revision, batch.revision)
        finally:
            stream.cancel()
            self._stream = None
            self._behind_since = self._client.reactor.seconds()

    async def _check_unchanged(self) -> None:
        """Check whether a silent watch has missed changes.

        Nothing has changed if no key is newer than the mirror's revision and the number of keys is
        the same. The check also advances `revision`. Otherwise a compaction could overtake it while
        nothing below the prefix changes.
        """
        found = await self._client.read(
            self._prefix, min_mod_revision=self.revision + 1, limit=1, keys_only=True
        )
        self._check_not_restored(found.revision)
        if found.kvs or found.count != len(self._items) + len(self._undecoded):
            raise _Missed
        self.revision = found.revision

    def _check_not_restored(self, revision: int) -> None:
        if revision < self.revision:
            raise _Restored

    def _apply(self, event: Event) -> Change[T] | None:
        """Apply an event; return ``None`` if the mirror has neither an old nor a new value."""
        self._undecoded.discard(event.key)
        value = None if event.kv is None else self._decoded(event.kv)
        previous = self._items.get(event.key)
        if value is not None:
            self._items[event.key] = value
        elif previous is not None:
            del self._items[event.key]
        else:
            return None
        return Change(event.key, value, previous, event.mod_revision)

    def _decoded(self, kv: KeyValue) -> T | None:
        value: T | None = None
        try:
            value = self._decode(kv)
            count, size = self._sizes
            stored = 0 if self._keys_only else len(kv.value)
            self._sizes = (count + 1, size + len(kv.key) + stored)
        except Exception:
            _log.failure("cannot decode {key}, skipping it", key=kv.key)
        if value is None:
            self._undecoded.add(kv.key)
        return value

    async def _hand_on(self, batch: Batch[T]) -> None:
        for listener in self._listeners:
            try:
                handled = listener(batch)
                if isawaitable(handled):
                    await handled
            except CancelledError:
                raise
            except Exception:
                _log.failure("cannot handle a change below {prefix}", prefix=self._prefix)
        self.revision = batch.revision
        self._reached.fire(None)


def json_values(cls: type[T]) -> Callable[[KeyValue], T]:
    """Return a decoder for a mirror of JSON records."""
    return lambda kv: decode(cls, kv.value)
