"""Many sources and sinks, written at once into an empty deployment.

python -m benchmarks.definitions 127.0.0.1:2379 --namespace stream --sources 100 --sinks 100

The sinks are disabled, so that they need no files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from stream.api.resources.tables import new_table
from stream.definition import lifecycle
from stream.definition.entity import SYSTEM
from stream.definition.key import BranchKey, SourceKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, atomic

__all__ = ["define"]

SINKS_PER_CHANGE = 20
_TABLE = {
    "type": "keboola",
    "mapping": {
        "columns": [
            {"type": "uuid", "name": "id"},
            {"type": "datetime", "name": "at"},
            {"type": "path", "name": "user", "path": "user.name", "defaultValue": ""},
        ]
    },
}


async def define(client: EtcdClient, branch: BranchKey, sources: int, sinks: int) -> None:
    """Write *sources* with as many *sinks* each; their ids are ``s0`` and ``k0`` and so on."""
    for number in range(sources):
        source = branch.source(f"s{number}")
        await _define_source(client, source)
        for part in _parts(sinks):
            await _define_sinks(client, source, part)


def _parts(count: int) -> Iterator[range]:
    for start in range(0, count, SINKS_PER_CHANGE):
        yield range(start, min(count, start + SINKS_PER_CHANGE))


async def _define_source(client: EtcdClient, key: SourceKey) -> None:
    now = datetime.now(UTC)
    secret = "x" * 48
    source = lifecycle.new_source(
        key, type="http", name=key.source_id, secret=secret, at=now, by=SYSTEM
    )

    async def body(txn: AtomicTxn) -> None:
        await Definitions().create_source(Change(txn, now, SYSTEM), source)

    await atomic(client, body)


async def _define_sinks(client: EtcdClient, source: SourceKey, numbers: range) -> None:
    now = datetime.now(UTC)

    async def body(txn: AtomicTxn) -> None:
        change = Change(txn, now, SYSTEM)
        for number in numbers:
            table = new_table(_TABLE | {"tableId": f"in.c-{source.source_id}.k{number}"})
            sink = lifecycle.new_sink(
                source.sink(f"k{number}"), name=f"Sink {number}", table=table, at=now, by=SYSTEM
            )
            sink = lifecycle.disable(sink, now, SYSTEM, directly=True, reason="API")
            await Definitions().create_sink(change, sink)

    await atomic(client, body)


def main() -> None:
    """Write many definitions into etcd."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("etcd")
    parser.add_argument("--namespace", default="stream")
    parser.add_argument("--project", type=int, default=123)
    parser.add_argument("--branch", type=int, default=456)
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--sinks", type=int, default=100)
    options = parser.parse_args()

    async def run(reactor: Any) -> None:
        client = EtcdClient(reactor, [options.etcd], options.namespace)
        await client.startService()
        branch = BranchKey(options.project, options.branch)
        await define(client, branch, options.sources, options.sinks)
        await client.stopService()

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()
