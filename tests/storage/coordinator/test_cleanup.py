"""The files that the cleanup deletes, and their remaining statistics."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from stream.definition import lifecycle
from stream.definition.key import SinkKey
from stream.definition.mappings import mapping_key
from stream.definition.prefix import SINK_ACTIVE, SINK_DELETED, SINK_VERSION
from stream.definition.size import SIZE, DefinitionSize
from stream.settings import Settings
from stream.staging import StagingError
from stream.storage.coordinator.cleanup import MetadataCleanup, expired_files
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState
from stream.storage.store.mapping_cleanup import delete_unused_mappings, sinks_with_mappings
from stream.storage.store.statistics_reads import sink_statistics
from stream.target.protocol import TargetUnavailable
from stream.target.registry import Targets
from stream.values.codec import decode, encode
from tests.definition.changes import check_size
from tests.storage.coordinator.conftest import Coordinator, reactor, target_record_key
from tests.storage.histories.world import (
    BY,
    SINK,
    SINK_KEY,
    SOURCE,
    Storage,
    prepared_file,
    sample_volume,
)
from tests.storage.samples import OPENED_AT

SETTINGS = Settings().storage.metadata_cleanup
HOUR = timedelta(hours=1)


def imported(index: int) -> File:
    """Return the *index*-th file of a sink, imported right after it was opened."""
    opened_at = OPENED_AT + timedelta(minutes=index)
    storage = Storage(None, [sample_volume("vol-1")])  # type: ignore[arg-type]
    file = storage.repository._new_file(SOURCE, SINK, prepared_file(SINK, opened_at))
    return attrs.evolve(file, state=FileState.IMPORTED, imported_at=opened_at)


def expired(files: list[File], age: timedelta) -> list[File]:
    """Return the expired files if the newest file has this *age*."""
    newest = max(file.last_change_at for file in files)
    return expired_files(files, SETTINGS, newest + age)


def test_the_newest_files_are_kept() -> None:
    """The newest 31 imported files of a sink are kept at any age."""
    files = [imported(index) for index in range(40)]
    assert expired(files[:31], 1000 * HOUR) == []
    assert expired(files[:32], 1000 * HOUR) == [files[0]]
    assert set(expired(files, 1000 * HOUR)) == set(files[:9])
    assert expired(files[::-1], HOUR) == expired(files, HOUR)


def test_young_files_are_kept() -> None:
    """An imported file is kept for an hour, whatever the number of newer ones."""
    files = [imported(index) for index in range(100)]
    # The newest is 1 minute old, and the one at index i is 99 - i minutes older.
    assert set(expired(files, timedelta(minutes=1))) == set(files[:41])
    last_change = attrs.evolve(files[0], imported_at=files[-1].last_change_at)
    assert last_change not in expired([last_change, *files[1:]], timedelta(minutes=1))


def test_a_clock_that_was_set_back() -> None:
    """Files imported in the future count as old, and the age of other files doesn't change."""
    files = [imported(index) for index in range(40)]
    assert set(expired_files(files, SETTINGS, OPENED_AT - 2 * HOUR)) == set(files[:9])
    stuck = attrs.evolve(files[0], state=FileState.CLOSING, imported_at=None, closing_at=OPENED_AT)
    assert expired_files([stuck], SETTINGS, OPENED_AT - 10_000 * HOUR) == []


def test_open_files_count() -> None:
    """Files that aren't imported count among the newest."""
    files = [imported(index) for index in range(32)]
    files[-1] = attrs.evolve(files[-1], state=FileState.WRITING, imported_at=None)
    assert expired(files, 2 * HOUR) == [files[0]]


@pytest.mark.parametrize("state", [FileState.CLOSING, FileState.IMPORTING])
def test_a_file_in_one_state_for_a_week_is_deleted(state: FileState) -> None:
    """A file that isn't imported is deleted after a week in one state."""
    closing_at = OPENED_AT + 24 * HOUR
    file = attrs.evolve(imported(0), state=state, imported_at=None, closing_at=closing_at)
    week = timedelta(days=7)
    assert expired_files([file], SETTINGS, closing_at + week - HOUR) == []
    assert expired_files([file], SETTINGS, closing_at + week) == [file]


