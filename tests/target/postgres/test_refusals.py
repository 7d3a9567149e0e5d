"""Rows refused by a user's real table are quarantined, and all others are imported once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_twisted

from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.storage.model.entity import File
from stream.target.postgres import imports, refusals
from tests.storage.histories.world import SINK_KEY
from tests.target.postgres.test_imports import keyed, mapping, use
from tests.target.postgres.world import PostgresWorld, postgres_world
from tests.target.world import killed_at_every_await

PLAIN = mapping({"name": "body"})
_QUARANTINE = "SELECT table_name, \"row\"->>'body', reason FROM {}._stream_quarantine ORDER BY id"


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[PostgresWorld]:
    async with postgres_world(etcd, tmp_path, PLAIN) as running:
        yield running


def make_table(world: PostgresWorld, columns: str, *more: str) -> None:
    """Create the user's own table."""
    world.query("CREATE SCHEMA {}")
    for statement in more:
        world.query(statement)
    world.query("CREATE TABLE {}.events " + columns)


TRIGGER = """
CREATE FUNCTION {}.no_bad() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.body LIKE 'bad%' THEN RAISE 'not this one'; END IF; RETURN NEW; END $$
"""
TABLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "check": (
        "(body text CONSTRAINT good CHECK (body NOT LIKE 'bad%'))",
        (),
        (),
        'new row for relation "events" violates check constraint "good"',
    ),
    "foreign key": (
        "(body text REFERENCES {}.known (name))",
        (
            "CREATE TABLE {}.known (name text PRIMARY KEY)",
            "INSERT INTO {}.known SELECT 'row ' || n FROM generate_series(0, 99) n",
        ),
        (),
        'insert or update on table "events" violates foreign key constraint "events_body_fkey"',
    ),
    "foreign key that is checked at the commit": (
        "(body text REFERENCES {}.known (name) DEFERRABLE INITIALLY DEFERRED)",
        (
            "CREATE TABLE {}.known (name text PRIMARY KEY)",
            "INSERT INTO {}.known SELECT 'row ' || n FROM generate_series(0, 99) n",
        ),
        (),
        'insert or update on table "events" violates foreign key constraint "events_body_fkey"',
    ),
    "unique": (
        "(body text, first char(3) GENERATED ALWAYS AS (nullif(substr(body, 1, 3), 'row')) STORED "
        "UNIQUE)",
        (),
        ("INSERT INTO {}.events (body) VALUES ('badly there')",),
        'duplicate key value violates unique constraint "events_first_key"',
    ),
    "trigger": (
        "(body text)",
        (TRIGGER,),
        (
            "CREATE TRIGGER no_bad BEFORE INSERT ON {}.events FOR EACH ROW "
            "EXECUTE FUNCTION {}.no_bad()",
        ),
        "not this one",
    ),
    "length": ("(body text)", (), (), "value too long for type character varying(7)"),
}
"""For each cause of a refusal: the table, statements before and after it, and the reason."""


@pytest.mark.parametrize("kind", TABLES)
@pytest_twisted.ensureDeferred
async def test_refused_rows_are_quarantined(world: PostgresWorld, kind: str) -> None:
    """All causes that users can define are covered; a repeated import changes nothing."""
    columns, before, behind, reason = TABLES[kind]
    make_table(world, columns, *before)
    for statement in behind:
        world.query(statement)
    good = [f"row {number}" for number in range(100)]
    bad = ["bad first", "bad middle", "bad last"]
    cells = [bad[0], *good[:50], bad[1], *good[50:], bad[2]]
    await world.create_sink()
    if kind == "length":  # changed after the definition of the sink
        world.query("ALTER TABLE {}.events ALTER body TYPE varchar(7)")
    file = await world.staged_file(_rows(cells[:60]), _rows(cells[60:]))
    for _ in range(2):
        assert await world.target.import_file(file) == 3
        found = sorted(cell for cell in await world.read() if cell.startswith("row"))
        assert found == sorted(good)
        assert world.query(_QUARANTINE) == [("events", cell, reason) for cell in bad]
        assert world.query("SELECT rows FROM {}._stream_imports") == [(100,)]
    (shown,) = (await world.target.quarantines(SINK_KEY)).values()
    assert (shown.records_count, shown.reason, shown.is_finished) == (3, reason, True)
    assert shown.table == f"{world.schema}._stream_quarantine"


def _rows(cells: list[str]) -> bytes:
    return "".join(f'"{cell}"\n' for cell in cells).encode()


@pytest_twisted.ensureDeferred
async def test_quarantined_rows_can_be_imported_with_sql(world: PostgresWorld) -> None:
    """Cells are kept as text, and NULL as no cell. The statement is that of the page about
    targets.
    """
    make_table(
        world, "(body text, n bigint CONSTRAINT small CHECK (n < 10), j jsonb, at timestamptz)"
    )
    use(
        world,
        mapping(
            {"name": "body"},
            {"name": "n", "dataType": "integer"},
            {"name": "j", "dataType": "json", "nullable": True},
            {"name": "at", "dataType": "timestamp", "nullable": True},
        ),
    )
    row = b'"a","10","{""x"": [1]}",\n"b","1",,"2026-11-28T01:02:03Z"\n'
    assert await world.target.import_file(await world.importing_file(row)) == 1
    world.query("ALTER TABLE {}.events DROP CONSTRAINT small")
    world.query(
        "INSERT INTO {}.events (body, n, j, at) "
        "SELECT \"row\"->>'body', (\"row\"->>'n')::bigint, (\"row\"->>'j')::jsonb, "
        "(\"row\"->>'at')::timestamptz FROM {}._stream_quarantine WHERE table_name = 'events'"
    )
    assert world.query("SELECT body, n, j, at::text FROM {}.events ORDER BY body") == [
        ("a", 10, {"x": [1]}, None),
        ("b", 1, None, "2026-11-28 01:02:03+00"),
    ]


