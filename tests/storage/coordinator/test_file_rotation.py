"""Files are rotated by triggers, and advance when their last slice is uploaded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest_twisted
from twisted.logger import LogLevel, capturedLogs

from stream.definition import lifecycle
from stream.errors import UserError
from stream.etcd import Batch
from stream.settings.declare import with_values
from stream.storage.coordinator.file_rotation import MOVE_SECONDS, SPREAD_SECONDS
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.model.prefix import statistics
from stream.storage.model.state import FileState, Level, SliceState
from stream.storage.model.volume import Volume
from stream.storage.reconcile.operator import SWEEP_SECONDS
from tests.storage.coordinator.conftest import Coordinator
from tests.storage.histories.world import BY, SINK

ENOUGH = 50_000
"""The default number of records that triggers the import of a file."""


def in_state(coordinator: Coordinator, key: FileKey, state: FileState) -> Callable[[], object]:
    async def found() -> bool:
        return (await coordinator.storage.file(key)).state is state

    return found


async def full_file(coordinator: Coordinator) -> File:
    """Return a file with enough records and age for an import."""
    file = await coordinator.storage.open_file()
    (slice_,) = await coordinator.storage.slices()
    await coordinator.storage.count(slice_.key, ENOUGH)
    coordinator.storage.tick(61)
    return file


@pytest_twisted.ensureDeferred
async def test_rotation_by_count(coordinator: Coordinator) -> None:
    """Enough records rotate a file, and the resources prepared for the new one are kept."""
    file = await full_file(coordinator)
    await coordinator.service.startService()
    await coordinator.until(in_state(coordinator, file.key, FileState.CLOSING))
    (opened,) = [f for f in await coordinator.storage.files() if f.state is FileState.WRITING]
    (prepared,) = coordinator.target.prepared
    assert opened.key == prepared.key
    assert coordinator.target.tokens == [None]
    await coordinator.service.stopService()
    assert coordinator.target.kept == [prepared]
    assert coordinator.target.discarded == []
    await coordinator.storage.check()


def _two_volumes(coordinator: Coordinator) -> None:
    """Let files have slices on two volumes."""
    repository: Any = coordinator.storage.repository
    repository._settings = with_values(
        repository._settings, {("local", "volume", "assignment", "count"): 2}
    )


async def _open_on(coordinator: Coordinator, *volumes: Volume) -> File:
    """Open a file while only *volumes* are available, and start the service."""
    coordinator.storage.volumes = list(volumes)
    file = await coordinator.storage.open_file()
    coordinator.service.volumes_changed(volumes)
    await coordinator.service.startService()
    coordinator.tick(MOVE_SECONDS)
    coordinator.storage.tick()
    return file


async def _volumes_of_the_open_file(coordinator: Coordinator) -> set[str]:
    files = [f for f in await coordinator.storage.files() if f.state is FileState.WRITING]
    return {volume for file in files for volume in file.local.assignment.volumes}


@pytest_twisted.ensureDeferred
async def test_a_file_whose_volumes_are_away(coordinator: Coordinator) -> None:
    """It is rotated to other volumes after a while, without records; short absences don't count."""
    first, second = coordinator.storage.volumes
    file = await _open_on(coordinator, first)
    closing = in_state(coordinator, file.key, FileState.CLOSING)
    coordinator.storage.volumes = [second]
    coordinator.service.volumes_changed([second])
    coordinator.tick(MOVE_SECONDS - 0.1)
    coordinator.service.volumes_changed([first, second])
    coordinator.tick(0.2)
    await coordinator.never(closing, looks=5)
    coordinator.service.volumes_changed([second])
    coordinator.tick(MOVE_SECONDS)
    await coordinator.until(closing)
    assert await _volumes_of_the_open_file(coordinator) == {second.volume_id}
    coordinator.service.volumes_changed([])
    await coordinator.never(_is_prepared(coordinator, 2), looks=5)


@pytest_twisted.ensureDeferred
async def test_a_file_with_too_few_volumes(coordinator: Coordinator) -> None:
    """A file that was opened during the restart of a writer gets that writer's volume, too."""
    first, second = coordinator.storage.volumes
    _two_volumes(coordinator)
    file = await _open_on(coordinator, second)
    coordinator.storage.volumes = [first, second]
    coordinator.service.volumes_changed([first, second])
    coordinator.tick(SPREAD_SECONDS)
    await coordinator.until(in_state(coordinator, file.key, FileState.CLOSING))
    both = {first.volume_id, second.volume_id}
    assert await _volumes_of_the_open_file(coordinator) == both
    for available in ([second], [first, second], [attrs.evolve(first, drained=True), second]):
        coordinator.service.volumes_changed(available)
        await coordinator.never(_is_prepared(coordinator, 2), looks=5)


