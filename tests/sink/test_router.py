"""Reports of a source node to coordinators, and its slices; with a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.python.threadpool import ThreadPool

from stream.definition.key import SourceKey
from stream.definition.mappings import mapping_key
from stream.definition.prefix import SINK_ACTIVE
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdUnavailable, Session
from stream.mapping.columns import Mapping, PathColumn
from stream.mapping.render import Renderer
from stream.mapping.stored import StoredMapping
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.settings import Settings
from stream.settings.declare import with_values
from stream.sink import sink_pipeline
from stream.sink.balancing import Balancer
from stream.sink.outcome import Completion
from stream.sink.quota import Quotas
from stream.sink.router import SINKS_AT_ONCE, SinkRouter, SinkTarget
from stream.sink.sink_pipeline import PipelineContext, SinkPipeline
from stream.sink.statistics_publisher import StatisticsPublisher
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.marks import Mark
from stream.storage.model.state import Level, SliceState
from stream.storage.model.volume import Volume
from stream.storage.store.repository import StorageRepository
from stream.storage.store.statistics_reads import slice_statistics
from stream.values.codec import encode
from tests.sink.fakes import FakeCompletion, FakeOpener
from tests.storage.histories.world import SINK, SOURCE_KEY, Storage
from tests.storage.samples import sample_slice, uncompressed
from tests.storage.store.test_old_layout import inline
from tests.waiting import until

reactor: Any = _reactor


class FakeFailure(FakeCompletion):
    """A failure that also accepts unexpected errors."""

    error: Exception | None = None

    def failed(self, error: Exception) -> None:
        self.error = error


class World:
    """A source node with two slices of one sink, whose writer answers when the test says so."""

    def __init__(self, etcd: EtcdClient) -> None:
        self.volumes: dict[str, Volume] = {}
        self.etcd = etcd
        self.storage = Storage(etcd)
        level = with_values(
            Settings().storage.level, {("local", "volume", "assignment", "count"): 2}
        )
        self.storage.repository = StorageRepository(level, lambda: self.storage.volumes)
        self.session = Session(etcd, ttl=10, reactor=reactor)
        self.opener = FakeOpener(at_once=False)
        self.pool = ThreadPool(0, 2)
        self.publisher = StatisticsPublisher(etcd, "node-1", 0.02, reactor)
        self.nodes = ["node-1"]
        self.life = 1
        self._renderer: Renderer | None = None
        self.router = self._router()

    def _router(self) -> SinkRouter:
        context = PipelineContext(
            node_id="node-1",
            life=lambda: self.life,
            opener=self.opener,
            reactor=reactor,
            pool=self.pool,
            publisher=self.publisher,
            balancer=Balancer("roundRobin"),
        )
        return SinkRouter(
            self.etcd,
            self.session,
            context,
            nodes=lambda: self.nodes,
            minimum_slices=1,
            volume=self.volumes.get,
            quotas=Quotas(self.etcd, 1.0, reactor),
        )

    async def start(self) -> None:
        self.pool.start()
        await self.session.startService()
        await self.storage.define()
        await self.storage.open_file()
        await self.router.startService()

    async def stop(self) -> None:
        self.opener.at_once = True
        for file in self.opener.files:
            file.at_once = True
        self.answer()
        await self.router.stopService()
        await self.session.stopService()
        self.pool.stop()

    @property
    def target(self) -> SinkTarget:
        [(_, target)] = self.router.eligible(SOURCE_KEY, "")
        return target

    def write(self) -> FakeCompletion:
        """Write one row to one of the slices."""
        completion = FakeCompletion()
        if self._renderer is None:  # the balancing needs a turn to ask for it
            self._renderer = self.target.open(1000).renderer()
        self.target.open(1000).write_rows(b'"a"\n', 1, 1000, self._renderer, completion)
        return completion

    def is_written(self) -> bool:
        """Return whether the sink takes a row now."""
        try:
            self.write()
        except UserError:
            return False
        return True

    def answer(self) -> None:
        for file in self.opener.files:
            while file.waiting:
                file.answer()

    async def report(self) -> int:
        kv = await self.etcd.get(f"{prefix.CLOSE_SYNC}node-1")
        return -1 if kv is None else int(kv.value)

    async def close(self, key: SliceKey) -> int:
        """Rotate a slice, and return the revision."""
        await self.storage.rotate_slice(key)
        kv = await self.etcd.get(f"{prefix.slice_level(Level.LOCAL)}{key}")
        assert kv is not None
        return kv.mod_revision

    def written(self) -> set[SliceKey]:
        return {pipeline.slice.key for pipeline in self.router.slices()}

    async def write_everywhere(self) -> list[Slice]:
        """Start to write rows to both slices, and return the slices."""
        slices = await self.storage.slices()
        self.write()
        await until(lambda: len(self.opener.files) == len(slices))
        for _ in slices:
            self.write()
        await until(lambda: all(file.waiting for file in self.opener.files))
        return slices


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient) -> AsyncIterator[World]:
    made = World(etcd)
    await made.start()
    yield made
    await made.stop()


@pytest_twisted.ensureDeferred
async def test_a_change_is_reported_when_its_slices_are_closed(world: World) -> None:
    """The report waits for unfinished rows of the slice, whose statistics are in etcd by then."""
    first, second = await world.write_everywhere()
    revision = await world.close(first.key)
    later = await world.close(second.key)
    await until(lambda: len(world.opener.files) >= 3)
    await deferLater(reactor, 0.1)
    assert await world.report() < revision < later
    world.answer()

    async def reported() -> bool:
        reached: bool = await world.report() >= later
        return reached

    while not await reported():
        world.answer()
        await deferLater(reactor, 0.01)
    statistics = (await slice_statistics(world.etcd, first.key)).local
    assert statistics.records_count
    assert not world.written() & {first.key, second.key}


@pytest_twisted.ensureDeferred
async def test_a_change_is_reported_after_the_statistics(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator that closes the slice needs the statistics, even if etcd refuses them at
    first.
    """
    first, _ = await world.write_everywhere()
    refused: list[object] = []

    async def away(*args: Any) -> Any:
        refused.append(args)
        raise EtcdUnavailable("etcd is unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("stream.sink.statistics_publisher.atomic", away)
        world.answer()
        revision = await world.close(first.key)
        await until(lambda: len(refused) > 2)
        assert await world.report() < revision

    async def reported() -> bool:
        world.answer()
        return await world.report() >= revision

    await until(reported)
    assert (await slice_statistics(world.etcd, first.key)).local.records_count


@pytest_twisted.ensureDeferred
async def test_new_slices_are_open_before_old_ones_close(world: World) -> None:
    """Rows have an open slice at any time of a rotation."""
    slices = await world.write_everywhere()
    for slice_ in slices:
        await world.close(slice_.key)

    def moved() -> bool:
        world.write()
        world.answer()
        return bool(world.written()) and not world.written() & {s.key for s in slices}

    await until(moved)


@pytest_twisted.ensureDeferred
async def test_without_a_lease_no_row_is_accepted(world: World) -> None:
    """No coordinator would wait for the node. Its report is restored with the new lease."""
    (first, _) = await world.write_everywhere()
    world.answer()
    revision = await world.close(first.key)

    async def reported() -> bool:
        world.answer()
        return await world.report() >= revision

    await until(reported)
    renewed: Deferred[None] = Deferred()
    world.session.on_lost.append(world.router.session_lost)
    world.session.on_renewed += [world.router.session_renewed, lambda: renewed.callback(None)]
    await world.etcd.call("lease/revoke", {"ID": world.session.lease_id})
    world.session._expired()
    with pytest.raises(UserError) as refused:
        world.write()
    assert (refused.value.status, refused.value.name) == (503, "leaseLost")
    await renewed
    assert await reported()
    world.write()


@pytest_twisted.ensureDeferred
async def test_after_a_lost_lease_a_sink_is_opened_once_it_is_closed(world: World) -> None:
    """Open pipelines belong to the old life, and the next life opens its own."""
    await world.write_everywhere()
    former = list(world.opener.files)
    assert any(file.waiting for file in former)
    world.life = 0
    world.router.session_lost()
    world.life = 2
    world.router.session_renewed()
    with pytest.raises(UserError) as refused:
        world.write()
    assert refused.value.name == "leaseLost"
    assert world.opener.files == former
    assert not all(file.closed for file in former)

    def goes_on() -> bool:
        world.answer()
        return world.is_written()

    await until(goes_on)
    assert all(file.closed for file in former)
    await until(lambda: len(world.opener.files) > len(former))
    assert {life.number for life in world.opener.lives[len(former) :]} == {2}


@pytest_twisted.ensureDeferred
async def test_after_a_lost_lease_a_change_is_reported_when_the_former_files_are_closed(
    world: World,
) -> None:
    """The sink doesn't follow the change, but its file of the closed slice is still open."""
    first, _ = await world.write_everywhere()
    former = list(world.opener.files)
    world.life = 0
    world.router.session_lost()
    world.life = 2
    world.router.session_renewed()
    revision = await world.close(first.key)
    await until(lambda: first.key not in world.router._writing[first.key.sink_key])
    assert not all(file.closed for file in former)
    assert max(each.revision for each in world.router._unreported) >= revision

    async def reported() -> bool:
        world.answer()
        return await world.report() >= revision

    await until(reported)
    assert all(file.closed for file in former)
    assert not world.router._leaving


@pytest_twisted.ensureDeferred
async def test_after_a_lost_lease_a_silent_writer_has_a_short_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline also applies to files that were being closed before."""
    monkeypatch.setattr(sink_pipeline, "LEAVE_SECONDS", 0.05)
    first, _ = await world.write_everywhere()
    await world.close(first.key)
    world.life = 0
    world.router.session_lost()
    world.life = 2
    world.router.session_renewed()
    former = list(world.opener.files)
    await until(world.is_written)
    assert all(file.closed for file in former)
    assert any(file.waiting for file in former)
    await until(lambda: world.opener.lives[-1].number == 2)


@pytest_twisted.ensureDeferred
async def test_after_a_lost_lease_few_sinks_are_closed_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stop at once, and have one deadline together."""
    monkeypatch.setattr(sink_pipeline, "LEAVE_SECONDS", 0.1)
    router, pipelines, completions = world.router, [], []
    for number in range(3 * SINKS_AT_ONCE):
        key = SOURCE_KEY.sink(f"other-{number}")
        pipeline = SinkPipeline(router._context, key)
        router._pipelines[key] = pipeline
        await pipeline.update([sample_slice(sink_id=key.sink_id, encoding=uncompressed())])
        completions.append(FakeCompletion())
        pipeline.write_rows(b"a\n", 1, 1000, pipeline.renderer(), completions[-1])
        pipelines.append(pipeline)
    await until(lambda: all(file.waiting for file in world.opener.files))
    router.session_lost()
    world.life = 2
    router.session_renewed()
    assert [bool(pipeline._closing) for pipeline in pipelines].count(True) == SINKS_AT_ONCE
    for pipeline in pipelines:
        with pytest.raises(UserError, match="lost its lease"):
            pipeline.renderer()
    assert world.is_written()  # another sink doesn't wait for them
    await until(lambda: not set(pipelines) & set(router._pipelines.values()))
    outcomes = [completion.outcome for completion in completions]
    assert {isinstance(each, UserError) and each.status for each in outcomes} == {500}


@pytest_twisted.ensureDeferred
async def test_after_a_lost_lease_few_sinks_are_closed_in_a_turn(world: World) -> None:
    """Most have nothing to wait for, and closing thousands at once would hold up the next lease."""
    world.opener.at_once = True
    router = world.router
    for number in range(5 * SINKS_AT_ONCE):
        key = SOURCE_KEY.sink(f"other-{number}")
        router._pipelines[key] = SinkPipeline(router._context, key)
        await router._pipelines[key].update(
            [sample_slice(sink_id=key.sink_id, encoding=uncompressed())]
        )
    router.session_lost()
    left = [len(router._pipelines)]
    while router._pipelines:
        await deferLater(reactor, 0)
        left.append(len(router._pipelines))
    assert max(before - after for before, after in pairwise(left)) <= SINKS_AT_ONCE
    assert not router._leaving and not router._to_leave


@pytest_twisted.ensureDeferred
async def test_a_lease_that_is_lost_again(world: World) -> None:
    """No records are accepted: the pipelines are closed, but the node has no name."""
    await world.write_everywhere()
    world.router.session_lost()
    world.router.session_renewed()
    world.life = 0
    world.router.session_lost()

    def is_closed() -> bool:
        world.answer()
        return not world.router._pipelines

    await until(is_closed)
    with pytest.raises(UserError, match="lost its lease"):
        world.write()


@pytest_twisted.ensureDeferred
async def test_joining_and_leaving_nodes_share_the_slices(world: World) -> None:
    """Slices are reassigned at once, not with the next change of slices, and all slices
    are used.
    """
    first, second = await world.write_everywhere()
    world.answer()
    assert world.written() == {first.key, second.key}
    world.nodes = ["node-1", "node-2"]
    await world.router.nodes_changed()
    [left] = world.written()
    world.nodes = ["node-0", "node-1"]
    changing = ensureDeferred(world.router.nodes_changed())
    await changing
    [other] = world.written()
    assert {left, other} == {first.key, second.key}
    world.nodes = ["node-1"]
    await world.router.nodes_changed()
    assert world.written() == {first.key, second.key}


@pytest_twisted.ensureDeferred
async def test_slices_are_shared_in_the_order_of_their_keys(world: World) -> None:
    """A node that has met the slices in another order gets the same share."""
    first, second = await world.write_everywhere()
    await world.close(first.key)
    [fresh] = [
        slice_.key
        for slice_ in await world.storage.slices()
        if slice_.state is SliceState.WRITING and slice_.key != second.key
    ]

    def is_replaced() -> bool:
        world.answer()
        return world.written() == {fresh, second.key}

    await until(is_replaced)
    known = list(world.router._writing[SINK.key])
    assert known == [second.key, fresh] and fresh < second.key
    world.nodes = ["node-1", "node-2"]
    await world.router.nodes_changed()
    assert world.written() == {fresh}


@pytest_twisted.ensureDeferred
async def test_sinks_are_independent(world: World) -> None:
    """A sink whose slice can't be closed delays only the report, not another sink."""
    stuck, _ = await world.write_everywhere()
    other = attrs.evolve(SINK, key=SOURCE_KEY.sink("other"))
    await world.storage.define(sink=other)
    await world.storage.open_file(sink=other)
    target: SinkTarget | None = None

    def found() -> bool:
        nonlocal target
        target = dict(world.router.eligible(SOURCE_KEY, "")).get("other")
        return target is not None and other.key in world.router._writing

    await until(found)
    assert target is not None
    opened = target.open(1000)
    renderer = opened.renderer()
    ours = [s for s in await world.storage.slices() if s.key.sink_key == other.key]
    await until(lambda: {s.key for s in ours} <= world.written())
    opened.write_rows(b'"b"\n', 1, 1000, renderer, FakeCompletion())
    first = await world.close(stuck.key)
    later = await world.close(ours[0].key)
    for file in world.opener.files[2:]:
        file.at_once = True
        while file.waiting:
            file.answer()
    await until(lambda: ours[0].key not in world.written())
    assert await world.report() < first < later

    async def reported() -> bool:
        world.answer()
        return await world.report() >= later

    await until(reported)


async def _opened_by_reference(world: World, mapping: Mapping) -> Deferred[SinkTarget]:
    """Open another sink with this mapping after the reference of its records."""
    table = attrs.evolve(SINK.table, mapping=mapping)
    other = attrs.evolve(SINK, key=SOURCE_KEY.sink("other"), table=table)
    await world.storage.define(sink=other)
    await world.storage.open_file(sink=other)

    def target() -> SinkTarget | None:
        found = dict(world.router.eligible(SOURCE_KEY, "")).get("other")
        return found if other.key in world.router._writing else None

    async def opened() -> SinkTarget:
        await until(lambda: target() is not None)
        found = target()
        assert found is not None
        return found

    return ensureDeferred(opened())


NAMES = Mapping((PathColumn(name="name", path="name", raw_string=True),))


@pytest_twisted.ensureDeferred
async def test_a_slice_has_the_mapping_that_it_refers_to(world: World) -> None:
    """All slices of the sink share one mapping in memory."""
    target = await (await _opened_by_reference(world, NAMES))
    record = RecordContext(
        1000, "::1", RecordHeaders([(b"Content-Type", b"application/json")]), b'{"name":"Ann"}'
    )
    opened = target.open(1000)
    renderer = opened.renderer()
    assert renderer.row(record) == b'"Ann"\n'
    slices = world.router._writing[target.key].values()
    assert len(slices) == 2
    assert len({id(slice_.mapping.mapping) for slice_ in slices}) == 1


@pytest.mark.usefixtures("every_mapping_is_large")
@pytest_twisted.ensureDeferred
async def test_a_mapping_that_can_not_be_read_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change that needs the mapping waits for it."""
    monkeypatch.setattr("stream.sink.router.READ_AGAIN_SECONDS", (0.01, 0.02))
    refused: list[object] = []

    async def away(*arguments: object) -> Any:
        refused.append(arguments)
        raise EtcdUnavailable("etcd is unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("stream.sink.router.read_mappings", away)
        opening = await _opened_by_reference(world, NAMES)
        await until(lambda: len(refused) > 3)
        assert not opening.called
    await opening


@pytest_twisted.ensureDeferred
async def test_a_slice_without_its_mapping(world: World) -> None:
    """The slice accepts no records; other sinks and the reports continue."""
    first, _ = await world.write_everywhere()
    lost = attrs.evolve(SINK, key=SOURCE_KEY.sink("lost"))
    mapping = StoredMapping("0" * 64)
    lost = attrs.evolve(lost, table=attrs.evolve(SINK.table, mapping=mapping))
    await world.etcd.put(f"{SINK_ACTIVE}{lost.key}", encode(lost))
    with capturedLogs() as logs:
        await world.storage.open_file(sink=lost)
        await until(lambda: "lost" in dict(world.router.eligible(SOURCE_KEY, "")))
        revision = await world.close(first.key)

        async def reported() -> bool:
            world.answer()
            return await world.report() >= revision

        await until(reported)
    assert any("the mapping of" in str(event.get("log_format")) for event in logs)
    assert lost.key not in world.router._writing
    with pytest.raises(UserError):
        dict(world.router.eligible(SOURCE_KEY, ""))["lost"].open(1000)


class RefusingPipeline(SinkPipeline):
    """A pipeline that raises an error for each record."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def write(
        self, record: RecordContext, completion: Completion, mark: Mark | None = None
    ) -> None:
        raise self._error


