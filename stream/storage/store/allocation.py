"""The disk space that a new slice reserves: slightly more than the largest recent slice used.

The decision is pure. Only `largest_recent_slice` reads from etcd, outside any transaction, since an
estimate needs no guard.
"""

from __future__ import annotations

from stream.concurrency.together import together
from stream.definition.key import SinkKey
from stream.etcd import EtcdClient
from stream.storage.model import prefix
from stream.storage.model.entity import Allocation
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics
from stream.values.bytesize import ByteSize
from stream.values.codec import decode

__all__ = ["allocated_space", "largest_recent_slice"]

RECENT_SLICES = 10
_SUMS = 2  # The sink's own keys, sum and reset, are sorted after those of its slices.
_NOTHING = ByteSize(0)


def allocated_space(allocation: Allocation, largest: ByteSize) -> ByteSize:
    """Return the bytes to reserve; 0 if allocation is disabled.

    :param largest: bytes of the largest recent slice of the sink, 0 if unknown.
    """
    if not allocation.enabled:
        return _NOTHING
    if largest and allocation.relative:
        return ByteSize(largest * allocation.relative // 100)
    return allocation.static


async def largest_recent_slice(client: EtcdClient, sink: SinkKey) -> ByteSize:
    """Return the largest compressed size of the sink's newest uploaded and imported slices."""
    largest = _NOTHING
    levels = [f"{prefix.statistics(level)}{sink}/" for level in (Level.STAGING, Level.TARGET)]
    ranges = await together(
        *(client.range(below, limit=RECENT_SLICES + _SUMS, descending=True) for below in levels)
    )
    for below, found in zip(levels, ranges, strict=True):
        of_slices = [kv for kv in found.kvs if "/" in kv.key.removeprefix(below)]
        for kv in of_slices[:RECENT_SLICES]:
            largest = max(largest, decode(Statistics, kv.value).compressed_size)
    return largest
