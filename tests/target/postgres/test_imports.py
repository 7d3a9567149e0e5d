"""Imports into a real PostgreSQL: types, keys, tables that differ, servers that crash."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.threads import deferToThread

from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.mapping.columns import Mapping, column_from_plain
from stream.settings import TargetStagingSettings
from stream.staging.bucket import open_bucket, read_address
from stream.storage.model.entity import File, Slice
from stream.storage.reconcile.operator import Requeue
from stream.target.postgres import target as target_module
from stream.target.postgres.connections import FOR_IMPORTS, FOR_USERS, Limits
from stream.target.postgres.target import ORDER_SECONDS
from stream.target.registry import Targets
from tests.postgres import Postgres, running_postgres
from tests.staging.servers import (
    SERVERS,
    ObjectServer,
    bucket_options,
    credentials_of,
    running_server,
)
from tests.storage.histories.world import SINK, SINK_KEY, SOURCE
from tests.target.postgres.world import PostgresWorld, postgres_world
from tests.waiting import until

TYPES = {
    "s": ("string", "text", "a\nb", "a\nb"),
    "b": ("boolean", "boolean", "true", "true"),
    "i": ("integer", "bigint", "-5", "-5"),
    "d": ("double", "double precision", "1.5e+300", "1.5e+300"),
    "n": ("decimal(18,2)", "numeric(18,2)", "12.30", "12.30"),
    "t": (
        "timestamp",
        "timestamp with time zone",
        "2026-11-28T01:02:03.000004Z",
        "2026-11-28 01:02:03.000004+00",
    ),
    "y": ("date", "date", "2026-11-28", "2026-11-28"),
    "j": ("json", "jsonb", '{""a"": [1, null]}', '{"a": [1, null]}'),
    "u": (
        "uuid",
        "uuid",
        "0190a1b2-0000-7000-8000-00000000abcd",
        "0190a1b2-0000-7000-8000-00000000abcd",
    ),
}
"""For each column: its type, PostgreSQL's type, a cell, and PostgreSQL's output of it."""


def mapping(*columns: dict[str, Any]) -> Mapping:
    plain = [{"type": "path", "path": "x", "dataType": "string", **column} for column in columns]
    return Mapping(tuple(map(column_from_plain, plain)))


def keyed() -> Mapping:
    return mapping({"name": "k", "primaryKey": True}, {"name": "body"})


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[PostgresWorld]:
    async with postgres_world(etcd, tmp_path) as running:
        yield running


def use(world: PostgresWorld, columns: Mapping) -> None:
    """Set the columns of the next sink."""
    world.table = attrs.evolve(world.table, mapping=columns)


@pytest_twisted.ensureDeferred
async def test_values_of_all_types_are_imported(world: PostgresWorld) -> None:
    """The table has PostgreSQL's own types; NULL and the empty text differ."""
    columns = [
        {"name": name, "dataType": type[0], "nullable": True} for name, type in TYPES.items()
    ]
    use(world, mapping(*columns))
    cells = ",".join(f'"{cell}"' for _, _, cell, _ in TYPES.values())
    nulls = "," * (len(TYPES) - 1)
    empty = '""' + nulls
    file = await world.importing_file(f"{cells}\n{nulls}\n{empty}\n".encode())
    await world.target.import_file(file)
    found = dict(
        world.query(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = '{}.events'::regclass AND attnum > 0"
        )
    )
    assert found == {name: type for name, (_, type, _, _) in TYPES.items()}
    texts = ", ".join(f"{name}::text" for name in TYPES)
    assert set(world.query(f"SELECT {texts} FROM {{}}.events")) == {
        tuple(shown for _, _, _, shown in TYPES.values()),
        (None,) * len(TYPES),
        ("", *(None,) * (len(TYPES) - 1)),
    }


@pytest_twisted.ensureDeferred
async def test_the_end_marker_of_copy_is_data(world: PostgresWorld) -> None:
    r"""``\.`` on a separate line of a cell is a part of the cell."""
    cell = "before\n\\.\nafter"
    await world.target.import_file(await world.importing_file(f'"{cell}"\n"b"\n'.encode()))
    assert sorted(await world.read()) == ["b", cell]


