"""Slices are rotated by triggers, and closed when no node writes to them any more."""

from __future__ import annotations

import pytest_twisted

from stream.storage.model.entity import Slice
from stream.storage.model.prefix import CLOSE_SYNC
from stream.storage.model.state import SliceState
from stream.storage.reconcile.operator import SWEEP_SECONDS
from tests.storage.coordinator.conftest import Coordinator

ENOUGH = 10_000
"""The default number of records that triggers the upload of a slice."""


async def open_slice(coordinator: Coordinator) -> Slice:
    await coordinator.storage.open_file()
    (slice_,) = await coordinator.storage.slices()
    return slice_


async def closing_slice(coordinator: Coordinator) -> Slice:
    """Return a rotated slice in a file that is still open."""
    slice_ = await open_slice(coordinator)
    await coordinator.storage.rotate_slice(slice_.key)
    return slice_


@pytest_twisted.ensureDeferred
async def test_rotation_by_count(coordinator: Coordinator) -> None:
    """Enough records rotate a slice at once, without a tick."""
    slice_ = await open_slice(coordinator)
    await coordinator.service.startService()
    coordinator.storage.tick(11)
    await coordinator.storage.count(slice_.key, ENOUGH)

    async def rotated() -> bool:
        return await coordinator.slice_state(slice_.key) is not SliceState.WRITING

    await coordinator.until(rotated)
    new = [s for s in await coordinator.storage.slices() if s.state is SliceState.WRITING]
    assert [s.key.volume_id for s in new] == [slice_.key.volume_id]
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_no_rotation_before_the_interval(coordinator: Coordinator) -> None:
    """A slice isn't rotated before the minimum interval, whatever the number of its records."""
    slice_ = await open_slice(coordinator)
    await coordinator.storage.count(slice_.key, ENOUGH)
    await coordinator.service.startService()

    async def rotated() -> bool:
        return await coordinator.slice_state(slice_.key) is not SliceState.WRITING

    await coordinator.never(rotated)
    coordinator.storage.tick(11)
    coordinator.tick(SWEEP_SECONDS)
    await coordinator.until(rotated)


@pytest_twisted.ensureDeferred
async def test_closing_waits_for_all_source_nodes(coordinator: Coordinator) -> None:
    """A slice is uploaded only after every source node has stopped writing to it."""
    slice_ = await closing_slice(coordinator)
    revision = await coordinator.revision()
    await coordinator.report("source-1", revision)
    await coordinator.report("source-2", revision - 1)
    await coordinator.service.startService()

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.never(closed)
    await coordinator.report("source-2", revision)
    await coordinator.until(closed)
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_closing_without_a_dead_node(coordinator: Coordinator) -> None:
    """A node whose report disappeared with its lease isn't waited for."""
    slice_ = await closing_slice(coordinator)
    revision = await coordinator.revision()
    await coordinator.report("source-1", revision)
    await coordinator.report("source-2", revision - 1)
    await coordinator.service.startService()

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.never(closed, looks=5)
    await coordinator.client.delete(f"{CLOSE_SYNC}source-2")
    await coordinator.until(closed)


@pytest_twisted.ensureDeferred
async def test_closing_without_nodes(coordinator: Coordinator) -> None:
    """Without source nodes a slice is closed at once."""
    slice_ = await closing_slice(coordinator)
    await coordinator.service.startService()

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.until(closed)


@pytest_twisted.ensureDeferred
async def test_closing_is_confirmed_by_etcd(coordinator: Coordinator) -> None:
    """A report that the mirror doesn't have yet is waited for."""
    slice_ = await closing_slice(coordinator)
    close_sync = coordinator.service._close_sync
    close_sync.reached = lambda revision: True  # type: ignore[method-assign]
    await coordinator.report("source-1", 1)
    await coordinator.service.startService()

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.never(closed)
    retry = (await coordinator.storage.slice(slice_.key)).retry
    assert retry.retry_attempt == 0
    await coordinator.report("source-1", await coordinator.revision())
    await coordinator.until(closed)


