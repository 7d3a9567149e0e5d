"""Reads and writes files, slices and statistics in an open transaction.

Both copies of a record are always written together; when the level changes, the copy at the old
level is deleted. `stream.storage.store.repository` decides which changes are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.logger import Logger

from stream.definition.key import SinkKey
from stream.definition.mappings import put_mapping
from stream.definition.stored import read_stored
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.retry import NO_RETRY
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics, total
from stream.values.codec import encode

__all__ = [
    "count_slices",
    "create_file",
    "create_slice",
    "delete_file_records",
    "delete_slice_records",
    "forget_failures",
    "keys_of_new",
    "load_file",
    "load_slice",
    "load_slices",
    "local_files",
    "local_files_of",
    "local_slices",
    "move_statistics",
    "read_file",
    "read_files",
    "read_slices",
    "save_file",
    "save_slice",
]

_log = Logger()


async def read_file(client: EtcdClient, key: FileKey) -> File | None:
    """Return the file with this key; ``None`` if there is none."""
    stored = await client.get(f"{prefix.FILE_ALL}{key}")
    return read_stored(File, stored) if stored else None


async def read_files(client: EtcdClient, key: SinkKey) -> list[File]:
    """Return all files of the sink, the oldest first."""
    result = await client.range(f"{prefix.FILE_ALL}{key}/")
    return [read_stored(File, kv) for kv in result.kvs]


async def read_slices(client: EtcdClient, key: FileKey) -> list[Slice]:
    """Return all slices of the file, sorted by key."""
    result = await client.range(f"{prefix.SLICE_ALL}{key}/")
    return [read_stored(Slice, kv) for kv in result.kvs]


async def load_file(txn: AtomicTxn, key: FileKey) -> File:
    """Return the file. Raises UserError 404 if it doesn't exist."""
    stored = await txn.get(f"{prefix.FILE_ALL}{key}")
    if stored is None:
        raise UserError(f'file "{key}" not found in the sink', status=404, name="fileNotFound")
    return read_stored(File, stored)


async def load_slice(txn: AtomicTxn, key: SliceKey) -> Slice:
    """Return the slice. Raises UserError 404 if it doesn't exist."""
    stored = await txn.get(f"{prefix.SLICE_ALL}{key}")
    if stored is None:
        raise UserError(f'slice "{key}" not found in the file', status=404, name="sliceNotFound")
    return read_stored(Slice, stored)


async def load_slices(txn: AtomicTxn, key: FileKey) -> list[Slice]:
    """Return all slices of the file, sorted by key."""
    kvs = await txn.range(f"{prefix.SLICE_ALL}{key}/", track_deletes=False)
    return [read_stored(Slice, kv) for kv in kvs]


async def count_slices(txn: AtomicTxn, key: FileKey) -> int:
    """Return the number of the file's slices; a concurrent decrease isn't a conflict."""
    return len(await txn.range(f"{prefix.SLICE_ALL}{key}/", track_deletes=False))


async def local_files(txn: AtomicTxn, key: SinkKey) -> list[File]:
    """Return the files of the sink at level local, the oldest first."""
    kvs = await txn.range(local_files_of(key), track_deletes=False)
    return [read_stored(File, kv) for kv in kvs]


def local_files_of(key: SinkKey) -> str:
    """Return the prefix that `local_files` reads."""
    return f"{prefix.file_level(Level.LOCAL)}{key}/"


async def local_slices(txn: AtomicTxn, key: object) -> list[Slice]:
    """Return the slices at level local below a file, or below a file on one volume."""
    kvs = await txn.range(f"{prefix.slice_level(Level.LOCAL)}{key}/", track_deletes=False)
    return [read_stored(Slice, kv) for kv in kvs]


def keys_of_new(file: File, slices: Sequence[Slice]) -> list[str]:
    """Return the keys that must not exist yet for `create_file` and `create_slice`."""
    return [
        f"{prefix.FILE_ALL}{file.key}",
        *(f"{prefix.SLICE_ALL}{slice_.key}" for slice_ in slices),
    ]


async def create_file(txn: AtomicTxn, file: File) -> None:
    """Write a new file. Raises UserError 409 if the key is taken."""
    if await txn.get(f"{prefix.FILE_ALL}{file.key}") is not None:
        raise UserError(
            f'file "{file.key}" already exists in the sink', status=409, name="fileAlreadyExists"
        )
    save_file(txn, None, file)


