"""Imports into Iceberg: types, partitions, tables that differ, commits with conflicts."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, DeferredList, TimeoutError, ensureDeferred
from twisted.logger import capturedLogs

from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.mapping.columns import Mapping
from stream.target.lake.workers import Workers
from tests.storage.histories.world import SINK_KEY
from tests.target.iceberg.world import IcebergWorld, iceberg_world
from tests.target.postgres.test_imports import mapping

reactor: Any = _reactor

pytest.importorskip("pyiceberg", reason="pyiceberg is not installed, see the extra `iceberg`")

TYPES: dict[str, tuple[str, str, str, Any]] = {
    "s": ("string", "string", 'a\nb, ""c""', 'a\nb, "c"'),
    "b": ("boolean", "boolean", "true", True),
    "i": ("integer", "long", "-9223372036854775808", -(2**63)),
    "d": ("double", "double", "1.5e+300", 1.5e300),
    "n": ("decimal(18,2)", "decimal(18, 2)", "12.3", Decimal("12.30")),
    "m": ("decimal(38,1)", "decimal(38, 1)", "9" * 37 + ".5", Decimal("9" * 37 + ".5")),
    "t": (
        "timestamp",
        "timestamptz",
        "2026-11-28T01:02:03.000004Z",
        datetime(2026, 11, 28, 1, 2, 3, 4, tzinfo=UTC),
    ),
    "y": ("date", "date", "2026-11-28", date(2026, 11, 28)),
    "j": ("json", "string", '{""a"": [1, null]}', '{"a": [1, null]}'),
    "u": (
        "uuid",
        "uuid",
        "0190a1b2-0000-7000-8000-00000000abcd",
        UUID("0190a1b2-0000-7000-8000-00000000abcd"),
    ),
    "a.b c": ("integer", "long", "7", 7),
}
"""For each column: its type, Iceberg's type, a cell, and the value."""


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[IcebergWorld]:
    async with iceberg_world(etcd, tmp_path) as running:
        yield running


def use(world: IcebergWorld, columns: Mapping, *partitions: str) -> None:
    """Set the columns and partitions of the next sink."""
    options = {**world.table.options, "partitionBy": json.dumps(partitions)}
    world.table = attrs.evolve(world.table, mapping=columns, options=options)


def typed(**types: str) -> Mapping:
    return mapping(
        *({"name": name, "dataType": type, "nullable": True} for name, type in types.items())
    )


@pytest_twisted.ensureDeferred
async def test_values_of_all_types_are_imported(world: IcebergWorld) -> None:
    """Values are exact, with Iceberg's types; NULL and the empty text differ."""
    use(world, typed(**{name: type[0] for name, type in TYPES.items()}))
    cells = ",".join(f'"{cell}"' for _, _, cell, _ in TYPES.values())
    nulls = "," * (len(TYPES) - 1)
    file = await world.importing_file(f'{cells}\n{nulls}\n""{nulls}\n'.encode())
    await world.target.import_file(file)
    fields = world.loaded().schema().fields
    assert {f.name: str(f.field_type) for f in fields} == {n: t[1] for n, t in TYPES.items()}
    values = {name: value for name, (_, _, _, value) in TYPES.items()}
    nothing = dict.fromkeys(TYPES)
    assert world.rows() == [values, nothing, {**nothing, "s": ""}]