@pytest_twisted.ensureDeferred
async def test_the_last_row_with_a_key_is_kept(world: PostgresWorld) -> None:
    """This holds within a file, over its slices, and over files."""
    use(world, keyed())
    file = await world.importing_file(b'"a","1"\n"b","1"\n"a","2"\n', b'"b","2"\n"c","2"\n')
    await world.target.import_file(file)
    table = "SELECT k, body FROM {}.events ORDER BY k"
    assert world.query(table) == [("a", "2"), ("b", "2"), ("c", "2")]
    await world.storage.to_imported(file.key)
    await world.reopen()
    await world.target.import_file(await world.staged_file(b'"c","3"\n"d","3"\n'))
    assert world.query(table) == [("a", "2"), ("b", "2"), ("c", "3"), ("d", "3")]


@pytest_twisted.ensureDeferred
async def test_a_table_with_only_key_columns(world: PostgresWorld) -> None:
    """Existing rows have no columns to update."""
    use(world, mapping({"name": "k", "primaryKey": True}))
    await world.target.import_file(await world.importing_file(b'"a"\n"a"\n"b"\n'))
    assert world.query("SELECT k FROM {}.events ORDER BY k") == [("a",), ("b",)]


@pytest_twisted.ensureDeferred
async def test_two_coordinators_import_one_file(world: PostgresWorld) -> None:
    """The second one waits for the first, and finds the rows in the table."""
    file = await world.importing_file(b'"a"\n' * 20_000, b'"b"\n' * 20_000)
    imports = [ensureDeferred(world.target.import_file(file)) for _ in range(4)]
    assert [success for success, _ in await DeferredList(imports)] == [True] * 4
    assert world.query("SELECT body, count(*) FROM {}.events GROUP BY 1 ORDER BY 1") == [
        ("a", 20_000),
        ("b", 20_000),
    ]
    assert world.query("SELECT rows FROM {}._stream_imports") == [(40_000,)]


