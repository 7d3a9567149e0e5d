"""Storage of large mappings, once for each sink, by the hash of their JSON.

Note [References]: if a record refers to a mapping, the mapping is stored. To ensure this, the
writer of such a record reads another record with the same reference or writes the mapping, in the
same transaction. The mappings of a sink are deleted when the sink, its history, its files and its
slices are gone. The transaction that deletes them requires that none of these exists. If a project
needs space, the mappings of a deleted sink without a history are deleted earlier, except its own
and those of its files. The transaction requires that the sink is still deleted and has no new file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as AnyMapping

import attrs
from twisted.logger import Logger

from stream.definition import errors, prefix
from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.definition.stored import read_stored
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient
from stream.mapping.columns import Mapping
from stream.mapping.stored import StoredMapping
from stream.values.codec import decode, encode

__all__ = [
    "MAX_MAPPING_BYTES",
    "check_mapping_size",
    "load_sink_mapping",
    "mapping_key",
    "put_mapping",
    "read_mappings",
    "with_mapping",
    "with_mappings",
]

_log = Logger()

MAX_MAPPING_BYTES = 512 * 1024
"""Maximum size of a mapping's JSON.

etcd accepts requests of up to 1.5 MiB. With a mapping of this size, there is room for all other
writes that a change of a sink makes.
"""

_FIRST_READS, _MAX_READS = 8, 100
_READ_BYTES = 4 * 1024 * 1024
"""Approximate maximum size of an answer from etcd with several mappings."""


def mapping_key(sink: SinkKey, mapping: StoredMapping) -> str:
    """Return the etcd key of a mapping that is stored separately from its sink."""
    return f"{prefix.MAPPING}{sink}/{mapping.hash}"


def check_mapping_size(mapping: Mapping) -> None:
    """Check that *mapping* isn't too large to be stored. Raises UserError."""
    size = len(encode(mapping))
    if size > MAX_MAPPING_BYTES:
        raise UserError(
            f"the mapping is too large: its JSON is {size} bytes, and the limit is "
            f"{MAX_MAPPING_BYTES} bytes",
            name="mappingTooLarge",
            param="body.table.mapping",
            detail="use fewer columns, or shorter templates, paths, names and default values, or "
            "distribute the columns over several sinks",
        )


def put_mapping(txn: AtomicTxn, sink: SinkKey, mapping: StoredMapping) -> None:
    """Store *mapping*, unless it is stored inline or already exists; see Note [References].

    The value under a hash is always the same, so writing it again does no harm.
    """
    if mapping.must_be_stored:
        txn.put(mapping_key(sink, mapping), encode(mapping.mapping))


async def load_sink_mapping(txn: AtomicTxn, sink: Sink) -> Sink:
    """Return *sink* with its mapping loaded."""
    mapping = sink.table.mapping
    if mapping.content is not None:
        return sink
    stored = await txn.get(mapping_key(sink.key, mapping))
    if stored is None:
        raise _missing(sink.key, mapping)
    return _with_content(sink, read_stored(Mapping, stored))


async def read_mappings(
    client: EtcdClient, wanted: Iterable[tuple[SinkKey, StoredMapping]]
) -> AnyMapping[tuple[SinkKey, StoredMapping], StoredMapping]:
    """Return the *wanted* mappings, loaded; deleted and unreadable ones are skipped."""
    pairs = list(dict.fromkeys(wanted))
    found = {pair: pair[1] for pair in pairs if pair[1].content is not None}
    keys = {mapping_key(*pair): pair for pair in pairs if pair not in found}
    unread, count = list(keys), _FIRST_READS
    while unread:
        stored, _ = await client.get_many(unread[:count])
        del unread[:count]
        values = [(keys[path], kv.value) for path, kv in stored.items() if kv is not None]
        for pair, value in values:
            try:
                found[pair] = pair[1].resolved(decode(Mapping, value))
            except ValueError:
                _log.failure("cannot read a mapping of the sink {sink_id}", sink_id=str(pair[0]))
        size = sum(len(value) for _, value in values)
        count = max(1, min(_MAX_READS, _READ_BYTES * len(stored) // max(1, size)))
    return found


async def with_mappings(client: EtcdClient, sinks: Sequence[Sink]) -> list[Sink]:
    """Return *sinks* with their mappings loaded.

    The result doesn't contain sinks that have since been deleted for good, and sinks whose mapping
    is unreadable.
    """
    found = await read_mappings(client, ((sink.key, sink.table.mapping) for sink in sinks))
    pairs = ((sink, found.get((sink.key, sink.table.mapping))) for sink in sinks)
    return [_with_content(sink, mapping.mapping) for sink, mapping in pairs if mapping is not None]


async def with_mapping(client: EtcdClient, sink: Sink) -> Sink:
    """Return *sink* with its mapping loaded.

    Raises DefinitionNotFound: the sink was deleted for good after it was read. Raises
    UnreadableRecord: its mapping is unreadable. Raises UserError: its mapping is missing.
    """
    mapping = sink.table.mapping
    if mapping.content is not None:
        return sink
    stored = await client.get(mapping_key(sink.key, mapping))
    if stored is None:
        places = [f"{where}{sink.key}" for where in (prefix.SINK_ACTIVE, prefix.SINK_DELETED)]
        known, _ = await client.get_many(places)
        is_gone = all(each is None for each in known.values())
        raise errors.sink_not_found(sink.key) if is_gone else _missing(sink.key, mapping)
    return _with_content(sink, read_stored(Mapping, stored))


def _with_content(sink: Sink, content: Mapping) -> Sink:
    if sink.table.mapping.content is not None:
        return sink
    mapping = sink.table.mapping.resolved(content)
    return attrs.evolve(sink, table=attrs.evolve(sink.table, mapping=mapping))


def _missing(sink: SinkKey, mapping: StoredMapping) -> UserError:
    return UserError(
        f'the mapping {mapping.hash} of the sink "{sink}" is missing',
        status=409,
        name="mappingMissing",
    )