@pytest_twisted.ensureDeferred
async def test_etcd_decides_whether_a_slice_is_empty(coordinator: Coordinator) -> None:
    """Statistics in etcd, not in memory, determine whether a slice is empty."""
    slice_ = await closing_slice(coordinator)
    await coordinator.report("source-1", 1)
    await coordinator.service.startService()
    # From here on the memory isn't updated.
    await coordinator.service._statistics.stopService()
    await coordinator.storage.count(slice_.key, 1)
    await coordinator.report("source-1", await coordinator.revision())

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.until(closed)
    assert coordinator.service._statistics.slice(slice_.key).total.records_count == 0
    assert not (await coordinator.storage.slice(slice_.key)).local.is_empty
    await coordinator.service._statistics.startService()


@pytest_twisted.ensureDeferred
async def test_the_last_counts_come_before_the_last_report(coordinator: Coordinator) -> None:
    """A source stores its counts, then it reports: earlier counts don't decide."""
    slice_ = await closing_slice(coordinator)
    await coordinator.report("source-1", 1)
    close_sync = coordinator.service._close_sync
    confirm = close_sync.confirm

    async def confirm_late(revision: int) -> bool:
        await coordinator.storage.count(slice_.key, 1)
        await coordinator.report("source-1", await coordinator.revision())
        return await confirm(revision)

    close_sync.confirm = confirm_late  # type: ignore[method-assign]
    close_sync.reached = lambda revision: True  # type: ignore[method-assign]
    await coordinator.service.startService()

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.until(closed)
    assert not (await coordinator.storage.slice(slice_.key)).local.is_empty


@pytest_twisted.ensureDeferred
async def test_a_slice_without_records_is_marked_as_empty(coordinator: Coordinator) -> None:
    """A slice without records is marked as empty."""
    slice_ = await closing_slice(coordinator)
    await coordinator.service.startService()

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.until(closed)
    assert (await coordinator.storage.slice(slice_.key)).local.is_empty


@pytest_twisted.ensureDeferred
async def test_a_failed_rotation(coordinator: Coordinator) -> None:
    """A failure is recorded in the slice, and the next attempt follows after the delay."""
    slice_ = await open_slice(coordinator)
    await coordinator.storage.count(slice_.key, ENOUGH)
    coordinator.storage.tick(11)
    repository = coordinator.storage.repository
    rotate = repository.rotate_slice

    async def fail(*_: object) -> None:
        repository.rotate_slice = rotate  # type: ignore[method-assign]
        raise ValueError("broken")

    repository.rotate_slice = fail  # type: ignore[assignment,method-assign]
    await coordinator.service.startService()

    async def failed() -> bool:
        return (await coordinator.storage.slice(slice_.key)).retry.retry_attempt == 1

    await coordinator.until(failed)
    assert (await coordinator.storage.slice(slice_.key)).retry.retry_reason == "broken"

    async def rotated() -> bool:
        return await coordinator.slice_state(slice_.key) is not SliceState.WRITING

    await coordinator.never(rotated, looks=5)
    coordinator.storage.tick(150)
    coordinator.tick(SWEEP_SECONDS)
    await coordinator.until(rotated)


@pytest_twisted.ensureDeferred
async def test_another_owner(coordinator: Coordinator) -> None:
    """Slices of another owner are not changed until this node owns them."""
    slice_ = await closing_slice(coordinator)
    coordinator.owns = lambda key: False
    await coordinator.service.startService()

    async def closed() -> bool:
        return await coordinator.slice_state(slice_.key) is SliceState.UPLOADING

    await coordinator.never(closed)
    coordinator.owns = lambda key: key == str(slice_.key.source_key)
    for callback in coordinator.topology_changed:
        callback()
    await coordinator.until(closed)
