"""Changes of definitions and of their files in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import attrs
import pytest
import pytest_twisted

from stream.definition import lifecycle
from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.storage.model.state import FileState, SliceState
from tests.definition.changes import Changes
from tests.storage.histories.world import (
    BY,
    SINK_KEY,
    SOURCE_KEY,
    TABLE,
    RecordingProvider,
    Storage,
    with_table,
)

T = TypeVar("T")
OTHER = SOURCE_KEY.sink("other-sink")


class World:
    """Runs changes and counts the runs of each body."""

    def __init__(self, client: EtcdClient) -> None:
        self.storage = Storage(client)
        self.provider = RecordingProvider()
        self.changes = Changes.of(
            client,
            self.storage.repository,
            self.provider,
            self.storage.tick,
            source=SOURCE_KEY,
            by=BY,
            token="user-token",
        )
        self.runs = 0

    async def run(self, body: Callable[[Change, Definitions], Awaitable[T]]) -> T:
        async def counted(change: Change, definitions: Definitions) -> T:
            self.runs += 1
            return await body(change, definitions)

        self.runs = 0
        return await self.changes.run(counted)

    async def create_source(self) -> None:
        async def body(change: Change, definitions: Definitions) -> None:
            await definitions.create_source(
                change,
                lifecycle.new_source(
                    SOURCE_KEY, type="http", name="S", secret="s" * 48, at=change.now, by=BY
                ),
            )

        await self.run(body)

    async def create_sink(self, *keys: SinkKey) -> None:
        async def body(change: Change, definitions: Definitions) -> None:
            for key in keys:
                await definitions.create_sink(
                    change,
                    lifecycle.new_sink(key, name="S", table=TABLE, at=change.now, by=BY),
                )

        await self.run(body)

    async def do(self, method: str, key: object, *arguments: Any) -> Any:
        """Call a method of the definitions in its own change."""

        async def body(change: Change, definitions: Definitions) -> Any:
            return await getattr(definitions, method)(change, key, *arguments)

        return await self.run(body)

    async def states(self, key: SinkKey = SINK_KEY) -> list[FileState]:
        return [file.state for file in await self.storage.files() if file.key.sink_key == key]

    async def check(self) -> None:
        """Check the invariants: each stored file was prepared, and the other prepared ones are
        discarded.
        """
        await self.storage.check()
        stored = {kv.key: kv.value for kv in (await self.storage.client.range("prepared/")).kvs}
        kept = {key: value for file in self.provider.kept for key, value in file.records}
        assert stored == kept
        assert len(self.provider.kept) + len(self.provider.discarded) == len(self.provider.prepared)


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient) -> Any:
    world = World(etcd)
    await world.create_source()
    yield world


@pytest_twisted.ensureDeferred
async def test_a_new_sink_has_an_open_file(world: World) -> None:
    """A new sink has an open file as soon as it exists, prepared with the user's token."""
    await world.create_sink(SINK_KEY)
    assert await world.states() == [FileState.WRITING]
    assert world.provider.tokens == ["user-token"]
    assert world.runs == 2
    await world.check()


@pytest_twisted.ensureDeferred
async def test_creating_several_sinks(world: World) -> None:
    """Each sink of one change gets its own file, prepared once."""
    await world.create_sink(SINK_KEY, OTHER)
    assert await world.states(SINK_KEY) == await world.states(OTHER) == [FileState.WRITING]
    assert len(world.provider.prepared) == 2
    await world.check()


@pytest_twisted.ensureDeferred
async def test_remote_failure(world: World) -> None:
    """A failed preparation writes nothing, and prepared files are discarded."""
    before = (await world.storage.client.range("definition/")).kvs

    async def fail_next() -> None:
        world.provider.on_prepare = None
        world.provider.failures.append(UserError("no table"))

    async def fail_after_first() -> None:
        world.provider.on_prepare = fail_next

    world.provider.on_prepare = fail_after_first
    with pytest.raises(UserError, match="no table"):
        await world.create_sink(SINK_KEY, OTHER)
    assert (await world.storage.client.range("definition/")).kvs == before
    assert not (await world.storage.client.range("storage/")).kvs
    assert [file.key.sink_key for file in world.provider.discarded] == [SINK_KEY]
    assert world.provider.kept == []
    await world.check()


