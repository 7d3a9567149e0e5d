"""Imports into Parquet: types, partitions, tables that differ, interrupted imports."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import obstore
import pytest
import pytest_twisted
from twisted.internet.defer import DeferredList, ensureDeferred

from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.mapping.columns import Mapping, column_from_plain
from stream.target.parquet.layout import Description
from tests.storage.histories.world import SINK_KEY
from tests.target.parquet.world import ParquetWorld, parquet_world, s3_world
from tests.target.postgres.test_imports import mapping

duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed, see the extra `dev`")

TYPES: dict[str, tuple[str, str, str, Any]] = {
    "s": ("string", "VARCHAR", 'a\nb, ""c""', 'a\nb, "c"'),
    "b": ("boolean", "BOOLEAN", "true", True),
    "i": ("integer", "BIGINT", "-9223372036854775808", -(2**63)),
    "d": ("double", "DOUBLE", "1.5e+300", 1.5e300),
    "n": ("decimal(18,2)", "DECIMAL(18,2)", "12.3", Decimal("12.30")),
    "m": ("decimal(38,10)", "DECIMAL(38,10)", "-" + "9" * 28 + ".0000000001", None),
    "t": (
        "timestamp",
        "TIMESTAMP WITH TIME ZONE",
        "2026-11-28T01:02:03.000004Z",
        datetime(2026, 11, 28, 1, 2, 3, 4, tzinfo=UTC),
    ),
    "y": ("date", "DATE", "0001-01-01", date(1, 1, 1)),
    "j": ("json", "VARCHAR", '{""a"": [1, null]}', '{"a": [1, null]}'),
    "u": ("uuid", "VARCHAR", "0190a1b2-0000-7000-8000-00000000abcd", None),
}
"""For each column: its type, DuckDB's type, a cell, and the value; the cell itself if there is
none.
"""


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[ParquetWorld]:
    async with parquet_world(etcd, tmp_path) as running:
        yield running


def use(world: ParquetWorld, columns: Mapping, *partitions: str) -> None:
    """Set the columns and partitions of the next sink."""
    options = {**world.table.options, "partitionBy": json.dumps(partitions)}
    world.table = attrs.evolve(world.table, mapping=columns, options=options)


def query(world: ParquetWorld, text: str) -> list[tuple[Any, ...]]:
    """Return the rows of a DuckDB query; ``{}`` stands for all objects of the table."""
    place = f"{world.root.removeprefix('file://')}/{world.path}/**/*.parquet"
    files = f"read_parquet('{place}', hive_partitioning = true, union_by_name = true)"
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    rows: list[tuple[Any, ...]] = connection.execute(text.replace("{}", files)).fetchall()
    return rows


@pytest_twisted.ensureDeferred
async def test_values_of_all_types_are_imported(world: ParquetWorld) -> None:
    """Values are exact, with types; NULL and the empty text differ."""
    columns = [
        {"name": name, "dataType": type[0], "nullable": True} for name, type in TYPES.items()
    ]
    use(world, mapping(*columns))
    cells = ",".join(f'"{cell}"' for _, _, cell, _ in TYPES.values())
    nulls = "," * (len(TYPES) - 1)
    file = await world.importing_file(f'{cells}\n{nulls}\n""{nulls}\n'.encode())
    await world.target.import_file(file)
    shown = {row[0]: row[1] for row in query(world, "DESCRIBE SELECT * FROM {}")}
    assert shown == {name: type for name, (_, type, _, _) in TYPES.items()}
    zone = ", ".join(f"{n}::TIMESTAMP" if n == "t" else n for n in TYPES)
    first, second, third = query(world, f"SELECT {zone} FROM {{}}")
    expected: dict[str, Any] = {
        name: value if value is not None else (Decimal(cell) if name == "m" else cell)
        for name, (_, _, cell, value) in TYPES.items()
    }
    expected["t"] = expected["t"].replace(tzinfo=None)
    assert dict(zip(TYPES, first, strict=True)) == expected
    assert second == (None,) * len(TYPES)
    assert third == ("", *(None,) * (len(TYPES) - 1))


@pytest_twisted.ensureDeferred
async def test_objects_in_a_bucket(etcd: EtcdClient, tmp_path: Path) -> None:
    """A file is imported twice, and then the table is deleted."""
    async with s3_world(etcd, tmp_path) as world:
        file = await world.importing_file(b'"a"\n"b"\n', b'"c"\n')
        for _ in range(2):
            await world.target.import_file(file)
            assert sorted(await world.read()) == ["a", "b", "c"]
        sink = await world.do("delete_sink", SINK_KEY)
        await world.target.delete_tables([sink], token="t")
        assert world.objects() == {}


@pytest_twisted.ensureDeferred
async def test_a_single_column_that_is_null(world: ParquetWorld) -> None:
    """The row of a single NULL is an empty line."""
    use(world, mapping({"name": "a", "nullable": True}))
    await world.target.import_file(await world.importing_file(b'"x"\n\n""\n\n'))
    assert query(world, "SELECT a FROM {}") == [("x",), (None,), ("",), (None,)]


@pytest_twisted.ensureDeferred
async def test_rows_are_in_the_folder_of_their_day(world: ParquetWorld) -> None:
    """With two partition columns the folders are nested."""
    columns = mapping(
        {"name": "id", "dataType": "integer"},
        {"name": "at", "dataType": "timestamp", "nullable": True},
        {"name": "born", "dataType": "date"},
    )
    use(world, columns, "day(at)", "year(born)")
    times = ("2026-11-27T23:59:59.999999Z", "2026-11-28T00:00:00.000000Z", "1969-12-31T10:00:00Z")
    rows = [
        f'"{number}",{(f"{chr(34)}{time}{chr(34)}") if time else ""},"{year}-05-05"\n'
        for number, (time, year) in enumerate(
            [(times[0], 1980), (times[1], 1980), (times[1], 1990), (times[2], 1980), ("", 1980)] * 2
        )
    ]
    file = await world.importing_file("".join(rows[:5]).encode(), "".join(rows[5:]).encode())
    await world.target.import_file(file)
    names = sorted(name.rpartition("/")[0] for name in world.objects() if "=" in name)
    assert names == [
        "at_day=1969-12-31/born_year=1980",
        "at_day=2026-11-27/born_year=1980",
        "at_day=2026-11-28/born_year=1980",
        "at_day=2026-11-28/born_year=1990",
        "at_day=__HIVE_DEFAULT_PARTITION__/born_year=1980",
    ]
    found = query(world, "SELECT id FROM {} WHERE at_day = '2026-11-28' AND born_year = 1980")
    assert sorted(found) == [(1,), (6,)]
    assert sorted(query(world, "SELECT id FROM {}")) == [(number,) for number in range(10)]
    (manifest,) = world.manifests()
    assert manifest["rows"] == 10
    listed = {(each["path"], each["bytes"]) for each in manifest["objects"]}
    assert listed == {(n, len(b)) for n, b in world.objects().items() if n.endswith(".parquet")}


@pytest_twisted.ensureDeferred
async def test_the_manifest_has_the_time_range(world: ParquetWorld) -> None:
    """The range is that of the first column with the time of arrival."""
    plain = {"type": "datetime", "name": "at", "dataType": "timestamp"}
    use(world, Mapping((*mapping({"name": "x"}).columns, column_from_plain(plain))))
    rows = b'"a","2026-11-28T01:00:00.000000Z"\n"b","2026-11-27T01:00:00.500000Z"\n'
    await world.target.import_file(await world.importing_file(rows))
    (manifest,) = world.manifests()
    assert (manifest["timeColumn"], manifest["minTime"], manifest["maxTime"]) == (
        "at",
        "2026-11-27T01:00:00.500000Z",
        "2026-11-28T01:00:00.000000Z",
    )
    assert manifest["file"].startswith("123/")


@pytest_twisted.ensureDeferred
async def test_two_coordinators_import_one_file(world: ParquetWorld) -> None:
    """One of them may find that the other has deleted the rows; each row is there once."""
    file = await world.importing_file(b'"a"\n' * 20_000, b'"b"\n' * 20_000)
    await DeferredList(
        [ensureDeferred(world.target.import_file(file)) for _ in range(4)], consumeErrors=True
    )
    await world.target.import_file(file)
    assert query(world, "SELECT body, count(*) FROM {} GROUP BY 1 ORDER BY 1") == [
        ("a", 20_000),
        ("b", 20_000),
    ]
    assert len(world.manifests()) == 1
    assert not [name for name in world.objects() if "pending" in name]


@pytest_twisted.ensureDeferred
async def test_objects_of_an_interrupted_import_are_deleted(world: ParquetWorld) -> None:
    """Another release may have written more objects before it ended."""
    file = await world.importing_file(b'"a"\n')
    target: Any = world.target
    record = await target._record(file.key)
    (stale, foreign) = (f"{record.import_id}-7.parquet", "mine.parquet")
    for name in (stale, foreign):
        _write(world, name, b"not even Parquet")
    pending = {"objects": [f"{world.path}/{stale}"]}
    _write(world, f"_manifest/pending/{record.import_id}.json", json.dumps(pending).encode())
    await world.target.import_file(file)
    names = set(world.objects())
    assert stale not in names
    assert foreign in names
    assert f"{record.import_id}-0.parquet" in names
    assert not [name for name in names if "pending" in name]


def _write(world: ParquetWorld, name: str, body: bytes) -> None:
    path = Path(world.root.removeprefix("file://"), world.path, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


@pytest_twisted.ensureDeferred
async def test_objects_of_a_deleted_file(world: ParquetWorld) -> None:
    """Only incomplete objects are removed."""
    file = await world.importing_file(b'"a"\n')
    target: Any = world.target
    record = await target._record(file.key)
    _write(world, f"{record.import_id}-0.parquet", b"x")
    pending = {"objects": [f"{world.path}/{record.import_id}-0.parquet"]}
    _write(world, f"_manifest/pending/{record.import_id}.json", json.dumps(pending).encode())
    await target.delete_staged(file.key)
    assert set(world.objects()) == {"_table.json"}


@pytest_twisted.ensureDeferred
async def test_new_columns_of_the_mapping_are_added(world: ParquetWorld) -> None:
    """Existing rows have NULL in them; a column whose type changes is refused."""
    use(world, mapping({"name": "a"}))
    await world.target.import_file(file := await world.importing_file(b'"1"\n'))
    await world.storage.to_imported(file.key)
    await _change(world, mapping({"name": "a"}, {"name": "b", "dataType": "integer"}))
    await world.target.import_file(await world.staged_file(b'"2","5"\n'))
    assert sorted(query(world, "SELECT a, b FROM {}")) == [("1", None), ("2", 5)]
    with pytest.raises(UserError, match='column "b" is integer, but the mapping has string'):
        await _change(world, mapping({"name": "b"}))


async def _change(world: ParquetWorld, columns: Mapping) -> None:
    world.storage.tick()

    def change(sink: Any) -> Any:
        return attrs.evolve(sink, table=attrs.evolve(sink.table, mapping=columns))

    await world.do("update_sink", SINK_KEY, "", change)


@pytest.mark.parametrize(
    ("options", "columns", "reason"),
    [
        ({"path": "../etc"}, {}, "must consist of names of letters"),
        ({"path": ""}, {}, 'needs "path"'),
        ({"schema": "s"}, {}, 'has no "schema"'),
        ({"partitionBy": '["day(a)"]'}, {}, "needs a column of type timestamp or date"),
        (
            {"connection": "lake"},
            {},
            'no connection "lake" of the type parquet, its connections are: archive',
        ),
        ({}, {"primaryKey": True}, "can't be a primary key"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_errors_of_definitions(
    world: ParquetWorld, options: dict[str, str], columns: dict[str, Any], reason: str
) -> None:
    use(world, mapping({"name": "a", **columns}))
    world.table = attrs.evolve(world.table, options={**world.table.options, **options})
    with pytest.raises(UserError, match=reason):
        await world.create_sink()


@pytest_twisted.ensureDeferred
async def test_a_folder_that_can_not_be_written(etcd: EtcdClient, tmp_path: Path) -> None:
    """The error is reported, and the file is imported when the folder is writable."""
    (tmp_path / "file").write_text("x")
    connection = {"url": (tmp_path / "file" / "lake").as_uri()}
    async with parquet_world(etcd, tmp_path, connection) as world:
        with pytest.raises(UserError, match="archive"):
            await world.create_sink()
        (tmp_path / "file").unlink()
        (tmp_path / "file").mkdir()
        file = await world.importing_file(b'"a"\n')
        (tmp_path / "file").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="can't be used"):
            await world.target.import_file(file)
        (tmp_path / "moved").rename(tmp_path / "file")
        await world.target.import_file(file)
        assert await world.read() == ["a"]


async def described(world: ParquetWorld, path: str, owner: str) -> None:
    """Create a table at *path* for a sink of another service."""
    body = Description(columns={"body": "string"}, made_by=owner).body()
    obstore.put(world.store(), f"lake/{path}/_table.json", body)


@pytest_twisted.ensureDeferred
async def test_a_table_of_another_project_is_refused(world: ParquetWorld) -> None:
    """A table of another sink of the same project is accepted."""
    (Path(world.root.removeprefix("file://"))).mkdir()
    await described(world, world.path, f"{SINK_KEY.project_id}1/1/s/k")
    with pytest.raises(UserError, match="was created for another project") as raised:
        await world.create_sink()
    assert raised.value.name == "tableOfAnotherProject"
    await described(world, world.path, f"{SINK_KEY.project_id}/1/s/k")
    await world.create_sink()


@pytest_twisted.ensureDeferred
async def test_a_table_created_by_another_project_meanwhile(
    world: ParquetWorld,
) -> None:
    """The table was created after the file was opened: the file is imported when the path
    is free.
    """
    file = await world.importing_file(b'"a"\n')
    await described(world, world.path, f"{SINK_KEY.project_id}1/1/s/k")
    with pytest.raises(UserError, match="was created for another project"):
        await world.target.import_file(file)
    assert world.rows() == []
    world.remove()
    await world.target.import_file(file)
    assert await world.read() == ["a"]


@pytest_twisted.ensureDeferred
async def test_a_table_inside_another_one_is_refused(world: ParquetWorld) -> None:
    """Readers would treat the rows of one as those of the other."""
    (Path(world.root.removeprefix("file://"))).mkdir()
    outer, _, _ = world.path.rpartition("/")
    owner = f"{SINK_KEY.project_id}/1/s/k"
    await described(world, outer, owner)
    with pytest.raises(UserError, match=f'inside the table "{outer}"'):
        await world.create_sink()
    obstore.delete(world.store(), f"lake/{outer}/_table.json")
    await described(world, f"{world.path}/inner", owner)
    with pytest.raises(UserError, match=f'around the table "{world.path}/inner"'):
        await world.create_sink()


@pytest_twisted.ensureDeferred
async def test_a_table_is_deleted_with_only_its_own_objects(world: ParquetWorld) -> None:
    """Temporary objects of a killed process are its own, and a table inside it isn't."""
    await world.target.import_file(await world.importing_file(b'"a"\n'))
    (object_,) = [name for name in world.objects() if name.endswith(".parquet")]
    store = world.store()
    below = f"lake/{world.path}"
    for name in (f".{object_}.part", "notes.txt", f"inner/{object_}"):
        obstore.put(store, f"{below}/{name}", b"x")
    await described(world, f"{world.path}/inner", "1/1/s/k")
    sink = await world.do("delete_sink", SINK_KEY)
    await world.target.delete_tables([sink], token="t")
    assert set(world.objects()) == {"inner/_table.json", f"inner/{object_}", "notes.txt"}


@pytest_twisted.ensureDeferred
async def test_objects_of_a_killed_import_are_deleted_with_the_file(world: ParquetWorld) -> None:
    """Unnamed temporary objects are deleted too."""
    file = await world.importing_file(b'"a"\n')
    target: Any = world.target
    record = await target._record(file.key)
    name = f"{world.path}/{record.import_id}-0.parquet"
    store = world.store()
    hidden = f"lake/{world.path}/.{record.import_id}-0.parquet.part"
    for each in (hidden, f"lake/{name}"):
        obstore.put(store, each, b"x")
    pending = f"lake/{world.path}/_manifest/pending/{record.import_id}.json"
    obstore.put(store, pending, json.dumps({"objects": [name]}).encode())
    await world.target.delete_staged(file.key)
    assert list(world.objects()) == ["_table.json"]
