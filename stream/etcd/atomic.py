"""Atomic operations, which read and write in one transaction and retry on a conflict.

The body of an operation reads, puts and deletes through its `AtomicTxn`. All reads are at one
revision. Nothing is written until the body returns. Then one etcd transaction writes everything,
provided that nothing that was read has changed. On a conflict the body runs again, so it must not
keep state from an earlier run or call remote services.

Note [Guards]: a key that was read must still have the same revision (0 if it didn't exist). No key
in a range that was read may be newer than the snapshot. etcd can't compare the number of keys, so
each key that was found must also still exist.

Note [Assumptions]: most new keys have random or recent names, so reading them before they are
written finds nothing and costs a round trip. Therefore, `AtomicTxn.expect_absent` doesn't read in
the first attempt. If the assumption is wrong, the guard of the key makes the transaction fail, and
the next attempt reads the key. An exception that the body raises in the first attempt must not
depend on an assumption. It doesn't, because bodies raise only when such a key exists.

Note [Doubt]: if etcd received the transaction but didn't answer, the transaction may have been
applied. If the body ran again, it could apply its changes twice, or find its own writes and report
a conflict. So the keys are checked first. If all keys that were put have the same new revision, the
transaction was applied. Deletions can't be recognized in this way, so a transaction that only
deletes counts as applied if all its keys are gone.

Note [Unguarded reads]: `AtomicTxn.peek`, `AtomicTxn.count` and `AtomicTxn.pages` read at the
snapshot, but add no condition. They are for values that can only change together with a key that
the operation has read as well, so that the condition of that key covers all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.etcd.client import EtcdClient, RangeResult
from stream.etcd.errors import Compacted, EtcdError, EtcdUnavailable, NotReached
from stream.etcd.lock import Lock
from stream.etcd.request import (
    KeyValue,
    compare_created,
    compare_modified,
    delete_operation,
    delete_range_operation,
    get_operation,
    put_operation,
    require_key,
    require_prefix,
)
from stream.values.backoff import Backoff

__all__ = ["AtomicConflict", "AtomicTxn", "LockLost", "atomic"]

_log = Logger()
T = TypeVar("T")
R = TypeVar("R")

_FIRST_DELAY_SECONDS = 0.01
_MAX_DELAY_SECONDS = 2.0
_MAX_TIME_SECONDS = 15.0
_LOOK_AGAIN_SECONDS = 0.1
_MAX_HISTORY = 100
_FIRST_PAGE_KEYS, _MAX_PAGE_KEYS = 16, 1000
_PAGE_BYTES = 4 * 1024 * 1024
"""The target size of a page in bytes; the number of its keys is computed from earlier pages."""
_OPERATION_BYTES = 64
"""An upper bound of the size of an operation or condition without its key and value.