@pytest_twisted.ensureDeferred
async def test_data_files_are_partitioned(world: IcebergWorld) -> None:
    """There are several transforms, two of them of one column; readers skip other partitions."""
    use(
        world,
        typed(id="integer", at="timestamp", who="string", total="decimal(9,2)", u="uuid"),
        *("day(at)", "year(at)", "bucket(4, who)", "truncate(10, id)", "total", "bucket(8, u)"),
    )
    uuid = "0190a1b2-0000-7000-8000-00000000abcd"
    rows = [
        f'"{n}","2026-11-2{n % 3}T05:00:00.000000Z","w{n % 2}","{n % 2}.5","{uuid}"'
        for n in range(30)
    ]
    rows += [",,,,"]
    await world.target.import_file(await world.importing_file("\n".join([*rows, ""]).encode()))
    table = world.loaded()
    found = table.scan(row_filter="at >= '2026-11-21T00:00:00+00:00' and who = 'w1'")
    assert sorted(row["id"] for row in found.to_arrow().to_pylist()) == [
        n for n in range(30) if n % 3 and n % 2
    ]
    every = [task.file for task in table.scan().plan_files()]
    assert len([*found.plan_files()]) < len(every)
    assert sum(file.record_count for file in every) == 31
    assert len(table.scan(row_filter="id = 17").to_arrow()) == 1
    assert next(row for row in world.rows() if row["who"] is None)["id"] is None
    names = [Path(file.file_path).name for file in every]
    snapshot = table.current_snapshot()
    assert snapshot is not None and snapshot.summary is not None
    file_id = snapshot.summary.additional_properties["stream.file-id"]
    assert len(set(names)) == len(names) and all(name.startswith(file_id) for name in names)


@pytest_twisted.ensureDeferred
async def test_new_columns_of_the_mapping_are_added(world: IcebergWorld) -> None:
    """Existing rows have NULL in them, and other differences are listed."""
    use(world, typed(a="string", b="integer"), "bucket(4, a)")
    await world.target.import_file(file := await world.importing_file(b'"1","1"\n'))
    await world.storage.to_imported(file.key)
    await _change(world, typed(c="date", a="string"))
    await world.target.import_file(await world.staged_file(b'"2026-01-01","2"\n'))
    assert sorted(world.rows(), key=str) == [
        {"a": "1", "b": 1, "c": None},
        {"a": "2", "b": None, "c": date(2026, 1, 1)},
    ]
    with pytest.raises(UserError) as raised:
        await _change(world, typed(a="integer", b="string"))
    assert 'column "a" is string, but the mapping has long; column "b" is long' in str(raised.value)


async def _change(world: IcebergWorld, columns: Mapping) -> None:
    world.storage.tick()

    def change(sink: Any) -> Any:
        return attrs.evolve(sink, table=attrs.evolve(sink.table, mapping=columns))

    await world.do("update_sink", SINK_KEY, "", change)


@pytest_twisted.ensureDeferred
async def test_a_table_of_the_user_is_compared(world: IcebergWorld) -> None:
    """The table is never dropped; without `partitionBy` its own partitions are used."""
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.transforms import BucketTransform
    from pyiceberg.types import IntegerType, NestedField, StringType

    schema = Schema(
        NestedField(1, "n", IntegerType()), NestedField(2, "body", StringType(), required=True)
    )
    spec = PartitionSpec(PartitionField(2, 1000, BucketTransform(3), "b"))
    world.catalog().create_namespace(world.identifier[0])
    world.catalog().create_table(world.identifier, schema, partition_spec=spec)
    use(world, typed(n="integer", m="string"), "bucket(5, m)")
    with pytest.raises(UserError) as raised:
        await world.create_sink()
    assert 'column "n" is int, but the mapping has long; column "body" is required' in str(
        raised.value
    )
    assert "partitioned by (bucket(3, body)), not (bucket(5, m))" in str(raised.value)
    use(world, mapping({"name": "body"}))
    world.table.options.pop("partitionBy")  # type: ignore[attr-defined]
    await world.target.import_file(await world.importing_file(b'"x"\n"y"\n'))
    assert sorted(await world.read()) == ["x", "y"]
    sink = await world.do("delete_sink", SINK_KEY)
    await world.target.delete_tables([sink], token="t")
    assert len(world.rows()) == 2


