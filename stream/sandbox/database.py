"""A SQLite file with one writing connection in its own thread, and several readers.

In WAL mode, readers in this process or another one neither wait for the writer nor block it. All
writes to a file are queued for its single thread, so a transaction never meets a lock of this
process.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool

from stream.ops.process.thread_pool import AbandonableThreadPool

__all__ = ["Database", "SchemaError"]

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_TIMEOUT_SECONDS = 30.0  # for writers, or blocked checkpoints, of other processes
_WAL_KEPT_BYTES = 64 * 1024 * 1024


class SchemaError(Exception):
    """The file was written by a newer version of the product."""


class Database:
    """A SQLite file whose schema is ``sql/<family>-<version>.sql``, applied in order by `open`.

    Work is a plain function that takes a connection as its first argument and runs in a thread.
    """

    def __init__(
        self, reactor: IReactorFromThreads, path: Path, family: str, *, readers: int = 2
    ) -> None:
        self.path = path
        self._reactor = reactor
        self._family = family
        self._readers = readers
        self._make_pools()
        self._writer: sqlite3.Connection | None = None
        self._local = threading.local()
        self._read_connections: list[sqlite3.Connection] = []

    def _make_pools(self) -> None:
        """Create the thread pools, because a stopped pool can't be started again."""
        self._writer_pool = AbandonableThreadPool(0, 1, name=f"sandbox-{self._family}-writer")
        self._reader_pool = AbandonableThreadPool(
            0, self._readers, name=f"sandbox-{self._family}-reader"
        )
        self._is_open = False

    async def open(self) -> None:
        """Create or upgrade the file and start the threads."""
        self._is_open = True
        self._writer_pool.start()
        self._reader_pool.start()
        try:
            await deferToThreadPool(self._reactor, self._writer_pool, self._connect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the database after the queued work, and wait until it is closed."""
        if not self._is_open:
            return
        # Readers first, because the last connection to close removes the WAL.
        self._stop_readers()
        if self._writer is not None:
            await deferToThreadPool(self._reactor, self._writer_pool, self._writer.close)
            self._writer = None
        self._writer_pool.stop()
        self._make_pools()

    async def write(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run *work* in a transaction; an exception rolls it back."""

        def transaction() -> T:
            connection = self._writer
            assert connection is not None, "the database is open"
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection, *args, **kwargs)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return await deferToThreadPool(self._reactor, self._writer_pool, transaction)

    async def read(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run *work* on a read-only connection, in one snapshot."""

        def snapshot() -> T:
            connection = self._read_connection()
            connection.execute("BEGIN")
            try:
                return work(connection, *args, **kwargs)
            finally:
                connection.execute("ROLLBACK")

        return await deferToThreadPool(self._reactor, self._reader_pool, snapshot)

    def _connect(self) -> None:
        connection = sqlite3.connect(
            self.path,
            timeout=_BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a reported success survives a power failure, not only the end of the process.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
            connection.execute("PRAGMA foreign_keys = ON")
            self._upgrade(connection)
        except BaseException:
            connection.close()
            raise
        self._writer = connection

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        scripts = _scripts(self._family)
        if found > len(scripts):
            raise SchemaError(
                f"{self.path} has schema version {found}, but this version supports only "
                f"{len(scripts)}"
            )
        for version, script in enumerate(scripts[found:], start=found + 1):
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;"
            )

    def _read_connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                f"file:{quote(str(self.path.absolute()))}?mode=ro",
                uri=True,
                timeout=_BUSY_TIMEOUT_SECONDS,
                isolation_level=None,
                check_same_thread=False,  # the thread that stops the pool closes it
            )
            self._local.connection = connection
            self._read_connections.append(connection)
        return connection

    def _stop_readers(self) -> None:
        self._reader_pool.stop()
        for connection in self._read_connections:
            connection.close()
        self._read_connections.clear()


def _scripts(family: str) -> list[str]:
    folder = resources.files("stream.sandbox") / "sql"
    scripts: list[str] = []
    while (script := folder / f"{family}-{len(scripts) + 1}.sql").is_file():
        scripts.append(script.read_text(encoding="utf-8"))
    return scripts
