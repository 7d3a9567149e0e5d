from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import pytest_twisted

from stream.definition import repository
from stream.definition.entity import Sink, Source
from stream.definition.errors import CountLimitReached, DefinitionExists, DefinitionNotFound
from stream.definition.key import BranchKey, SourceKey
from stream.definition.repository import MAX_SINKS, MAX_VERSIONS, Definitions
from stream.definition.transaction import Change
from stream.errors import UserError
from stream.mapping.columns import BodyColumn, Mapping
from tests.definition.conftest import BRANCH, SINK, SOURCE, World

Step = Callable[[Definitions, Change, SourceKey], Awaitable[Source]]

ensure = pytest_twisted.ensureDeferred


async def rename(world: World, name: str) -> Sink:
    return await world.change(
        lambda change, definitions: definitions.update_sink(
            change, SINK, "Updated.", lambda sink: attrs.evolve(sink, name=name)
        )
    )


@ensure
async def test_a_created_source_is_stored_twice(world: World) -> None:
    """The live record and the history record of version 1 are written."""
    await world.create_source()
    assert await world.keys("definition/source/") == [
        "active/123/456/my-source",
        "version/123/456/my-source/0000000001",
    ]


@ensure
async def test_ids_are_unique(world: World) -> None:
    """A second source or sink with the id of a live one is refused."""
    await world.create_source()
    with pytest.raises(DefinitionExists, match='source "my-source" already exists in the branch'):
        await world.create_source()
    await world.create_sink()
    with pytest.raises(DefinitionExists, match='sink "my-sink" already exists in the source'):
        await world.create_sink()


@ensure
async def test_a_sink_needs_a_source(world: World) -> None:
    """A sink of a missing source can't be created."""
    with pytest.raises(DefinitionNotFound, match='source "my-source" not found in the branch'):
        await world.create_sink()


@ensure
async def test_hooks_of_a_sink(world: World) -> None:
    """Files are opened, rotated and closed when the sink is created, updated and deleted."""
    await world.create_source()
    await world.create_sink()
    assert world.hooks.calls == [("activated", "my-sink")]
    await rename(world, "Other")
    assert world.hooks.calls == [("modified", "my-sink")]
    await world.change(lambda change, definitions: definitions.disable_sink(change, SINK))
    assert world.hooks.calls == [("deactivated", "my-sink")]
    await rename(world, "Third")
    assert world.hooks.calls == []
    await world.change(lambda change, definitions: definitions.enable_sink(change, SINK))
    assert world.hooks.calls == [("activated", "my-sink")]
    await world.change(lambda change, definitions: definitions.delete_sink(change, SINK))
    assert world.hooks.calls == [("deactivated", "my-sink"), ("deleted", "my-sink")]
    await world.change(lambda change, definitions: definitions.undelete_sink(change, SINK))
    assert world.hooks.calls == [("activated", "my-sink")]


@ensure
async def test_a_disabled_sink_is_undeleted_without_a_file(world: World) -> None:
    """Undeleting a sink that was disabled doesn't activate it."""
    await world.create_source()
    await world.create_sink()
    await world.change(lambda change, definitions: definitions.disable_sink(change, SINK))
    await world.change(lambda change, definitions: definitions.delete_sink(change, SINK))
    assert world.hooks.calls == [("deleted", "my-sink")]
    sink = await world.change(lambda change, definitions: definitions.undelete_sink(change, SINK))
    assert world.hooks.calls == []
    assert sink.disabled is not None


@ensure
async def test_disabling_a_source_disables_its_sinks(world: World) -> None:
    """Sinks disabled by the user stay disabled when the source is enabled."""
    await world.create_source()
    await world.create_sink()
    await world.create_sink(SOURCE.sink("off"))
    off = SOURCE.sink("off")
    await world.change(lambda change, definitions: definitions.disable_sink(change, off))

    await world.change(lambda change, definitions: definitions.disable_source(change, SOURCE))
    assert world.hooks.calls == [("deactivated", "my-sink")]
    sink = await world.change(lambda change, definitions: definitions.sink(change, SINK))
    assert sink.disabled is not None
    assert not sink.disabled.directly
    assert sink.disabled.reason == "Auto-disabled with the parent source."
    assert sink.version.number == 1

    # only together with its source
    await world.change(lambda change, definitions: definitions.enable_sink(change, SINK))
    assert world.hooks.calls == []

    await world.change(lambda change, definitions: definitions.enable_source(change, SOURCE))
    assert world.hooks.calls == [("activated", "my-sink")]