@pytest.mark.parametrize(
    ("options", "columns", "reason"),
    [
        ({"namespace": "a b"}, {}, 'name of the namespace "a b" may contain only letters'),
        ({"namespace": "a..b"}, {}, "may contain only letters"),
        ({"table": "../x"}, {}, "may contain only letters"),
        ({"table": ""}, {}, 'needs "table"'),
        ({"path": "x"}, {}, 'has no "path"'),
        ({"partitionBy": '["day(a)"]'}, {}, "needs a column of type timestamp or date"),
        (
            {"connection": "x"},
            {},
            'no connection "x" of the type iceberg, its connections are: lake',
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_errors_of_definitions(
    world: IcebergWorld, options: dict[str, str], columns: dict[str, Any], reason: str
) -> None:
    use(world, mapping({"name": "a", **columns}))
    world.table = attrs.evolve(world.table, options={**world.table.options, **options})
    with pytest.raises(UserError, match=reason):
        await world.create_sink()


@pytest_twisted.ensureDeferred
async def test_a_table_of_another_project_is_refused(world: IcebergWorld) -> None:
    """No column is added to it."""
    await world.create_sink()
    await world.do("disable_sink", SINK_KEY)
    with world.loaded().transaction() as transaction:
        transaction.set_properties({"stream.made-by": f"{SINK_KEY.project_id}1/1/s/k"})
    with pytest.raises(UserError, match="was created for another project") as raised:
        await world.do("enable_sink", SINK_KEY)
    assert raised.value.name == "tableOfAnotherProject"


@pytest_twisted.ensureDeferred
async def test_a_table_created_by_another_project_meanwhile(
    world: IcebergWorld,
) -> None:
    """The table was created after the file was opened: the file is imported when the table is the
    sink's.
    """
    file = await world.importing_file(b'"a"\n')
    for owner in (f"{SINK_KEY.project_id}1/1/s/k", str(SINK_KEY)):
        with world.loaded().transaction() as transaction:
            transaction.set_properties({"stream.made-by": owner})
        if owner != str(SINK_KEY):
            with pytest.raises(UserError, match="was created for another project"):
                await world.target.import_file(file)
            assert world.rows() == []
    await world.target.import_file(file)
    assert await world.read() == ["a"]


@pytest_twisted.ensureDeferred
async def test_a_silent_catalog_blocks_no_process(
    world: IcebergWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to other catalogs don't wait for it, and its process is free afterwards."""
    from stream.target.iceberg import target as iceberg

    target: Any = world.target
    (catalog,) = target._connections.values()
    own = Workers(reactor, "stream.target.iceberg.work", 1)
    own.startService()
    target._questions["silent"] = own
    await target.prepare_probe("silent")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        plain = {"type": "rest", "uri": f"http://127.0.0.1:{silent.getsockname()[1]}/"}
        target._connections = {"lake": catalog, "silent": attrs.evolve(catalog, plain=plain)}
        monkeypatch.setattr(iceberg, "_PROBE_SECONDS", 600.0)
        waiting = ensureDeferred(target.probe("silent"))
        await target.probe("lake")
        assert not waiting.called
        waiting.cancel()
        with pytest.raises(CancelledError):
            await waiting
        monkeypatch.setattr(iceberg, "_PROBE_SECONDS", 1.0)
        with pytest.raises(TimeoutError, match="took longer than 1 s"):
            await target.probe("silent")
    assert own._turns._taken == 0
    await own.stopService()


@pytest_twisted.ensureDeferred
async def test_errors_of_a_catalog_contain_no_host_and_no_secret(world: IcebergWorld) -> None:
    """The log has the host, but no secret."""
    await world.create_sink()
    target: Any = world.target
    (catalog,) = target._connections.values()
    secret = "s3cret-of-mine"
    plain = {"type": "rest", "uri": f"http://user:{secret}@127.0.0.1:1/", "token": secret}
    target._connections = {"lake": attrs.evolve(catalog, plain=plain)}
    with capturedLogs() as logged, pytest.raises(UserError) as raised:
        await world.rename()
    assert str(raised.value) == (
        'the connection "lake" can\'t be used: the catalog or the warehouse does not answer, or '
        "rejects the credentials"
    )
    assert raised.value.name == "connectionFailed"
    found = [event for event in logged if "can't be used" in str(event.get("log_format"))]
    (reason,) = [event["reason"] for event in found]
    assert "127.0.0.1" in reason
    assert secret not in f"{raised.value} {raised.value.detail} {reason}"


@pytest_twisted.ensureDeferred
async def test_the_probe_of_a_catalog(world: IcebergWorld) -> None:
    """Every user of the project sees the result, which has no address."""
    target: Any = world.target
    await target.probe("lake")
    async with world.faults["server unavailable"]():
        with pytest.raises(UserError, match="the catalog does not answer") as raised:
            await target.probe("lake")
    assert "sqlite" not in str(raised.value)


# commits in this process

Commit = Callable[..., Any]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A job of an existing table."""
    from stream.target.iceberg.work import work

    (tmp_path / "warehouse").mkdir()
    plain = {
        "do": "ensure",
        "connection": "lake",
        "catalog": "lake",
        "properties": {
            "type": "sql",
            "uri": f"sqlite:///{tmp_path}/catalog.db",
            "warehouse": (tmp_path / "warehouse").as_uri(),
        },
        "secrets": [],
        "namespace": "shop",
        "table": "orders",
        "owner": "me",
        "columns": [{"name": "id", "type": "integer", "isKey": False, "isNullable": False}],
        "commitRetries": 3,
        "importId": "0190a1b2",
    }
    work(plain, iter(()))
    yield {**plain, "do": "import"}


def _rows(job: dict[str, Any]) -> list[int]:
    from pyiceberg.catalog import load_catalog

    table = load_catalog("lake", **job["properties"]).load_table("shop.orders")
    return sorted(table.scan().to_arrow()["id"].to_pylist())


def _import(job: dict[str, Any], ids: str = "123", **changed: Any) -> dict[str, Any]:
    from stream.target.iceberg.work import work

    data = "".join(f'"{number}"\n' for number in ids).encode()
    return work({**job, **changed}, iter([iter([data])]))


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Commit], Commit]], None]:
    """Replace the commit to the catalog by *replacement* of it until the block ends."""
    from pyiceberg.catalog.sql import SqlCatalog

    def replace(make: Callable[[Commit], Commit]) -> None:
        monkeypatch.setattr(SqlCatalog, "commit_table", make(SqlCatalog.commit_table))

    return replace


def test_an_import_with_a_conflict_is_repeated(job: dict[str, Any], commits: Any) -> None:
    """The rows of both commits are in the table once."""
    others = iter("456")

    def meeting(commit: Commit) -> Commit:
        def committed(*arguments: Any, **options: Any) -> Any:
            other = next(others, None)
            if other is not None:
                _import(job, other, importId=f"other {other}")
            return commit(*arguments, **options)

        return committed

    commits(meeting)
    answer = _import(job)
    assert answer["rows"] == 3
    assert answer["retries"] >= 1
    assert _rows(job) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])
def test_a_lost_answer_of_a_commit(job: dict[str, Any], commits: Any, is_done: bool) -> None:
    """A commit with an unknown outcome is found in the table, or is repeated; each row is there
    once.
    """
    from pyiceberg.exceptions import CommitStateUnknownException

    left = [1]

    def losing(commit: Commit) -> Commit:
        def committed(*arguments: Any, **options: Any) -> Any:
            if not left:
                return commit(*arguments, **options)
            left.clear()
            if is_done:
                commit(*arguments, **options)
            raise CommitStateUnknownException("the gateway timed out")

        return committed

    commits(losing)
    assert _import(job)["rows"] == 3
    assert _rows(job) == [1, 2, 3]


@pytest.mark.parametrize("retries", ["0", "1", "4"])
def test_a_commit_that_is_sent_twice(job: dict[str, Any], commits: Any, retries: str) -> None:
    """A proxy repeats the request, and the second is refused: the table has each row once."""
    from pyiceberg.catalog import load_catalog
    from pyiceberg.exceptions import CommitFailedException

    table = load_catalog("lake", **job["properties"]).load_table("shop.orders")
    with table.transaction() as transaction:
        transaction.set_properties({"commit.retry.num-retries": retries})
    refused: list[int] = []

    def repeating(commit: Commit) -> Commit:
        def committed(*arguments: Any, **options: Any) -> Any:
            result = commit(*arguments, **options)
            if len(refused) > int(retries):
                return result
            refused.append(1)
            raise CommitFailedException("the newest snapshot is another one")

        return committed

    commits(repeating)
    _import(job)
    assert refused
    assert _rows(job) == [1, 2, 3]


def test_a_commit_that_arrives_late_adds_nothing(job: dict[str, Any], commits: Any) -> None:
    """A late commit of the previous attempt is refused, since the newest snapshot has changed."""
    from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException

    late: list[tuple[Any, Any]] = []

    def delaying(commit: Commit) -> Commit:
        def committed(*arguments: Any, **options: Any) -> Any:
            if not late:
                late.append((arguments, options))
                raise CommitStateUnknownException("the gateway timed out")
            result = commit(*arguments, **options)
            with pytest.raises(CommitFailedException):
                commit(*late[0][0], **late[0][1])
            return result

        return committed

    commits(delaying)
    assert _import(job)["rows"] == 3
    assert _rows(job) == [1, 2, 3]


def test_another_import_of_the_same_file(job: dict[str, Any], commits: Any) -> None:
    """The other import commits between the check of the table and the commit."""
    left = [1]

    def meeting(commit: Commit) -> Commit:
        def committed(*arguments: Any, **options: Any) -> Any:
            if left:
                left.clear()
                _import(job)
            return commit(*arguments, **options)

        return committed

    commits(meeting)
    assert _import(job)["retries"] == 1
    assert _rows(job) == [1, 2, 3]


def test_permanent_conflicts_are_reported(job: dict[str, Any], commits: Any) -> None:
    """The file waits and is retried."""
    from pyiceberg.exceptions import CommitFailedException

    def failing(commit: Commit) -> Commit:
        def committed(*arguments: Any, **options: Any) -> Any:
            raise CommitFailedException("stale")

        return committed

    commits(failing)
    with pytest.raises(UserError, match="conflicted with other commits 2 times"):
        _import(job, commitRetries=1)


SINKS = int(os.environ.get("STREAM_LAKE_SINKS", "4"))
COORDINATORS = int(os.environ.get("STREAM_LAKE_COORDINATORS", "2"))


@pytest_twisted.ensureDeferred
async def test_several_coordinators_share_a_table(etcd: EtcdClient, tmp_path: Path) -> None:
    """The commits conflict, and each row is there once."""
    (tmp_path / "warehouse").mkdir()
    catalog = {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/catalog.db?timeout=60",
        "warehouse": (tmp_path / "warehouse").as_uri(),
    }
    async with iceberg_world(etcd, tmp_path, catalog, commitRetries=50) as world:
        file = await world.importing_file(b'"0"\n')
        target: Any = world.target
        record = await target._record(file.key)
        connection = target._connections["lake"]
        from stream.target.iceberg.target import IcebergTarget
        from tests.target.world import context_of

        settings = _settings(tmp_path, catalog)
        async with context_of(etcd, settings) as (_, context):
            targets = [IcebergTarget(context) for _ in range(COORDINATORS)]
            for each in targets:
                for service in each.services:
                    service.startService()
            try:
                imports = []
                for sink in range(SINKS):
                    of_sink = attrs.evolve(record, import_id=f"sink-{sink}")
                    # two coordinators for each file, as if one was considered dead
                    for turn in range(2):
                        importing = targets[(sink + turn) % COORDINATORS]._import(
                            connection, of_sink, "none", [_slice(sink)]
                        )
                        imports.append(ensureDeferred(importing))
                results = await DeferredList(imports, consumeErrors=True)
                assert [success for success, _ in results] == [True] * len(imports), results
            finally:
                for each in targets:
                    for service in each.services:
                        await service.stopService()
        assert sorted(map(int, await world.read())) == sorted([*range(SINKS)] * 3)
        snapshots = world.loaded().metadata.snapshots
        assert len(snapshots) == SINKS


def _settings(path: Path, catalog: dict[str, str]) -> Any:
    from tests.target.parquet.world import declared

    lake = {"type": "iceberg", "catalog": catalog, "commitRetries": 50}
    return declared(path, {"lake": lake})


def _slice(sink: int) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([f'"{sink}"\n'.encode() * 3])