@pytest_twisted.ensureDeferred
async def test_a_new_column_of_the_mapping_is_added(world: PostgresWorld) -> None:
    """Files that were opened before are imported with their own columns."""
    file = await world.importing_file(b'"old"\n')
    wider = mapping({"name": "n", "dataType": "integer", "nullable": True}, {"name": "body"})
    await world.do(
        "update_sink",
        SINK_KEY,
        "",
        lambda sink: attrs.evolve(sink, table=attrs.evolve(sink.table, mapping=wider)),
    )
    await world.target.import_file(file)
    await world.storage.to_imported(file.key)
    await world.reopen()
    await world.target.import_file(await world.staged_file(b'"5","new"\n'))
    assert world.query("SELECT body, n FROM {}.events ORDER BY body") == [("new", 5), ("old", None)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("(body int)", 'column "body" is integer, but the mapping has text'),
        ("(body text primary key)", "the primary key is (body), not ()"),
        ("(body text, other int not null)", 'column "other" is NOT NULL without a default'),
        ("(body text GENERATED ALWAYS AS ('x') STORED)", 'column "body" is generated'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_table_with_other_columns_is_refused(
    world: PostgresWorld, table: str, message: str
) -> None:
    """All differences are in one message, and the table is unchanged."""
    world.query("CREATE SCHEMA {}")
    world.query("CREATE TABLE {}.events " + table)
    with pytest.raises(UserError) as raised:
        await world.create_sink()
    assert message in str(raised.value)
    assert raised.value.name == "tableMisfit"


@pytest.mark.parametrize("has_key", [False, True])
@pytest_twisted.ensureDeferred
async def test_an_identity_column_can_be_set(world: PostgresWorld, has_key: bool) -> None:
    """Also when rows are refused, and as the primary key."""
    world.query("CREATE SCHEMA {}")
    world.query(
        "CREATE TABLE {}.events (id bigint GENERATED ALWAYS AS IDENTITY "
        f"{'PRIMARY KEY' if has_key else ''}, body text CHECK (body <> 'bad'))"
    )
    key = {"name": "id", "dataType": "integer", "primaryKey": has_key}
    use(world, mapping(key, {"name": "body"}))
    rows = (b'"7","a"\n"8","bad"\n', b'"7","b"\n' if has_key else b'"9","b"\n')
    assert await world.target.import_file(await world.importing_file(*rows)) == 1
    found = world.query("SELECT id, body FROM {}.events ORDER BY id")
    assert found == ([(7, "b")] if has_key else [(7, "a"), (9, "b")])


@pytest_twisted.ensureDeferred
async def test_an_identity_column_can_not_be_changed(world: PostgresWorld) -> None:
    """So it can't be beside the columns of the key."""
    world.query("CREATE SCHEMA {}")
    world.query(
        "CREATE TABLE {}.events (k text PRIMARY KEY, body bigint GENERATED ALWAYS AS IDENTITY)"
    )
    use(
        world,
        mapping({"name": "k", "primaryKey": True}, {"name": "body", "dataType": "integer"}),
    )
    with pytest.raises(UserError, match='column "body" is GENERATED ALWAYS AS IDENTITY') as raised:
        await world.create_sink()
    assert raised.value.name == "tableMisfit"


@pytest.mark.parametrize("has_key", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_database_without_temporary_tables(world: PostgresWorld, has_key: bool) -> None:
    """A table with a primary key needs one for each import, others to find a refused row."""
    if has_key:
        use(world, keyed())
    name = f"lasting_{has_key}".lower()
    world.query("CREATE SCHEMA {}")
    _as_other_user(world, name)
    database = world.query("SELECT current_database()")[0][0]
    world.query(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    try:
        with pytest.raises(UserError, match="lacks TEMPORARY on the database: grant") as raised:
            await world.create_sink()
        assert raised.value.name == "connectionForbidden"
        world.query(f"GRANT TEMPORARY ON DATABASE {database} TO {name}")
        await world.create_sink()
    finally:
        world.query(f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC")


@pytest_twisted.ensureDeferred
async def test_a_table_of_the_user_is_used_and_never_dropped(world: PostgresWorld) -> None:
    world.query("CREATE SCHEMA {}")
    world.query("CREATE TABLE {}.events (id bigserial, body text, at timestamptz DEFAULT now())")
    await world.target.import_file(await world.importing_file(b'"a"\n'))
    assert world.query("SELECT id, body FROM {}.events") == [(1, "a")]
    sink = await world.do("delete_sink", SINK_KEY)
    await world.target.delete_tables([sink], token="t")
    assert await world.read() == ["a"]


@pytest.mark.parametrize(("of_database", "of_import"), [("off", "local"), ("on", "on")])
@pytest_twisted.ensureDeferred
async def test_rows_are_durable_before_their_slices_are_deleted(
    world: PostgresWorld, of_database: str, of_import: str
) -> None:
    """This holds even in a database with asynchronous commits."""
    world.query("CREATE SCHEMA {}")
    setting = "text DEFAULT current_setting('synchronous_commit')"
    world.query(f"CREATE TABLE {{}}.events (body text, waits {setting})")
    file = await world.importing_file(b'"a"\n')
    world.query(f"ALTER DATABASE postgres SET synchronous_commit = '{of_database}'")
    try:
        await world.target.import_file(file)
    finally:
        world.query("ALTER DATABASE postgres RESET synchronous_commit")
    assert world.query("SELECT body, waits FROM {}.events") == [("a", of_import)]


@pytest_twisted.ensureDeferred
async def test_a_table_of_another_project_is_neither_used_nor_shown(world: PostgresWorld) -> None:
    """Projects can share a connection, but not the rows of each other."""
    await world.create_sink()
    sink = await world.do("disable_sink", SINK_KEY)
    mark = "COMMENT ON TABLE {{}}.events IS 'made by Stream for the sink {}/1/s/k'"
    world.query(mark.format(f"{SINK_KEY.project_id}1"))
    with pytest.raises(UserError, match="was created for another project"):
        await Targets([world.target]).preview(sink, 1, token="t")
    with pytest.raises(UserError, match="was created for another project"):
        await world.do("enable_sink", SINK_KEY)
    world.query(mark.format(SINK_KEY.project_id))
    await Targets([world.target]).preview(sink, 1, token="t")
    await world.do("enable_sink", SINK_KEY)


@pytest_twisted.ensureDeferred
async def test_a_table_that_was_dropped_is_created_again(world: PostgresWorld) -> None:
    file = await world.importing_file(b'"a"\n')
    world.query("DROP TABLE {}.events")
    await world.target.import_file(file)
    assert await world.read() == ["a"]
    # It belongs to the sink again, so no other project gets it, and it is deleted with the sink.
    marked = world.query("SELECT obj_description('{}.events'::regclass, 'pg_class')")
    assert marked == [(f"made by Stream for the sink {SINK_KEY}",)]


@pytest_twisted.ensureDeferred
async def test_a_schema_that_was_dropped_is_created_again(world: PostgresWorld) -> None:
    """With the ledger, also by two imports at the same time."""
    file = await world.importing_file(b'"a"\n')
    world.query("DROP SCHEMA {} CASCADE")
    imports = [ensureDeferred(world.target.import_file(file)) for _ in range(2)]
    assert [success for success, _ in await DeferredList(imports)] == [True] * 2
    assert await world.read() == ["a"]


@pytest_twisted.ensureDeferred
async def test_a_table_created_by_another_project_meanwhile(
    world: PostgresWorld,
) -> None:
    """The table was created after the file was opened: the file is imported when the name
    is free.
    """
    file = await world.importing_file(b'"a"\n')
    world.query(
        "COMMENT ON TABLE {}.events IS "
        f"'made by Stream for the sink {SINK_KEY.project_id}1/1/s/k'"
    )
    with pytest.raises(UserError, match="was created for another project"):
        await world.target.import_file(file)
    assert await world.read() == []
    world.query("DROP TABLE {}.events")
    await world.target.import_file(file)
    assert await world.read() == ["a"]


@pytest_twisted.ensureDeferred
async def test_missing_rights_are_named(world: PostgresWorld) -> None:
    """A file waits until they are granted."""
    file = await world.importing_file(b'"a"\n')
    world.query("CREATE ROLE poor LOGIN PASSWORD 'poor'")
    world.query("GRANT USAGE ON SCHEMA {} TO poor")
    database = world.target._connections["warehouse"]  # type: ignore[attr-defined]
    poor = attrs.evolve(
        database,
        conninfo=database.conninfo.replace("user=stream", "user=poor") + " password=poor",
        password_file="",
    )
    world.target._connections = {"warehouse": poor}  # type: ignore[attr-defined]
    with pytest.raises(UserError) as raised:
        await world.target.import_file(file)
    assert raised.value.name == "connectionForbidden"
    assert "grant the user of the connection CREATE" in str(raised.value)
    assert "poor" not in str(raised.value)
    world.query("GRANT ALL ON ALL TABLES IN SCHEMA {} TO poor")
    await world.target.import_file(file)
    assert await world.read() == ["a"]


def _as_other_user(world: PostgresWorld, name: str) -> None:
    """Let the connection be that of a new user, who may use the schema."""
    world.query(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    world.query(f"GRANT USAGE, CREATE ON SCHEMA {{}} TO {name}")
    target: Any = world.target
    database = target._connections["warehouse"]
    conninfo = database.conninfo.replace("user=stream", f"user={name}") + f" password={name}"
    target._connections = {"warehouse": attrs.evolve(database, conninfo=conninfo, password_file="")}


@pytest.mark.parametrize("has_key", [False, True])
@pytest_twisted.ensureDeferred
async def test_missing_rights_are_named_at_the_definition(
    world: PostgresWorld, has_key: bool
) -> None:
    """All of a table at once; rights on the columns of the mapping are enough."""
    name = f"limited_{has_key}".lower()
    world.query("CREATE SCHEMA {}")
    world.query(f"CREATE TABLE {{}}.events (body text {'PRIMARY KEY' if has_key else ''}, x int)")
    if has_key:
        use(world, mapping({"name": "body", "primaryKey": True}))
    _as_other_user(world, name)
    wanted = "INSERT, SELECT" if has_key else "INSERT"
    with pytest.raises(UserError, match=f"lacks {wanted} on the table .*events") as raised:
        await world.create_sink()
    assert raised.value.name == "connectionForbidden"
    world.query(f"GRANT INSERT (body), SELECT (body) ON {{}}.events TO {name}")
    await world.create_sink()


@pytest_twisted.ensureDeferred
async def test_missing_rights_on_the_ledger_are_named(world: PostgresWorld) -> None:
    """Another user has created it."""
    await world.create_sink()
    sink = await world.do("disable_sink", SINK_KEY)
    _as_other_user(world, "second")
    world.query("GRANT ALL ON {}.events TO second")
    world.query("GRANT SELECT, INSERT ON {}._stream_imports TO second")
    with pytest.raises(UserError, match=r"lacks UPDATE, DELETE on the table .*_stream_imports"):
        await world.do("enable_sink", SINK_KEY)
    world.query("GRANT UPDATE, DELETE ON {}._stream_imports TO second")
    await world.do("enable_sink", SINK_KEY)
    assert sink.key == SINK_KEY


@pytest_twisted.ensureDeferred
async def test_missing_rights_for_the_quarantine_are_named(world: PostgresWorld) -> None:
    """Otherwise the first refused row would block all rows of its file."""
    await world.create_sink()
    await world.do("disable_sink", SINK_KEY)
    _as_other_user(world, "third")
    world.query("GRANT ALL ON {}.events, {}._stream_imports TO third")
    world.query("REVOKE CREATE ON SCHEMA {} FROM third")
    with pytest.raises(UserError, match=r"lacks CREATE on the schema ") as raised:
        await world.do("enable_sink", SINK_KEY)
    assert raised.value.name == "connectionForbidden"
    world.query("CREATE TABLE {}._stream_quarantine (id int)")
    with pytest.raises(UserError, match=r"lacks SELECT, INSERT on the table .*_stream_quarantine"):
        await world.do("enable_sink", SINK_KEY)
    world.query("GRANT SELECT, INSERT ON {}._stream_quarantine TO third")
    await world.do("enable_sink", SINK_KEY)


@pytest_twisted.ensureDeferred
async def test_a_table_with_row_level_security(world: PostgresWorld) -> None:
    """It doesn't allow COPY, so it is refused at the definition."""
    world.query("CREATE SCHEMA {}")
    world.query("CREATE TABLE {}.events (body text)")
    world.query("ALTER TABLE {}.events ENABLE ROW LEVEL SECURITY")
    _as_other_user(world, "filtered")
    world.query("GRANT ALL ON {}.events TO filtered")
    with pytest.raises(UserError, match="row-level security of the table"):
        await world.create_sink()


@pytest_twisted.ensureDeferred
async def test_the_error_of_a_wrong_password_names_only_the_connection(
    world: PostgresWorld, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("wr0ng-s3cret")
    with pytest.raises(UserError) as raised:
        await world.create_sink()
    assert str(raised.value) == (
        'the connection "warehouse" can\'t be used: the server rejected the user or the password'
    )
    assert "wr0ng-s3cret" not in repr(raised.value) + raised.value.detail


@pytest_twisted.ensureDeferred
async def test_an_undeclared_connection_is_named(world: PostgresWorld) -> None:
    options = {**world.table.options, "connection": "lake"}
    world.table = attrs.evolve(world.table, options=options)
    with pytest.raises(UserError) as raised:
        await world.create_sink()
    assert 'no connection "lake" of the type postgres, its connections are: warehouse' in str(
        raised.value
    )


@pytest_twisted.ensureDeferred
async def test_a_file_is_opened_while_the_database_is_unavailable(world: PostgresWorld) -> None:
    """In the background, opening a file sends no request to the database."""
    await world.create_sink()
    world.target._connections = {  # type: ignore[attr-defined]
        "warehouse": attrs.evolve(
            world.target._connections["warehouse"],  # type: ignore[attr-defined]
            conninfo="host=127.0.0.1 port=1 connect_timeout=2",
        )
    }
    sink = attrs.evolve(SINK, table=world.table)
    assert await world.target.prepare(SOURCE, sink, world.storage.tick(), token=None)
    with pytest.raises(UserError, match="can't be used"):
        await world.target.prepare(SOURCE, sink, world.storage.tick(), token="t")


class _Slow:
    """Pauses an import during a slice until it may continue."""

    def __init__(self, world: PostgresWorld) -> None:
        self.is_there, self.may_go_on = threading.Event(), threading.Event()
        target: Any = world.target
        self._area: Any = target._staging
        self._read: Callable[[Slice], Iterator[bytes]] = self._area.read

        def slow(slice_: Slice) -> Iterator[bytes]:
            yield from self._read(slice_)
            self.is_there.set()
            self.may_go_on.wait(30)

        self._area.read = slow

    def repair(self) -> None:
        """Restore the normal speed."""
        self._area.read = self._read


@pytest_twisted.ensureDeferred
async def test_a_server_that_crashes_during_an_import(
    etcd: EtcdClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its restart, the next import adds each row once."""
    with running_postgres() as server:
        monkeypatch.setattr("tests.target.postgres.world.shared_postgres", lambda: server)
        async with postgres_world(etcd, tmp_path) as world:
            file = await world.importing_file(b'"a"\n' * 1000)
            await _crash_during(server, world, file)
            for _ in range(2):
                await world.target.import_file(file)
            assert world.query("SELECT count(*) FROM {}.events") == [(1000,)]


@pytest_twisted.ensureDeferred
async def test_the_server_notices_a_dead_node(world: PostgresWorld) -> None:
    """An import by another node doesn't wait for hours for the end of its transaction."""
    target: Any = world.target
    options = "idle", "interval", "count"

    def shown(connection: Any, _: object) -> list[str]:
        return [
            connection.execute(f"SHOW tcp_keepalives_{option}").fetchone()[0] for option in options
        ]

    for limits in (FOR_IMPORTS, FOR_USERS):
        found = await target._run(SINK_KEY, target._connections["warehouse"], shown, limits)
        assert found == ["30", "10", "3"]


async def _crash_during(server: Postgres, world: PostgresWorld, file: File) -> None:
    slow = _Slow(world)
    importing = ensureDeferred(world.target.import_file(file))
    await deferToThread(slow.is_there.wait, 30)
    await deferToThread(server.stop, signal.SIGQUIT)
    slow.may_go_on.set()
    with pytest.raises(UserError):
        await importing
    slow.repair()
    await deferToThread(server.start)


@pytest.mark.parametrize("columns", [mapping({"name": "body"}), keyed()], ids=["append", "upsert"])
@pytest_twisted.ensureDeferred
async def test_an_import_disconnected_at_every_statement(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch, columns: Mapping
) -> None:
    """The connection of the import ends one statement later in each attempt; each row is added
    once.
    """
    use(world, columns)
    await world.create_sink()
    cuts = number = 0
    while True:
        row = ",".join(f'"{number}"' for _ in columns.columns)
        file = await world.staged_file(f"{row}\n".encode())
        with monkeypatch.context() as patch:
            cut = _CutOff(patch, number)
            try:
                await world.target.import_file(file)
            except UserError:
                cuts += 1
        await world.target.import_file(file)
        assert sorted(map(int, await world.read())) == list(range(number + 1))
        await world.storage.to_imported(file.key)
        if not cut.is_done:
            break
        number += 1
        await world.reopen()
    assert cuts == number >= 8


class _CutOff:
    """Ends the connection of an import before one of its statements, or before its commit.

    :ivar is_done: whether it was ended.
    """

    def __init__(self, patch: pytest.MonkeyPatch, statements: int) -> None:
        import psycopg

        self._left = statements
        self.is_done = False
        for cls, name in (
            (psycopg.Connection, "execute"),
            (psycopg.Cursor, "copy"),
            (psycopg.Copy, "write"),
            (psycopg.Transaction, "__exit__"),
        ):
            patch.setattr(cls, name, self._counted(getattr(cls, name)))

    def _counted(self, method: Any) -> Any:
        def counted(owner: Any, *arguments: Any, **options: Any) -> Any:
            connection = getattr(owner, "connection", owner)
            if not self._left and not self.is_done:
                self.is_done = True
                connection.close()
            self._left -= 1
            return method(owner, *arguments, **options)

        return counted


def _locked(world: PostgresWorld) -> Any:
    """Return a connection that locks the table until it is closed."""
    connection: Any = world.server.connect()
    connection.execute("BEGIN")
    connection.execute(f'LOCK TABLE "{world.schema}".events')
    return connection


def _waiting(world: PostgresWorld) -> bool:
    """Return whether a statement waits for a lock."""
    return bool(world.query("SELECT 1 FROM pg_locks WHERE NOT granted"))


@pytest_twisted.ensureDeferred
async def test_a_cancelled_import_is_cancelled_on_the_server(world: PostgresWorld) -> None:
    """The thread of the import is free although the table is locked, and the file is imported
    later.
    """
    file = await world.importing_file(b'"a"\n')
    target: Any = world.target
    lock = _locked(world)
    importing = ensureDeferred(world.target.import_file(file))
    await until(lambda: _waiting(world))
    importing.cancel()
    with pytest.raises(CancelledError):
        await importing
    pool = target._pools["warehouse"].pool
    await until(lambda: len(pool._idle) == len(pool.threads))
    assert not _waiting(world)
    lock.close()
    await world.target.import_file(file)
    assert await world.read() == ["a"]


@pytest_twisted.ensureDeferred
async def test_a_project_leaves_threads_for_others(world: PostgresWorld) -> None:
    """Previews of a locked table don't delay the preview of another project."""
    await world.create_sink()
    sink = await world.do("disable_sink", SINK_KEY)
    lock, targets = _locked(world), Targets([world.target])
    previews = [ensureDeferred(targets.preview(sink, 1, token="t")) for _ in range(10)]
    await until(lambda: _waiting(world))
    other = attrs.evolve(
        sink,
        key=attrs.evolve(SINK_KEY, project_id=SINK_KEY.project_id + 1),
        table=attrs.evolve(sink.table, options={**sink.table.options, "table": "others"}),
    )
    with pytest.raises(UserError, match="there is no table"):
        await targets.preview(other, 1, token="t")
    assert not any(preview.called for preview in previews)
    lock.close()
    assert all(success for success, _ in await DeferredList(previews))


@pytest_twisted.ensureDeferred
async def test_imports_of_a_project_leave_threads_for_others(
    world: PostgresWorld,
) -> None:
    """Imports that hang delay neither the import of another project nor a preview of their own.

    If only one project may use the connection, its imports may use all threads.
    """
    target: Any = world.target
    database = target._connections["warehouse"]
    other = attrs.evolve(SINK_KEY, project_id=SINK_KEY.project_id + 1)
    begun: list[SinkKey] = []
    may_end = threading.Event()

    def hang(sink: SinkKey) -> Callable[[Any, Any], None]:
        def begin(*_: object) -> None:
            begun.append(sink)
            may_end.wait(30)

        return begin

    def run(sink: SinkKey) -> Deferred[None]:
        return ensureDeferred(target._run(sink, database, hang(sink), FOR_IMPORTS))

    running = [run(SINK_KEY) for _ in range(10)]
    await target._run(other, database, lambda *_: None, FOR_IMPORTS)
    await target._run(SINK_KEY, database, lambda *_: None, FOR_USERS)
    await until(lambda: len(begun) == database.pool_size // 2)
    may_end.set()
    await DeferredList(running)

    declared = attrs.evolve(database.declared, projects=(SINK_KEY.project_id,))
    may_end.clear()
    begun.clear()
    target._slots["warehouse"] = target_module._slots_of(attrs.evolve(database, declared=declared))
    running = [run(SINK_KEY) for _ in range(10)]
    await until(lambda: len(begun) == database.pool_size)
    may_end.set()
    await DeferredList(running)


@pytest_twisted.ensureDeferred
async def test_a_locked_table_and_a_slow_view(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user gets an error after a while, and an import is repeated later."""
    brief = Limits(lock_seconds=0.2, statement_seconds=1)
    monkeypatch.setattr(target_module, "FOR_USERS", brief)
    monkeypatch.setattr(target_module, "FOR_IMPORTS", Limits(lock_seconds=0.2))
    file = await world.importing_file(b'"a"\n')
    sink = await world.do("disable_sink", SINK_KEY)
    lock, targets = _locked(world), Targets([world.target])
    for busy in (targets.preview(sink, 1, token="t"), world.target.import_file(file)):
        with pytest.raises(UserError, match="lock timeout; another session") as raised:
            await busy
        assert (raised.value.status, raised.value.name) == (503, "tableBusy")
    lock.close()
    await world.target.import_file(file)
    world.query("ALTER TABLE {}.events RENAME TO rows")
    world.query("CREATE VIEW {}.events AS SELECT body || pg_sleep(60)::text AS body FROM {}.rows")
    with pytest.raises(UserError, match="statement timeout; another session") as raised:
        await targets.preview(sink, 1, token="t")
    assert raised.value.name == "tableBusy"


@pytest.mark.parametrize("limits", [FOR_USERS, FOR_IMPORTS], ids=["users", "imports"])
@pytest_twisted.ensureDeferred
async def test_the_limits_of_statements(world: PostgresWorld, limits: Limits) -> None:
    """Only the statements of users have a limit of time; imports keep that of the server."""
    target: Any = world.target

    def shown(connection: Any, _: object) -> list[str]:
        names = "lock_timeout", "statement_timeout"
        return [connection.execute(f"SHOW {name}").fetchone()[0] for name in names]

    found = await target._run(SINK_KEY, target._connections["warehouse"], shown, limits)
    assert found == (["10s", "30s"] if limits is FOR_USERS else ["1min", "0"])


@pytest_twisted.ensureDeferred
async def test_work_cancelled_before_its_start(world: PostgresWorld) -> None:
    """Work cancelled while it waits for a thread isn't started."""
    target: Any = world.target
    begun: list[int] = []
    may_end = threading.Event()
    database = target._connections["warehouse"]

    def work(number: int) -> Callable[[Any, Any], None]:
        def begin(*_: object) -> None:
            begun.append(number)
            may_end.wait(30)

        return begin

    running = [
        ensureDeferred(target._run_now(database, work(1), FOR_IMPORTS))
        for _ in range(database.pool_size)
    ]
    late = ensureDeferred(target._run_now(database, work(2), FOR_IMPORTS))
    await until(lambda: len(begun) == database.pool_size)
    late.cancel()
    may_end.set()
    await DeferredList(running)
    with pytest.raises(CancelledError):
        await late
    await target._run_now(database, work(3), FOR_IMPORTS)
    assert begun == [1] * database.pool_size + [3]


@pytest_twisted.ensureDeferred
async def test_the_limit_of_imports_of_a_sink(world: PostgresWorld) -> None:
    """A further import waits, and the coordinator closes no further file of the sink."""
    files: list[File] = []
    for _ in range(3):
        await (world.reopen() if files else world.create_sink())
        files.append(await world.staged_file(b'"a"\n'))
    lock = _locked(world)
    importing = [ensureDeferred(world.target.import_file(file)) for file in files[:2]]
    await until(lambda: len(world.target.running_jobs()) == 2)
    assert not world.target.may_import(files[2].key)
    with pytest.raises(Requeue, match="already has 2 running imports"):
        await world.target.import_file(files[2])
    lock.close()
    assert [success for success, _ in await DeferredList(importing)] == [True, True]
    await until(lambda: world.target.may_import(files[2].key))
    assert world.target.running_jobs() == []
    await world.target.import_file(files[2])
    assert await world.read() == ["a"] * 3


@pytest_twisted.ensureDeferred
async def test_with_a_primary_key_a_file_waits_for_older_ones(world: PostgresWorld) -> None:
    """Old values don't replace new ones; a file waits for failing ones at most an hour."""
    use(world, keyed())
    await world.create_sink()
    old = await world.staged_file(b'"k","old"\n')
    await world.reopen()
    new = await world.staged_file(b'"k","new"\n')
    with pytest.raises(Requeue, match="must be imported first"):
        await world.target.import_file(new)
    await world.target.import_file(old)
    await world.storage.to_imported(old.key)
    await world.target.import_file(new)
    assert await world.read() == ["new"]
    await world.storage.to_imported(new.key)
    await world.reopen()
    stuck = await world.staged_file(b'"k","stuck"\n')
    await world.reopen()
    last = await world.staged_file(b'"k","last"\n')
    world.storage.tick(ORDER_SECONDS)
    await _fail(world, stuck)
    with pytest.raises(Requeue, match="must be imported first"):
        await world.target.import_file(last)
    world.storage.tick(ORDER_SECONDS)
    await world.target.import_file(last)
    assert await world.read() == ["last"]


async def _fail(world: PostgresWorld, file: File) -> None:
    async def failed(txn: AtomicTxn) -> None:
        await world.storage.repository.file_failed(txn, file.key, "no way", world.storage.now)

    await atomic(world.storage.client, failed)


@pytest_twisted.ensureDeferred
async def test_without_a_primary_key_no_file_waits(world: PostgresWorld) -> None:
    await world.create_sink()
    old = await world.staged_file(b'"old"\n')
    await world.reopen()
    await world.target.import_file(await world.staged_file(b'"new"\n'))
    await world.target.import_file(old)
    assert sorted(await world.read()) == ["new", "old"]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
@pytest_twisted.ensureDeferred
async def test_staging_in_a_bucket(etcd: EtcdClient, tmp_path: Path, server: ObjectServer) -> None:
    """The objects of an imported file are deleted, and those of another file with the file."""
    with running_server(server, tmp_path / "objects") as staging:
        (tmp_path / "keys").write_text(credentials_of(staging))
        options = {**bucket_options(staging, "staging"), "credentialFile": str(tmp_path / "keys")}
        bucket = open_bucket(read_address(options), credentials_of(staging))
        settings = TargetStagingSettings(
            url=options["url"],
            region=options.get("region", ""),
            endpoint=options["endpoint"],
            account=options.get("account", ""),
            credential_file=options["credentialFile"],
        )
        async with postgres_world(etcd, tmp_path, staging=settings) as world:
            large = b'"0123456789abcdef"\n' * 200_000
            file = await world.importing_file(b'"a"\n', large)
            assert len(list(bucket.names(""))) == 2
            await world.target.import_file(file)
            assert len(await world.read()) == 200_001
            assert list(bucket.names("")) == []
            await world.reopen()
            stuck = await world.staged_file(b'"b"\n')
            assert len(list(bucket.names(""))) == 1
            await world.target.delete_staged(stuck.key)
            assert list(bucket.names("")) == []
