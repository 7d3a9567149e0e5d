"""New staging storage of a closing file whose upload credentials have expired."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor

from stream.etcd import AtomicTxn, EtcdClient, LockLost, Session
from stream.storage.model.entity import Slice
from stream.storage.model.key import FileKey
from stream.storage.model.retry import NO_RETRY
from stream.storage.model.state import (
    FileState,
    InvalidFileState,
    InvalidSliceState,
    Level,
    SliceState,
)
from stream.storage.store import records, restaging
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.restaging import replace_staging
from stream.storage.store.statistics_reads import one_file_statistics
from tests.storage.histories.world import SINK, Storage, prepared_file

LATER = timedelta(hours=12)


@attrs.define
class World:
    """A closing file with some uploaded slices."""

    storage: Storage
    session: Session

    async def closing(self, counts: tuple[int, ...], uploaded: int, failed: int = 0) -> None:
        """Create a slice for each of *counts* records; the first are uploaded, the next have
        failed.
        """
        storage = self.storage
        await storage.define()
        file = await storage.open_file()
        for count in counts:
            slice_ = (await storage.slices(file.key))[-1]
            await storage.count(slice_.key, count)
            await storage.rotate_slice(slice_.key)
        last = (await storage.slices(file.key))[-1]
        await storage.close_files()
        for slice_ in await storage.slices(file.key):
            await storage.to_uploading(slice_.key, is_empty=slice_.key == last.key)
        slices = await storage.slices(file.key)
        for slice_ in [*slices[:uploaded], last]:
            await storage.to_uploaded(slice_.key)
        for slice_ in slices[uploaded : uploaded + failed]:
            await storage.fail_slice(slice_.key)

    async def prepared(self) -> PreparedFile:
        (file,) = await self.storage.files()
        prepared = prepared_file(SINK, file.key.file_opened_at, b"renewed")
        return attrs.evolve(prepared, expiration=self.storage.now + LATER)

    async def replace(self, prepared: PreparedFile | None = None) -> int:
        prepared = prepared or await self.prepared()
        now = self.storage.tick()
        async with await self.session.lock("file", timeout=5) as lock:
            return await replace_staging(self.storage.client, prepared.key, prepared, now, lock)

    async def states(self) -> list[SliceState]:
        return [slice_.state for slice_ in await self.storage.slices()]


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient) -> AsyncIterator[World]:
    session = Session(etcd, ttl=30, reactor=reactor)
    await session.startService()
    yield World(Storage(etcd), session)
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_every_slice_is_uploaded_again(world: World) -> None:
    """Uploaded slices are reset with their statistics, and failed ones don't wait.

    A slice without rows isn't uploaded.
    """
    await world.closing((3, 4, 5), uploaded=1, failed=1)
    assert await world.replace() == 1
    uploading, uploaded = SliceState.UPLOADING, SliceState.UPLOADED
    assert await world.states() == [uploading, uploading, uploading, uploaded]
    first, second, *_ = await world.storage.slices()
    assert (first.uploading_at, first.uploaded_at) == (world.storage.now, None)
    assert second.retry == NO_RETRY
    await world.storage.check()
    (file,) = await world.storage.files()
    statistics = await one_file_statistics(world.storage.client, file.key)
    assert (statistics.local.records_count, statistics.staging.records_count) == (12, 0)


@pytest_twisted.ensureDeferred
async def test_the_file_has_the_new_staging(world: World) -> None:
    """The file is then imported, with each record counted once."""
    await world.closing((3, 4), uploaded=2)
    prepared = await world.prepared()
    await world.replace(prepared)
    (file,) = await world.storage.files()
    assert (file.state, file.staging.expiration) == (FileState.CLOSING, prepared.expiration)
    ((key, value),) = prepared.records
    stored = await world.storage.client.get(key)
    assert stored is not None and stored.value == value
    await world.storage.import_all(file.key)
    await world.storage.check()
    assert await world.storage.records_count() == 7


@pytest_twisted.ensureDeferred
async def test_many_slices_are_reset_in_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction exceeds etcd's limit."""
    monkeypatch.setattr(restaging, "SLICES_PER_TRANSACTION", 2)
    await world.closing((1,) * 5, uploaded=5)
    assert await world.replace() == 5
    assert await world.states() == [SliceState.UPLOADING] * 5 + [SliceState.UPLOADED]
    await world.storage.check()


@pytest_twisted.ensureDeferred
async def test_a_crash_during_the_reset(world: World) -> None:
    """Some slices were reset, and the file has its old staging: the next attempt does the rest."""
    await world.closing((1, 2, 3), uploaded=3)
    prepared = await world.prepared()
    first, *_ = await world.storage.slices()
    now = world.storage.tick()

    async def send_back(txn: AtomicTxn) -> None:
        again = first.upload_again(FileState.CLOSING, now)
        records.save_slice(txn, first, again)
        levels = Level.STAGING, Level.LOCAL
        await records.move_statistics(txn, first.key, *levels)

    await world.storage.step(send_back)
    await world.storage.check()
    assert await world.replace(prepared) == 2
    assert await world.states() == [SliceState.UPLOADING] * 3 + [SliceState.UPLOADED]
    await world.storage.check()


@pytest_twisted.ensureDeferred
async def test_a_slice_uploaded_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slice is in the old storage, so it must be reset before the file gets the new one."""
    await world.closing((1, 2), uploaded=0)
    prepared = await world.prepared()
    read, seen = records.read_slices, 0

    async def read_slices(client: EtcdClient, key: FileKey) -> list[Slice]:
        nonlocal seen
        slices = await read(client, key)
        if not seen:
            seen = 1
            await world.storage.to_uploaded(slices[0].key)
        return slices

    monkeypatch.setattr(records, "read_slices", read_slices)
    with pytest.raises(InvalidSliceState, match="has since been uploaded"):
        await world.replace(prepared)
    (file,) = await world.storage.files()
    assert file.staging.expiration is None
    assert await world.replace(prepared) == 1
    await world.storage.check()


@pytest_twisted.ensureDeferred
async def test_only_a_closing_file_gets_new_staging(world: World) -> None:
    """An import of another file may already read the old one."""
    await world.closing((1,), uploaded=1)
    (file,) = await world.storage.files()
    prepared = await world.prepared()
    await world.storage.to_importing(file.key)
    with pytest.raises(InvalidFileState):
        await world.replace(prepared)
    assert await world.states() == [SliceState.UPLOADED] * 2
    await world.storage.to_imported(file.key)
    with pytest.raises(InvalidFileState):
        await world.replace(prepared)
    await world.storage.check()


@pytest_twisted.ensureDeferred
async def test_without_the_lock_nothing_changes(world: World) -> None:
    """Another coordinator may have taken over the file."""
    await world.closing((1,), uploaded=1)
    prepared = await world.prepared()
    lock = await world.session.lock("file", timeout=5)
    await lock.release()
    with pytest.raises(LockLost):
        await replace_staging(
            world.storage.client, prepared.key, prepared, world.storage.tick(), lock
        )
    assert await world.states() == [SliceState.UPLOADED] * 2
