"""Statistics read from etcd, for the API and for decisions that need the latest values."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from stream.definition.key import SinkKey
from stream.definition.stored import read_stored, readable
from stream.definition.transaction import Change
from stream.etcd import EtcdClient, KeyValue
from stream.storage.model import prefix
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import Level
from stream.storage.model.statistics import Aggregated, Statistics, total
from stream.values.codec import encode

__all__ = [
    "clear",
    "last_reset",
    "one_file_statistics",
    "sink_statistics",
    "slice_statistics",
]


async def _below(client: EtcdClient, key: object) -> list[tuple[Level, KeyValue]]:
    """Return all values below a key at the three levels, read at one revision."""
    found: list[tuple[Level, KeyValue]] = []
    revision = 0
    for level in Level:
        result = await client.range(f"{prefix.statistics(level)}{key}/", revision=revision)
        revision = result.revision
        found += [(level, kv) for kv in result.kvs]
    return found


def _aggregated(values: Sequence[tuple[Level, KeyValue]]) -> Aggregated:
    return Aggregated.of((level, read_stored(Statistics, kv)) for level, kv in values)


async def sink_statistics(client: EtcdClient, key: SinkKey) -> Aggregated:
    """Return the statistics of the sink's records since the last reset.

    Unreadable values are skipped, because the result is only shown to users.
    """
    found = await _below(client, key)
    return Aggregated.of(
        (level, statistics) for level, kv in found for _, statistics in readable(Statistics, [kv])
    )


async def one_file_statistics(client: EtcdClient, key: FileKey) -> Aggregated:
    """Return the statistics of one file, read from etcd."""
    return _aggregated(await _below(client, key))


async def slice_statistics(client: EtcdClient, key: SliceKey) -> Aggregated:
    """Return the statistics of one slice, read from etcd."""
    return _aggregated(await _below(client, key))


def _reset_key(key: SinkKey) -> str:
    return f"{prefix.statistics(Level.TARGET)}{key}/{prefix.RESET_STATISTICS}"


async def last_reset(client: EtcdClient, key: SinkKey) -> Statistics | None:
    """Return the value subtracted since the last reset, with its time; ``None`` without one."""
    stored = await client.get(_reset_key(key))
    return read_stored(Statistics, stored) if stored else None


async def clear(change: Change, key: SinkKey) -> None:
    """Subtract the sink's imported counts from now on; local and staging counts are unchanged."""
    target = f"{prefix.statistics(Level.TARGET)}{key}/"
    kvs = await change.txn.range(target, track_deletes=False)
    counted = total(
        read_stored(Statistics, kv) for kv in kvs if not kv.key.endswith(prefix.RESET_STATISTICS)
    )
    change.txn.put(_reset_key(key), encode(attrs.evolve(counted, reset_at=change.now)))