@ensure
async def test_repeated_switches_change_nothing(world: World) -> None:
    """Enabling an enabled object or disabling a disabled one creates no version."""
    await world.create_source()
    source = await world.change(
        lambda change, definitions: definitions.enable_source(change, SOURCE)
    )
    assert source.version.number == 1
    for _ in range(2):
        source = await world.change(
            lambda change, definitions: definitions.disable_source(change, SOURCE)
        )
    assert source.version.number == 2


@ensure
async def test_deletion_and_undeletion_of_a_source(world: World) -> None:
    """Sinks that were deleted earlier aren't undeleted with their source."""
    await world.create_source()
    await world.create_sink()
    gone = SOURCE.sink("gone")
    await world.create_sink(gone)
    await world.change(lambda change, definitions: definitions.delete_sink(change, gone))
    await world.change(lambda change, definitions: definitions.delete_source(change, SOURCE))
    assert await world.keys("definition/source/active/") == []
    assert await world.keys("definition/sink/active/") == []
    assert await world.keys("definition/source/deleted/") == ["123/456/my-source"]

    source = await world.change(
        lambda change, definitions: definitions.undelete_source(change, SOURCE)
    )
    assert source.version.description == 'Undeleted to version "1".'
    assert source.version.number == 2
    assert await world.keys("definition/source/deleted/") == []
    assert await world.keys("definition/sink/active/") == ["123/456/my-source/my-sink"]
    assert await world.keys("definition/sink/deleted/") == ["123/456/my-source/gone"]


@ensure
async def test_creation_with_a_deleted_id(world: World) -> None:
    """A source created again continues the versions, and the old sinks stay deleted."""
    await world.create_source()
    await world.create_sink()
    await world.change(lambda change, definitions: definitions.delete_source(change, SOURCE))
    source = await world.create_source(secret="t" * 48)
    assert source.version.number == 2
    assert source.secret == "t" * 48
    assert await world.keys("definition/sink/active/") == []
    # It was deleted with its source, so only an undeletion of the source restores it.
    await world.change(lambda change, definitions: definitions.undelete_sink(change, SINK))
    assert await world.keys("definition/sink/active/") == []


@ensure
async def test_purging_a_source(world: World) -> None:
    """After a purge the same id starts at version 1, and all sinks are returned."""
    await world.create_source()
    await world.create_sink()
    gone = SOURCE.sink("gone")
    await world.create_sink(gone)
    await world.change(lambda change, definitions: definitions.delete_sink(change, gone))
    _, sinks = await world.change(
        lambda change, definitions: definitions.purge_source(change, SOURCE)
    )
    assert [sink.key.sink_id for sink in sinks] == ["my-sink", "gone"]
    assert world.hooks.calls == [("deactivated", "my-sink"), ("deleted", "my-sink")]
    assert await world.keys("definition/") == []
    assert (await world.create_source()).version.number == 1


@ensure
async def test_a_rollback_creates_a_version(world: World) -> None:
    """A rollback creates a version with the content of an older one; an unknown number is
    refused.
    """
    await world.create_source()
    await world.create_sink()
    await rename(world, "Other")
    sink = await world.change(
        lambda change, definitions: definitions.rollback_sink(change, SINK, 1)
    )
    assert (sink.name, sink.version.number) == ("Name", 3)
    assert world.hooks.calls == [("modified", "my-sink")]
    with pytest.raises(DefinitionNotFound, match='"my-sink/0000000025" not found in the source'):
        await world.change(lambda change, definitions: definitions.rollback_sink(change, SINK, 25))


