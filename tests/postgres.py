"""A real PostgreSQL for tests, run as an ordinary user on a free port."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from stream.local_postgres import find_postgres
from tests.conftest import free_port

__all__ = ["Postgres", "running_postgres"]

_START_SECONDS = 60
_USER = "stream"


@attrs.define
class Postgres:
    """A running server.

    :ivar password: of the superuser ``stream``.
    :ivar binaries: the folder of its programs.
    """

    port: int
    password: str = attrs.field(repr=False)
    data: Path
    binaries: Path
    _process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "postgres") -> str:
        """Return the connection string without the password."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> object:
        """Return a connection of psycopg that commits each statement."""
        import psycopg

        return psycopg.connect(self.dsn(database), password=self.password, autocommit=True)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [
                str(self.binaries / "postgres"),
                *("-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1"),
                *(
                    "-c",
                    "unix_socket_directories=",
                    "-c",
                    "fsync=off",
                    "-c",
                    "max_connections=40",
                    "-c",
                    "timezone=UTC",
                ),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=_ordinary_user(),
        )
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {self._process.returncode}")
            time.sleep(0.05)

    def stop(self, sign: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server, by default at once as in a crash."""
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait(30)
            self._process = None


def _ordinary_user() -> str | None:
    """Return the server's user, since it can't run as root; ``None`` for the current one."""
    return "nobody" if os.geteuid() == 0 else None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Run a server with an empty cluster. The test is skipped if PostgreSQL isn't installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed, see the extra `postgres`")
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed, see Debian's package `postgresql`")
    with tempfile.TemporaryDirectory(prefix="stream-postgres-") as folder:
        data, password = Path(folder, "data"), secrets.token_hex(16)
        data.mkdir()
        secret = Path(folder, "password")
        secret.write_text(password)
        user = _ordinary_user()
        if user is not None:
            number = pwd.getpwnam(user).pw_uid
            for path in (Path(folder), data, secret):
                os.chown(path, number, -1)
        subprocess.run(
            [
                str(binaries / "initdb"),
                *("-D", str(data), "-U", _USER, "--auth=scram-sha-256", f"--pwfile={secret}"),
                *("--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            user=user,
        )
        server = Postgres(free_port(), password, data, binaries)
        server.start()
        try:
            yield server
        finally:
            server.stop()
