"""A PostgreSQL server as a child process, for one machine.

The service starts it, restarts it when it exits, and stops it. The server is meant for trying
Stream, not for valuable data: it has one user, and listens only on loopback.

Note [Ordinary user]: PostgreSQL refuses to run as root. If this process runs as root, the server
runs as ``postgres`` or ``nobody``, which owns the data and gets permission to traverse the parent
directories.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import TimeoutError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.child import ServerChild, tied_command
from stream.concurrency.deadline import within
from stream.concurrency.waiters import Waiters
from stream.errors import UserError
from stream.settings.address import split_address
from stream.values.backoff import Backoff

__all__ = ["DATABASE", "USER", "LocalPostgres", "find_postgres", "password_file"]

_log = Logger()

USER = "stream"
"""Name of the server's superuser."""
DATABASE = "postgres"

_DEBIAN = Path("/usr/lib/postgresql")
_READY = "database system is ready to accept connections"
_READY_SECONDS = 60.0
_INIT_SECONDS = 120.0
_KILL_AFTER_SECONDS = 20.0
_RESTART_FIRST_SECONDS = 0.5
_RESTART_MAX_SECONDS = 30.0
_LOCKED_ATTEMPTS = 20


def find_postgres() -> Path | None:
    """Return the directory of a server's programs, from the PATH or Debian's newest version."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).resolve().parent
    versions = [each for each in _DEBIAN.glob("*") if each.name.isdecimal()]
    for version in sorted(versions, key=lambda each: int(each.name), reverse=True):
        if (version / "bin" / "initdb").exists():
            return version / "bin"
    return None


def password_file(path: Path) -> Path:
    """Return the path of the file below *path* that contains the server's password."""
    return path / "password"


@attrs.frozen
class _Owner:
    """The user that runs the server; see Note [Ordinary user]."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> _Owner:
        """Return the current user; another user if the current one is root."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise UserError("PostgreSQL can't run as root: run this command as another user")

    @property
    def is_other(self) -> bool:
        return self.uid != os.geteuid()


