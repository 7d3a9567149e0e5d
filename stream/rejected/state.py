"""The state of rejected records in etcd: their nodes, their counts, and running replays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from stream.definition.key import SinkKey
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.values.codec import Record, decode, encode, field
from stream.values.utctime import NO_TIME, format_time, from_milliseconds

__all__ = [
    "COUNT",
    "NODE",
    "NOTHING_KEPT",
    "POSITION",
    "REPLAY",
    "STORED",
    "LastError",
    "RejectedCount",
    "RejectedNode",
    "Replay",
    "ReplayPosition",
    "ReplayedRecords",
    "add_counts",
    "note_taken_over",
    "rejected_view",
    "remove_counts",
    "sum_of",
]

NODE = "runtime/rejected/node/"
"""Addresses of source nodes that answer questions, under their leases."""
COUNT = "rejected/count/"
"""The counts of rejected records, by sink and source node."""
REPLAY = "rejected/replay/"
"""The running replays, by sink."""
POSITION = "rejected/position/"
"""The positions of replays that were cut, by sink."""
STORED = "rejected/stored/"
"""Ids of replayed records that may still be kept, by sink."""

NOTHING_KEPT = from_milliseconds(0)
"""The time of the last kept record of a node that keeps none."""


@attrs.frozen(kw_only=True)
class RejectedNode(Record):
    """A source node that answers questions about its rejected records.

    :ivar host: name of its machine: a loopback address is reachable only from there.
    :ivar secret: known to all processes that can read etcd; both ends prove that they know it.
    """

    node_id: str
    address: str
    host: str
    secret: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class LastError(Record):
    """The reason of the latest rejection."""

    reason: str = ""
    column: str = ""
    message: str = ""
    time: datetime = NO_TIME

    def view(self) -> dict[str, Any]:
        """Return the API's view."""
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
    :ivar dropped: records of them that could not be kept: too many at once, a full disk, or
        displaced by newer ones.
    :ivar kept_at: when the node has last kept one; `NOTHING_KEPT` if it keeps none any more,
        ``None`` if unknown, as in counts of an earlier version.
    """

    count: int = 0
    dropped: int = field(default=0, omit_empty=True)
    last_error: LastError | None = None
    kept_at: datetime | None = None

    def __add__(self, other: RejectedCount) -> RejectedCount:
        errors = [error for error in (self.last_error, other.last_error) if error is not None]
        return RejectedCount(
            count=self.count + other.count,
            dropped=self.dropped + other.dropped,
            last_error=max(errors, key=lambda error: error.time, default=None),
            kept_at=self.kept_at if other.kept_at is None else other.kept_at,
            unknown={**self.unknown, **other.unknown},
        )

    def may_be_kept(self, since: datetime) -> bool:
        """Return whether the node may keep records that are newer than *since*."""
        kept_at = self.kept_at
        if kept_at is None and self.last_error is not None:
            kept_at = self.last_error.time
        return kept_at is not None and kept_at > since


def sum_of(counts: Iterable[RejectedCount]) -> RejectedCount:
    """Return the sum of *counts*."""
    return sum(counts, RejectedCount())


def rejected_view(count: RejectedCount) -> dict[str, Any]:
    """Return the rejected records of a sink as shown in statistics."""
    view: dict[str, Any] = {"count": count.count}
    if count.last_error is not None:
        view["lastError"] = count.last_error.view()
    return view


@attrs.frozen(kw_only=True)
class Replay(Record):
    """The running replay of a sink; see Note [Once] of `stream.rejected.replay`.

    :ivar token: differs for each replay.
    :ivar file: the text form of the key of the file that is being made; empty if there is none.
    :ivar node: the API node that runs it.
    """

    token: str
    file: str = ""
    node: str = ""
    started_at: datetime = NO_TIME


@attrs.frozen(kw_only=True)
class ReplayPosition(Record):
    """The position of a replay that was cut; see Note [Cut replays] of `stream.rejected.replay`.

    :ivar selection: hash of the selection of records.
    :ivar sink_version: the version of the sink that has rejected the records before the position.
    :ivar node: the source node that was being read.
    :ivar after: the position on this node; empty for its oldest record.
    :ivar done: the nodes that were read to the end; ``None`` in positions of an earlier version:
        those before `node` in the order of ids.
    """

    selection: str
    sink_version: int = 0
    node: str = ""
    after: str = ""
    done: tuple[str, ...] | None = None
    at: datetime = NO_TIME

    def is_like(self, other: ReplayPosition) -> bool:
        """Return whether both are of the same records and version of the sink."""
        return (self.selection, self.sink_version) == (other.selection, other.sink_version)

    def is_done(self, node_id: str) -> bool:
        """Return whether the records of a node were read to the end."""
        return node_id < self.node if self.done is None else node_id in self.done


@attrs.frozen(kw_only=True)
class ReplayedRecords(Record):
    """Stored records that their nodes must erase.

    :ivar nodes: the nodes that kept them.
    """

    ids: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    at: datetime = NO_TIME


async def add_counts(
    client: EtcdClient, node_id: str, counts: Mapping[SinkKey, RejectedCount]
) -> None:
    """Add to a node's earlier counts; for at most as many sinks as one transaction allows."""
    keys = {sink: f"{COUNT}{sink}/{node_id}" for sink in counts}

    async def add(txn: AtomicTxn) -> None:
        found = await txn.get_many(list(keys.values()))
        for sink, count in counts.items():
            stored = found[keys[sink]]
            before = decode(RejectedCount, stored.value) if stored else RejectedCount()
            txn.put(keys[sink], encode(before + count))

    await atomic(client, add)


async def note_taken_over(client: EtcdClient, taken: Sequence[tuple[str, SinkKey]]) -> None:
    """Note that nodes no longer keep records of sinks, since another node has taken them over.

    For at most as many nodes and sinks as one transaction allows.
    """
    keys = [f"{COUNT}{sink}/{node_id}" for node_id, sink in taken]

    async def note(txn: AtomicTxn) -> None:
        found = await txn.get_many(keys)
        for key, stored in found.items():
            if stored is not None:
                count = decode(RejectedCount, stored.value)
                txn.put(key, encode(attrs.evolve(count, kept_at=NOTHING_KEPT)))

    await atomic(client, note)


async def remove_counts(client: EtcdClient, node_id: str, sink: SinkKey) -> None:
    """Remove a node's counts of a sink."""
    await client.delete(f"{COUNT}{sink}/{node_id}")


def sink_of(key: str, prefix: str) -> tuple[SinkKey, str]:
    """Return the sink and the last part of a *key* below *prefix*."""
    project, branch, source, sink, last = key.removeprefix(prefix).split("/")
    return SinkKey(int(project), int(branch), source, sink), last