def _is_prepared(coordinator: Coordinator, count: int) -> Callable[[], object]:
    async def found() -> bool:
        return len(coordinator.target.prepared) >= count

    return found


@pytest_twisted.ensureDeferred
async def test_an_interrupted_rotation(coordinator: Coordinator) -> None:
    """The older of two open files is closed without a third one; the newer is rotated as usual."""
    file = await full_file(coordinator)
    newer = await coordinator.storage.open_file()
    await coordinator.service.startService()
    await coordinator.until(in_state(coordinator, file.key, FileState.CLOSING))
    open_files = [f.key for f in await coordinator.storage.files() if f.state is FileState.WRITING]
    assert open_files == [newer.key]
    assert coordinator.target.prepared == []
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_a_failed_preparation(coordinator: Coordinator) -> None:
    """The file stays open if the preparation fails; the next attempt follows after the delay."""
    file = await full_file(coordinator)
    coordinator.target.failures.append(UserError("no staging file"))
    await coordinator.service.startService()

    async def failed() -> bool:
        return (await coordinator.storage.file(file.key)).retry.retry_attempt == 1

    await coordinator.until(failed)
    found = await coordinator.storage.file(file.key)
    assert (found.state, found.retry.retry_reason) == (FileState.WRITING, "no staging file")
    closing = in_state(coordinator, file.key, FileState.CLOSING)
    await coordinator.never(closing, looks=5)
    coordinator.storage.tick(150)
    coordinator.tick(SWEEP_SECONDS)
    await coordinator.until(closing)


@pytest_twisted.ensureDeferred
async def test_a_sink_changed_meanwhile(coordinator: Coordinator) -> None:
    """A file that was prepared for an older version of the sink isn't opened."""
    file = await full_file(coordinator)
    renamed = lifecycle.next_version(
        attrs.evolve(SINK, name="renamed"), "", coordinator.storage.now, BY
    )

    async def change_sink() -> None:
        coordinator.target.on_prepare = None
        await coordinator.storage.define(sink=renamed)

    coordinator.target.on_prepare = change_sink
    await coordinator.service.startService()

    async def discarded() -> bool:
        return bool(coordinator.target.discarded)

    await coordinator.until(discarded)
    assert (await coordinator.storage.file(file.key)).state is FileState.WRITING
    # The next tick uses the new version for the rotation.
    coordinator.storage.tick()

    async def rotated() -> bool:
        coordinator.tick()
        return (await coordinator.storage.file(file.key)).state is FileState.CLOSING

    await coordinator.until(rotated)
    await coordinator.service.stopService()
    assert coordinator.target.discarded == coordinator.target.prepared[:1]
    assert coordinator.target.kept == coordinator.target.prepared[1:]


@pytest_twisted.ensureDeferred
async def test_a_closing_file_advances_with_its_last_slice(coordinator: Coordinator) -> None:
    """A closing file advances as soon as its last slice is uploaded, without a tick."""
    await coordinator.storage.open_file()
    (first,) = await coordinator.storage.slices()
    await coordinator.storage.rotate_slice(first.key)
    (file,) = await coordinator.storage.close_files()
    # Without reports of source nodes the operators close no slices.
    await coordinator.report("source-1", 1)
    for slice_ in await coordinator.storage.slices():
        await coordinator.storage.to_uploading(slice_.key)
    await coordinator.storage.count(first.key, 1)
    await coordinator.service.startService()
    importing = in_state(coordinator, file.key, FileState.IMPORTING)
    first_key, second_key = [s.key for s in await coordinator.storage.slices()]
    await coordinator.storage.to_uploaded(first_key)
    await coordinator.never(importing)
    await coordinator.storage.to_uploaded(second_key)
    seconds = coordinator.clock.seconds()
    imported = in_state(coordinator, file.key, FileState.IMPORTED)
    await coordinator.until(imported)
    assert coordinator.clock.seconds() == seconds
    found = await coordinator.storage.file(file.key)
    assert found.retry.retry_attempt == 0
    assert not found.staging.is_empty
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_the_last_slice_wakes_its_closing_file(coordinator: Coordinator) -> None:
    """The file advances without a tick, even if no statistics change with its last slice."""
    storage = coordinator.storage
    await storage.open_file()
    (file,) = await storage.close_files()
    await coordinator.report("source-1", 1)
    (slice_,) = await storage.slices()
    await storage.to_uploading(slice_.key)
    below = f"{statistics(Level.LOCAL)}{slice_.key}/"
    for kv in (await coordinator.client.range(below)).kvs:
        await coordinator.client.delete(kv.key)
    await coordinator.service.startService()
    await coordinator.never(in_state(coordinator, file.key, FileState.IMPORTING))
    await storage.to_uploaded(slice_.key)
    seconds = coordinator.clock.seconds()
    await coordinator.until(in_state(coordinator, file.key, FileState.IMPORTED))
    assert coordinator.clock.seconds() == seconds