@pytest_twisted.ensureDeferred
async def test_failure_of_the_body(world: World) -> None:
    """A failure after the preparation writes nothing, and prepared files are discarded."""
    attempts: list[Change] = []

    async def body(change: Change, definitions: Definitions) -> None:
        await definitions.create_sink(
            change, lifecycle.new_sink(SINK_KEY, name="S", table=TABLE, at=change.now, by=BY)
        )
        attempts.append(change)
        if len(attempts) == 2:
            raise UserError("on second thoughts")

    with pytest.raises(UserError, match="on second thoughts"):
        await world.run(body)
    assert not (await world.storage.client.range("storage/")).kvs
    assert len(world.provider.discarded) == 1
    await world.check()


@pytest_twisted.ensureDeferred
async def test_a_conflict_repeats_the_body(world: World) -> None:
    """After a conflict the body runs again with the files that are already prepared."""
    attempts: list[Change] = []

    async def body(change: Change, definitions: Definitions) -> None:
        attempts.append(change)
        await change.txn.get("somewhere")
        await definitions.create_sink(
            change, lifecycle.new_sink(SINK_KEY, name="S", table=TABLE, at=change.now, by=BY)
        )
        if len(attempts) == 2:  # the first run only finds out what isn't prepared
            await world.storage.client.put("somewhere", b"else")

    await world.run(body)
    assert world.runs == 3
    assert len(world.provider.prepared) == 1
    assert await world.states() == [FileState.WRITING]
    await world.check()


@pytest_twisted.ensureDeferred
async def test_a_sink_changed_concurrently(world: World) -> None:
    """The file is prepared again if the sink's table changes between preparation and commit."""
    await world.create_sink(SINK_KEY)

    async def change_table() -> None:
        world.provider.on_prepare = None
        await world.do(
            "update_sink", SINK_KEY, "", lambda sink: with_table(sink, "in.c-bucket.another")
        )

    world.provider.on_prepare = change_table
    await world.do("update_sink", SINK_KEY, "", lambda sink: attrs.evolve(sink, name="renamed"))
    sink = await world.do("sink", SINK_KEY)
    assert (sink.name, sink.table.table_id) == ("renamed", "in.c-bucket.another")
    assert [file.table.table_id for file in world.provider.prepared] == [
        "in.c-bucket.table",
        "in.c-bucket.another",
        "in.c-bucket.table",
        "in.c-bucket.another",
    ]
    assert [file.table.table_id for file in world.provider.discarded] == ["in.c-bucket.table"]
    assert await world.states() == [FileState.CLOSING, FileState.CLOSING, FileState.WRITING]
    await world.check()


@pytest_twisted.ensureDeferred
async def test_a_sink_deleted_concurrently(world: World) -> None:
    """The prepared file of a sink that was deleted meanwhile is discarded."""
    await world.create_sink(SINK_KEY)

    async def delete() -> None:
        world.provider.on_prepare = None
        await world.do("delete_sink", SINK_KEY)

    world.provider.on_prepare = delete
    with pytest.raises(UserError, match="not found"):
        await world.do("update_sink", SINK_KEY, "", lambda sink: attrs.evolve(sink, name="new"))
    assert len(world.provider.discarded) == 1
    assert await world.states() == [FileState.CLOSING]
    await world.check()


@pytest_twisted.ensureDeferred
async def test_an_update_rotates_the_file(world: World) -> None:
    """An update rotates the file: the new content applies to the new file."""
    await world.create_sink(SINK_KEY)
    await world.do("update_sink", SINK_KEY, "", lambda sink: attrs.evolve(sink, name="new"))
    assert await world.states() == [FileState.CLOSING, FileState.WRITING]
    await world.check()


