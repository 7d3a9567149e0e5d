"""The state of rejected records in etcd: nodes, counts, and running replays.

Note [Stopped nodes]: a key shows that a node keeps records of a sink, and until when. So the API
can name a node whose records are missing because it is stopped, or because it was restarted without
its directory. The key isn't part of the counts, because the records remain when users reset the
counts or delete the sink. A node that takes over the records of another node moves that node's
keys, unless that node runs again and has noted new records.

Note [Other directories]: a node may run with another directory than before, for example an empty
one instead of a lost disk. So a key also contains the ID of the directory that it is about, and the
node registers the ID of its current directory. If the two differ, records are missing. When the
node keeps new records of the sink, the key is about its current directory, and contains until when
records are kept in the other ones. If such a directory is used again, its records are no longer
missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from stream.definition.key import SinkKey
from stream.definition.stored import UnreadableRecord, read_stored, readable, warn_left_out
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.values.codec import Record, encode, field
from stream.values.utctime import NO_TIME, format_time

__all__ = [
    "COUNT",
    "KEPT",
    "NODE",
    "POSITION",
    "REPLAY",
    "STORED",
    "KeptRecords",
    "LastError",
    "RejectedCount",
    "RejectedNode",
    "Replay",
    "ReplayPosition",
    "ReplayedRecords",
    "add_counts",
    "note_found",
    "note_kept",
    "rejected_view",
    "remove_counts",
    "sum_of",
]

NODE = "runtime/rejected/node/"
"""Addresses of source nodes that answer questions, under their leases."""
COUNT = "rejected/count/"
"""The counts of rejected records, by sink and source node."""
KEPT = "rejected/kept/"
"""The notes of which source nodes keep records, by sink and node; see Note [Stopped nodes]."""
REPLAY = "rejected/replay/"
"""The running replays, by sink."""
POSITION = "rejected/position/"
"""The positions of replays that reached their time limit, by sink."""
STORED = "rejected/stored/"
"""IDs of replayed records that may still be kept, by sink."""

_NO_SELECTION = ""
"""Differs from the hash of each selection of records."""


@attrs.frozen(kw_only=True)
class RejectedNode(Record):
    """A source node that answers questions about its rejected records.

    :ivar host: name of the node's machine; a loopback address is reachable only from there.
    :ivar secret: secret known to all processes that can read etcd; both sides prove that they know
        it.
    :ivar has_files: whether the node has a directory of rejected records. Without one it can't read
        the records that it kept before its last start.
    :ivar directory: ID of this directory; see Note [Other directories]. Empty in records of an
        earlier version.
    """

    node_id: str
    address: str
    host: str
    secret: str = attrs.field(repr=False)
    has_files: bool = True
    directory: str = field(default="", omit_empty=True)


@attrs.frozen(kw_only=True)
class LastError(Record):
    """The reason of the latest rejection."""

    reason: str = ""
    column: str = ""
    message: str = ""
    time: datetime = NO_TIME

    def view(self) -> dict[str, Any]:
        """Return the error in the API's form."""
        return {
            "reason": self.reason,
            "column": self.column,
            "message": self.message,
            "time": format_time(self.time),
        }


@attrs.frozen(kw_only=True)
class RejectedCount(Record):
    """The rejected records of a sink on one source node, or on all of them.

    :ivar count: number of records that could not be rendered, whether kept or not.
    :ivar dropped: number of these records that aren't kept because there were too many at once, the
        disk was full, or newer records displaced them.
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


@attrs.frozen(kw_only=True)
class KeptRecords(Record):
    """A note that a source node keeps records of a sink; see Note [Stopped nodes].

    :ivar at: time at which the node stored this note.
    :ivar until: time at which the last of the records will be too old; not after *at* if there are
        none.
    :ivar directory: ID of the directory that contains the records.
    :ivar elsewhere: by the IDs of other directories, the time until which the node would keep the
        records in them; see Note [Other directories].
    """

    at: datetime = NO_TIME
    until: datetime = NO_TIME
    directory: str = field(default="", omit_empty=True)
    elsewhere: Mapping[str, datetime] = field(factory=dict, omit_empty=True)

    def may_exist(self, now: datetime, *, outside: str | None = None) -> bool:
        """Return whether the node may still keep records.

        :param outside: ID of a directory that doesn't count.
        """
        places = {**self.elsewhere, self.directory: self.until}
        return any(until > now for name, until in places.items() if name != outside)

    def after(self, stored: KeptRecords | None, *, is_found: bool = False) -> KeptRecords:
        """Return this note with the other directories of the *stored* one, which it replaces.

        :param is_found: whether the node has found these records on its disk. A note of an earlier
            version, which names no directory, is then about them.
        """
        if stored is None:
            return self
        if not self.directory:
            return attrs.evolve(self, directory=stored.directory, elsewhere=stored.elsewhere)
        elsewhere = {name: until for name, until in stored.elsewhere.items() if until > self.at}
        if stored.until > self.at and (stored.directory or not is_found):
            earlier = elsewhere.get(stored.directory, stored.until)
            elsewhere[stored.directory] = max(stored.until, earlier)
        elsewhere.pop(self.directory, None)
        return attrs.evolve(self, elsewhere=elsewhere)


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

    :ivar token: random token, different for each replay.
    :ivar file: text form of the key of the file that is being created; empty if there is none.
    :ivar node: ID of the API node that runs the replay.
    """

    token: str
    file: str = ""
    node: str = ""
    started_at: datetime = NO_TIME


