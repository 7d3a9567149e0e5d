"""Each step of files and slices, with a real etcd."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from stream.definition import lifecycle
from stream.definition.entity import SettingOverride
from stream.errors import UserError
from stream.etcd import AtomicTxn, LockLost, Session
from stream.settings import Settings
from stream.storage.model import prefix
from stream.storage.model.state import (
    FileState,
    InvalidFileState,
    InvalidSliceState,
    Level,
    SliceState,
)
from stream.storage.model.statistics import Statistics
from stream.storage.store.repository import StorageRepository
from stream.storage.store.statistics_reads import (
    one_file_statistics,
    sink_statistics,
    slice_statistics,
)
from stream.values.bytesize import ByteSize
from tests.storage.histories.world import BY, SINK, SINK_KEY, SOURCE, Storage, prepared_file

COUNT = "storage.level.local.volume.assignment.count"


@pytest_twisted.ensureDeferred
async def test_slices_of_a_new_file(storage: Storage) -> None:
    """A new file is in state writing, with a writing slice on each assigned volume."""
    file = await storage.open_file(attrs.evolve(SINK, config=(SettingOverride(COUNT, 2),)))
    assert file.state is FileState.WRITING
    assert set(file.local.assignment.volumes) == {"vol-1", "vol-2"}
    slices = await storage.slices(file.key)
    assert [slice_.key.volume_id for slice_ in slices] == ["vol-1", "vol-2"]
    assert {slice_.state for slice_ in slices} == {SliceState.WRITING}
    assert await storage.client.get(f"prepared/{file.key}") is not None
    await storage.check()


@pytest_twisted.ensureDeferred
async def test_opening_with_overrides(storage: Storage) -> None:
    """A sink's override of a setting takes precedence over its source's; both are stored in the
    file.
    """
    trigger = "storage.level.staging.upload.trigger"
    source = attrs.evolve(
        SOURCE,
        config=(
            SettingOverride(f"{trigger}.count", 111),
            SettingOverride(f"{trigger}.interval", "11s"),
        ),
    )
    sink = attrs.evolve(SINK, config=(SettingOverride(f"{trigger}.count", 222),))
    file = await storage.open_file(sink, source)
    assert file.staging.upload.trigger.count == 222
    assert file.staging.upload.trigger.interval.seconds == 11
    (slice_,) = await storage.slices(file.key)
    assert slice_.staging.upload == file.staging.upload


@pytest_twisted.ensureDeferred
async def test_opening_without_a_volume(storage: Storage) -> None:
    """Without a volume no file is opened, and nothing is written."""
    storage.volumes.clear()
    with pytest.raises(UserError, match="no volume is available") as caught:
        await storage.open_file()
    assert caught.value.status == 503
    assert not (await storage.client.range("storage/")).kvs
    assert not (await storage.client.range("prepared/")).kvs


@pytest_twisted.ensureDeferred
async def test_opening_twice_in_a_millisecond(storage: Storage) -> None:
    """A second file of the same sink and time is refused."""
    file = await storage.open_file()
    prepared = prepared_file(SINK, file.key.file_opened_at, b"second")
    with pytest.raises(UserError, match="already exists in the sink") as caught:
        await storage.step(lambda txn: storage.repository.open_file(txn, SOURCE, SINK, prepared))
    assert caught.value.status == 409
    stored = await storage.client.get(f"prepared/{file.key}")
    assert stored is not None
    assert stored.value == b""


@pytest_twisted.ensureDeferred
async def test_closing_a_file_closes_its_writing_slices(storage: Storage) -> None:
    """Closing changes the state of the file and of its writing slices, each with the time."""
    file = await storage.open_file()
    (closed,) = await storage.close_files()
    assert (closed.key, closed.state, closed.closing_at) == (
        file.key,
        FileState.CLOSING,
        storage.now,
    )
    (slice_,) = await storage.slices()
    assert (slice_.state, slice_.closing_at) == (SliceState.CLOSING, storage.now)
    await storage.check()
    assert await storage.close_files() == []


@pytest_twisted.ensureDeferred
async def test_closing_keeps_the_state_of_other_slices(storage: Storage) -> None:
    """A slice that has already advanced is unchanged."""
    file = await storage.open_file()
    (first,) = await storage.slices()
    assert await storage.rotate_slice(first.key) is not None
    await storage.to_uploading(first.key)
    await storage.close_files()
    states = [slice_.state for slice_ in await storage.slices(file.key)]
    assert states == [SliceState.UPLOADING, SliceState.CLOSING]
    await storage.check()


@pytest_twisted.ensureDeferred
async def test_rotating_a_file(storage: Storage) -> None:
    """A rotation opens a new file and closes the old one in one transaction."""
    await storage.define()
    file = await storage.open_file()
    opened = await storage.rotate_file(file.key)
    assert opened is not None
    assert opened.key.file_opened_at == storage.now
    assert (await storage.file(file.key)).closing_at == storage.now
    await storage.check()


@pytest_twisted.ensureDeferred
async def test_rotating_a_closed_file(storage: Storage) -> None:
    """A file that isn't open isn't rotated, and nothing prepared is stored."""
    await storage.define()
    file = await storage.open_file()
    await storage.close_files()
    assert await storage.rotate_file(file.key, b"unused") is None
    assert len(await storage.files()) == 1
    assert await storage.client.get(f"prepared/{SINK_KEY}/{storage.now}") is None


@pytest.mark.parametrize("change", ["disabled", "deleted", "another version", "no source"])
@pytest_twisted.ensureDeferred
async def test_rotating_for_a_changed_sink(storage: Storage, change: str) -> None:
    """No file is opened for a sink that has changed since the preparation."""
    await storage.define()
    file = await storage.open_file()
    if change == "disabled":
        disabled = lifecycle.disable(SINK, storage.now, BY, directly=True, reason="")
        await storage.define(sink=disabled)
    elif change == "deleted":
        await storage.client.delete(f"definition/sink/active/{SINK_KEY}")
    elif change == "another version":
        await storage.define(sink=lifecycle.next_version(SINK, "", storage.now, BY))
    else:
        await storage.client.delete(f"definition/source/active/{SOURCE.key}")
    assert await storage.rotate_file(file.key) is None
    assert [found.state for found in await storage.files()] == [FileState.WRITING]


@pytest_twisted.ensureDeferred
async def test_concurrent_rotations_of_a_file(storage: Storage) -> None:
    """One of the rotations succeeds, and the others do nothing."""
    await storage.define()
    file = await storage.open_file()
    opened = await gatherResults(
        [ensureDeferred(storage.rotate_file(file.key)) for _ in range(5)], consumeErrors=True
    )
    assert sum(result is not None for result in opened) == 1
    await storage.check()
    assert len(await storage.files()) == 2


@pytest_twisted.ensureDeferred
async def test_concurrent_rotations_of_a_slice(storage: Storage) -> None:
    """One of the rotations succeeds, and the others do nothing."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    opened = await gatherResults(
        [ensureDeferred(storage.rotate_slice(slice_.key)) for _ in range(5)], consumeErrors=True
    )
    (new,) = [result for result in opened if result is not None]
    assert new.key.volume_id == slice_.key.volume_id
    states = [found.state for found in await storage.slices(file.key)]
    assert states == [SliceState.CLOSING, SliceState.WRITING]
    await storage.check()