class LocalPostgres(Service):
    """A PostgreSQL server as a child process, for development.

    :param listen: loopback address to listen on.
    :param path: directory of the data and the password, which is kept between runs.
    """

    def __init__(self, reactor: Any, listen: str, path: str) -> None:
        self._reactor = reactor
        self._host, self._port = split_address(listen)
        self._path = Path(path).absolute()
        self._child: ServerChild | None = None
        self._restart: Any = None
        self._backoff = Backoff(_RESTART_FIRST_SECONDS, _RESTART_MAX_SECONDS)
        self._is_starting = False
        self._changed = Waiters[bool]()
        self._last_lines: list[str] = []
        self._programs = Path()
        self._owner = _Owner(0, 0)

    async def startService(self) -> None:
        """Start the server, and wait until it accepts connections. Raises UserError if it can't."""
        super().startService()
        threads = self._reactor.getThreadPool()
        self._programs, self._owner = await deferToThreadPool(self._reactor, threads, self._prepare)
        if not self.running:
            return
        self._is_starting = True
        try:
            await self._start()
        finally:
            self._is_starting = False
        _log.info(
            "PostgreSQL listens on {address}",
            address=f"{self._host}:{self._port}",
            log_terminal="PostgreSQL listens on {address}",
        )

    async def _start(self) -> None:
        # A server whose parent was killed takes a moment to end. Until then it locks its data.
        for _ in range(_LOCKED_ATTEMPTS):
            self._spawn()
            try:
                is_ready = await within(
                    self._changed.wait(), _READY_SECONDS, self._reactor, "the start of PostgreSQL"
                )
            except TimeoutError:
                await self.stopService()
                raise UserError(f"PostgreSQL did not start: {self._said_last}") from None
            if is_ready or not self.running:
                return
            if not any("postmaster.pid" in line for line in self._last_lines):
                break
            await deferLater(self._reactor, _RESTART_FIRST_SECONDS)
        raise UserError(f"PostgreSQL did not start: {self._said_last}")

    @property
    def _said_last(self) -> str:
        fatal = [line for line in self._last_lines if "FATAL" in line or "could not" in line]
        return (fatal or self._last_lines or ["it said nothing"])[-1]

    def _prepare(self) -> tuple[Path, _Owner]:
        """Create the data directory unless it exists; this blocks. Raises UserError."""
        programs = find_postgres()
        if programs is None:
            raise UserError(
                "PostgreSQL is not installed: install it, for example with `apt install "
                "postgresql` "
                "or `brew install postgresql`"
            )
        owner = _Owner.choose()
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if owner.is_other:
            here = Path.cwd()
            for directory in (self._path, *self._path.parents):
                if directory == self._path or here in directory.parents:
                    # Permission to traverse the directories, not to list them.
                    directory.chmod(directory.stat().st_mode | 0o011)
        if not self._data.exists():
            self._make(programs, owner)
        return programs, owner

    @property
    def _data(self) -> Path:
        return self._path / "data"

    def _make(self, programs: Path, owner: _Owner) -> None:
        password = password_file(self._path)
        if not password.exists():
            password.write_text(f"{secrets.token_urlsafe(24)}\n", encoding="utf-8")
            password.chmod(0o600)
        # The directory first has a temporary name, so that an incomplete one is never used.
        made = self._path / "data.new"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        given = self._path / "password.new"
        shutil.copyfile(password, given)
        given.chmod(0o600)
        if owner.is_other:
            os.chown(made, owner.uid, owner.gid)
            os.chown(given, owner.uid, owner.gid)
        try:
            ended = subprocess.run(
                [
                    *(str(programs / "initdb"), "-D", str(made), "-U", USER),
                    *("--auth=scram-sha-256", f"--pwfile={given}"),
                    *("--encoding=UTF8", "--locale=C"),
                ],
                capture_output=True,
                text=True,
                timeout=_INIT_SECONDS,
                check=False,
                cwd="/",
                user=owner.uid if owner.is_other else None,
                group=owner.gid if owner.is_other else None,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(
                f"cannot create the PostgreSQL data directory {self._path}: {error}"
            ) from None
        finally:
            given.unlink()
        if ended.returncode != 0:
            said = " ".join((ended.stderr or ended.stdout).split())
            raise UserError(f"cannot create the PostgreSQL data directory {self._path}: {said}")
        made.rename(self._data)

    def _spawn(self) -> None:
        self._restart = None
        self._last_lines = []
        self._child = ServerChild(self.said, self.ended)
        owner = self._owner
        settings = {
            "listen_addresses": self._host,
            "unix_socket_directories": "",
            "log_destination": "stderr",
            "logging_collector": "off",
            "timezone": "UTC",
        }
        command = tied_command(
            [
                *(str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self._port)),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            sign="INT",
            owner=(owner.uid, owner.gid) if owner.is_other else None,
        )
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
        self._reactor.spawnProcess(self._child, command[0], command, env=environment, path="/")

    def said(self, line: str) -> None:
        """Handle a line of the server's log."""
        self._last_lines = [*self._last_lines[-9:], line]
        _log.debug("PostgreSQL: {line}", line=line)
        if _READY in line:
            self._backoff.reset()
            self._changed.fire(True)

    def ended(self, reason: Failure) -> None:
        """Handle the end of the server; if the service is running, start the server again."""
        self._child = None
        self._changed.fire(False)
        if not self.running or self._is_starting:
            return
        delay = self._backoff.next()
        _log.error(
            "PostgreSQL exited ({reason}), restarting it in {delay} s",
            reason=reason.getErrorMessage(),
            delay=delay,
        )
        self._restart = self._reactor.callLater(delay, self._spawn)

    async def stopService(self) -> None:
        """Stop the server without waiting for its clients, and wait until it has ended."""
        super().stopService()
        if self._restart is not None and self._restart.active():
            self._restart.cancel()
        if self._child is not None:
            await self._child.stop(self._reactor, _KILL_AFTER_SECONDS, sign="INT")
            _log.info("PostgreSQL stopped")
