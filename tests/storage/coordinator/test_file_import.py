"""Imports of files in state `importing`."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred

from stream.definition import lifecycle
from stream.errors import UserError
from stream.etcd import EtcdError, EtcdUnavailable, LeaseNotFound, LockLost
from stream.storage.coordinator.file_import import CONCURRENCY
from stream.storage.model.entity import File
from stream.storage.model.state import FileState
from stream.storage.reconcile.operator import SWEEP_SECONDS, Item
from tests.storage.coordinator.conftest import Coordinator
from tests.storage.histories.world import BY, SINK


async def importing_file(coordinator: Coordinator) -> File:
    await coordinator.storage.open_file()
    (file,) = await coordinator.storage.close_files()
    await coordinator.storage.finish_slices(file.key)
    return await coordinator.storage.to_importing(file.key)


@pytest_twisted.ensureDeferred
async def test_an_imported_file_and_its_slices_are_marked(coordinator: Coordinator) -> None:
    """An imported file and its slices are marked as such."""
    file = await importing_file(coordinator)
    await coordinator.service.startService()

    async def imported() -> bool:
        return (await coordinator.storage.file(file.key)).state is FileState.IMPORTED

    await coordinator.until(imported)
    assert coordinator.target.imported == [file]
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_a_failed_import(coordinator: Coordinator) -> None:
    """A failed import is recorded and retried after the delay."""
    file = await importing_file(coordinator)
    coordinator.target.import_failures.append(UserError("bad column"))
    await coordinator.service.startService()

    async def failed() -> bool:
        return (await coordinator.storage.file(file.key)).retry.retry_attempt == 1

    await coordinator.until(failed)
    found = await coordinator.storage.file(file.key)
    assert (found.state, found.retry.retry_reason) == (FileState.IMPORTING, "bad column")

    async def imported() -> bool:
        return (await coordinator.storage.file(file.key)).state is FileState.IMPORTED

    await coordinator.never(imported, looks=5)
    assert len(coordinator.target.imported) == 1
    coordinator.storage.tick(150)
    coordinator.tick(SWEEP_SECONDS)
    await coordinator.until(imported)
    assert len(coordinator.target.imported) == 2


@pytest_twisted.ensureDeferred
async def test_imports_that_hang_do_not_delay_other_projects(coordinator: Coordinator) -> None:
    """One project alone gets half of the imports, so the file of another one starts at once."""
    file, operator = await importing_file(coordinator), coordinator.service._file_import.operator
    begun: list[int] = []

    async def hang(item: Item[File]) -> None:
        begun.append(item.value.key.project_id)
        await Deferred()

    def look_at(project_id: int, *names: str) -> None:
        key = attrs.evolve(file.key, project_id=project_id)
        for name in names:
            of_sink = attrs.evolve(key, sink_id=name)
            item = Item(str(of_sink), attrs.evolve(file, key=of_sink), 1)
            operator.items[item.key] = item
            operator.wake(item.key)
        coordinator.clock.advance(0)

    operator._reconcile, operator._wait = hang, lambda _: 0
    operator.startService()
    look_at(1, *(f"s{number}" for number in range(CONCURRENCY)))
    look_at(2, "other")
    assert begun == [1] * (CONCURRENCY // 2) + [2]
    stopping = ensureDeferred(operator.stopService(grace=0))
    coordinator.clock.advance(0)
    await stopping


@pytest.mark.parametrize(
    "problem", [EtcdUnavailable("away"), LeaseNotFound("gone"), LockLost("not held")]
)
@pytest_twisted.ensureDeferred
async def test_an_outage_of_etcd(coordinator: Coordinator, problem: EtcdError) -> None:
    """An outage of etcd isn't recorded in the file, which is retried immediately."""
    file = await importing_file(coordinator)
    coordinator.target.import_failures.append(problem)
    await coordinator.service.startService()

    async def tried() -> bool:
        return len(coordinator.target.imported) == 1

    await coordinator.until(tried)

    async def imported_at_a_tick() -> bool:
        coordinator.tick()
        found = await coordinator.storage.file(file.key)
        assert found.retry.retry_attempt == 0
        return found.state is FileState.IMPORTED

    await coordinator.until(imported_at_a_tick)


@pytest_twisted.ensureDeferred
async def test_a_disabled_sink(coordinator: Coordinator) -> None:
    """The staged files of a disabled sink wait until it is enabled."""
    file = await importing_file(coordinator)
    disabled = lifecycle.disable(SINK, coordinator.storage.now, BY, directly=True, reason="")
    await coordinator.storage.define(sink=disabled)
    await coordinator.service.startService()

    async def imported() -> bool:
        return (await coordinator.storage.file(file.key)).state is FileState.IMPORTED

    await coordinator.never(imported)
    assert coordinator.target.imported == []
    await coordinator.storage.define()

    async def imported_at_a_tick() -> bool:
        coordinator.tick()
        return await imported()

    await coordinator.until(imported_at_a_tick)
