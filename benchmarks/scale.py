"""``python -m benchmarks.scale``: the cost of a coordinator by the number of open sinks.

Each sink has an open file with one open slice and no records, as in an idle region.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from stream.api.resources.tables import new_table
from stream.definition import lifecycle
from stream.definition.change.files import SinkFiles
from stream.definition.entity import SYSTEM
from stream.definition.key import BranchKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.settings import Settings, StorageLevel
from stream.storage.model.key import FileKey
from stream.storage.model.volume import Volume
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.repository import StorageRepository
from tests.e2e.processes import Deployment, Running, deployment

__all__ = ["SINKS_PER_SOURCE", "Figures", "cpu_seconds", "define", "measure"]

SINKS_PER_SOURCE = 100
SINKS_PER_TRANSACTION = 5
SETTLE_SECONDS = 45.0
"""The time after the start in which each item is checked, before the service is idle."""
_TICKS = os.sysconf("SC_CLK_TCK")
_VOLUME = Volume("volume-one", "node-1", "127.0.0.1:1", "default/one", "default", "one")
_TABLE = {
    "type": "keboola",
    "mapping": {"columns": [{"type": "uuid", "name": "id"}, {"type": "body", "name": "body"}]},
}


@attrs.frozen
class Figures:
    """The figures of a coordinator with a number of sinks.

    :ivar start: seconds until the coordinator is ready, also with an empty process.
    :ivar idle: share of a core while nothing happens.
    """

    sinks: int
    keys: int
    bytes: int
    start: float
    idle: float
    resident: int


async def define(
    client: EtcdClient, sinks: int, level: StorageLevel | None = None
) -> tuple[int, int]:
    """Write open files of many sinks; return the number of stored keys and bytes.

    :param level: settings of the sinks; by default those of the service.
    """
    repository = StorageRepository(level or Settings().storage.level, lambda: [_VOLUME])
    for first in range(0, sinks, SINKS_PER_SOURCE):
        source = BranchKey(123, 456 + first // 10_000).source(f"s{first // SINKS_PER_SOURCE}")
        count = min(SINKS_PER_SOURCE, sinks - first)
        now = datetime.now(UTC)

        async def create(txn: AtomicTxn, source: Any = source, now: datetime = now) -> None:
            new = lifecycle.new_source(
                source, type="http", name=source.source_id, secret="x" * 48, at=now, by=SYSTEM
            )
            await Definitions().create_source(Change(txn, now, SYSTEM), new)

        await atomic(client, create)
        for start in range(0, count, SINKS_PER_TRANSACTION):
            numbers = range(start, min(count, start + SINKS_PER_TRANSACTION))

            async def open_some(
                txn: AtomicTxn, source: Any = source, numbers: Any = numbers, now: datetime = now
            ) -> None:
                change = Change(txn, now, SYSTEM)
                for number in numbers:
                    table = new_table(_TABLE | {"tableId": f"in.c-{source.source_id}.k{number}"})
                    sink = lifecycle.new_sink(
                        source.sink(f"k{number}"), name="Sink", table=table, at=now, by=SYSTEM
                    )
                    key = FileKey.of(sink.key, now)
                    prepared = {sink.key: PreparedFile(key, sink.table, "keboola", None, ())}
                    files = SinkFiles(repository, None, prepared)  # type: ignore[arg-type]
                    await Definitions(files).create_sink(change, sink)

            await atomic(client, open_some)
    found = (await client.range("")).kvs
    return len(found), sum(len(kv.key) + len(kv.value) for kv in found)


def cpu_seconds(running: Running) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident(running: Running) -> int:
    pages = Path(f"/proc/{running.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _coordinate(deployed: Deployment, seconds: float) -> tuple[float, float, int]:
    begun = time.monotonic()
    running = deployed.start("storage-coordinator", node_id="coordinator")
    start = time.monotonic() - begun
    time.sleep(SETTLE_SECONDS)
    before, since = cpu_seconds(running), time.monotonic()
    time.sleep(seconds)
    idle = (cpu_seconds(running) - before) / (time.monotonic() - since)
    resident = _resident(running)
    running.stop()
    return start, idle, resident


async def _run(reactor: Any, counts: list[int], seconds: float) -> None:
    sys.stdout.write("| open sinks | keys | MB in etcd | ready after s | idle, of a core | MB |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for sinks in counts:
        with tempfile.TemporaryDirectory() as root, deployment(Path(root)) as deployed:
            deployed.start("etcd")
            deployed.start("sandbox")
            client = EtcdClient(reactor, [f"127.0.0.1:{deployed.ports['etcd']}"], "e2e")
            await client.startService()
            keys, size = await define(client, sinks)
            await client.stopService()
            figures = Figures(sinks, keys, size, *_coordinate(deployed, seconds))
        sys.stdout.write(
            f"| {sinks:,} | {figures.keys:,} | {figures.bytes / 1e6:.1f} | {figures.start:.1f} "
            f"| {figures.idle:.1%} | {figures.resident / 1e6:.0f} |\n"
        )
        sys.stdout.flush()


def measure(counts: list[int], seconds: float) -> None:
    """Print a table with a line for each number of sinks.

    :param seconds: duration of each idle time.
    """
    react(lambda reactor: Deferred.fromCoroutine(_run(reactor, counts, seconds)))


def main() -> None:
    """Measure a coordinator with each count of sinks and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[10, 1_000, 10_000])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each idle time")
    options = parser.parse_args()
    measure(options.counts, options.seconds)


if __name__ == "__main__":
    main()