@pytest_twisted.ensureDeferred
async def test_updating_a_disabled_sink(world: World) -> None:
    """An update of a disabled sink opens nothing."""
    await world.create_sink(SINK_KEY)
    await world.do("disable_sink", SINK_KEY)
    await world.do("update_sink", SINK_KEY, "", lambda sink: attrs.evolve(sink, name="new"))
    assert await world.states() == [FileState.CLOSING]
    assert len(world.provider.prepared) == 1
    await world.check()


@pytest.mark.parametrize("parent", [False, True], ids=["sink", "source"])
@pytest_twisted.ensureDeferred
async def test_disabling_and_enabling(world: World, parent: bool) -> None:
    """Disabling closes the file and its slices, and enabling opens a new file."""
    await world.create_sink(SINK_KEY, OTHER)
    what, key = ("source", SOURCE_KEY) if parent else ("sink", SINK_KEY)
    await world.do(f"disable_{what}", key)
    assert await world.states() == [FileState.CLOSING]
    assert {s.state for s in await world.storage.slices() if s.key.sink_key == SINK_KEY} == {
        SliceState.CLOSING
    }
    assert await world.states(OTHER) == [FileState.CLOSING if parent else FileState.WRITING]
    assert SINK_KEY.sink_id in world.provider.deactivations
    assert world.provider.deletions == []
    await world.check()
    await world.do(f"enable_{what}", key)
    assert await world.states() == [FileState.CLOSING, FileState.WRITING]
    assert (await world.states(OTHER))[-1] is FileState.WRITING
    await world.check()


@pytest.mark.parametrize("parent", [False, True], ids=["sink", "source"])
@pytest_twisted.ensureDeferred
async def test_deleting_and_undeleting(world: World, parent: bool) -> None:
    """Deletion closes the file, and undeletion opens a new one."""
    await world.create_sink(SINK_KEY)
    what, key = ("source", SOURCE_KEY) if parent else ("sink", SINK_KEY)
    await world.do(f"delete_{what}", key)
    assert await world.states() == [FileState.CLOSING]
    assert world.provider.deactivations == world.provider.deletions == [SINK_KEY.sink_id]
    await world.check()
    await world.do(f"undelete_{what}", key)
    assert await world.states() == [FileState.CLOSING, FileState.WRITING]
    await world.check()


@pytest_twisted.ensureDeferred
async def test_purging_closes_the_files_of_the_sinks(world: World) -> None:
    """Purging a source closes the files of its sinks too."""
    await world.create_sink(SINK_KEY, OTHER)
    await world.do("purge_source", SOURCE_KEY)
    assert await world.states(SINK_KEY) == await world.states(OTHER) == [FileState.CLOSING]
    assert sorted(world.provider.deletions) == [SINK_KEY.sink_id, OTHER.sink_id]
    await world.check()


@pytest_twisted.ensureDeferred
async def test_a_body_without_changes(world: World) -> None:
    """A body that changes nothing prepares nothing."""
    await world.create_sink(SINK_KEY)
    sink: Sink = await world.do("sink", SINK_KEY)
    assert sink.key == SINK_KEY
    assert world.runs == 1
    assert len(world.provider.prepared) == 1


@pytest_twisted.ensureDeferred
async def test_endless_preparation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that needs another table in each run ends with an error and without orphans."""
    monkeypatch.setattr("stream.definition.change.making.MAX_ROUNDS", 3)
    await world.create_sink(SINK_KEY)
    seen: list[datetime] = []

    def another(sink: Sink) -> Sink:
        seen.append(world.storage.now)
        return with_table(sink, f"in.c-bucket.table-{len(seen)}")

    with pytest.raises(RuntimeError, match="keep changing"):
        await world.do("update_sink", SINK_KEY, "", another)
    assert await world.states() == [FileState.WRITING]
    await world.check()