async def create_slice(txn: AtomicTxn, slice_: Slice) -> None:
    """Write a new slice and its statistics. Raises UserError 409 if the key is taken."""
    if await txn.get(f"{prefix.SLICE_ALL}{slice_.key}") is not None:
        raise UserError(
            f'slice "{slice_.key}" already exists in the file',
            status=409,
            name="sliceAlreadyExists",
        )
    save_slice(txn, None, slice_)
    txn.put(
        f"{prefix.statistics(Level.LOCAL)}{slice_.key}/{prefix.OPEN_STATISTICS}",
        encode(Statistics(slices_count=1)),
    )


def save_file(txn: AtomicTxn, old: File | None, new: File) -> None:
    """Write a file; if its state changes, log that when the transaction is committed."""
    if old is None or old.state is not new.state:
        before, state = "new" if old is None else old.state.value, new.state.value

        def tell(_: int) -> None:
            _log.info(
                "file {file_id}: {before} → {state}", file_id=new.key, before=before, state=state
            )

        txn.on_commit(tell)
    put_mapping(txn, new.key.sink_key, new.mapping)
    value = encode(new)
    for key in prefix.file_keys(new.key, new.level):
        txn.put(key, value)
    if old is not None and old.level is not new.level:
        txn.delete(f"{prefix.file_level(old.level)}{new.key}")


def save_slice(txn: AtomicTxn, old: Slice | None, new: Slice) -> None:
    """Write a slice; if its state changes, log that when the transaction is committed."""
    if old is None or old.state is not new.state:
        before, state = "new" if old is None else old.state.value, new.state.value

        def tell(_: int) -> None:
            _log.info(
                "slice {slice_id}: {before} → {state}", slice_id=new.key, before=before, state=state
            )

        txn.on_commit(tell)
    put_mapping(txn, new.key.sink_key, new.mapping)
    value = encode(new)
    for key in prefix.slice_keys(new.key, new.level):
        txn.put(key, value)
    if old is not None and old.level is not new.level:
        txn.delete(f"{prefix.slice_level(old.level)}{new.key}")


async def forget_failures(txn: AtomicTxn, key: SliceKey) -> None:
    """Remove the failed attempts of a slice, so that it is retried immediately."""
    slice_ = await load_slice(txn, key)
    save_slice(txn, slice_, attrs.evolve(slice_, retry=NO_RETRY))


async def move_statistics(
    txn: AtomicTxn,
    key: object,
    old: Level,
    new: Level,
    counted: Statistics | None = None,
) -> Statistics:
    """Move the statistics of a slice or a file to another level, summed for each slice.

    One key per slice remains, regardless of the number of source nodes, so the transaction that
    imports a file doesn't grow with the cluster.

    :param counted: exact counts of a single slice, if the caller has read its files.
    :returns: the sum of all moved statistics.
    """
    below = f"{prefix.statistics(old)}{key}/"
    by_slice: dict[str, list[Statistics]] = {}
    kvs = await txn.range(below)
    for kv in kvs:
        slice_key, _, _ = kv.key.removeprefix(prefix.statistics(old)).rpartition("/")
        by_slice.setdefault(slice_key, []).append(read_stored(Statistics, kv))
    if not by_slice:
        _log.warn("no statistics records found below {key}", key=below)
        if counted is not None:
            by_slice[str(key)] = [Statistics(slices_count=1)]
    txn.delete_prefix(below)
    moved = []
    for slice_key, values in by_slice.items():
        value = total(values)
        if counted is not None:
            value = attrs.evolve(
                value,
                records_count=counted.records_count,
                uncompressed_size=counted.uncompressed_size,
                compressed_size=counted.compressed_size,
            )
        if new is Level.STAGING:
            value = attrs.evolve(value, staging_size=value.compressed_size)
        moved.append(value)
        txn.put(f"{prefix.statistics(new)}{slice_key}/{prefix.OPEN_STATISTICS}", encode(value))
    return total(moved)


def delete_file_records(txn: AtomicTxn, file: File) -> None:
    """Delete a file's records in the transaction."""
    for key in prefix.file_keys(file.key, file.level):
        txn.delete(key)


def delete_slice_records(txn: AtomicTxn, slices: Sequence[Slice]) -> None:
    """Delete slices that were read outside *txn*; their level may have changed since then."""
    for slice_ in slices:
        keys = (key for level in Level for key in prefix.slice_keys(slice_.key, level))
        for key in dict.fromkeys(keys):
            txn.delete(key)
