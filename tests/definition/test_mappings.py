"""A large mapping is stored once, regardless of the number of references."""

from __future__ import annotations

from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from stream.definition import mappings, prefix
from stream.definition.entity import Sink
from stream.definition.errors import DefinitionNotFound
from stream.definition.key import SinkKey
from stream.definition.lifecycle import content_hash
from stream.definition.mappings import (
    MAX_MAPPING_BYTES,
    check_mapping_size,
    mapping_key,
    read_mappings,
    with_mapping,
    with_mappings,
)
from stream.definition.reads import DefinitionReads
from stream.definition.repository import MAX_DEFINITION_BYTES
from stream.definition.store import SINKS
from stream.definition.stored import UnreadableRecord
from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.stored import StoredMapping
from stream.values.codec import decode, encode, to_plain
from tests.definition.conftest import SINK, SOURCE, TABLE, World

ensure = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.usefixtures("every_mapping_is_large")

OTHER = Mapping((UuidColumn(name="id"),))

texts = st.text(st.characters(codec="utf-8"), max_size=20)
columns = st.one_of(
    st.builds(UuidColumn, name=texts, primary_key=st.booleans()),
    st.builds(BodyColumn, name=texts),
    st.builds(PathColumn, name=texts, path=texts, default_value=st.none() | texts),
    st.builds(TemplateColumn, name=texts, template=st.builds(Template, st.just("jsonnet"), texts)),
)
some_mappings = st.builds(Mapping, st.lists(columns, max_size=5).map(tuple))


async def update(world: World, **changes: Any) -> Sink:
    def patch(sink: Sink) -> Sink:
        return attrs.evolve(sink, **changes)

    return await world.change(
        lambda change, definitions: definitions.update_sink(change, SINK, "Updated.", patch)
    )


async def stored(world: World) -> list[str]:
    """Return the hashes of the sink's mappings."""
    return await world.keys(f"{prefix.MAPPING}{SINK}/")


@given(some_mappings, some_mappings)
def test_one_hash_per_mapping(one: Mapping, other: Mapping) -> None:
    """Both forms of a record are parsed as the same reference, and other mappings have other
    hashes.
    """
    reference = StoredMapping.of(one)
    assert (reference == StoredMapping.of(other)) is (one == other)
    table = attrs.evolve(TABLE, mapping=one)
    assert orjson.loads(encode(table))["mapping"] == {"hash": reference.hash}
    before = {**to_plain(table), "mapping": to_plain(one)}
    for record in (encode(table), orjson.dumps(before)):
        assert decode(type(table), record) == table
        assert encode(decode(type(table), record)) == encode(table)


@ensure
async def test_every_version_refers_to_its_mapping(world: World) -> None:
    """A mapping is stored once, also after other changes and rollbacks, and no other record
    contains it.
    """
    await world.create_source()
    await world.create_sink()
    assert await stored(world) == [TABLE.mapping.hash]
    await update(world, name="Other")
    await update(world, table=attrs.evolve(TABLE, mapping=OTHER))
    await update(world, table=TABLE)
    assert sorted(await stored(world)) == sorted([TABLE.mapping.hash, StoredMapping.of(OTHER).hash])
    await world.change(lambda change, definitions: definitions.rollback_sink(change, SINK, 3))
    await world.change(lambda change, definitions: definitions.disable_source(change, SOURCE))
    await world.change(lambda change, definitions: definitions.delete_sink(change, SINK))
    await world.change(lambda change, definitions: definitions.undelete_sink(change, SINK))
    assert len(await stored(world)) == 2
    definitions = await world.client.range("definition/")
    assert not [kv.key for kv in definitions.kvs if b'"columns"' in kv.value]
    (sink,) = await with_mappings(world.client, [await DefinitionReads(world.client).sink(SINK)])
    assert sink.table.mapping.mapping == OTHER


@ensure
async def test_the_hash_of_a_version(world: World) -> None:
    """The hash of a version doesn't depend on how its mapping is stored."""
    await world.create_source()
    created = await world.create_sink()
    plain = to_plain(created)
    plain["table"]["mapping"] = to_plain(TABLE.mapping.mapping)
    again = decode(Sink, orjson.dumps(plain))
    assert content_hash(again) == content_hash(created) == created.version.hash
    changed = await update(world, table=attrs.evolve(TABLE, mapping=OTHER))
    back = await update(world, table=TABLE)
    assert changed.version.hash != created.version.hash == back.version.hash


@ensure
async def test_a_sink_of_the_previous_release(world: World) -> None:
    """The sink can be read and changed, and a change stores a reference to its mapping."""
    await world.create_source()
    plain = to_plain(await world.create_sink())
    plain["table"]["mapping"] = to_plain(TABLE.mapping.mapping)
    for key in (f"{prefix.SINK_ACTIVE}{SINK}", SINKS.version_key(SINK, 1)):
        await world.client.put(key, orjson.dumps(plain))
    await world.client.delete_prefix(f"{prefix.MAPPING}{SINK}/")
    (sink,) = await with_mappings(world.client, [await DefinitionReads(world.client).sink(SINK)])
    assert sink.table.mapping.mapping == TABLE.mapping.mapping
    await world.change(lambda change, definitions: definitions.disable_sink(change, SINK))
    assert await stored(world) == [TABLE.mapping.hash]
    await update(world, table=attrs.evolve(TABLE, mapping=OTHER))
    await world.change(lambda change, definitions: definitions.rollback_sink(change, SINK, 1))
    (sink,) = await with_mappings(world.client, [await DefinitionReads(world.client).sink(SINK)])
    assert sink.table.mapping.mapping == TABLE.mapping.mapping


