"""The disk space that a slice reserves."""

from __future__ import annotations

import pytest
import pytest_twisted

from stream.etcd import EtcdClient
from stream.storage.model import prefix
from stream.storage.model.entity import Allocation
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics
from stream.storage.store.allocation import allocated_space, largest_recent_slice
from stream.values.bytesize import ByteSize
from stream.values.codec import encode
from tests.storage.histories.world import SINK_KEY

STATIC = ByteSize(100)


@pytest.mark.parametrize(
    ("enabled", "relative", "largest", "expected"),
    [
        (False, 110, 0, 0),
        (False, 110, 1000, 0),
        (True, 110, 0, 100),
        (True, 110, 1000, 1100),
        (True, 100, 1, 1),
        (True, 500, 1000, 5000),
        (True, 0, 1000, 100),
    ],
)
def test_the_reserved_space(enabled: bool, relative: int, largest: int, expected: int) -> None:
    """A slice reserves a percentage of the largest recent slice, otherwise the fixed size or
    nothing.
    """
    allocation = Allocation(enabled, STATIC, relative)
    assert allocated_space(allocation, ByteSize(largest)) == expected


async def _put(client: EtcdClient, level: Level, below: str, size: int) -> None:
    value = Statistics(slices_count=1, compressed_size=ByteSize(size))
    await client.put(f"{prefix.statistics(level)}{SINK_KEY}/{below}", encode(value))


@pytest_twisted.ensureDeferred
async def test_unfinished_slices_do_not_count(etcd: EtcdClient) -> None:
    """Slices that are still written don't indicate their final size."""
    await _put(etcd, Level.LOCAL, "2000-01-01T00:00:00.000Z/v/2000-01-01T00:00:00.000Z/_open", 9)
    assert await largest_recent_slice(etcd, SINK_KEY) == 0


@pytest_twisted.ensureDeferred
async def test_only_recent_slices_count(etcd: EtcdClient) -> None:
    """The eleventh slice is too old; the sink's sum and reset aren't slices."""
    for number in range(11):
        opened = f"2000-01-01T00:00:{number:02d}.000Z"
        await _put(etcd, Level.TARGET, f"{opened}/v/{opened}/_open", 1000 - number)
    await _put(etcd, Level.TARGET, "_sum", 100_000)
    await _put(etcd, Level.TARGET, "~reset", 100_000)
    assert await largest_recent_slice(etcd, SINK_KEY) == 999


@pytest_twisted.ensureDeferred
async def test_uploaded_and_imported_slices_count(etcd: EtcdClient) -> None:
    """The larger of both levels counts, and other sinks have no effect."""
    opened = "2000-01-01T00:00:00.000Z"
    await _put(etcd, Level.TARGET, f"{opened}/v/{opened}/_open", 10)
    await _put(etcd, Level.STAGING, f"{opened}/w/{opened}/_open", 20)
    other = SINK_KEY.source_key.sink("my-sink-2")
    await etcd.put(
        f"{prefix.statistics(Level.TARGET)}{other}/{opened}/v/{opened}/_open",
        encode(Statistics(compressed_size=ByteSize(99))),
    )
    assert await largest_recent_slice(etcd, SINK_KEY) == 20
