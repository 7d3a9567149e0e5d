"""Many slices that become due immediately: the delay and the cost of their rotation."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.task import react

from benchmarks.coordination.journal import Journal, read_journal
from benchmarks.markdown import share, table
from benchmarks.scale import cpu_seconds, define
from stream.etcd import EtcdClient
from stream.settings import Settings
from stream.storage.model import prefix
from stream.storage.model.key import SliceKey
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics
from stream.values.bytesize import ByteSize
from stream.values.codec import encode
from tests.e2e.processes import Deployment, deployment, wait_for

__all__ = ["Storm", "markdown", "measure"]

_PUTS_AT_ONCE = 50
_PATIENCE_SECONDS = 120.0


@attrs.frozen
class Storm:
    """The figures of many simultaneous rotations.

    :ivar spread: seconds between the first and the last slice that became due.
    :ivar delays: seconds from due to rotated.
    :ivar took: seconds from the first due to the last rotated.
    :ivar cpu: processor time of the coordinator meanwhile, in seconds.
    """

    sinks: int
    spread: float
    delays: list[float]
    took: float
    cpu: float


async def _open(reactor: Any, deployed: Deployment, sinks: int) -> None:
    """Open a file for each sink; its slice has a record."""
    client = EtcdClient(reactor, [f"127.0.0.1:{deployed.ports['etcd']}"], "e2e")
    await client.startService()
    try:
        await define(client, sinks)
        now = datetime.now(UTC)
        counted = encode(
            Statistics(
                first_record_at=now,
                last_record_at=now,
                records_count=1,
                uncompressed_size=ByteSize(100),
                compressed_size=ByteSize(100),
            )
        )
        below = prefix.slice_level(Level.LOCAL)

        async def count(key: str) -> None:
            await client.put(f"{prefix.statistics(Level.LOCAL)}{key}/source", counted)

        slots = DeferredSemaphore(_PUTS_AT_ONCE)
        slices = (await client.range(below)).kvs
        await DeferredList(
            [slots.run(count, kv.key.removeprefix(below)) for kv in slices], fireOnOneErrback=True
        )
    finally:
        await client.stopService()


def measure(root: Path, sinks: int) -> Storm:
    """Measure rotation by interval: the slices of all sinks have one record each."""
    found: list[Storm] = []

    async def run(reactor: Any) -> None:
        with deployment(root) as deployed:
            deployed.start("etcd")
            await _open(reactor, deployed, sinks)
            found.append(_rotated(deployed, sinks))

    with suppress(SystemExit):
        react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
    return found[0]


def _rotated(deployed: Deployment, sinks: int) -> Storm:
    interval = Settings().storage.level.staging.upload.trigger.interval.seconds
    timing = {
        "STREAM_STORAGE_LEVEL_STAGING_OPERATOR_SLICE_ROTATION_CHECK_INTERVAL": "1s",
        "STREAM_STORAGE_LEVEL_TARGET_OPERATOR_FILE_ROTATION_CHECK_INTERVAL": "1s",
    }
    running = deployed.start("storage-coordinator", node_id="coordinator", **timing)
    before = cpu_seconds(running)

    def done() -> Journal | None:
        journal = read_journal([running.log])
        return journal if len(journal.of("rotated slice")) >= sinks else None

    journal = wait_for(done, "all rotations", _PATIENCE_SECONDS)
    cpu = cpu_seconds(running) - before
    rotated = {event.key: event.at for event in journal.of("rotated slice")[:sinks]}
    due = {
        key: SliceKey.parse(key).slice_opened_at + timedelta(seconds=interval) for key in rotated
    }
    return Storm(
        sinks=sinks,
        spread=(max(due.values()) - min(due.values())).total_seconds(),
        delays=[(rotated[key] - due[key]).total_seconds() for key in rotated],
        took=(max(rotated.values()) - min(due.values())).total_seconds(),
        cpu=cpu,
    )


def markdown(storm: Storm) -> str:
    """Return one line of the report."""
    head = (
        *("open sinks", "due within s", "due → rotated: median s", "p99 s", "longest s"),
        *("first due → last rotated, s", "coordinator's CPU s", "CPU ms a rotation"),
    )
    row = (
        storm.sinks,
        f"{storm.spread:.1f}",
        *(f"{share(storm.delays, part):.2f}" for part in (0.5, 0.99)),
        f"{max(storm.delays):.2f}",
        f"{storm.took:.1f}",
        f"{storm.cpu:.1f}",
        f"{1000 * storm.cpu / storm.sinks:.1f}",
    )
    return table(head, [row]) + "\n"
