"""Atomic operations: read, decide, and write everything in one transaction, or try again.

The body of an operation reads through its `AtomicTxn`, all at one revision, and puts and deletes
there; nothing is written until it returns. Then one etcd transaction writes it all, on condition
that nothing it read has changed. On a conflict the body runs again, so it must not keep anything
from an earlier run, nor call remote services.

Note [Guards]: a key that was read must still have the revision read (0 if it didn't exist). Of a
range that was read no key may be newer than the snapshot; since etcd can't compare counts, each key
that was found must also still exist.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import attrs
from twisted.internet.task import deferLater

from stream.etcd.client import EtcdClient
from stream.etcd.errors import Compacted, EtcdError, EtcdUnavailable
from stream.etcd.lock import Lock
from stream.etcd.request import (
    KeyValue,
    compare_created,
    compare_modified,
    delete_operation,
    get_operation,
    put_operation,
)

__all__ = ["AtomicConflict", "AtomicTxn", "LockLost", "atomic"]

T = TypeVar("T")

_FIRST_DELAY_SECONDS = 0.01
_MAX_DELAY_SECONDS = 2.0
_MAX_TIME_SECONDS = 15.0


class AtomicConflict(EtcdError):
    """Others changed what the operation read, again and again."""


class LockLost(EtcdError):
    """The operation needs a lock that its session doesn't hold any more."""


@attrs.frozen
class _Put:
    value: bytes
    lease: int


class AtomicTxn:
    """One attempt of an atomic operation."""

    def __init__(self, client: EtcdClient, lock: Lock | None = None) -> None:
        self._client = client
        self._locks = [] if lock is None else [lock]
        self._revision = 0
        self._keys: dict[str, KeyValue | None] = {}
        self._ranges: dict[str, tuple[list[KeyValue], bool]] = {}
        self._writes: dict[str, _Put | None] = {}
        self._deleted_prefixes: list[str] = []
        self._callbacks: list[Callable[[int], None]] = []

    # Reading.

    async def get(self, key: str) -> KeyValue | None:
        """The key's value, or what this attempt put there."""
        return (await self.get_many([key]))[key]

    async def get_many(self, keys: Sequence[str]) -> dict[str, KeyValue | None]:
        """Several keys in one round trip."""
        unread = [key for key in dict.fromkeys(keys) if key not in self._keys]
        unread = [key for key in unread if key not in self._writes]
        if unread:
            found, revision = await self._client.get_many(unread, revision=self._revision)
            self._revision = self._revision or revision
            self._keys.update(found)
        return {key: self._effective(key) for key in keys}

    async def range(self, prefix: str, *, track_deletes: bool = True) -> list[KeyValue]:
        """All keys below *prefix* (it ends with a slash), with this attempt's own writes.

        :param track_deletes: whether a key that vanishes meanwhile is a conflict, too; without it
            the transaction has one condition however many keys there are.
        """
        if prefix not in self._ranges:
            result = await self._client.range(prefix, revision=self._revision)
            self._revision = self._revision or result.revision
            self._ranges[prefix] = (list(result.kvs), track_deletes)
        kvs = {kv.key: kv for kv in self._ranges[prefix][0]}
        for key in [key for key in self._writes if key.startswith(prefix)]:
            kvs.pop(key, None)
            written = self._written(key)
            if written is not None:
                kvs[key] = written
        return [kvs[key] for key in sorted(kvs) if not self._is_deleted(key)]

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
        self._writes[key] = _Put(value, lease)

    def delete(self, key: str) -> None:
        self._writes[key] = None

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything below *prefix*; nothing may be put there in the same operation."""
        self._deleted_prefixes.append(prefix)
        for key in [key for key in self._writes if key.startswith(prefix)]:
            del self._writes[key]

    async def require_lock(self, lock: Lock) -> None:
        """Write only if *lock* is still held; else the operation fails with `LockLost`."""
        self._locks.append(lock)

    def on_commit(self, callback: Callable[[int], None]) -> None:
        """Call *callback* with the revision once everything is written."""
        self._callbacks.append(callback)

    # Committing.

    async def commit(self) -> bool:
        """Write everything; false on a conflict. Raises `LockLost` and other `EtcdError`s."""
        if not self._writes and not self._deleted_prefixes:
            self._committed(self._revision)
            return True
        namespace = self._client.namespace
        operations = [
            delete_operation(namespace + key)
            if put is None
            else put_operation(namespace + key, put.value, put.lease)
            for key, put in self._writes.items()
        ]
        operations += [delete_operation(namespace + prefix) for prefix in self._deleted_prefixes]
        locks = [get_operation(namespace + lock.key) for lock in self._locks]
        result = await self._client.commit(self._guards(), operations, locks)
        if result.succeeded:
            self._committed(result.revision)
            return True
        for lock, kvs in zip(self._locks, result.reads, strict=True):
            if not kvs or kvs[0].create_revision != lock.create_revision:
                raise LockLost(f'lock "{lock.key}" is not held any more')
        return False

    def _committed(self, revision: int) -> None:
        for callback in self._callbacks:
            callback(revision)

    def _guards(self) -> list[Any]:
        """Note [Guards]."""
        namespace = self._client.namespace
        guards: list[Any] = [
            compare_modified(namespace + key, "==", kv.mod_revision if kv else 0)
            for key, kv in self._keys.items()
        ]
        for prefix, (kvs, track_deletes) in self._ranges.items():
            guards.append(compare_modified(namespace + prefix, "<", self._revision + 1))
            if track_deletes:
                guards += [
                    compare_modified(namespace + kv.key, ">", 0)
                    for kv in kvs
                    if kv.key not in self._keys
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
    """Run *body* and write what it asks for, all or nothing.

    :param body: may run several times.
    :param lock: must be held for the writing.
    :returns: what *body* returned in the attempt that was written.
    :raises AtomicConflict: after 15 seconds of conflicts.
    :raises LockLost: the lock isn't held any more; nothing is written.

    What *body* raises is passed on, and nothing is written.
    """
    started = client.reactor.seconds()
    delay = _FIRST_DELAY_SECONDS
    attempt = 0
    while True:
        attempt += 1
        problem: EtcdError | None = None
        txn = AtomicTxn(client, lock)
        try:
            result = await body(txn)
            if await txn.commit():
                return result
        except (EtcdUnavailable, Compacted) as error:
            problem = error
        elapsed = client.reactor.seconds() - started
        if elapsed >= _MAX_TIME_SECONDS:
            raise problem or AtomicConflict(
                "atomic update failed: revision has been modified between GET and UPDATE op, "
                f"attempt {attempt}, elapsed time {elapsed:.1f}s"
            )
        await deferLater(client.reactor, delay * random.uniform(0.8, 1.2))
        delay = min(delay * 2, _MAX_DELAY_SECONDS)