@attrs.frozen(kw_only=True)
class ReplayPosition(Record):
    """The position of a cut replay; see Note [Cut replays] of `stream.rejected.replay`.

    :ivar selection: hash of the selection of records; empty if no replay may continue here.
    :ivar sink_version: version of the sink that rejected the records before the position again.
    :ivar node: ID of the source node that was being read.
    :ivar after: position on this node; empty for its oldest record.
    :ivar done: IDs of the nodes that were read to the end.
    :ivar ends: position of the last record that was read on each of these nodes, empty if there was
        none; ``None`` in positions of an earlier version.
    """

    selection: str
    sink_version: int = 0
    node: str = ""
    after: str = ""
    done: tuple[str, ...] = ()
    ends: Mapping[str, str] | None = None
    at: datetime = NO_TIME

    def is_like(self, other: ReplayPosition) -> bool:
        """Return whether both positions belong to the same records and version of the sink."""
        return (self.selection, self.sink_version) == (other.selection, other.sink_version)


@attrs.frozen(kw_only=True)
class ReplayedRecords(Record):
    """Stored records that their nodes must erase.

    :ivar nodes: IDs of the nodes that keep the records.
    """

    ids: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    at: datetime = NO_TIME


async def add_counts(
    client: EtcdClient, node_id: str, counts: Mapping[SinkKey, RejectedCount]
) -> None:
    """Add to a node's earlier counts, for at most as many sinks as one transaction allows.

    A count that can't be read is left unchanged, and the others are stored.
    """
    keys = {sink: f"{COUNT}{sink}/{node_id}" for sink in counts}

    async def add(txn: AtomicTxn) -> None:
        found = await txn.get_many(list(keys.values()))
        for sink, count in counts.items():
            stored = found[keys[sink]]
            try:
                before = read_stored(RejectedCount, stored) if stored else RejectedCount()
            except UnreadableRecord as error:
                warn_left_out(error)
            else:
                txn.put(keys[sink], encode(before + count))

    await atomic(client, add)


async def note_kept(client: EtcdClient, node_id: str, kept: Mapping[SinkKey, KeptRecords]) -> None:
    """Note for each sink the records that a node keeps, or that it no longer keeps any.

    *kept* contains at most as many sinks as one transaction allows.
    """
    keys = [_kept_key(sink, node_id) for sink in kept]

    async def note(txn: AtomicTxn) -> None:
        # This also prevents that a transaction that etcd applies late undoes a newer note.
        known = await _known_notes(txn, keys)
        for sink, records in kept.items():
            key = _kept_key(sink, node_id)
            merged = records.after(known.get(key))
            if merged.may_exist(merged.at):
                txn.put(key, encode(merged))
            else:
                txn.delete(key)

    await atomic(client, note)


async def note_found(
    client: EtcdClient, node_id: str, found: Mapping[tuple[str, SinkKey], KeptRecords]
) -> dict[SinkKey, datetime]:
    """Note that a node has found records of sinks on its disk; see Note [Stopped nodes].

    The next replay of records that were taken over begins with the oldest record, because on this
    node they may be before the position of a replay that was cut. A replay that is running must not
    store its position either. So a position is stored that belongs to no selection of records.

    Three keys of each pair are written in one transaction.

    :param found: by the node that kept the records before, maybe the same node, and the sink: when
        they were found, and until when they are kept if nothing else is known.
    :returns: the time that is now noted for each sink, until which this node keeps its records.
    """

    async def note(txn: AtomicTxn) -> dict[SinkKey, datetime]:
        keys = [_kept_key(sink, node) for former, sink in found for node in (former, node_id)]
        known = await _known_notes(txn, keys)
        noted: dict[SinkKey, datetime] = {}
        for (former, sink), kept in found.items():
            own, before = _kept_key(sink, node_id), _kept_key(sink, former)
            until = max(
                each.until for each in (kept, known.get(own, kept), known.get(before, kept))
            )
            merged = kept.after(known.get(own), is_found=True)
            elsewhere = {**known.get(before, merged).elsewhere, **merged.elsewhere}
            elsewhere.pop(kept.directory, None)
            known[own] = attrs.evolve(merged, until=until, elsewhere=elsewhere)
            txn.put(own, encode(known[own]))
            noted[sink] = until
            if former != node_id:
                begin = ReplayPosition(selection=_NO_SELECTION, at=kept.at)
                txn.put(f"{POSITION}{sink}", encode(begin))
                if before in known and known[before].at <= kept.at:
                    txn.delete(before)
        return noted

    return await atomic(client, note)


async def _known_notes(txn: AtomicTxn, keys: Sequence[str]) -> dict[str, KeptRecords]:
    """Return the readable notes with these *keys*."""
    stored = [kv for kv in (await txn.get_many(keys)).values() if kv is not None]
    return {kv.key: records for kv, records in readable(KeptRecords, stored)}


def _kept_key(sink: SinkKey, node_id: str) -> str:
    return f"{KEPT}{sink}/{node_id}"


async def remove_counts(client: EtcdClient, node_id: str, sink: SinkKey) -> None:
    """Remove a node's counts of a sink."""
    await client.delete(f"{COUNT}{sink}/{node_id}")


def sink_of(key: str, prefix: str) -> tuple[SinkKey, str]:
    """Return the sink in a *key* below *prefix*, and the last part of the key."""
    project, branch, source, sink, last = key.removeprefix(prefix).split("/")
    return SinkKey(int(project), int(branch), source, sink), last