A key may also be in the condition of its range, and one of its characters may take several bytes.
"""


class AtomicConflict(EtcdError):
    """Other writers kept changing what the operation read."""


class LockLost(EtcdError):
    """The operation needs a lock that its session no longer holds."""


@attrs.frozen
class _Put:
    value: bytes
    lease: int


class AtomicTxn:
    """One attempt of an atomic operation.

    :param may_assume: whether `expect_absent` skips the read; see Note [Assumptions].

    :ivar in_doubt: whether etcd may have applied the transaction although it didn't answer. It is
        then unknown which deletions have found a key.
    :ivar has_assumed: whether some keys were assumed to be absent without a read.
    :ivar written_at: the revision at which everything was written; 0 if nothing is written yet.
    """

    def __init__(
        self, client: EtcdClient, lock: Lock | None = None, *, may_assume: bool = False
    ) -> None:
        self._client = client
        self._may_assume = may_assume
        self.has_assumed = False
        self.written_at = 0
        self._locks = [] if lock is None else [lock]
        self._revision = 0
        self._keys: dict[str, KeyValue | None] = {}
        self._peeked: dict[str, KeyValue | None] = {}
        self._first_read = DeferredLock()
        self._ranges: dict[str, tuple[Sequence[KeyValue], bool]] = {}
        self._writes: dict[str, _Put | None] = {}
        self._deleted_prefixes: list[str] = []
        self._deleted: set[str] = set()
        self._callbacks: list[Callable[[int], None]] = []
        self.in_doubt = False

    # Reading.

    async def get(self, key: str) -> KeyValue | None:
        """Return the stored value of the key, or the value that this attempt has put."""
        return (await self.get_many([key]))[key]

    async def get_many(self, keys: Sequence[str]) -> dict[str, KeyValue | None]:
        """Return the values of several keys, read in one round trip."""
        unread = [key for key in dict.fromkeys(keys) if key not in self._keys]
        unread = [key for key in unread if key not in self._writes]
        self._keys.update({key: self._peeked[key] for key in unread if key in self._peeked})
        unread = [key for key in unread if key not in self._keys]
        if unread:
            self._keys.update(await self._at_snapshot(partial(self._read_keys, unread)))
        return {key: self._effective(key) for key in keys}

    async def expect_absent(self, keys: Sequence[str]) -> dict[str, KeyValue | None]:
        """Return the values of keys that usually don't exist; see Note [Assumptions]."""
        unread = [key for key in keys if key not in self._keys and key not in self._writes]
        if not self._may_assume:
            return await self.get_many(keys)
        if unread:
            self.has_assumed = True
            self._keys.update(dict.fromkeys(unread))
        return {key: self._effective(key) for key in keys}

    async def load(self, keys: Sequence[str] = (), prefixes: Sequence[str] = ()) -> None:
        """Read keys and prefixes in one round trip, for later calls of `get` and `range`.

        Before such a call, the deletion of keys below a prefix isn't a conflict.
        """
        keys = [key for key in dict.fromkeys(keys) if key not in {*self._keys, *self._writes}]
        prefixes = [prefix for prefix in dict.fromkeys(prefixes) if prefix not in self._ranges]
        if keys or prefixes:
            found, ranges = await self._at_snapshot(partial(self._read, keys, prefixes))
            self._keys.update(found)
            self._ranges.update({prefix: (kvs, False) for prefix, kvs in ranges.items()})

    async def range(self, prefix: str, *, track_deletes: bool = True) -> list[KeyValue]:
        """Return all keys below *prefix*, which ends with a slash, with this attempt's own writes.

        :param track_deletes: whether the deletion of any key in the range is a conflict. If false,
            only the deletion of keys that this attempt writes is a conflict, and the range adds a
            single condition to the transaction.
        """
        if prefix not in self._ranges:
            found = await self._at_snapshot(partial(self._read_range, prefix))
            self._ranges[prefix] = (found, track_deletes)
        elif track_deletes:
            self._ranges[prefix] = (self._ranges[prefix][0], True)
        kvs = {kv.key: kv for kv in self._ranges[prefix][0]}
        for key in [key for key in self._writes if key.startswith(prefix)]:
            kvs.pop(key, None)
            written = self._written(key)
            if written is not None:
                kvs[key] = written
        return [kvs[key] for key in sorted(kvs) if not self._is_deleted(key)]

    async def peek(self, keys: Sequence[str]) -> dict[str, KeyValue | None]:
        """Return the stored values of keys, regardless of this attempt's own writes.

        They add no condition; see Note [Unguarded reads].
        """
        known: dict[str, KeyValue | None]
        known = {kv.key: kv for kvs, _ in self._ranges.values() for kv in kvs}
        known |= {**self._peeked, **self._keys}
        unread = [key for key in dict.fromkeys(keys) if key not in known]
        if unread:
            found = await self._at_snapshot(partial(self._read_keys, unread))
            self._peeked.update(found)
            known.update(found)
        return {key: known[key] for key in keys}

    async def existing(self, keys: Sequence[str]) -> set[str]:
        """Return which keys are stored. Their values aren't read; otherwise like `peek`."""
        found = await self._at_snapshot(partial(self._read_keys, keys, keys_only=True))
        return {key for key, stored in found.items() if stored is not None}

    async def count(self, prefixes: Sequence[str]) -> int:
        """Return the number of stored keys below all *prefixes*; see Note [Unguarded reads]."""
        counts = await self._at_snapshot(partial(self._count, prefixes))
        return sum(counts.values())

    async def pages(self, prefix: str) -> AsyncIterator[Sequence[KeyValue]]:
        """Iterate over all stored keys below *prefix*, of which one page is kept in memory.

        They add no condition; see Note [Unguarded reads].
        """
        after, most = "", _FIRST_PAGE_KEYS
        while True:
            page = await self._at_snapshot(partial(self._read_page, prefix, after, most))
            if page.kvs:
                yield page.kvs
            if not page.more or not page.kvs:
                return
            after = page.kvs[-1].key.removeprefix(prefix)
            size = sum(len(kv.value) for kv in page.kvs)
            most = max(1, min(_MAX_PAGE_KEYS, _PAGE_BYTES * len(page.kvs) // max(1, size)))

    def require_unchanged(self, prefix: str) -> None:
        """Require that no key below *prefix* is put before the transaction is written.

        Deletions aren't noticed. Something must have been read before.
        """
        self._ranges.setdefault(prefix, ((), False))

    async def read_as(self, before: AtomicTxn) -> None:
        """Read what another attempt at the same operation has read.

        The first attempt takes over what *before* has read. If it has since changed, the
        transaction fails, and the next attempt reads again. See Note [Assumptions].
        """
        if self._may_assume:
            self._adopt(before)
            return
        await self.load(list(before._keys), list(before._ranges))
        for prefix, (_, track_deletes) in before._ranges.items():
            await self.range(prefix, track_deletes=track_deletes)

    def _adopt(self, before: AtomicTxn) -> None:
        self._keys = dict(before._keys)
        self._peeked = dict(before._peeked)
        self._ranges = dict(before._ranges)
        self._revision = before._revision
        self.has_assumed = True

    async def _at_snapshot(self, read: Callable[[], Awaitable[R]]) -> R:
        """Return the result of *read*. The first read sets the revision; others wait for it."""
        if self._revision:
            return await read()
        await self._first_read.acquire()
        try:
            return await read()
        finally:
            self._first_read.release()

    async def _read(
        self, keys: Sequence[str], prefixes: Sequence[str]
    ) -> tuple[dict[str, KeyValue | None], dict[str, tuple[KeyValue, ...]]]:
        found, ranges, revision = await self._client.snapshot(
            keys, prefixes, revision=self._revision
        )
        self._revision = self._revision or revision
        return found, ranges

    async def _read_keys(
        self, keys: Sequence[str], *, keys_only: bool = False
    ) -> dict[str, KeyValue | None]:
        found, revision = await self._client.get_many(
            keys, revision=self._revision, keys_only=keys_only
        )
        self._revision = self._revision or revision
        return found

    async def _count(self, prefixes: Sequence[str]) -> dict[str, int]:
        counts, revision = await self._client.count_many(prefixes, revision=self._revision)
        self._revision = self._revision or revision
        return counts

    async def _read_page(self, prefix: str, after: str, limit: int) -> RangeResult:
        page = await self._client.range(
            prefix, limit=limit, start_after=after, revision=self._revision
        )
        self._revision = self._revision or page.revision
        return page

    async def _read_range(self, prefix: str) -> tuple[KeyValue, ...]:
        result = await self._client.range(prefix, revision=self._revision)
        self._revision = self._revision or result.revision
        return result.kvs

    def _effective(self, key: str) -> KeyValue | None:
        if key in self._writes:
            return self._written(key)
        return None if self._is_deleted(key) else self._keys[key]

    def _written(self, key: str) -> KeyValue | None:
        put = self._writes[key]
        if put is None:
            return None
        return KeyValue(key, put.value, 0, 0, 0, put.lease)

    def _is_deleted(self, key: str) -> bool:
        return key not in self._writes and any(key.startswith(p) for p in self._deleted_prefixes)

    # Writing.

    def put(self, key: str, value: bytes, *, lease: int = 0) -> None:
        self._writes[require_key(key)] = _Put(value, lease)

    def delete(self, key: str) -> None:
        """Delete the key when the transaction is committed."""
        self._writes[require_key(key)] = None

    def delete_prefix(self, prefix: str) -> None:
        """Delete all keys below *prefix* except those that are put afterwards."""
        self._deleted_prefixes.append(require_prefix(prefix))
        for key in [key for key in self._writes if key.startswith(prefix)]:
            del self._writes[key]

    def drop(self, key: str) -> None:
        """Don't put or delete the key after all."""
        self._writes.pop(key, None)

    def puts(self, prefixes: Sequence[str]) -> dict[str, bytes]:
        """Return the keys below *prefixes* that this attempt puts, with their values."""
        return {
            key: put.value
            for key, put in self._writes.items()
            if put is not None and key.startswith(tuple(prefixes))
        }

    def deletions(self, prefixes: Sequence[str]) -> list[str]:
        """Return the keys and prefixes below *prefixes* that this attempt deletes."""
        keys = [key for key, put in self._writes.items() if put is None]
        return [key for key in (*keys, *self._deleted_prefixes) if key.startswith(tuple(prefixes))]

    def has_changed(self, prefix: str) -> bool:
        """Return whether the written transaction has put or deleted keys below *prefix*.

        A deletion that found no key changes nothing, so no watch reports it.
        """
        puts = (key for key, put in self._writes.items() if put is not None)
        return self.written_at > 0 and (
            any(key.startswith(prefix) for key in puts)
            or any(each.startswith(prefix) or prefix.startswith(each) for each in self._deleted)
        )

    def on_commit(self, callback: Callable[[int], None]) -> None:
        """Call *callback* with the revision when everything is written."""
        self._callbacks.append(callback)

    @property
    def size(self) -> int:
        """The number of operations or of conditions so far, whichever is greater."""
        writes = len(self._writes) + len(self._deleted_prefixes)
        conditions = len(self._keys) + len(self._locks)
        for kvs, track_deletes in self._ranges.values():
            conditions += 1 + sum(
                kv.key not in self._keys and (track_deletes or kv.key in self._writes) for kv in kvs
            )
        return max(writes, conditions)

    @property
    def bytes(self) -> int:
        """An upper bound of the transaction's size in bytes so far."""
        namespace = len(self._client.namespace) + _OPERATION_BYTES
        total = sum(namespace + 3 * len(key) for key in (*self._keys, *self._deleted_prefixes))
        for key, put in self._writes.items():
            total += namespace + 3 * len(key) + (len(put.value) if put else 0)
        for prefix, (kvs, track_deletes) in self._ranges.items():
            total += namespace + 3 * len(prefix)
            if track_deletes:
                total += sum(namespace + 3 * len(kv.key) for kv in kvs)
        return total

    # Committing.

    async def commit(self) -> bool:
        """Commit the transaction; return False on a conflict.

        Raises LockLost: the lock is no longer held. Raises EtcdError: etcd refused the transaction
        or is unavailable.
        """
        if not self._writes and not self._deleted_prefixes:
            if self.has_assumed:
                return False
            self._committed(self._revision)
            return True
        locks = [get_operation(self._client.namespace + lock.key) for lock in self._locks]
        operations, deletions = self._operations()
        try:
            result = await self._client.commit(self._guards(), operations, locks)
        except NotReached:
            raise
        except EtcdUnavailable:
            self.in_doubt = True
            raise
        if result.succeeded:
            self.written_at = result.revision
            counts = zip(deletions, result.deleted, strict=True)
            self._deleted = {path for path, count in counts if count}
            self._committed(result.revision)
            return True
        for lock, kvs in zip(self._locks, result.reads, strict=True):
            if not kvs or kvs[0].create_revision != lock.create_revision:
                raise LockLost(f'lock "{lock.key}" is no longer held')
        return False

    def _operations(self) -> tuple[list[Any], list[str]]:
        """Return the operations, and the key or prefix of each deletion among them."""
        namespace = self._client.namespace
        operations: list[Any] = [
            delete_operation(namespace + key)
            if put is None
            else put_operation(namespace + key, put.value, put.lease)
            for key, put in self._writes.items()
        ]
        deletions = [key for key, put in self._writes.items() if put is None]
        puts = sorted(key for key, put in self._writes.items() if put is not None)
        for prefix in self._deleted_prefixes:
            spared = [namespace + key for key in puts if key.startswith(prefix)]
            parts = delete_range_operation(namespace + prefix, spared)
            operations += parts
            deletions += [prefix] * len(parts)
        return operations, deletions

    def _committed(self, revision: int) -> None:
        for callback in self._callbacks:
            try:
                callback(revision)
            except Exception:
                _log.failure("a callback of a committed operation failed")

    async def settle(self) -> bool:
        """Return whether a commit without an answer was applied; see Note [Doubt]."""
        revision = await self._applied_at()
        if revision:
            self.written_at = revision
            self._committed(revision)
        return revision > 0

    async def _applied_at(self) -> int:
        """Return the revision at which this attempt's writes were applied; 0 if they weren't."""
        puts = {key: put for key, put in self._writes.items() if put is not None}
        if not self._revision and not self.has_assumed:
            return 0  # Nothing was read, so writing everything again is harmless.
        if not puts:
            return await self._gone_at()
        revision = 0
        for _ in range(_MAX_HISTORY):
            last = await self._client.get(next(iter(puts)), revision=revision)
            if last is None or last.mod_revision <= self._revision:
                return 0
            found, _ = await self._client.get_many(list(puts), revision=last.mod_revision)
            if all(_is_written(found[key], put, last.mod_revision) for key, put in puts.items()):
                return last.mod_revision
            revision = last.mod_revision - 1
        return 0

    async def _gone_at(self) -> int:
        found, revision = await self._client.get_many(list(self._writes))
        if any(found.values()):
            return 0
        for prefix in self._deleted_prefixes:
            left = await self._client.range(prefix, limit=1, keys_only=True)
            if left.kvs:
                return 0
            revision = revision or left.revision
        return revision

    def _guards(self) -> list[Any]:
        """Return the conditions of the transaction; see Note [Guards]."""
        namespace = self._client.namespace
        guards: list[Any] = [
            compare_modified(namespace + key, "==", kv.mod_revision if kv else 0)
            for key, kv in self._keys.items()
        ]
        for prefix, (kvs, track_deletes) in self._ranges.items():
            guards.append(compare_modified(namespace + prefix, "<", self._revision + 1))
            guards += [
                compare_modified(namespace + kv.key, ">", 0)
                for kv in kvs
                if kv.key not in self._keys and (track_deletes or kv.key in self._writes)
            ]
        guards += [
            compare_created(namespace + lock.key, "==", lock.create_revision)
            for lock in self._locks
        ]
        return guards


async def atomic(
    client: EtcdClient,
    body: Callable[[AtomicTxn], Awaitable[T]],
    *,
    lock: Lock | None = None,
) -> T:
    """Run *body*, and write all its changes in one transaction.

    Raises AtomicConflict: there were conflicts for 15 seconds. Raises LockLost: the lock is no
    longer held, and nothing is written.

    :param body: may run several times. If it raises an exception, nothing is written, and the
        exception is raised.
    :param lock: must be held when the transaction is written.
    :returns: what *body* returned in the attempt that was written.
    """
    started = client.reactor.seconds()
    deadline = started + _MAX_TIME_SECONDS
    backoff = Backoff(_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS, jitter=0.2)
    attempt = 0
    while True:
        attempt += 1
        problem: EtcdError | None = None
        txn = AtomicTxn(client, lock, may_assume=attempt == 1)
        try:
            result = await body(txn)
            if await _commit(client, txn, deadline):
                return result
            if txn.has_assumed:
                continue
        except (EtcdUnavailable, Compacted) as error:
            problem = error
        now = client.reactor.seconds()
        if now >= deadline:
            raise problem or AtomicConflict(
                "atomic update failed: revision has been modified between GET and UPDATE op, "
                f"attempt {attempt}, elapsed time {now - started:.1f}s"
            )
        await deferLater(client.reactor, backoff.next())


async def _commit(client: EtcdClient, txn: AtomicTxn, deadline: float) -> bool:
    """Commit *txn*; if there is no answer, find out whether it was applied."""
    try:
        return await txn.commit()
    except EtcdUnavailable:
        while txn.in_doubt and client.reactor.seconds() < deadline:
            await deferLater(client.reactor, _LOOK_AGAIN_SECONDS)
            try:
                return await txn.settle()
            except EtcdUnavailable as error:
                _log.debug("the outcome of an operation is still unknown: {error}", error=error)
        raise


def _is_written(kv: KeyValue | None, put: _Put, revision: int) -> bool:
    return kv is not None and kv.mod_revision == revision and kv.value == put.value