@pytest.mark.parametrize(("read_bytes", "requests"), [(10**6, 2), (1, 19)])
@ensure
async def test_many_mappings_are_read_in_parts(
    world: World, monkeypatch: pytest.MonkeyPatch, read_bytes: int, requests: int
) -> None:
    """Each request reads about the number of bytes of one answer, and no mapping is read twice."""
    wanted = []
    for number in range(26):
        key = SOURCE.sink(f"sink-{number}")
        mapping = StoredMapping.of(Mapping((BodyColumn(name=f"body {number}"),)))
        await world.client.put(mapping_key(key, mapping), encode(mapping.mapping))
        wanted.append((key, StoredMapping(mapping.hash)))
    asked = []
    get_many = world.client.get_many

    async def counted(keys: Any, **options: Any) -> Any:
        asked.append(len(keys))
        return await get_many(keys, **options)

    monkeypatch.setattr(mappings, "_READ_BYTES", read_bytes)
    monkeypatch.setattr(world.client, "get_many", counted)
    found = await read_mappings(world.client, [*wanted, *wanted])
    assert list(found) == wanted
    assert [found[pair].mapping.columns[0].name for pair in wanted] == [
        f"body {number}" for number in range(26)
    ]
    assert len(asked) == requests and sum(asked) == 26


@ensure
async def test_missing_and_damaged_mappings(world: World) -> None:
    """The other mappings are read, and a sink without its mapping is in no list."""
    there = StoredMapping.of(OTHER)
    await world.client.put(mapping_key(SINK, there), encode(OTHER))
    gone, damaged = StoredMapping("gone"), StoredMapping("damaged")
    await world.client.put(mapping_key(SINK, damaged), b'{"columns":[{"type":"new"}]}')
    pairs = [(SINK, gone), (SINK, damaged), (SINK, StoredMapping(there.hash))]
    assert list(await read_mappings(world.client, pairs)) == [pairs[2]]
    await world.create_source()
    sink = await world.create_sink()
    lost = attrs.evolve(sink, table=attrs.evolve(sink.table, mapping=gone))
    assert await with_mappings(world.client, [lost, sink]) == [sink]
    with pytest.raises(UserError) as caught:
        await with_mapping(world.client, lost)
    assert (caught.value.status, caught.value.name) == (409, "mappingMissing")
    unreadable = attrs.evolve(sink, table=attrs.evolve(sink.table, mapping=damaged))
    with pytest.raises(UnreadableRecord, match="damaged"):
        await with_mapping(world.client, unreadable)
    with pytest.raises(DefinitionNotFound):
        await with_mapping(world.client, attrs.evolve(lost, key=SOURCE.sink("purged")))


def _of_size(size: int) -> Mapping:
    """Return a mapping with *size* bytes of JSON."""
    empty = Mapping((PathColumn(name="x", path=""),))
    path = "p" * (size - len(encode(empty)))
    return Mapping((PathColumn(name="x", path=path),))


def test_the_limit_of_a_mapping() -> None:
    """The limit counts the bytes of the stored JSON, and the error names it."""
    check_mapping_size(_of_size(MAX_MAPPING_BYTES))
    with pytest.raises(UserError) as caught:
        check_mapping_size(_of_size(MAX_MAPPING_BYTES + 1))
    assert (caught.value.status, caught.value.name) == (400, "mappingTooLarge")
    assert f"{MAX_MAPPING_BYTES + 1} bytes" in str(caught.value)
    assert f"the limit is {MAX_MAPPING_BYTES} bytes" in str(caught.value)


@ensure
async def test_a_mapping_that_is_too_large(world: World) -> None:
    """A sink with it is neither created nor updated; an existing one can be switched and
    deleted.
    """
    await world.create_source()
    await world.create_sink()
    large = attrs.evolve(TABLE, mapping=_of_size(MAX_MAPPING_BYTES + 1))
    with pytest.raises(UserError, match="mapping"):
        await update(world, table=large)
    await update(world, table=attrs.evolve(TABLE, mapping=_of_size(MAX_MAPPING_BYTES)))
    with pytest.raises(UserError) as caught:
        await update(world, description="d" * MAX_DEFINITION_BYTES)
    assert (caught.value.status, caught.value.name) == (400, "definitionTooLarge")
    sink = await DefinitionReads(world.client).sink(SINK)
    huge = attrs.evolve(sink, description="d" * MAX_DEFINITION_BYTES)
    await world.client.put(f"{prefix.SINK_ACTIVE}{SINK}", encode(huge))
    await world.change(lambda change, definitions: definitions.disable_sink(change, SINK))
    await world.change(lambda change, definitions: definitions.delete_sink(change, SINK))


def test_keys_of_mappings() -> None:
    """The key of a mapping contains its sink, so that tenants share nothing."""
    one, other = SinkKey(1, 2, "a", "b"), SinkKey(2, 2, "a", "b")
    mapping = StoredMapping.of(OTHER)
    assert mapping_key(one, mapping) == f"storage/mapping/1/2/a/b/{mapping.hash}"
    assert mapping_key(one, mapping) != mapping_key(other, mapping)