def _cleanup(coordinator: Coordinator) -> MetadataCleanup:
    settings = attrs.evolve(SETTINGS, archived_file_retention_per_sink=0)
    return MetadataCleanup(
        coordinator.work, settings, lambda key: coordinator.owns(key), coordinator.targets
    )


@pytest_twisted.ensureDeferred
async def test_a_run_deletes_old_files(
    coordinator: Coordinator,
) -> None:
    """A run deletes old files with their records, and adds their imported records to the sum."""
    storage = coordinator.storage
    old = await storage.imported(5)
    new = await storage.imported(7)
    await coordinator.client.put(target_record_key(old.key), b"credentials")
    storage.tick(3600)
    await _cleanup(coordinator).run()
    assert [file.key for file in await storage.files()] == [new.key]
    assert await coordinator.client.get(target_record_key(old.key)) is None
    assert coordinator.target.deleted_files == [old.key]
    assert (await sink_statistics(storage.client, SINK_KEY)).target.records_count == 12
    await storage.check()


@pytest.mark.parametrize("gone", ["deleted", "purged"])
@pytest_twisted.ensureDeferred
async def test_deleted_sinks(coordinator: Coordinator, gone: str) -> None:
    """Files of deleted sinks are deleted, even if nothing else of the sink exists. No file is
    retained if the sink can't be undeleted.
    """
    storage = coordinator.storage
    for _ in range(2):
        await storage.imported(5)
    if gone == "deleted":
        deleted = lifecycle.delete(SINK, storage.now, BY, directly=True)
        await coordinator.storage.define(sink=deleted)
        stored = await coordinator.client.get(f"{SINK_ACTIVE}{SINK_KEY}")
        assert stored is not None
        await coordinator.client.put(f"definition/sink/deleted/{SINK_KEY}", stored.value)
    await coordinator.client.delete(f"{SINK_ACTIVE}{SINK_KEY}")
    storage.tick(3600)
    await _cleanup(coordinator).run()
    assert len(await storage.files()) == (1 if gone == "deleted" else 0)


@pytest_twisted.ensureDeferred
async def test_another_owner(coordinator: Coordinator) -> None:
    """The projects of another node are not changed."""
    for _ in range(2):
        await coordinator.storage.imported(5)
    coordinator.storage.tick(3600)
    coordinator.owns = lambda key: key != "123"
    await _cleanup(coordinator).run()
    assert len(await coordinator.storage.files()) == 2


@pytest_twisted.ensureDeferred
async def test_a_locked_file(coordinator: Coordinator) -> None:
    """A file with a running operation is kept."""
    storage = coordinator.storage
    old = await storage.imported(5)
    await storage.imported(5)
    storage.tick(3600)
    lock = await coordinator.work.session.lock(f"operator.file.{old.key}", timeout=5)
    await _cleanup(coordinator).run()
    assert len(await storage.files()) == 2
    await lock.release()
    await _cleanup(coordinator).run()
    assert len(await storage.files()) == 1


