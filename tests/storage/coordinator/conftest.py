"""A coordinator with a real etcd, whose ticks come from the test's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest_twisted
from twisted.application.service import IService, Service
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock, deferLater

from stream.definition.entity import Sink, Source
from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.etcd import EtcdClient, Mirror, Session, json_values
from stream.settings import Settings
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.coordinator.service import StorageCoordinatorService
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey, JobKey, SliceKey
from stream.storage.model.prefix import CLOSE_SYNC
from stream.storage.model.state import SliceState
from stream.target.registry import Targets
from tests.storage.histories.world import RecordingProvider, Storage

reactor: Any = _reactor
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.005


class FakeGroup(Service):
    """A group in which this node owns what the test says."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def is_owner(self, key: str) -> bool:
        return self._coordinator.owns(key)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._coordinator.topology_changed.append(callback)


class FakeTarget(RecordingProvider):
    """A target that records its calls.

    :ivar import_failures: raised by the next imports, one each.
    :ivar refused: rows of each file that the target refuses.
    :ivar is_full: whether it accepts no more files.
    :ivar jobs: jobs that count as running; a cleanup keeps them.
    """

    name = "keboola"
    services: Sequence[IService] = ()
    import_services: Sequence[IService] = ()

    def __init__(self) -> None:
        super().__init__()
        self.imported: list[File] = []
        self.import_failures: list[Exception] = []
        self.refused = 0
        self.is_full = False
        self.jobs: list[JobKey] = []
        self.deleted_files: list[FileKey] = []

    async def import_file(self, file: File) -> int:
        self.imported.append(file)
        if self.import_failures:
            raise self.import_failures.pop(0)
        return self.refused

    def may_import(self, file: FileKey) -> bool:
        return not self.is_full

    def running_jobs(self) -> Sequence[JobKey]:
        return self.jobs

    async def forget_finished(self, job: JobKey) -> bool:
        return False

    def file_records(self, file: FileKey) -> Sequence[str]:
        return (target_record_key(file),)

    async def delete_staged(self, file: FileKey) -> None:
        self.deleted_files.append(file)


def target_record_key(file: FileKey) -> str:
    """Return the key of a target's record for a file."""
    return f"storage/fake/file/{file}"


class Coordinator:
    """A `StorageCoordinatorService` with fakes as its dependencies.

    :ivar owns: whether the node is responsible for a source or project.
    """

    def __init__(self, client: EtcdClient, session: Session) -> None:
        self.storage = Storage(client)
        self.client = client
        self.clock = Clock()
        self.target = FakeTarget()
        self.owns: Callable[[str], bool] = lambda key: True
        self.topology_changed: list[Callable[[], None]] = []
        self.work = CoordinatorContext(
            client=client,
            session=session,
            repository=self.storage.repository,
            reactor=self.clock,
            now=lambda: self.storage.now,
            sinks=Mirror(client, SINK_ACTIVE, json_values(Sink)),
            sources=Mirror(client, SOURCE_ACTIVE, json_values(Source)),
        )
        targets: Any = [self.target]
        self.targets = Targets(targets)
        self.service = StorageCoordinatorService(
            self.clock,
            client,
            session,
            self.work,
            Settings(),
            self.targets,
            lambda name: FakeGroup(self),  # type: ignore[arg-type,return-value]
        )

    def tick(self, seconds: float = 2.0) -> None:
        """Let time pass for the operators, but not for the records."""
        self.clock.advance(seconds)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for the first true value of an asynchronous *condition*, and return it."""
        deadline = reactor.seconds() + _PATIENCE_SECONDS
        while reactor.seconds() < deadline:
            self.clock.advance(0)
            answer = await condition()
            if answer:
                return answer
            await deferLater(reactor, _LOOK_SECONDS)
        raise AssertionError("it didn't happen")

    async def never(self, condition: Callable[[], Any], looks: int = 20) -> None:
        """Check that an asynchronous *condition* stays false for several ticks."""
        for _ in range(looks):
            self.tick()
            assert not await condition()
            await deferLater(reactor, _LOOK_SECONDS)

    async def report(self, node: str, revision: int) -> None:
        """Report, as a source node, the revision up to which its closed slices are confirmed."""
        await self.client.put(f"{CLOSE_SYNC}{node}", str(revision).encode())

    async def revision(self) -> int:
        return (await self.client.range("storage/")).revision

    async def slice_state(self, key: SliceKey) -> SliceState:
        return (await self.storage.slice(key)).state


@pytest_twisted.async_yield_fixture()
async def coordinator(etcd: EtcdClient) -> AsyncIterator[Coordinator]:
    """A coordinator that isn't started, so that a test can prepare its data."""
    session = Session(etcd, ttl=30, reactor=reactor)
    await session.startService()
    coordinator = Coordinator(etcd, session)
    await coordinator.storage.define()
    yield coordinator
    if coordinator.service.running:
        await coordinator.service.stopService()
    await session.stopService()
