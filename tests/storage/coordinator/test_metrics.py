"""The metrics of the coordinator's operations."""

from __future__ import annotations

from typing import Any

import attrs
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from stream.definition.prefix import SINK_ACTIVE
from stream.settings import Settings
from stream.storage.coordinator.cleanup import JobCleanup, MetadataCleanup
from stream.storage.model.key import JobKey
from stream.storage.model.state import FileState
from stream.storage.reconcile.operator import Requeue
from tests.storage.coordinator.conftest import Coordinator
from tests.storage.histories.world import SINK_KEY

STORAGE = Settings().storage
SINK_LABELS = {
    'project_id="123"',
    'branch_id="456"',
    f'source_id="{SINK_KEY.source_id}"',
    f'sink_id="{SINK_KEY.sink_id}"',
}


def _told(coordinator: Coordinator, part: str) -> list[str]:
    metrics = coordinator.work.meter.metrics
    metrics.collect()
    return [line for line in metrics.page().decode().splitlines() if line.startswith(part)]


def _failures(coordinator: Coordinator, operation: str) -> tuple[float, set[str]]:
    """Return the number of failures of *operation*, and its labels."""
    name = f"keboola_go_stream_operation_{operation}_failed_count_count"
    (line,) = _told(coordinator, name)
    labels, _, count = line.removeprefix(f"{name}{{").rpartition("} ")
    return float(count), set(labels.split(","))


async def _failing(*_: object) -> Any:
    raise ValueError("broken")


_fail: Any = _failing


@pytest_twisted.ensureDeferred
async def test_a_failing_rotation_of_a_slice(coordinator: Coordinator) -> None:
    """The failure has the labels of the slice's sink."""
    await coordinator.storage.open_file()
    (slice_,) = await coordinator.storage.slices()
    await coordinator.storage.count(slice_.key, 10_000)
    coordinator.storage.tick(11)
    coordinator.storage.repository.rotate_slice = _fail  # type: ignore[method-assign]
    await coordinator.service.startService()

    async def failed() -> bool:
        return (await coordinator.storage.slice(slice_.key)).retry.retry_attempt == 1

    await coordinator.until(failed)
    assert _failures(coordinator, "slicerotation") == (
        1.0,
        {*SINK_LABELS, 'operation="slicerotation"', 'target="keboola"'},
    )


@pytest_twisted.ensureDeferred
async def test_refused_rows_are_counted_separately(coordinator: Coordinator) -> None:
    """Rows in quarantine don't count as imported; work that exceeds an attempt is no failure."""
    storage = coordinator.storage
    await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.count(slice_.key, 10)
    (file,) = await storage.close_files()
    await storage.finish_slices(file.key)
    await storage.to_importing(file.key)
    coordinator.target.import_failures.append(Requeue("ranges of rows remain"))
    coordinator.target.refused = 3
    await coordinator.service.startService()

    async def imported_at_a_tick() -> bool:
        coordinator.tick()
        found = await storage.file(file.key)
        assert found.retry.retry_attempt == 0
        is_counted = _told(coordinator, "stream_sink_quarantined_records_total{") != []
        return found.state is FileState.IMPORTED and is_counted

    await coordinator.until(imported_at_a_tick)
    assert len(coordinator.target.imported) == 2
    (imported,) = _told(coordinator, "stream_sink_imported_records_total{")
    (refused,) = _told(coordinator, "stream_sink_quarantined_records_total{")
    assert (imported.rpartition(" ")[2], refused.rpartition(" ")[2]) == ("7.0", "3.0")


@pytest_twisted.ensureDeferred
async def test_a_failing_cleanup_of_a_file(coordinator: Coordinator) -> None:
    """Failures and successes are exported, also for a deleted sink."""
    storage = coordinator.storage
    file = await storage.open_file()
    await storage.close_files()
    await storage.import_all(file.key)
    await storage.open_file()
    await coordinator.client.delete(f"{SINK_ACTIVE}{SINK_KEY}")
    storage.tick(8 * 24 * 3600)
    settings = attrs.evolve(STORAGE.metadata_cleanup, archived_file_retention_per_sink=0)
    delete_file = storage.repository.delete_file
    storage.repository.delete_file = _fail  # type: ignore[method-assign]
    cleanup = MetadataCleanup(coordinator.work, settings, lambda _: True, coordinator.targets)
    await cleanup.run()
    assert _failures(coordinator, "filecleanup") == (
        2.0,
        {*SINK_LABELS, 'operation="filecleanup"', 'target="keboola"'},
    )
    storage.repository.delete_file = delete_file  # type: ignore[method-assign]
    await cleanup.run()
    name = "keboola_go_stream_operation_duration_milliseconds_count"
    done = {line for line in _told(coordinator, name) if 'operation="filecleanup"' in line}
    assert len(done) == 2
    assert sum('error_type="other"' in line and line.endswith(" 2.0") for line in done) == 1
    assert sum('error_type=""' in line and line.endswith(" 2.0") for line in done) == 1


@pytest_twisted.ensureDeferred
async def test_a_failing_cleanup_of_a_job(coordinator: Coordinator) -> None:
    """The failure has the labels of the job's sink."""
    coordinator.target.jobs = [JobKey.of(SINK_KEY, "1")]
    coordinator.target.forget_finished = _fail  # type: ignore[method-assign]
    cleanup = JobCleanup(coordinator.work, STORAGE.job_cleanup, lambda _: True, coordinator.targets)
    await cleanup.run()
    assert _failures(coordinator, "jobcleanup") == (
        1.0,
        {*SINK_LABELS, 'operation="jobcleanup"', 'target="keboola"'},
    )


@pytest_twisted.ensureDeferred
async def test_pending_records_of_a_deleted_sink(coordinator: Coordinator) -> None:
    """The age of pending records is exported as long as the sink exists."""
    storage = coordinator.storage
    await storage.open_file()
    (slice_,) = await storage.slices()
    await storage.count(slice_.key, 5)
    await coordinator.service.startService()

    async def told() -> bool:
        return bool(_told(coordinator, "stream_sink_oldest_record_age_seconds{"))

    await coordinator.until(told)
    (pending,) = _told(coordinator, "stream_sink_pending_records{")
    assert pending.endswith(" 5.0")
    await ensureDeferred(coordinator.client.delete(f"{SINK_ACTIVE}{SINK_KEY}"))

    async def gone() -> bool:
        return not await told() and not _told(coordinator, "stream_sink_pending_records{")

    await coordinator.until(gone)