@pytest_twisted.ensureDeferred
async def test_the_last_accepted_row_with_a_key_is_kept(world: PostgresWorld) -> None:
    """Rows of the same file are included; a refused row replaces nothing."""
    make_table(world, "(k text PRIMARY KEY, body text CHECK (body NOT LIKE 'bad%'))")
    use(world, keyed())
    file = await world.importing_file(
        b'"a","1"\n"b","bad"\n"a","2"\n', b'"c","1"\n"a","bad"\n"b","2"\n"c","bad again"\n'
    )
    assert await world.target.import_file(file) == 3
    assert world.query("SELECT k, body FROM {}.events ORDER BY k") == [
        ("a", "2"),
        ("b", "2"),
        ("c", "1"),
    ]
    assert [row[1] for row in world.query(_QUARANTINE)] == ["bad", "bad", "bad again"]


@pytest_twisted.ensureDeferred
async def test_a_table_that_refuses_every_row_gets_none(world: PostgresWorld) -> None:
    make_table(world, "(body text CHECK (false))")
    assert await world.target.import_file(await world.importing_file(_rows(["a", "b", "c"]))) == 3
    assert await world.read() == []
    assert len(world.query(_QUARANTINE)) == 3


@pytest_twisted.ensureDeferred
async def test_ranges_are_refused_after_too_many_statements(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says so; each row is in one of the two tables."""
    make_table(world, "(body text CHECK (body NOT LIKE 'bad%'))")
    monkeypatch.setattr(imports, "move_rows", _impatient)
    cells = [f"bad {number}" if number % 3 else f"{number}" for number in range(300)]
    refused = await world.target.import_file(await world.importing_file(_rows(cells)))
    kept = world.query(_QUARANTINE)
    assert refused == len(kept) >= 200
    assert sorted([*(await world.read()), *(row[1] for row in kept)]) == sorted(cells)
    assert any("rows that were not checked one by one: new row" in row[2] for row in kept)


def _impatient(connection: Any, staged: Any, is_given_up: Any) -> Any:
    return refusals.move_rows(connection, staged, is_given_up, max_tries=20)


@pytest_twisted.ensureDeferred
async def test_an_error_that_is_not_about_rows(
    world: PostgresWorld,
) -> None:
    """No row is quarantined; the file is imported when the table is restored."""
    make_table(world, "(body text, CONSTRAINT good CHECK (body NOT LIKE 'bad%'))")
    file = await world.importing_file(_rows(["a", "bad", "b"]))
    world.query("ALTER TABLE {}.events RENAME body TO other")
    with pytest.raises(UserError) as raised:
        await world.target.import_file(file)
    assert raised.value.name == "tableMisfit"
    assert 'column "body" of relation "events" does not exist' in str(raised.value)
    assert not world.query("SELECT to_regclass('{}._stream_quarantine')")[0][0]
    world.query("ALTER TABLE {}.events RENAME other TO body")
    assert await world.target.import_file(file) == 1
    assert sorted(await world.read()) == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_an_import_with_refused_rows_killed_at_every_await(world: PostgresWorld) -> None:
    """Each row is in the table or in quarantine once, and users see their number."""
    make_table(world, "(body text CHECK (body NOT LIKE 'bad%'))")
    await world.create_sink()
    files: list[File] = []

    async def make() -> Any:
        if files:
            assert await world.target.import_file(files[-1]) == 1
            assert files[-1].key in await world.target.quarantines(SINK_KEY)
            await world.storage.to_imported(files[-1].key)
            await world.reopen()
        number = len(files)
        files.append(await world.staged_file(_rows([f"a{number}", f"bad {number}"])))
        return lambda: _work(world, files[-1])

    assert await killed_at_every_await(make)
    assert sorted(await world.read()) == sorted(f"a{number}" for number in range(len(files)))
    kept = [row[1] for row in world.query(_QUARANTINE)]
    assert kept == [f"bad {number}" for number in range(len(files))]


async def _work(world: PostgresWorld, file: File) -> object:
    return await world.target.import_file(file)


@pytest_twisted.ensureDeferred
async def test_an_import_disconnected_during_the_search(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction of the import is rolled back, and the next import starts from the
    beginning.
    """
    make_table(world, "(body text CHECK (body NOT LIKE 'bad%'))")
    file = await world.importing_file(_rows(["a", "bad", "b", "c"]))
    execute = psycopg.Connection.execute

    def cut_off(connection: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(query, psycopg.sql.Composed) and "_stream_quarantine" in query.as_string():
            connection.close()
        return execute(connection, query, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", cut_off)
        with pytest.raises(UserError):
            await world.target.import_file(file)
    assert await world.read() == []
    assert await world.target.import_file(file) == 1
    assert sorted(await world.read()) == ["a", "b", "c"]


def test_reserved_names_are_refused() -> None:
    """Names of Stream's own tables and of its internal columns are refused."""
    from stream.target.postgres.records import ColumnRecord
    from stream.target.postgres.tables import check_names

    for table, column in (("_stream_quarantine", "a"), ("t", "_stream_order")):
        with pytest.raises(UserError, match="is reserved for Stream itself"):
            check_names("s", table, [ColumnRecord(column)])
