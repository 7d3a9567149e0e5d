"""The state of rejected records in etcd: their nodes, their counts, and the running replays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import attrs

from stream.definition.key import SinkKey
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.values.codec import Record, decode, encode, field
from stream.values.utctime import NO_TIME, format_time

__all__ = [
    "COUNT",
    "NODE",
    "REPLAY",
    "STORED",
    "LastError",
    "RejectedCount",
    "RejectedNode",
    "Replay",
    "ReplayedRecords",
    "add_counts",
    "rejected_view",
    "remove_counts",
    "sum_of",
]

NODE = "runtime/rejected/node/"
"""Where source nodes can be asked, under their leases."""
COUNT = "rejected/count/"
"""The counts of rejected records, by sink and source node."""
REPLAY = "rejected/replay/"
"""The replay that a sink has, if any."""
STORED = "rejected/stored/"
"""Records that a replay has stored and that may still be kept, by sink."""


@attrs.frozen(kw_only=True)
class RejectedNode(Record):
    """A source node that can be asked for its rejected records.

    :ivar host: name of its machine: an address on loopback leads to it only from there.
    :ivar secret: known to whoever may read etcd; both ends show that they know it.
    """

    node_id: str
    address: str
    host: str
    secret: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class LastError(Record):
    """Why a record was rejected last."""

    reason: str = ""
    column: str = ""
    message: str = ""
    time: datetime = NO_TIME

    def view(self) -> dict[str, Any]:
        """In the words of the API."""
        return {
            "reason": self.reason,
            "column": self.column,
            "message": self.message,
            "time": format_time(self.time),
        }


@attrs.frozen(kw_only=True)
class RejectedCount(Record):
    """The rejected records of a sink on one source node, or on all of them.

    :ivar count: all records that could not be rendered, kept or not.
    :ivar dropped: those of them that should have been kept and are not: too many at once, the disk
        was full, or newer ones needed their room.
    """

    count: int = 0
    dropped: int = field(default=0, omit_empty=True)
    last_error: LastError | None = None

    def __add__(self, other: RejectedCount) -> RejectedCount:
        errors = [error for error in (self.last_error, other.last_error) if error is not None]
        return RejectedCount(
            count=self.count + other.count,
            dropped=self.dropped + other.dropped,
            last_error=max(errors, key=lambda error: error.time, default=None),
            unknown={**self.unknown, **other.unknown},
        )


def sum_of(counts: Iterable[RejectedCount]) -> RejectedCount:
    """All *counts* together."""
    return sum(counts, RejectedCount())


def rejected_view(count: RejectedCount) -> dict[str, Any]:
    """The rejected records of a sink as statistics show them."""
    view: dict[str, Any] = {"count": count.count}
    if count.last_error is not None:
        view["lastError"] = count.last_error.view()
    return view


@attrs.frozen(kw_only=True)
class Replay(Record):
    """The replay that a sink has at the moment; see Note [Once] of `stream.rejected.replay`.

    :ivar token: differs for each replay.
    :ivar file: the text form of the key of the file that is being made; empty if there is none.
    :ivar node: the API node that runs it.
    """

    token: str
    file: str = ""
    node: str = ""
    started_at: datetime = NO_TIME


@attrs.frozen(kw_only=True)
class ReplayedRecords(Record):
    """Records that are stored: whoever still keeps them must erase them.

    :ivar nodes: that kept them.
    """

    ids: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    at: datetime = NO_TIME


async def add_counts(
    client: EtcdClient, node_id: str, counts: Mapping[SinkKey, RejectedCount]
) -> None:
    """Add to what a node has counted before; at most as many sinks as one transaction takes."""
    keys = {sink: f"{COUNT}{sink}/{node_id}" for sink in counts}

    async def add(txn: AtomicTxn) -> None:
        found = await txn.get_many(list(keys.values()))
        for sink, count in counts.items():
            stored = found[keys[sink]]
            before = decode(RejectedCount, stored.value) if stored else RejectedCount()
            txn.put(keys[sink], encode(before + count))

    await atomic(client, add)


async def remove_counts(client: EtcdClient, node_id: str, sink: SinkKey) -> None:
    """Remove what a node has counted of a sink."""
    await client.delete(f"{COUNT}{sink}/{node_id}")


def sink_of(key: str, prefix: str) -> tuple[SinkKey, str]:
    """The sink and the last part of a *key* below *prefix*."""
    project, branch, source, sink, last = key.removeprefix(prefix).split("/")
    return SinkKey(int(project), int(branch), source, sink), last
