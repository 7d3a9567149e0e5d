"""The largest transactions still fit into etcd, which takes 128 operations by default."""

from __future__ import annotations

from datetime import timedelta

import pytest_twisted

from stream.etcd import AtomicTxn
from stream.storage import records
from stream.storage.entity import Slice
from stream.storage.repository import MAX_SLICES
from stream.storage.state import FileState, Level, SliceState
from stream.storage.statistics_reads import one_file_statistics
from stream.values.bytesize import ByteSize
from tests.storage.world import Storage

NODES = 5


@pytest_twisted.ensureDeferred
async def test_the_import_of_a_full_file(storage: Storage) -> None:
    """With as many slices as a file may have, and more source nodes than etcd could move alone."""
    file = await storage.open_file()
    opened = [
        Slice.opened(file, "vol-1", storage.now + timedelta(seconds=n), ByteSize(0))
        for n in range(1, MAX_SLICES)
    ]
    for start in range(0, len(opened), 20):

        async def create(txn: AtomicTxn, part: list[Slice] = opened[start : start + 20]) -> None:
            for slice_ in part:
                await records.create_slice(txn, slice_)
                if slice_ is not opened[-1]:
                    closed = slice_.advance(SliceState.WRITING, SliceState.CLOSING, storage.now)
                    records.save_slice(txn, slice_, closed)

        await storage.step(create)
    slices = await storage.slices(file.key)
    assert len(slices) == MAX_SLICES
    assert await storage.rotate_slice(slices[-1].key) is None
    for slice_ in slices[:3]:
        for node in range(NODES):
            await storage.count(slice_.key, 1, f"node-{node}")
    await storage.close_files()
    for slice_ in await storage.slices(file.key):
        await storage.to_uploading(slice_.key)
        await storage.to_uploaded(slice_.key)
    await storage.to_importing(file.key)
    imported = await storage.to_imported(file.key)
    assert imported.state is FileState.IMPORTED
    assert {slice_.state for slice_ in await storage.slices(file.key)} == {SliceState.IMPORTED}
    statistics = await one_file_statistics(storage.client, file.key)
    assert statistics.target == statistics.total
    assert statistics.target.records_count == 3 * NODES
    assert statistics.target.slices_count == MAX_SLICES
    found = await storage.client.range(f"storage/slice/level/{Level.TARGET.value}/{file.key}/")
    assert found.count == MAX_SLICES