@pytest_twisted.ensureDeferred
async def test_staged_objects_are_deleted_before_the_records(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the deletion of objects fails, or the process ends after it, the next run finds
    the file.
    """
    storage = coordinator.storage
    old = await storage.imported(5)
    await storage.imported(5)
    storage.tick(3600)

    async def unavailable(file: FileKey) -> None:
        raise StagingError("the store is unavailable")

    async def ended(*arguments: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(coordinator.target, "delete_staged", unavailable)
        await _cleanup(coordinator).run()
    with monkeypatch.context() as patch:
        patch.setattr(coordinator.work.repository, "delete_file", ended)
        await _cleanup(coordinator).run()
    assert coordinator.target.deleted_files == [old.key]
    assert len(await storage.files()) == 2
    await _cleanup(coordinator).run()
    assert coordinator.target.deleted_files == [old.key, old.key]
    assert len(await storage.files()) == 1


@pytest_twisted.ensureDeferred
async def test_a_file_that_advances_meanwhile_is_kept(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was selected before its lock was free."""
    storage = coordinator.storage
    file = await storage.open_file()
    (slice_,) = await storage.slices(file.key)
    await storage.count(slice_.key, 5)
    await storage.close_files()
    await storage.finish_slices(file.key)
    storage.tick(8 * 24 * 3600)
    cleanup = _cleanup(coordinator)
    (stuck,) = await storage.files()
    await storage.to_importing(file.key)
    assert not await cleanup._delete(stuck)
    assert len(await storage.files()) == 1


@pytest_twisted.ensureDeferred
async def test_files_of_a_target_that_is_not_installed_are_deleted(
    coordinator: Coordinator,
) -> None:
    """Such files are deleted with the records of the target; a warning names the target."""
    storage = coordinator.storage
    old = await storage.imported(5)
    await storage.imported(5)
    storage.tick(3600)
    left = [f"storage/keboola/{kind}/{old.key}" for kind in ("file", "quarantine")]
    for key in left:
        await coordinator.client.put(key, b"of the target")
    cleanup = MetadataCleanup(
        coordinator.work,
        attrs.evolve(SETTINGS, archived_file_retention_per_sink=0),
        lambda key: True,
        Targets([]),
    )
    with capturedLogs() as log:
        await cleanup.run()
    assert len(await storage.files()) == 1
    assert [await coordinator.client.get(key) for key in left] == [None, None]
    (warning,) = [event for event in log if "isn't installed" in (event["log_format"] or "")]
    assert warning["target"] == "keboola"


@pytest_twisted.ensureDeferred
async def test_one_file_at_a_time(coordinator: Coordinator) -> None:
    """A cleanup with a concurrency of one completes."""
    for _ in range(5):
        await coordinator.storage.imported(5)
    coordinator.storage.tick(3600)
    settings = attrs.evolve(SETTINGS, archived_file_retention_per_sink=0, concurrency=1)
    cleanup = MetadataCleanup(coordinator.work, settings, lambda key: True, coordinator.targets)
    await ensureDeferred(cleanup.run()).addTimeout(10, reactor)
    assert len(await coordinator.storage.files()) == 1


@pytest_twisted.ensureDeferred
async def test_the_limit_of_concurrent_deletions(coordinator: Coordinator) -> None:
    """Further items wait until one is cleaned up."""
    cleanup, most = _cleanup(coordinator), SETTINGS.concurrency
    begun: list[Deferred[bool]] = []

    async def clean_up(_: int) -> bool:
        begun.append(Deferred())
        return await begun[-1]

    cleaning = ensureDeferred(cleanup.each(range(most + 5), clean_up))
    assert len(begun) == most
    begun[0].callback(True)
    assert len(begun) == most + 1
    for each in begun:  # the list grows during the loop
        if not each.called:
            each.callback(True)
    assert await cleaning == [most + 5, 0, 0]


@pytest_twisted.ensureDeferred
async def test_a_run_stops_after_too_many_failures(coordinator: Coordinator) -> None:
    """After too many failures a run gives up."""
    cleanup = _cleanup(coordinator)
    tried: list[int] = []

    async def fail(item: int) -> bool:
        tried.append(item)
        raise ValueError("broken")

    counts = await cleanup.each(range(100), fail)
    assert counts == [0, 0, SETTINGS.error_tolerance + 1]
    assert len(tried) == SETTINGS.error_tolerance + 1


@pytest_twisted.ensureDeferred
async def test_unavailable_storage_is_no_failure(coordinator: Coordinator) -> None:
    """Other files are deleted, however many files wait for the storage."""
    cleanup = _cleanup(coordinator)

    async def clean_up(number: int) -> bool:
        if number % 2:
            raise TargetUnavailable("the store does not answer", f"place {number % 3}")
        return True

    with capturedLogs() as events:
        assert await cleanup.each(range(300), clean_up) == [150, 150, 0]
    assert len([each for each in events if "cannot clean up" in str(each["log_format"])]) == 3


@pytest_twisted.ensureDeferred
async def test_when_runs_start(coordinator: Coordinator) -> None:
    """A run starts at the start and at each interval, and none starts after the stop."""
    runs: list[float] = []
    cleanup = _cleanup(coordinator)
    clock: Clock = coordinator.clock

    async def run() -> None:
        runs.append(clock.seconds())
        if len(runs) == 2:
            raise ValueError("broken")

    cleanup.run = run  # type: ignore[method-assign]
    cleanup.startService()
    for _ in range(3):
        clock.advance(SETTINGS.interval.seconds)
    assert runs == [0, 600, 1200, 1800]
    await cleanup.stopService()
    clock.advance(SETTINGS.interval.seconds)
    assert len(runs) == 4
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_a_run(coordinator: Coordinator) -> None:
    """An unfinished run is cancelled, which is no failure."""
    cleanup = _cleanup(coordinator)

    async def run() -> None:
        await Deferred()

    cleanup.run = run  # type: ignore[method-assign]
    with capturedLogs() as log:
        cleanup.startService()
        await cleanup.stopService()
    assert log == []


async def _mappings(coordinator: Coordinator) -> list[SinkKey]:
    return await sinks_with_mappings(coordinator.client)


@pytest.mark.usefixtures("every_mapping_is_large")
@pytest_twisted.ensureDeferred
async def test_a_mapping_is_deleted_with_its_last_reference(coordinator: Coordinator) -> None:
    """A mapping is deleted with the last file, not with the sink or its history; other mappings are
    kept.
    """
    storage, client = coordinator.storage, coordinator.client
    other = attrs.evolve(SINK, key=SINK_KEY.source_key.sink("other"))
    await storage.define(sink=other)
    history = f"{SINK_VERSION}{SINK_KEY}/0000000001"
    await client.put(history, encode(SINK))
    for _ in range(2):
        await storage.imported(5)
    await coordinator.service.startService()  # the coordinator knows the sinks
    assert len(await _mappings(coordinator)) == 2
    cleanup = _cleanup(coordinator)
    await cleanup.run()
    await client.delete(f"{SINK_ACTIVE}{SINK_KEY}")
    await coordinator.until(lambda: _is(coordinator.work.sink(SINK_KEY) is None))
    await client.put(f"{SINK_DELETED}{SINK_KEY}", encode(SINK))
    for key in (f"{SINK_DELETED}{SINK_KEY}", history):
        await cleanup.run()
        assert len(await _mappings(coordinator)) == 2
        await client.delete(key)
    for file in await storage.files():
        await cleanup.run()
        assert len(await _mappings(coordinator)) == 2
        lock = await coordinator.work.session.lock("x", timeout=10)
        await storage.repository.delete_file(client, file.key, lock)
        await lock.release()
    coordinator.owns = lambda key: False
    await cleanup.run()
    assert len(await _mappings(coordinator)) == 2
    coordinator.owns = lambda key: True
    await cleanup.run()
    assert await _mappings(coordinator) == [other.key]


async def _is(value: bool) -> bool:
    return value


@pytest_twisted.ensureDeferred
async def test_definitions_are_counted_again(coordinator: Coordinator) -> None:
    """A size that is a day old is replaced by the true one, on the node that owns the project."""
    storage, client = coordinator.storage, coordinator.client
    size = f"{SIZE}{SINK_KEY.project_id}"
    await storage.define()
    await client.put(size, encode(DefinitionSize(7, storage.now)))
    storage.tick(24 * 3600)
    coordinator.owns = lambda key: False
    await _cleanup(coordinator).run()
    stored = await client.get(size)
    assert stored is not None and decode(DefinitionSize, stored.value).bytes == 7
    coordinator.owns = lambda key: True
    await _cleanup(coordinator).run()
    assert await check_size(client, SINK_KEY.project_id) > 1000


@pytest.mark.usefixtures("every_mapping_is_large")
@pytest_twisted.ensureDeferred
async def test_a_mapping_that_is_referenced_meanwhile_is_kept(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is opened just before the deletion of mappings finds its mapping."""
    storage, client = coordinator.storage, coordinator.client
    await client.delete(f"{SINK_ACTIVE}{SINK_KEY}")
    commit = client.commit

    async def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        await storage.open_file()
        return await commit(*arguments)

    monkeypatch.setattr(client, "commit", late)
    assert not await delete_unused_mappings(client, SINK_KEY, storage.now)
    (file,) = await storage.files()
    assert await client.get(mapping_key(SINK_KEY, file.mapping)) is not None