@pytest_twisted.ensureDeferred
async def test_concurrent_rotations_of_file_and_slice(storage: Storage) -> None:
    """In any order, no slice is open in a closed file."""
    await storage.define()
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    rotating_slice = ensureDeferred(storage.rotate_slice(slice_.key))
    rotating_file = ensureDeferred(storage.rotate_file(file.key))
    await rotating_slice
    await rotating_file
    await storage.check()
    assert (await storage.file(file.key)).state is FileState.CLOSING
    assert {s.state for s in await storage.slices(file.key)} == {SliceState.CLOSING}


@pytest_twisted.ensureDeferred
async def test_the_limit_of_slices(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the maximum number of slices for an import gets no more; the open one
    stays open.
    """
    monkeypatch.setattr("stream.storage.store.repository.MAX_SLICES", 2)
    await storage.open_file()
    (first,) = await storage.slices()
    second = await storage.rotate_slice(first.key)
    assert second is not None
    assert await storage.rotate_slice(second.key) is None
    assert [s.state for s in await storage.slices()] == [SliceState.CLOSING, SliceState.WRITING]


@pytest_twisted.ensureDeferred
async def test_statistics_move_between_levels(storage: Storage) -> None:
    """Records move with their slices from level to level; none is lost or duplicated."""
    await storage.define()
    file = await storage.open_file()
    (first,) = await storage.slices()
    await storage.count(first.key, 3, "source-1")
    await storage.count(first.key, 4, "source-2")
    second = await storage.rotate_slice(first.key)
    assert second is not None
    await storage.count(second.key, 10)
    await storage.rotate_file(file.key)
    for slice_ in (first, second):
        uploading = await storage.to_uploading(slice_.key)
        assert uploading.uploading_at == storage.now
        await storage.check()
        uploaded = await storage.to_uploaded(slice_.key)
        assert uploaded.uploaded_at == storage.now
        await storage.check()
        assert await storage.records_count() == 17
    statistics = await slice_statistics(storage.client, first.key)
    assert statistics.staging.records_count == 7
    assert statistics.staging.staging_size == statistics.staging.compressed_size == 14
    importing = await storage.to_importing(file.key)
    assert (importing.level, importing.importing_at) == (Level.STAGING, storage.now)
    await storage.check()
    await storage.to_imported(file.key)
    await storage.check()
    assert {s.state for s in await storage.slices(file.key)} == {SliceState.IMPORTED}
    totals = await one_file_statistics(storage.client, file.key)
    assert (totals.target.records_count, totals.target.slices_count) == (17, 2)
    assert totals.local.records_count == totals.staging.records_count == 0


@pytest_twisted.ensureDeferred
async def test_the_reader_counts_more_records(storage: Storage) -> None:
    """The reader's counts replace lower ones in the statistics."""
    await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.count(slice_.key, 3)
    await storage.close_files()
    await storage.to_uploading(slice_.key)
    counted = Statistics(
        records_count=5, uncompressed_size=ByteSize(99), compressed_size=ByteSize(9)
    )
    await storage.to_uploaded(slice_.key, counted)
    found = (await slice_statistics(storage.client, slice_.key)).staging
    assert (found.records_count, found.slices_count) == (5, 1)
    assert (found.uncompressed_size, found.compressed_size, found.staging_size) == (99, 9, 9)
    await storage.check()


@pytest_twisted.ensureDeferred
async def test_the_reader_counts_fewer_records(storage: Storage) -> None:
    """Rows that aren't in the files don't count, although they were acknowledged; times
    are kept.
    """
    await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.count(slice_.key, 3)
    await storage.close_files()
    await storage.to_uploading(slice_.key)
    await storage.to_uploaded(slice_.key, Statistics(records_count=1))
    found = (await slice_statistics(storage.client, slice_.key)).staging
    assert found.records_count == 1
    assert found.first_record_at is not None


@pytest_twisted.ensureDeferred
async def test_steps_out_of_order(storage: Storage) -> None:
    """A step from another state than the current one is refused, and nothing changes."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    before = [kv.value for kv in (await storage.client.range("storage/")).kvs]
    with pytest.raises(InvalidSliceState):
        await storage.to_uploading(slice_.key)
    with pytest.raises(InvalidSliceState):
        await storage.to_uploaded(slice_.key)
    with pytest.raises(InvalidFileState):
        await storage.to_importing(file.key)
    with pytest.raises(InvalidFileState):
        await storage.to_imported(file.key)
    assert [kv.value for kv in (await storage.client.range("storage/")).kvs] == before


@pytest_twisted.ensureDeferred
async def test_an_import_waits_for_all_slices(storage: Storage) -> None:
    """A file with a slice that isn't uploaded can't become importing."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.close_files()
    for step in (storage.to_uploading, None):
        with pytest.raises(UserError, match="unexpected combination"):
            await storage.to_importing(file.key)
        if step is not None:
            await step(slice_.key)
    assert (await storage.file(file.key)).state is FileState.CLOSING


@pytest_twisted.ensureDeferred
async def test_an_empty_slice(storage: Storage) -> None:
    """Empty slices and files are marked, so that upload and import are skipped."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.close_files()
    assert (await storage.to_uploading(slice_.key, is_empty=True)).local.is_empty
    now = storage.tick()
    found_records = await storage.step(
        lambda txn: storage.repository.slice_to_uploaded(txn, slice_.key, now, is_empty=False)
    )
    assert not found_records.local.is_empty
    # Statistics from before the slice had records don't determine whether the file is empty.
    assert not (await storage.to_importing(file.key, is_empty=True)).staging.is_empty
    await storage.check()


@pytest_twisted.ensureDeferred
async def test_failed_attempts(storage: Storage) -> None:
    """Failures are counted with reason and time, and cleared by the next step."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.close_files()
    first = storage.tick()
    for _ in range(2):
        now = storage.tick()

        async def fail(txn: AtomicTxn) -> None:
            await storage.repository.file_failed(txn, file.key, "why", storage.now)
            await storage.repository.slice_failed(
                txn, slice_.key, "what", storage.now, timedelta(hours=2)
            )

        await storage.step(fail)
        await storage.check()
    failed = await storage.file(file.key)
    assert (failed.retry.retry_attempt, failed.retry.retry_reason) == (2, "why")
    assert failed.retry.first_failed_at == first + timedelta(seconds=1)
    assert failed.retry.last_failed_at == now
    assert not failed.retry.allows(now + timedelta(minutes=7))
    assert failed.retry.allows(now + timedelta(minutes=9))
    (failed_slice,) = await storage.slices()
    assert failed_slice.retry.retry_after == now + timedelta(hours=2)
    await storage.finish_slices(file.key)
    await storage.to_importing(file.key)
    assert (await storage.file(file.key)).retry.retry_attempt == 0
    (slice_,) = await storage.slices()
    assert slice_.retry.retry_attempt == 0


@pytest_twisted.ensureDeferred
async def test_unknown_file_and_slice(storage: Storage) -> None:
    """Steps of a missing object are answered with 404."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    other = attrs.evolve(slice_.key, volume_id="nowhere")
    with pytest.raises(UserError, match="not found in the file") as caught:
        await storage.to_uploading(other)
    assert caught.value.status == 404
    with pytest.raises(UserError, match="not found in the sink") as caught:
        await storage.to_imported(attrs.evolve(file.key, sink_id="nowhere"))
    assert caught.value.status == 404


@pytest_twisted.ensureDeferred
async def test_the_statistics_of_a_deleted_file(
    storage: Storage, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The imported records of a deleted file are added to the sum of its sink; nothing else
    remains.
    """
    monkeypatch.setattr("stream.storage.store.repository.SLICES_PER_TRANSACTION", 1)
    await storage.define()
    for records in (5, 7):
        file = await storage.open_file()
        (slice_,) = await storage.slices(file.key)
        await storage.count(slice_.key, records)
        rotated = await storage.rotate_slice(slice_.key)
        assert rotated is not None
        await storage.close_files()
        await storage.import_all(file.key)
        async with await session.lock("file", timeout=5) as lock:
            statistics = await storage.repository.delete_file(
                storage.client, file.key, lock, [f"prepared/{file.key}"]
            )
        assert statistics.records_count == records
        await storage.check()
    assert await storage.left() == [f"storage/stats/target/{SINK_KEY}/_sum"]
    assert not (await storage.client.range("prepared/")).kvs
    totals = await sink_statistics(storage.client, SINK_KEY)
    assert (totals.target.records_count, totals.target.slices_count) == (12, 4)


@pytest_twisted.ensureDeferred
async def test_deleting_a_file_that_was_not_imported(storage: Storage, session: Session) -> None:
    """Records of the file aren't added to the sum, but returned to the caller."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.count(slice_.key, 5)
    await storage.close_files()
    async with await session.lock("file", timeout=5) as lock:
        statistics = await storage.repository.delete_file(storage.client, file.key, lock)
    assert statistics.records_count == 5
    assert not await storage.left()


@pytest_twisted.ensureDeferred
async def test_resuming_a_deletion(storage: Storage, session: Session) -> None:
    """A deletion that was interrupted after the slices is completed by the next one."""
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.count(slice_.key, 5)
    await storage.close_files()
    await storage.import_all(file.key)
    (slice_,) = await storage.slices()
    for key in prefix.slice_keys(slice_.key, slice_.level):
        await storage.client.delete(key)
    async with await session.lock("file", timeout=5) as lock:
        await storage.repository.delete_file(storage.client, file.key, lock)
    assert await storage.files() == []
    assert (await sink_statistics(storage.client, SINK_KEY)).target.records_count == 5


@pytest_twisted.ensureDeferred
async def test_deleting_without_the_lock(storage: Storage, session: Session) -> None:
    """A caller that has lost the lock can't delete anything."""
    file = await storage.open_file()
    lock = await session.lock("file", timeout=5)
    await lock.release()
    with pytest.raises(LockLost):
        await storage.repository.delete_file(storage.client, file.key, lock)
    await storage.check()
    assert len(await storage.files()) == 1


@pytest_twisted.ensureDeferred
async def test_deleting_during_an_upload(
    storage: Storage, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy remains of a slice that changes its level during the deletion."""
    file = await storage.open_file()
    await storage.close_files()
    stale = await storage.slices()
    await storage.finish_slices(file.key)

    async def read_stale(*_: object) -> object:
        return stale

    monkeypatch.setattr("stream.storage.store.records.read_slices", read_stale)
    async with await session.lock("file", timeout=5) as lock:
        await storage.repository.delete_file(storage.client, file.key, lock)
    assert not await storage.left()


@pytest_twisted.ensureDeferred
async def test_two_open_files_are_closed(storage: Storage) -> None:
    """If a sink has two open files, both are closed."""
    await storage.open_file()
    await storage.open_file()
    assert len(await storage.close_files()) == 2
    await storage.check()


@pytest_twisted.ensureDeferred
async def test_new_slices_reserve_the_fixed_size(storage: Storage) -> None:
    """New slices reserve the fixed size until there is a recent one."""
    sizes = [ByteSize(0), ByteSize(1000)]

    async def largest(_: object) -> ByteSize:
        return sizes.pop(0)

    storage.repository = StorageRepository(
        Settings().storage.level, lambda: storage.volumes, largest
    )
    file = await storage.open_file()
    (slice_,) = await storage.slices()
    allocation = file.local.allocation
    assert slice_.local.allocated_disk_space == allocation.static
    rotated = await storage.rotate_slice(slice_.key)
    assert rotated is not None
    assert rotated.local.allocated_disk_space == 1000 * allocation.relative // 100
