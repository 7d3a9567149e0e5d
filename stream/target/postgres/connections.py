"""Connections to databases, as declared in the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import ProgrammingError

from stream.errors import UserError
from stream.settings.connections import Connection
from stream.values.number import whole_number

__all__ = ["FOR_IMPORTS", "FOR_USERS", "Database", "Limits", "declared_databases"]

_SESSION = """
SELECT set_config('tcp_keepalives_idle', '30', false),
    set_config('tcp_keepalives_interval', '10', false),
    set_config('tcp_keepalives_count', '3', false),
    set_config('lock_timeout', %s, false),
    set_config('statement_timeout', coalesce(%s, current_setting('statement_timeout')), false)
"""


@attrs.frozen
class Limits:
    """How long the statements of a connection may take, so that they don't hold a thread forever.

    :ivar lock_seconds: maximum time in seconds that a statement waits for each lock.
    :ivar statement_seconds: maximum time in seconds of a statement; ``None`` keeps the limit of the
        server, the user or the connection string.
    """

    lock_seconds: float
    statement_seconds: float | None = None

    def begin(self, connection: psycopg.Connection) -> None:
        """Execute the first statement of a connection. Raises `psycopg.Error`.

        It also sets TCP keep-alive within a minute. A node may disappear silently during an import,
        and the next import of the file then waits until the node's transaction has ended. By
        default the server would end it after two hours.
        """
        longest = self.statement_seconds
        connection.execute(
            _SESSION,
            [_milliseconds(self.lock_seconds), None if longest is None else _milliseconds(longest)],
        )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


FOR_USERS = Limits(lock_seconds=10, statement_seconds=30)
"""Limits of work that a user waits for: previews, and the creation and deletion of tables."""

FOR_IMPORTS = Limits(lock_seconds=60)
"""Limits of imports, which may take any time, but are repeated later if a table is locked."""

_OPTIONS = ("dsn", "passwordFile", "poolSize", "schema")
_MAX_POOL = 64


@attrs.frozen(kw_only=True)
class Database:
    """A database that sinks may write to.

    :ivar declared: the connection in the settings.
    :ivar conninfo: connection string for libpq, without the password in `password_file`; may
        contain secrets.
    :ivar password_file: path of a file with the password, read at each connect, so that the
        password can be replaced.
    :ivar pool_size: maximum number of open connections of this process.
    :ivar schema: default schema of tables.
    """

    declared: Connection
    conninfo: str = attrs.field(repr=False)
    password_file: str = ""
    pool_size: int = 4
    schema: str = "public"

    @property
    def name(self) -> str:
        """The name of the connection."""
        return self.declared.name

    def parameters(self) -> dict[str, Any]:
        """Return the connection parameters. Raises UserError if the password can't be read."""
        if not self.password_file:
            return {}
        try:
            password = Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise UserError(
                # Users see this message, but the file's path is only for operators.
                f'cannot read "passwordFile" of the connection "{self.name}" on this node: make '
                "it readable by the service",
                status=503,
                name="connectionFailed",
            ) from None
        return {"password": password}


def declared_databases(connections: list[Connection]) -> Mapping[str, Database]:
    """Return the databases in *connections*, by name. Raises UserError with the reason."""
    return {connection.name: _database(connection) for connection in connections}


def _database(connection: Connection) -> Database:
    options = connection.options
    where = f'the connection "{connection.name}" in "target.connections"'
    for option in options:
        if option not in _OPTIONS:
            raise UserError(f'{where} has an unknown option "{option}", known: {_listed()}')
    dsn = options.get("dsn")
    if not isinstance(dsn, str) or not dsn:
        raise UserError(f'{where} needs "dsn", such as "postgresql://stream@db:5432/events"')
    try:
        given = conninfo_to_dict(dsn)
    except ProgrammingError:
        raise UserError(f'"dsn" of {where} can\'t be read') from None
    size = whole_number(str(options.get("poolSize", 4)), least=1, most=_MAX_POOL)
    if size is None:
        raise UserError(f'"poolSize" of {where} must be from 1 to {_MAX_POOL}')
    defaults: dict[str, Any] = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
        "application_name": "stream",
    }
    return Database(
        declared=connection,
        conninfo=make_conninfo(dsn, **{k: v for k, v in defaults.items() if k not in given}),
        password_file=str(options.get("passwordFile") or ""),
        pool_size=size,
        schema=str(options.get("schema") or "public"),
    )


def _listed() -> str:
    return ", ".join(("type", "projects", *_OPTIONS))
