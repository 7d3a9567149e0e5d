"""Puts the counters of this node's slices into etcd, at an interval and when a slice closes.

Note [Late statistics]: a value counts as sent only when etcd has accepted it. The final value of a
slice is stored before the node reports that it no longer writes to the slice, because the
coordinator decides by the statistics. A put requires that the slice is at level local, so that no
value appears after the slice's statistics have been moved on. A put also requires that the node's
value hasn't changed since it was read, so that a late put doesn't replace a newer value.

Note [Together]: when a source node opens or closes thousands of sinks, each slice waits until its
counts are stored. The slices that wait at the same time are stored in common transactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.concurrency.gathered import Gathered
from stream.etcd import AtomicTxn, EtcdClient, EtcdError, atomic
from stream.ops.logging.throttle import LogThrottle
from stream.sink.counters import SliceCounters
from stream.storage.model import prefix
from stream.storage.model.key import SliceKey
from stream.storage.model.state import Level
from stream.storage.model.statistics import EMPTY, Statistics
from stream.values.codec import decode, encode

__all__ = ["StatisticsPublisher"]

_log = Logger()

FAILURE_LOG_SECONDS = 10.0
"""Interval of logging that statistics of individual slices can't be stored."""

TRANSACTIONS_AT_ONCE = 4
"""Maximum number of concurrent transactions for slices that wait; see Note [Together]."""

SLICES_PER_TRANSACTION = 40
"""Number of slices per transaction; each needs two comparisons, and etcd allows 128."""


@attrs.define(eq=False)
class _Tracked:
    """A slice whose counts are stored.

    :ivar earlier: counts that an earlier life of this node has stored; ``None`` until read.
    """

    key: SliceKey
    counters: SliceCounters
    earlier: Statistics | None = None
    sent_records: int = 0


class StatisticsPublisher(Service):
    """Stores the statistics of slices in etcd periodically.

    :param interval: seconds between two rounds.
    """

    def __init__(self, client: EtcdClient, node_id: str, interval: float, reactor: Any) -> None:
        self._client = client
        self._node_id = node_id
        self._interval = interval
        self._reactor = reactor
        self._tracked: dict[SliceKey, _Tracked] = {}
        self._together: Gathered[_Tracked, None] = Gathered(
            self._store_together, most=SLICES_PER_TRANSACTION, at_once=TRANSACTIONS_AT_ONCE
        )
        self._failures = LogThrottle(FAILURE_LOG_SECONDS, reactor.seconds)
        self._loop = LoopingCall(self._round)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._interval, now=False).addErrback(
            lambda failure: _log.failure("statistics publisher stopped", failure)
        )

    async def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        await self._store(list(self._tracked.values()))

    def opened(self, key: SliceKey, counters: SliceCounters) -> None:
        """Store the counters of a slice from now on."""
        self._tracked[key] = _Tracked(key, counters)

    async def closed(self, key: SliceKey) -> None:
        """Store the final value; wait until it is stored, however long etcd is unavailable."""
        tracked = self._tracked.get(key)
        while tracked is not None:
            try:
                await self._together.ask(tracked)
            except EtcdError as error:
                suppressed = self._failures.due("")
                if suppressed is not None:
                    _log.warn(
                        "cannot store the statistics of a slice, retrying: {error}",
                        error=error,
                        slice_id=str(key),
                        suppressed=suppressed,
                    )
                await self._client.pause(self._interval)
            else:
                tracked = None
        self._tracked.pop(key, None)

    async def _round(self) -> None:
        try:
            await self._store(list(self._tracked.values()))
        except Exception:
            _log.failure("cannot store statistics, retrying in the next round")

    async def _store_together(self, tracked: Sequence[_Tracked]) -> list[Exception | None]:
        """Store the values of slices that wait; return the failure of each.

        A value that can't be read must not delay the other slices.
        """
        try:
            await self._client.insist(partial(self._store, tracked))
        except EtcdError:
            raise
        except Exception as error:
            if len(tracked) == 1:
                return [error]
            return [failure for t in tracked for failure in await self._store_together([t])]
        return [None] * len(tracked)

    async def _store(self, tracked: Sequence[_Tracked]) -> None:
        changed = [t for t in tracked if t.counters.records != t.sent_records]
        for start in range(0, len(changed), SLICES_PER_TRANSACTION):
            await self._store_some(changed[start : start + SLICES_PER_TRANSACTION])

    async def _store_some(self, tracked: Sequence[_Tracked]) -> None:
        counted = [t.counters.records for t in tracked]

        async def body(txn: AtomicTxn) -> None:
            levels = [f"{prefix.slice_level(Level.LOCAL)}{t.key}" for t in tracked]
            found = await txn.get_many([*levels, *map(self._key, tracked)])
            for t, level in zip(tracked, levels, strict=True):
                if t.earlier is None:
                    stored = found[self._key(t)]
                    earlier = decode(Statistics, stored.value) if stored else EMPTY
                    t.earlier = EMPTY if earlier.is_estimate else earlier
                if found[level] is not None:
                    txn.put(self._key(t), encode(t.earlier + t.counters.statistics()))

        await atomic(self._client, body)
        for t, records in zip(tracked, counted, strict=True):
            t.sent_records = records

    def _key(self, tracked: _Tracked) -> str:
        return f"{prefix.statistics(Level.LOCAL)}{tracked.key}/{self._node_id}"