@pytest.mark.parametrize("error", [UserError("no"), ZeroDivisionError("division by zero")])
def test_a_record_that_is_not_accepted_fails(error: Exception) -> None:
    """Writing never raises an error: the completion gets any error."""
    router = cast(SinkRouter, SimpleNamespace(refusal=None, over_quota={}))
    target = SinkTarget(SINK.key, True, (), router, RefusingPipeline(error))
    completion = FakeFailure()
    target.write(RecordContext(1000, "::1", RecordHeaders([]), b""), completion)
    assert completion.error is error
    assert error.__traceback__ is None


@pytest.mark.usefixtures("every_mapping_is_large")
@pytest_twisted.ensureDeferred
async def test_a_slice_of_the_previous_release_is_written(world: World) -> None:
    """The record of the slice is the only one with the mapping."""
    await world.router.stopService()
    slices = await world.storage.slices()
    for slice_ in slices:
        for key in prefix.slice_keys(slice_.key, slice_.level):
            await world.etcd.put(key, inline(slice_, NAMES))
    await world.etcd.delete_prefix("storage/mapping/")
    world.router = world._router()
    await world.router.startService()
    record = RecordContext(
        1000, "::1", RecordHeaders([(b"Content-Type", b"application/json")]), b'{"name":"Ann"}'
    )
    assert world.target.open(1000).renderer().row(record) == b'"Ann"\n'
    for file in world.opener.files:
        file.at_once = True
    revision = await world.close(slices[0].key)

    async def reported() -> bool:
        world.answer()
        return await world.report() >= revision

    await until(reported)
    kept = (await world.storage.slice(slices[0].key)).mapping
    assert await world.etcd.get(mapping_key(SINK.key, kept)) is not None


@pytest_twisted.ensureDeferred
async def test_unavailable_volumes_of_a_source(world: World) -> None:
    """The unavailable volumes of its slices are returned, also of recently uploaded ones."""
    slices = await world.storage.slices()
    ids = {slice_.key.volume_id for slice_ in slices}
    others = SourceKey(SOURCE_KEY.project_id, SOURCE_KEY.branch_id, "other")
    long_ago, later = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)

    def away(since: datetime = long_ago) -> set[str]:
        return world.router.volumes_away([SOURCE_KEY], since)

    await until(lambda: away() == ids)
    assert world.router.volumes_away([others], long_ago) == set()
    for slice_ in slices:
        await world.etcd.delete(f"{prefix.slice_level(Level.LOCAL)}{slice_.key}")
    await until(lambda: not world.router._slices.items)
    assert away() == ids
    present = min(ids)
    world.volumes[present] = Volume(present, "n", "127.0.0.1:1", "/", "hdd", "one")
    assert away() == ids - {present}
    world.volumes.clear()
    assert away(later) == set()
    assert away() == set()
