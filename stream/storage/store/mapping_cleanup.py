"""Deletion of the mappings of sinks without other records.

A sink keeps the mappings of all its versions, and files outlive their sink. So the mappings are
deleted only after the sink and its last file; see Note [References] of
`stream.definition.mappings`.
"""

from __future__ import annotations

from datetime import datetime

from stream.definition import prefix as definitions
from stream.definition.key import SinkKey
from stream.definition.size import NotCounted, count_change, count_project
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.storage.model import prefix

__all__ = ["delete_unused_mappings", "sinks_with_mappings"]

_BEHIND_ALL_HASHES = "\x7f"


async def sinks_with_mappings(client: EtcdClient) -> list[SinkKey]:
    """Return all sinks with stored mappings; needs one small read for each sink."""
    sinks: list[SinkKey] = []
    behind = ""
    while True:
        found = await client.range(definitions.MAPPING, limit=1, start_after=behind, keys_only=True)
        if not found.kvs:
            return sinks
        sink, _, _ = found.kvs[0].key.removeprefix(definitions.MAPPING).rpartition("/")
        sinks.append(SinkKey.parse(sink))
        behind = f"{sink}/{_BEHIND_ALL_HASHES}"


async def delete_unused_mappings(client: EtcdClient, sink: SinkKey, now: datetime) -> bool:
    """Delete the mappings of *sink* if no record may refer to them.

    :returns: whether they were deleted.
    """
    keys = (f"{definitions.SINK_ACTIVE}{sink}", f"{definitions.SINK_DELETED}{sink}")
    ranges = (
        definitions.children(definitions.SINK_VERSION, sink),
        f"{prefix.FILE_ALL}{sink}/",
        f"{prefix.SLICE_ALL}{sink}/",
    )
    for below in ranges:  # the transaction must not read a long history
        if (await client.range(below, limit=1, keys_only=True)).kvs:
            return False

    async def delete(txn: AtomicTxn) -> bool:
        if any((await txn.get_many(keys)).values()):
            return False
        for below in ranges:
            if await txn.range(below):
                return False
        txn.delete_prefix(f"{definitions.MAPPING}{sink}/")
        await count_change(txn, sink.project_id, now)
        return True

    try:
        return await atomic(client, delete)
    except NotCounted:
        await count_project(client, sink.project_id, now)
        return await atomic(client, delete)
