from __future__ import annotations

import attrs
import pytest
import pytest_twisted

from stream.definition.errors import DefinitionNotFound
from stream.definition.reads import DefinitionReads, padded
from tests.definition.conftest import BRANCH, SINK, SOURCE, World

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_pages_of_sources(world: World) -> None:
    """A page starts after an id and has the count of all sources."""
    for name in ("a", "b", "c"):
        await world.create_source(BRANCH.source(name))
    reads = DefinitionReads(world.client)

    async def page(after: str, limit: int) -> tuple[list[str], int]:
        page = await reads.sources_page(BRANCH, after, limit)
        return [source.key.source_id for source in page.items], page.total

    assert await page("", 100) == (["a", "b", "c"], 3)
    assert await page("", 2) == (["a", "b"], 3)
    assert await page("b", 2) == (["c"], 3)
    assert await page("aa", 2) == (["b", "c"], 3)
    assert await page("c", 2) == ([], 3)


@ensure
async def test_pages_of_versions_count_from_their_start(world: World) -> None:
    """The count of a page of versions excludes those before its start."""
    await world.create_source()
    for name in ("x", "y"):
        await world.change(
            lambda change, definitions, name=name: definitions.update_source(  # type: ignore[misc]
                change, SOURCE, "Updated.", lambda source: attrs.evolve(source, name=name)
            )
        )
    reads = DefinitionReads(world.client)
    page = await reads.source_versions_page(SOURCE, "2", 100)
    assert [source.name for source in page.items] == ["y"]
    assert page.total == 1
    assert (await reads.source_versions_page(SOURCE, "", 1)).total == 3
    assert padded("2") == "0000000002"
    assert padded("") == ""


@ensure
async def test_the_source_is_checked_before_the_sink(world: World) -> None:
    """If neither exists, the source is reported."""
    reads = DefinitionReads(world.client)
    with pytest.raises(DefinitionNotFound, match='source "my-source" not found'):
        await reads.sink_in_source(SINK)
    await world.create_source()
    with pytest.raises(DefinitionNotFound, match='sink "my-sink" not found'):
        await reads.sink_in_source(SINK)
    await world.create_sink()
    assert (await reads.sink_in_source(SINK)).key == SINK


@ensure
async def test_an_id_with_a_slash_is_not_found(world: World) -> None:
    """An id can't be used to reach the keys of another kind or parent."""
    await world.create_source()
    await world.create_sink()
    reads = DefinitionReads(world.client)
    assert await reads.find_sink(BRANCH.source("my-source/my-sink").sink("")) is None
    assert await reads.find_source(BRANCH.source("../456/my-source")) is None
