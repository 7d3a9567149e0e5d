"""Buckets and tables of sinks: found, created, compared, marked and deleted."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted

from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.errors import NestedError, UserError
from stream.mapping.columns import Mapping
from stream.target.keboola.destination import (
    bucket_of,
    delete_destinations,
    ensure_bucket,
    ensure_table,
)
from stream.target.keboola.values import Table
from stream.values.codec import from_plain
from stream.values.token import Token
from tests.storage.histories.world import SINK, with_table
from tests.target.keboola.fakes import MASTER, FakeStorageApi, refused

TABLE = "in.c-bucket.table"
TOKEN = Token(MASTER)

_COLUMNS = {
    "columns": [
        {"type": "uuid", "name": "id", "primaryKey": True},
        {"type": "body", "name": "body"},
    ]
}
KEYED = attrs.evolve(SINK, table=attrs.evolve(SINK.table, mapping=from_plain(Mapping, _COLUMNS)))


def _sink_of(source_id: str, sink_id: str, table_id: str) -> Sink:
    return attrs.evolve(with_table(SINK, table_id), key=SinkKey(123, 456, source_id, sink_id))


def test_the_bucket_of_a_table_id() -> None:
    """The last part of the id is the name of the table."""
    assert bucket_of("in.c-bucket.my-table") == "in.c-bucket"


@pytest_twisted.ensureDeferred
async def test_a_bucket_is_created_once() -> None:
    """The first call creates it, and the second finds it."""
    api = FakeStorageApi()
    await ensure_bucket(api, TOKEN, 456, "in.c-bucket")
    await ensure_bucket(api, TOKEN, 456, "in.c-bucket")
    assert api.calls == [
        ("get_bucket", "in.c-bucket"),
        ("create_bucket", "in.c-bucket"),
        ("get_bucket", "in.c-bucket"),
    ]


@pytest_twisted.ensureDeferred
async def test_two_sinks_share_a_bucket() -> None:
    """The second sink uses the bucket created by the first."""
    api = FakeStorageApi()

    async def another() -> None:
        api.buckets.add("in.c-bucket")

    api.before["create_bucket"] = another
    await ensure_bucket(api, TOKEN, 456, "in.c-bucket")
    assert api.buckets == {"in.c-bucket"}


@pytest.mark.parametrize(
    ("method", "context"),
    [
        ("get_bucket", "cannot get bucket: "),
        ("create_bucket", 'cannot create bucket "in.c-bucket": '),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_errors_of_a_bucket(method: str, context: str) -> None:
    """Other errors aren't treated as success, and the message names the failed operation."""
    api = FakeStorageApi()
    api.failures[method] = [refused(403, "storage.accessDenied")]
    with pytest.raises(UserError) as caught:
        await ensure_bucket(api, TOKEN, 456, "in.c-bucket")
    assert caught.value.message.startswith(context)
    assert (caught.value.status, caught.value.name) == (403, "storage.accessDenied")


@pytest_twisted.ensureDeferred
async def test_a_missing_table_is_created_and_marked() -> None:
    """The table has the mapping's columns and primary key, and its metadata names its sink."""
    api = FakeStorageApi()
    await ensure_table(api, TOKEN, KEYED)
    table = api.tables[TABLE]
    assert (table.columns, table.primary_key) == (("id", "body"), ("id",))
    assert table.metadata_value("KBC.stream.source.id") == "my-source"
    assert table.metadata_value("KBC.stream.sink.id") == "my-sink"


@pytest_twisted.ensureDeferred
async def test_a_marked_table_is_only_read() -> None:
    """The second file of a sink needs one call."""
    api = FakeStorageApi()
    await ensure_table(api, TOKEN, SINK)
    api.calls.clear()
    await ensure_table(api, TOKEN, SINK)
    assert api.calls == [("get_table", TABLE)]


@pytest_twisted.ensureDeferred
async def test_two_sinks_share_a_table() -> None:
    """The second sink checks the table created by the first."""
    api = FakeStorageApi()

    async def another() -> None:
        api.tables[TABLE] = Table(TABLE, ("other",), ())

    api.before["create_table"] = another
    with pytest.raises(UserError, match="columns of the table"):
        await ensure_table(api, TOKEN, SINK)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            Table(TABLE, ("id",), ("id",)),
            f'columns of the table "{TABLE}" do not match expected ["id","body"], found ["id"]',
        ),
        (
            Table(TABLE, ("body", "id"), ("id",)),
            f'columns of the table "{TABLE}" do not match expected ["id","body"], '
            'found ["body","id"]',
        ),
        (
            Table(TABLE, ("id", "body"), ()),
            f'primary key of the table "{TABLE}" does not match expected ["id"], found []',
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_another_table_is_refused(table: Table, message: str) -> None:
    """Columns and primary key are compared in order, and the table is unchanged."""
    api = FakeStorageApi()
    api.tables[TABLE] = table
    with pytest.raises(UserError) as refusal:
        await ensure_table(api, TOKEN, KEYED)
    assert refusal.value.message == message
    assert refusal.value.status == 400
    assert api.called("add_table_metadata", "create_table") == []


@pytest_twisted.ensureDeferred
async def test_own_tables_and_empty_buckets_are_deleted() -> None:
    """Two sinks of a source have one table each in the same bucket."""
    api = FakeStorageApi()
    api.buckets.add("in.c-bucket")
    sinks = [_sink_of("my-source", name, f"in.c-bucket.{name}") for name in ("one", "two")]
    for sink in sinks:
        await ensure_table(api, TOKEN, sink)
    await delete_destinations(api, MASTER, sinks)
    assert api.tables == {}
    assert api.buckets == set()
    assert len(api.called("delete_bucket")) == 1


@pytest_twisted.ensureDeferred
async def test_tables_of_other_sources_are_kept() -> None:
    """A table of another source's sink and an unmarked table aren't deleted."""
    api = FakeStorageApi()
    api.buckets.add("in.c-bucket")
    mine = [_sink_of("my-source", name, f"in.c-bucket.{name}") for name in ("one", "two")]
    await ensure_table(api, TOKEN, mine[0])
    api.mark("in.c-bucket.one", "another-source", "its-sink")
    api.tables["in.c-bucket.two"] = Table("in.c-bucket.two", ("body",), ())
    await delete_destinations(api, MASTER, mine)
    assert set(api.tables) == {"in.c-bucket.one", "in.c-bucket.two"}
    assert api.buckets == {"in.c-bucket"}


@pytest_twisted.ensureDeferred
async def test_a_missing_table() -> None:
    """A missing table or bucket is no error."""
    await delete_destinations(FakeStorageApi(), MASTER, [SINK])


@pytest_twisted.ensureDeferred
async def test_a_failed_deletion_is_reported() -> None:
    """The other tables are deleted."""
    api = FakeStorageApi()
    api.buckets.add("in.c-bucket")
    sinks = [_sink_of("my-source", name, f"in.c-bucket.{name}") for name in ("one", "two")]
    for sink in sinks:
        await ensure_table(api, TOKEN, sink)
    api.failures["delete_table"] = [refused(500)]
    with pytest.raises(NestedError) as problem:
        await delete_destinations(api, MASTER, sinks)
    assert "some destination resources could not be removed" in str(problem.value)
    assert 'cannot delete table "in.c-bucket.one"' in str(problem.value)
    assert set(api.tables) == {"in.c-bucket.one"}
