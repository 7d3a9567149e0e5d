"""Interrupted undeletions: in the end no sink is live without its source."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor

from stream.definition import lifecycle
from stream.definition.entity import Sink, Source
from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.definition.repository import Definitions
from stream.definition.store import SINKS, SOURCES
from stream.definition.transaction import Change
from stream.etcd import EtcdClient, Mirror, Session, json_values
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.coordinator.stranded_sinks import StrandedSinks
from stream.storage.model.state import FileState
from stream.task.entity import LOCK_PREFIX
from tests.definition.changes import Changes
from tests.storage.histories.model import Crashed, MortalClient
from tests.storage.histories.world import BY, SOURCE_KEY, TABLE, RecordingProvider, Storage

reactor: Any = _reactor
KEYS = [SOURCE_KEY.sink(f"k{number}") for number in range(5)]
MAX_PIECES = 2 * len(KEYS)


class World:
    """A source with several sinks, each of which takes a separate transaction.

    :ivar mortal: the process that runs the changes and may be killed.
    """

    def __init__(self, etcd: EtcdClient, mortal: MortalClient) -> None:
        self.etcd = etcd
        self.mortal = mortal
        self.storage = Storage(etcd)
        self.provider: Any = RecordingProvider()

    async def change(self, body: Callable[[Change, Definitions], Awaitable[object]]) -> None:
        changes = Changes.of(
            self.mortal,
            self.storage.repository,
            self.provider,
            self.storage.tick,
            source=SOURCE_KEY,
            by=BY,
            token="user-token",
        )
        await changes.run(body)

    async def create_source(self) -> None:
        await self.change(
            lambda change, definitions: definitions.create_source(
                change,
                lifecycle.new_source(
                    SOURCE_KEY, type="http", name="S", secret="s" * 48, at=change.now, by=BY
                ),
            )
        )

    async def undelete(self) -> None:
        await self.change(
            lambda change, definitions: definitions.undelete_source(change, SOURCE_KEY)
        )

    async def dies(self, doing: Callable[[], Awaitable[object]], piece: int, written: bool) -> bool:
        """Return whether the process is killed at this *piece* of its work."""
        self.mortal.lives, self.mortal.writes_last = piece, written
        try:
            await doing()
        except Crashed:
            return True
        finally:
            self.mortal.lives = 0
        return False

    async def delete_stranded(self) -> bool:
        """Run the coordinator's cleanup; return whether it deleted anything."""
        session = Session(self.mortal, ttl=60, reactor=reactor)
        work = CoordinatorContext(
            client=self.mortal,
            session=session,
            repository=self.storage.repository,
            reactor=reactor,
            now=self.storage.tick,
            sinks=Mirror(self.etcd, SINK_ACTIVE, json_values(Sink)),
            sources=Mirror(self.etcd, SOURCE_ACTIVE, json_values(Source)),
        )
        await work.sinks.startService()
        await work.sources.startService()
        try:
            stranded = StrandedSinks(work, self.provider)
            return any([await stranded.delete(source) for source in stranded.sources()])
        finally:
            await work.sinks.stopService()
            await work.sources.stopService()

    async def live(self) -> tuple[bool, set[str]]:
        """Return whether the source is live, and the ids of the sinks that are."""
        source = await self.etcd.get(f"{SOURCES.active}{SOURCE_KEY}")
        found = await self.etcd.range(f"{SINKS.active}{SOURCE_KEY}/")
        return source is not None, {kv.key.rpartition("/")[2] for kv in found.kvs}

    async def open_files(self) -> set[str]:
        """Return the ids of the sinks with an open file."""
        files = await self.storage.files()
        return {file.key.sink_id for file in files if file.state is FileState.WRITING}

    async def must_be(self, *, live: bool) -> None:
        """Check that the source and all its sinks are live, each with an open file, or that none of
        them is.
        """
        await self.storage.check()
        sinks = {key.sink_id for key in KEYS} if live else set()
        assert await self.live() == (live, sinks)
        assert await self.open_files() == sinks


@pytest_twisted.async_yield_fixture()
async def world(
    etcd: EtcdClient, etcd_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr("stream.definition.repository.MAX_OPERATIONS", 10)
    mortal = MortalClient(reactor, [etcd_url], etcd.namespace)
    await mortal.startService()
    world = World(etcd, mortal)
    await world.create_source()
    for key in KEYS:
        await world.change(
            lambda change, definitions, key=key: definitions.create_sink(  # type: ignore[misc]
                change, lifecycle.new_sink(key, name="S", table=TABLE, at=change.now, by=BY)
            )
        )
    await world.must_be(live=True)
    await world.change(lambda change, definitions: definitions.delete_source(change, SOURCE_KEY))
    await world.must_be(live=False)
    yield world
    await mortal.stopService()


@pytest.mark.parametrize("written", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_cleanup_after_a_killed_undeletion(world: World, written: bool) -> None:
    """After a kill at any point, the source can be undeleted with all its sinks."""
    died = 0
    for piece in range(1, MAX_PIECES):
        if not await world.dies(world.undelete, piece, written):
            break
        died += 1
        is_live, sinks = await world.live()
        assert await world.delete_stranded() == (bool(sinks) and not is_live)
        await world.must_be(live=is_live)
        if is_live:  # it is killed after its last part
            break
    assert died >= len(KEYS)
    if not (await world.live())[0]:
        await world.undelete()
    await world.must_be(live=True)
    assert not await world.delete_stranded()
    await world.must_be(live=True)


@pytest_twisted.ensureDeferred
async def test_a_killed_cleanup_is_completed_by_the_next_one(world: World) -> None:
    assert await world.dies(world.undelete, len(KEYS) - 1, True)
    assert len((await world.live())[1]) > 2
    assert await world.dies(world.delete_stranded, 1, True)
    assert (await world.live())[1]
    assert await world.delete_stranded()
    await world.must_be(live=False)


@pytest_twisted.ensureDeferred
async def test_a_repeated_undeletion_completes_the_first(world: World) -> None:
    assert await world.dies(world.undelete, 3, True)
    assert (await world.live())[1]
    await world.undelete()
    await world.must_be(live=True)


@pytest_twisted.ensureDeferred
async def test_a_source_created_with_the_id_has_no_sinks(world: World) -> None:
    """The old sinks are deleted with the old source, in parts if there are many."""
    assert await world.dies(world.undelete, len(KEYS) - 1, True)
    assert len((await world.live())[1]) > 2
    await world.create_source()
    assert await world.live() == (True, set())
    assert await world.open_files() == set()
    await world.storage.check()


@pytest_twisted.ensureDeferred
async def test_the_cleanup_waits_for_a_running_task(world: World) -> None:
    """The cleanup deletes no sinks while a task, perhaps the undeletion, holds their source."""
    assert await world.dies(world.undelete, 3, True)
    before = await world.live()
    await world.etcd.put(f"{LOCK_PREFIX}{SOURCE_KEY}", b"node")
    assert not await world.delete_stranded()
    assert await world.live() == before