@ensure
async def test_counts_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources of a branch, sinks of a source and branches of a project are limited."""
    for name in ("MAX_SOURCES", "MAX_SINKS", "MAX_BRANCHES"):
        monkeypatch.setattr(f"stream.definition.repository.{name}", 2)
    for number in range(2):
        await world.create_source(BRANCH.source(f"s{number}"))
    with pytest.raises(CountLimitReached, match=r"source count limit reached in the branch, .* 2"):
        await world.create_source()
    for number in range(2):
        await world.create_sink(BRANCH.source("s0").sink(f"k{number}"))
    with pytest.raises(CountLimitReached, match=r"sink count limit reached in the source, .* 2"):
        await world.create_sink(BRANCH.source("s0").sink("k2"))

    async def record(number: int) -> None:
        await world.change(
            lambda change, definitions: definitions.create_branch(
                change, BranchKey(123, number), is_default=True
            )
        )

    await record(1)
    await record(1)
    await record(2)
    with pytest.raises(CountLimitReached, match="branch count limit reached in the project"):
        await record(3)


@ensure
async def test_versions_are_limited(world: World) -> None:
    """The thousandth version is the last one that an update can create; switching still works."""
    await world.create_source()

    def forward(source: Source) -> Source:
        version = attrs.evolve(source.version, number=MAX_VERSIONS - 1)
        return attrs.evolve(source, version=version)

    async def update(change: Change, definitions: Definitions) -> Source:
        return await definitions.update_source(change, SOURCE, "Updated.", forward)

    assert (await world.change(update)).version.number == MAX_VERSIONS
    with pytest.raises(CountLimitReached, match="version count limit reached in the source"):
        await world.change(update)
    source = await world.change(
        lambda change, definitions: definitions.disable_source(change, SOURCE)
    )
    assert source.version.number == MAX_VERSIONS + 1


@ensure
async def test_other_changes_remove_the_oldest_version(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit, rollbacks, switching and restoring work, and no more versions are kept."""
    monkeypatch.setattr(repository, "MAX_VERSIONS", 3)
    await world.create_source()
    await world.create_sink()
    changes: list[Callable[[Change, Definitions], Awaitable[object]]] = [
        lambda change, definitions: definitions.disable_source(change, SOURCE),
        lambda change, definitions: definitions.enable_source(change, SOURCE),
        lambda change, definitions: definitions.disable_sink(change, SINK),
        lambda change, definitions: definitions.rollback_source(change, SOURCE, 2),
        lambda change, definitions: definitions.rollback_sink(change, SINK, 1),
        lambda change, definitions: definitions.delete_source(change, SOURCE),
        lambda change, definitions: definitions.undelete_source(change, SOURCE),
        lambda change, definitions: definitions.disable_sink(change, SINK),
        lambda change, definitions: definitions.enable_sink(change, SINK),
    ]
    for make in changes:
        await world.change(make)
    source = await world.change(lambda change, definitions: definitions.source(change, SOURCE))
    sink = await world.change(lambda change, definitions: definitions.sink(change, SINK))
    for kind, entity in ("source", source), ("sink", sink):
        newest = entity.version.number
        assert newest > 3
        kept = await world.keys(f"definition/{kind}/version/{entity.key}/")
        assert kept == [f"{number:010}" for number in range(newest - 2, newest + 1)]


@ensure
async def test_limits_that_the_schema_does_not_check(world: World) -> None:
    """Columns without a name and ids that are too long are not stored."""
    await world.create_source()
    await world.create_sink()
    nameless = Mapping((BodyColumn(name=""),))
    with pytest.raises(UserError, match=r"columns\[0\].name"):
        await world.change(
            lambda change, definitions: definitions.update_sink(
                change,
                SINK,
                "Updated.",
                lambda sink: attrs.evolve(sink, table=attrs.evolve(sink.table, mapping=nameless)),
            )
        )
    with pytest.raises(UserError, match="longer than 48"):
        await world.create_source(BRANCH.source("x" * 49))


@ensure
async def test_many_sinks_are_switched_in_parts(world: World) -> None:
    """A source with the maximum number of sinks is switched in parts; the last part changes the
    source.
    """
    await world.create_source()
    for number in range(MAX_SINKS):
        await world.create_sink(SOURCE.sink(f"k{number:03}"))
    steps = (
        Definitions.disable_source,
        Definitions.enable_source,
        Definitions.delete_source,
        Definitions.undelete_source,
    )
    for step in steps:
        pieces: list[bool] = []
        calls = 0
        while not pieces or pieces[-1]:

            async def change_some(
                change: Change, definitions: Definitions, step: Step = step
            ) -> bool:
                await step(definitions, change, SOURCE)
                return definitions.unfinished

            pieces.append(await world.change(change_some))
            calls += len(world.hooks.calls)
        assert 1 < len(pieces) < MAX_SINKS
        assert calls >= MAX_SINKS
    sinks = await world.change(lambda change, definitions: definitions.sinks(change, SOURCE))
    assert len(sinks) == MAX_SINKS
    assert all(sink.is_enabled for sink in sinks)


@ensure
async def test_many_sinks_are_purged_in_parts(world: World) -> None:
    """The hooks of every sink are called; the last part deletes everything and returns all
    sinks.
    """
    await world.create_source()
    keys = [SOURCE.sink(f"k{number:03}") for number in range(MAX_SINKS)]
    for key in keys:
        await world.create_sink(key)
    pieces: list[bool] = []
    calls: list[tuple[str, str]] = []
    sinks: list[Sink] = []

    async def purge(change: Change, definitions: Definitions) -> bool:
        nonlocal sinks
        _, sinks = await definitions.purge_source(change, SOURCE)
        return definitions.unfinished

    while not pieces or pieces[-1]:
        pieces.append(await world.change(purge))
        calls += world.hooks.calls
    assert 1 < len(pieces) < MAX_SINKS
    assert sorted(sink.key for sink in sinks) == keys
    assert sorted(calls) == sorted(
        [(event, key.sink_id) for key in keys for event in ("deactivated", "deleted")]
    )
    assert await world.keys("definition/") == []
