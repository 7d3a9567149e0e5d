"""Sinks with a quota of buffered data on local disks, with statistics in a real etcd."""

from __future__ import annotations

from typing import cast

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from stream.definition.key import SinkKey
from stream.errors import record_error_name
from stream.etcd import EtcdClient
from stream.sink.quota import LOG_SECONDS, Quotas
from stream.storage.model import prefix
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics
from stream.values.bytesize import ByteSize
from stream.values.codec import encode
from tests.storage.samples import sample_slice

SINK = SinkKey(123, 456, "my-source", "my-sink")
TEXT = (
    'full storage buffer for the sink "123/456/my-source/my-sink", buffered "2500B", quota "2000B"'
)


async def _buffer(
    etcd: EtcdClient, size: int, node: str = "node-1", level: Level = Level.LOCAL, sink: str = ""
) -> None:
    key = sample_slice(sink or SINK.sink_id).key
    value = Statistics(records_count=1, compressed_size=ByteSize(size))
    await etcd.put(f"{prefix.statistics(level)}{key}/{node}", encode(value))


class _World:
    def __init__(self, etcd: EtcdClient) -> None:
        self.clock = Clock()
        self.quotas = Quotas(etcd, 1.0, self.clock)

    async def round(self) -> None:
        await self.quotas._round()

    @property
    def text(self) -> str | None:
        refusal = self.quotas.refusals.get(SINK)
        return str(refusal) if refusal is not None else None


@pytest.fixture
def world(etcd: EtcdClient) -> _World:
    return _World(etcd)


@pytest_twisted.ensureDeferred
async def test_a_sink_above_its_quota(etcd: EtcdClient, world: _World) -> None:
    """The buffers of all nodes count together; the sink accepts records again when uploads free
    space.
    """
    world.quotas.watch(SINK, ByteSize(2000))
    await _buffer(etcd, 2000)
    await world.round()
    assert world.text is None
    await _buffer(etcd, 500, node="node-2")
    await world.round()
    assert world.text == TEXT
    refusal = world.quotas.refusals[SINK]
    assert refusal.status == 507
    assert record_error_name(refusal.name) == "stream.in.insufficientStorage"
    await _buffer(etcd, 100)
    await world.round()
    assert world.text is None


@pytest_twisted.ensureDeferred
async def test_only_local_data_counts(etcd: EtcdClient, world: _World) -> None:
    """Uploaded slices and other sinks, also of a similar name, don't count."""
    world.quotas.watch(SINK, ByteSize(2000))
    await _buffer(etcd, 9000, level=Level.STAGING)
    await _buffer(etcd, 9000, level=Level.TARGET)
    await _buffer(etcd, 9000, sink="my-sink-2")
    await world.round()
    assert world.text is None


@pytest_twisted.ensureDeferred
async def test_a_quota_that_is_raised_or_removed(etcd: EtcdClient, world: _World) -> None:
    """A higher quota takes effect with the next check, and a removed one at once."""
    await _buffer(etcd, 2500)
    world.quotas.watch(SINK, ByteSize(2000))
    await world.round()
    world.quotas.watch(SINK, ByteSize(3000))
    await world.round()
    assert world.text is None
    world.quotas.watch(SINK, ByteSize(2000))
    await world.round()
    assert world.text == TEXT
    world.quotas.watch(SINK, ByteSize(0))
    assert world.text is None
    await world.round()
    assert world.text is None


@pytest_twisted.ensureDeferred
async def test_log_throttling(etcd: EtcdClient, world: _World) -> None:
    """A sink that stays above its quota is logged every five minutes."""
    events: list[LogEvent] = []
    note = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(note)
    try:
        await _buffer(etcd, 2500)
        world.quotas.watch(SINK, ByteSize(2000))
        for seconds in (0, 1, LOG_SECONDS - 2, 1):
            world.clock.advance(seconds)
            await world.round()
    finally:
        globalLogPublisher.removeObserver(note)
    told = [event for event in events if str(event.get("refusal")) == TEXT]
    assert len(told) == 2


@pytest_twisted.ensureDeferred
async def test_invalid_statistics(etcd: EtcdClient, world: _World) -> None:
    """Invalid statistics of one sink don't affect the checks of the others."""
    broken = SinkKey(123, 456, "my-source", "broken")
    world.quotas.watch(broken, ByteSize(1))
    world.quotas.watch(SINK, ByteSize(2000))
    await etcd.put(f"{prefix.statistics(Level.LOCAL)}{broken}/x", b"{")
    await _buffer(etcd, 2500)
    await world.round()
    assert world.text == TEXT
    assert broken not in world.quotas.refusals