@pytest_twisted.ensureDeferred
async def test_a_stuck_slice_delays_only_its_own_file(coordinator: Coordinator) -> None:
    """Later files of the sink are imported; the file advances when the slice is uploaded."""
    storage = coordinator.storage
    await storage.open_file()
    (stuck,) = await storage.slices()
    later = await storage.rotate_file(stuck.key.file_key)
    assert later is not None
    await storage.close_files()
    await coordinator.report("source-1", 1)
    for slice_ in await storage.slices():
        await storage.to_uploading(slice_.key)
        await storage.count(slice_.key, 1)
    await storage.fail_slice(stuck.key)
    (fine,) = await storage.slices(later.key)
    await storage.to_uploaded(fine.key)
    await coordinator.service.startService()
    await coordinator.until(in_state(coordinator, later.key, FileState.IMPORTED))
    waiting = await storage.file(stuck.key.file_key)
    assert waiting.state is FileState.CLOSING and not waiting.retry.retry_attempt
    await storage.to_uploaded(stuck.key)
    await coordinator.until(in_state(coordinator, waiting.key, FileState.IMPORTED))


@pytest_twisted.ensureDeferred
async def test_closing_before_the_slices_are_mirrored(coordinator: Coordinator) -> None:
    """A file whose slices the mirror doesn't have yet has no failed attempt."""
    await coordinator.storage.open_file()
    (slice_,) = await coordinator.storage.slices()
    (file,) = await coordinator.storage.close_files()
    await coordinator.report("source-1", 1)
    await coordinator.storage.to_uploading(slice_.key)
    await coordinator.storage.count(slice_.key, 1)
    await coordinator.service.startService()
    rotation = coordinator.service._file_rotation
    rotation.slices_changed(Batch(1, True, ()))
    rotation.operator.wake(str(file.key))
    await coordinator.never(in_state(coordinator, file.key, FileState.IMPORTING))
    assert (await coordinator.storage.file(file.key)).retry.retry_attempt == 0
    await coordinator.storage.to_uploaded(slice_.key)
    await coordinator.until(in_state(coordinator, file.key, FileState.IMPORTED))


@pytest_twisted.ensureDeferred
async def test_an_empty_file(coordinator: Coordinator) -> None:
    """A file without records is marked as empty."""
    await coordinator.storage.open_file()
    (file,) = await coordinator.storage.close_files()
    for slice_ in await coordinator.storage.slices(file.key):
        await coordinator.storage.to_uploading(slice_.key, is_empty=True)
        await coordinator.storage.to_uploaded(slice_.key)
    await coordinator.service.startService()
    await coordinator.until(in_state(coordinator, file.key, FileState.IMPORTED))
    assert (await coordinator.storage.file(file.key)).staging.is_empty
    assert [f.staging.is_empty for f in coordinator.target.imported] == [True]


@pytest_twisted.ensureDeferred
async def test_a_sink_with_too_many_jobs(coordinator: Coordinator) -> None:
    """The sink gets no new file while its target accepts no more files."""
    file = await full_file(coordinator)
    coordinator.target.is_full = True
    closing = in_state(coordinator, file.key, FileState.CLOSING)
    with capturedLogs() as events:
        await coordinator.service.startService()
        for _ in range(3):
            await coordinator.never(closing)
            coordinator.tick()
    assert coordinator.target.prepared == []
    told, *more = [e for e in events if "throttled" in str(e.get("log_format"))]
    assert told["log_format"] == "skipping file rotation: sink is throttled"
    assert told["log_level"] is LogLevel.warn
    assert (told["file_id"], told["suppressed"]) == (str(file.key), 0)
    assert all(event["suppressed"] for event in more)
    coordinator.target.is_full = False

    async def rotated() -> object:
        coordinator.tick()
        return await closing()  # type: ignore[misc]

    await coordinator.until(rotated)


@pytest_twisted.ensureDeferred
async def test_a_full_target_near_the_expiration(coordinator: Coordinator) -> None:
    """A file whose credentials expire soon is rotated anyway, since its data couldn't be staged."""
    file = await coordinator.storage.open_file()
    coordinator.storage.tick(61)
    await coordinator.storage.expire(file.key, coordinator.storage.now)
    coordinator.target.is_full = True
    await coordinator.service.startService()
    await coordinator.until(in_state(coordinator, file.key, FileState.CLOSING))


