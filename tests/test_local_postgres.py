"""The PostgreSQL of a development service, with a real server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from stream.errors import UserError
from stream.local_postgres import DATABASE, USER, LocalPostgres, find_postgres, password_file
from tests.conftest import free_port

ensure = pytest_twisted.ensureDeferred

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="PostgreSQL is not installed")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that an ordinary user can enter. The module's tests share it, since a server
    takes time.
    """
    path = Path(tempfile.mkdtemp(prefix="stream-local-postgres-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


class Server:
    """Return a server on a free port with its data in *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_port()
        self.service = LocalPostgres(reactor, f"127.0.0.1:{self.port}", str(path))

    async def query(self, text: str) -> list[tuple[Any, ...]]:
        """Return the rows of the query *text*."""

        def run() -> list[tuple[Any, ...]]:
            psycopg = pytest.importorskip("psycopg")
            password = password_file(self.path).read_text().strip()
            dsn = f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"
            with psycopg.connect(dsn, password=password) as connection:
                cursor = connection.execute(text)
                return cursor.fetchall() if cursor.description else []

        return await deferToThread(run)


@pytest_twisted.async_yield_fixture()
async def server(folder: Path) -> AsyncIterator[Server]:
    """A running PostgreSQL server."""
    server = Server(folder / "server")
    await server.service.startService()
    yield server
    await server.service.stopService()


@ensure
async def test_data_and_password_are_kept(server: Server) -> None:
    """Only the owner can read them; a stop of the server doesn't wait for its clients."""
    await server.query("CREATE TABLE kept AS SELECT 1 AS one")
    password = password_file(server.path)
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert stat.S_IMODE((server.path / "data").stat().st_mode) == 0o700
    await server.service.stopService()
    again = Server(server.path)
    await again.service.startService()
    try:
        assert await again.query("SELECT one FROM kept") == [(1,)]
        assert await again.query("SHOW timezone") == [("UTC",)]
    finally:
        await again.service.stopService()


@ensure
async def test_a_killed_server_is_restarted(server: Server) -> None:
    """The server is restarted with its data after a short delay."""
    pid = int((server.path / "data" / "postmaster.pid").read_text().split("\n")[0])
    os.kill(pid, signal.SIGKILL)
    for _ in range(200):
        try:
            await server.query("SELECT 1")
            break
        except Exception:  # the server hasn't restarted yet
            await deferLater(reactor, 0.1)
    else:
        raise AssertionError("the server did not come back")
    assert int((server.path / "data" / "postmaster.pid").read_text().split("\n")[0]) != pid


@ensure
async def test_a_port_in_use(server: Server) -> None:
    """The start fails with the message of the server."""
    await server.service.stopService()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        with pytest.raises(UserError, match=r"PostgreSQL did not start: .*could not"):
            await server.service.startService()


@ensure
async def test_a_missing_installation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install it, and nothing is created."""
    monkeypatch.setattr("stream.local_postgres.find_postgres", lambda: None)
    service = LocalPostgres(reactor, "127.0.0.1:1", str(folder / "other"))
    with pytest.raises(UserError, match="apt install postgresql"):
        await service.startService()
    assert not (folder / "other").exists()
