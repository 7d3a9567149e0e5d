"""A sink with a table of a real PostgreSQL, which all tests of a run share."""

from __future__ import annotations

import atexit
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.threads import deferToThread

from stream.definition.entity import TableSink
from stream.etcd import EtcdClient
from stream.mapping.columns import Mapping
from stream.settings import Settings, TargetStagingSettings
from stream.settings.connections import Connections
from tests.postgres import Postgres, running_postgres
from tests.storage.samples import MAPPING
from tests.target.world import Fault, World, changes_with, context_of, started

__all__ = ["PostgresWorld", "connected", "postgres_world", "shared_postgres", "with_type"]


@cache
def shared_postgres() -> Postgres:
    """Return a server that runs until the end of the tests."""
    running = ExitStack()
    server = running.enter_context(running_postgres())
    atexit.register(running.close)
    return server


def with_type(mapping: Mapping) -> Mapping:
    """Return *mapping* with types, for a table with types."""
    columns = tuple(
        attrs.evolve(column, data_type=column.data_type or "string") for column in mapping.columns
    )
    return Mapping(columns)


@attrs.define(kw_only=True)
class PostgresWorld(World):
    """:ivar schema: schema of the table, new for each test.
    :ivar server: PostgreSQL server shared by all tests.
    """

    schema: str
    server: Postgres

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Return the rows of the query *text*, with ``{}`` as the quoted name of the schema."""
        connection: Any = self.server.connect()
        with connection:
            cursor = connection.execute(text.replace("{}", f'"{self.schema}"'))
            rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
            return rows


def connected(
    server: Postgres, path: Path, staging: TargetStagingSettings | None = None, **options: Any
) -> Settings:
    """Return settings with the connection ``warehouse`` to *server*."""
    password = path / "password"
    password.write_text(f"{server.password}\n")
    declared = {
        "warehouse": {
            "type": "postgres",
            "dsn": server.dsn(),
            "passwordFile": str(password),
            **options,
        }
    }
    settings = Settings()
    target = attrs.evolve(
        settings.target,
        connections=Connections.parse(declared),
        staging=staging or TargetStagingSettings(url=(path / "staging").as_uri()),
    )
    return attrs.evolve(settings, target=target)


def _faults(world: PostgresWorld) -> dict[str, Fault]:
    """See `tests.target.test_contract.FAULTS`."""

    def statements(broken: tuple[str, ...], repaired: tuple[str, ...]) -> Fault:
        @asynccontextmanager
        async def fault() -> AsyncIterator[None]:
            for statement in broken:
                world.query(statement)
            yield
            for statement in repaired:
                world.query(statement)

        return fault

    def connected_as(conninfo: str, *before: str) -> Fault:
        @asynccontextmanager
        async def fault() -> AsyncIterator[None]:
            target: Any = world.target
            databases = target._connections
            for statement in before:
                world.query(statement)
            target._connections = {
                name: attrs.evolve(database, conninfo=conninfo, password_file="")
                for name, database in databases.items()
            }
            yield
            target._connections = databases

        return fault

    @asynccontextmanager
    async def stopped() -> AsyncIterator[None]:
        await deferToThread(server.stop)
        yield
        await deferToThread(server.start)

    server = world.server
    at = f"host=127.0.0.1 dbname=postgres port={server.port}"
    full = (
        "CREATE FUNCTION {}.full() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER is_full BEFORE INSERT ON {}.events EXECUTE FUNCTION {}.full()",
    )
    return {
        "table dropped": statements(("DROP TABLE {}.events",), ()),
        "column missing": statements(
            ("ALTER TABLE {}.events RENAME body TO old",),
            ("ALTER TABLE {}.events RENAME old TO body",),
        ),
        "rights revoked": connected_as(
            f"{at} user=nobody_at_all password=none",
            "DROP ROLE IF EXISTS nobody_at_all",
            "CREATE ROLE nobody_at_all LOGIN PASSWORD 'none'",
        ),
        "server stopped": stopped,
        "server unavailable": connected_as("host=127.0.0.1 port=1 connect_timeout=2"),
        "disk full": statements(full, ("DROP TRIGGER is_full ON {}.events",)),
    }


@asynccontextmanager
async def postgres_world(
    etcd: EtcdClient,
    path: Path,
    mapping: Mapping = MAPPING,
    staging: TargetStagingSettings | None = None,
) -> AsyncIterator[PostgresWorld]:
    """A source without a sink; the table of a new sink is in a separate schema.

    :param staging: the staging folder, below *path* by default.
    """
    server = shared_postgres()
    from stream.target.postgres.target import PostgresTarget

    async with context_of(etcd, connected(server, path, staging)) as (storage, context):
        target = PostgresTarget(context)
        schema = f"test_{secrets.token_hex(6)}"

        async def read() -> list[str]:
            if not world.query("SELECT to_regclass('{}.events')")[0][0]:
                raise LookupError("there is no table")
            return [row[0] for row in world.query("SELECT body FROM {}.events")]

        world = PostgresWorld(
            storage=storage,
            target=target,
            changes=changes_with(storage, target),
            table=TableSink(
                type="postgres",
                options={"connection": "warehouse", "schema": schema, "table": "events"},
                mapping=with_type(mapping),
            ),
            read=read,
            schema=schema,
            server=server,
        )
        world.faults = _faults(world)
        try:
            async with started(target):
                await world.create_source()
                yield world
        finally:
            world.query("DROP SCHEMA IF EXISTS {} CASCADE")