@pytest_twisted.ensureDeferred
async def test_a_disabled_sink(coordinator: Coordinator) -> None:
    """The file of a disabled sink isn't rotated."""
    file = await full_file(coordinator)
    disabled = lifecycle.disable(SINK, coordinator.storage.now, BY, directly=True, reason="")
    await coordinator.storage.define(sink=disabled)
    await coordinator.service.startService()
    await coordinator.never(in_state(coordinator, file.key, FileState.CLOSING))


@pytest_twisted.ensureDeferred
async def test_a_locked_file(coordinator: Coordinator) -> None:
    """The file isn't changed while another operator holds its lock."""
    file = await full_file(coordinator)
    lock = await coordinator.work.session.lock(f"operator.file.{file.key}", timeout=5)
    await coordinator.service.startService()
    closing = in_state(coordinator, file.key, FileState.CLOSING)
    await coordinator.never(closing, looks=5)
    assert coordinator.target.prepared == []
    await lock.release()
    await coordinator.until(closing)


async def _closing_file(coordinator: Coordinator, *, uploaded: bool) -> File:
    """Return a closing file with an uploaded slice, and an unfinished one unless all are
    uploaded.
    """
    storage = coordinator.storage
    file = await storage.open_file()
    (first,) = await storage.slices(file.key)
    await storage.count(first.key, 3)
    await storage.rotate_slice(first.key)
    await storage.close_files()
    for slice_ in await storage.slices(file.key):
        await storage.to_uploading(slice_.key)
    await storage.to_uploaded(first.key)
    if uploaded:
        await storage.finish_slices(file.key)
    return await storage.expire(file.key, storage.now + timedelta(seconds=60))


@pytest_twisted.ensureDeferred
async def test_expired_credentials_are_replaced(coordinator: Coordinator) -> None:
    """Credentials are replaced when they have expired; all slices of the file are then uploaded
    again.
    """
    file = await _closing_file(coordinator, uploaded=False)
    later = coordinator.storage.now + timedelta(hours=12)
    coordinator.target.expirations = [later]
    await coordinator.service.startService()

    async def renewed() -> bool:
        return (await coordinator.storage.file(file.key)).staging.expiration == later

    await coordinator.never(renewed, looks=5)
    assert coordinator.target.renewed == []
    coordinator.storage.tick(60)
    coordinator.tick(60)
    with capturedLogs() as captured:
        await coordinator.until(renewed)
        await coordinator.service.stopService()
    (prepared,) = coordinator.target.renewed
    assert prepared.key == file.key
    assert (coordinator.target.kept, coordinator.target.discarded) == ([prepared], [])
    states = {slice_.state for slice_ in await coordinator.storage.slices(file.key)}
    assert states == {SliceState.UPLOADING}
    assert (await coordinator.storage.file(file.key)).retry.retry_attempt == 0
    (told,) = [event for event in captured if event.get("again") is not None]
    assert (told["log_level"], told["again"]) == (LogLevel.warn, 1)
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_expired_credentials_of_an_uploaded_file(coordinator: Coordinator) -> None:
    """A file whose slices are all uploaded can be imported without credentials."""
    file = await _closing_file(coordinator, uploaded=True)
    coordinator.storage.tick(61)
    await coordinator.service.startService()
    await coordinator.until(in_state(coordinator, file.key, FileState.IMPORTED))
    assert coordinator.target.renewed == []


@pytest_twisted.ensureDeferred
async def test_new_credentials_that_are_already_expired(coordinator: Coordinator) -> None:
    """The attempt fails, and the new resources are deleted."""
    file = await _closing_file(coordinator, uploaded=False)
    coordinator.storage.tick(61)
    coordinator.target.expirations = [coordinator.storage.now]
    await coordinator.service.startService()

    async def failed() -> bool:
        return (await coordinator.storage.file(file.key)).retry.retry_attempt == 1

    await coordinator.until(failed)
    assert "have already expired" in (await coordinator.storage.file(file.key)).retry.retry_reason
    assert coordinator.target.discarded == coordinator.target.renewed
    assert coordinator.target.kept == []
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_expired_credentials_of_a_disabled_sink(coordinator: Coordinator) -> None:
    """Nothing is uploaded for the sink; when it is enabled, its file gets new credentials."""
    file = await _closing_file(coordinator, uploaded=False)
    coordinator.storage.tick(61)
    disabled = lifecycle.disable(SINK, coordinator.storage.now, BY, directly=True, reason="")
    await coordinator.storage.define(sink=disabled)
    await coordinator.service.startService()

    async def renewed() -> bool:
        return (await coordinator.storage.file(file.key)).staging.expiration is None

    await coordinator.never(renewed, looks=5)
    await coordinator.storage.define(sink=lifecycle.enable(disabled, coordinator.storage.now, BY))

    async def renewed_later() -> bool:
        coordinator.tick()
        return await renewed()

    await coordinator.until(renewed_later)
