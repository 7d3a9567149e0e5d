"""The sandbox as a service, a local emulation of the Storage API on its own port."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, ensureDeferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.errors import UserError
from stream.sandbox.app import SandboxSite, build_app, health_route
from stream.sandbox.auth import FixedToken, FixedTokens
from stream.sandbox.buckets import Buckets
from stream.sandbox.events import Events
from stream.sandbox.faults import Faults
from stream.sandbox.files import Files
from stream.sandbox.http import Gate, Route
from stream.sandbox.jobs import Jobs
from stream.sandbox.local import LocalControl
from stream.sandbox.objects import ObjectStaging
from stream.sandbox.page import Pages
from stream.sandbox.programs import DEFAULT_PROGRAM_LIFE, Program, Programs
from stream.sandbox.project import DEFAULT_CREDENTIALS_LIFE, Project
from stream.sandbox.runner import JobRunner, recover
from stream.sandbox.store import Store, iso_time
from stream.sandbox.tables import Tables
from stream.sandbox.tokens import Tokens
from stream.values.number import whole_number

__all__ = ["SandboxService"]

TIDY_INTERVAL_SECONDS = 600.0


class SandboxService(Service):
    """One project with one branch and its tables in SQLite.

    The Deferred returned by startService fires when the files are open, interrupted jobs are
    repaired, and the port is open. The Deferred returned by stopService fires when every call is
    answered, running imports have ended or were rolled back, and the files are closed. The service
    can be started again.

    :param reactor: the reactor.
    :param listen: ``host:port``; port 0 means any free port. Without a host, the sandbox listens on
        every address.
    :param path: directory of the databases and staged files; created if it is missing.
    :param token: master token of the project's administrator.
    :param public_url: prefix of the URLs in answers; by default the listening address.
    :param extra_tokens: additional configured tokens.
    :param programs: programs whose tokens may be exchanged.
    :param service_account: token of the service that may exchange them.
    :param program_life: lifetime of the tokens that programs get.
    :param credentials_life: how long upload credentials are valid.
    :param objects: object store for staged files; by default a folder in *path*.
    :ivar url: URL of the running sandbox, such as ``http://127.0.0.1:8001``.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        listen: str,
        path: str,
        token: str,
        project_id: int,
        branch_id: int,
        public_url: str | None = None,
        extra_tokens: Iterable[FixedToken] = (),
        programs: Iterable[Program] = (),
        service_account: str = "",
        program_life: timedelta = DEFAULT_PROGRAM_LIFE,
        credentials_life: timedelta = DEFAULT_CREDENTIALS_LIFE,
        objects: ObjectStaging | None = None,
    ) -> None:
        self.url = ""
        self._reactor = reactor
        self._host, self._port_number = _parse_listen(listen)
        self._public_url = public_url.rstrip("/") if public_url else None
        store = Store(reactor, Path(path), project_id)
        started = iso_time(store.now())
        tokens = FixedTokens([FixedToken(token), *extra_tokens], started)
        self._project = Project(store, project_id, branch_id, tokens, started)
        self._project.credentials_life = credentials_life
        self._project.objects = objects
        self._tokens = Tokens(self._project)
        self._programs = Programs(
            self._project, self._tokens, programs, service_account, program_life
        )
        self._listening: IListeningPort | None = None

    @property
    def data_path(self) -> Path:
        """The SQLite file with the tables."""
        return self._project.store.data.path

    def startService(self) -> Deferred[None]:
        super().startService()
        return ensureDeferred(self._start())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return ensureDeferred(self._stop())

    async def _start(self) -> None:
        faults, catalogue_lock = Faults(), DeferredLock()
        self._runner = JobRunner(self._reactor, self._project, faults, catalogue_lock)
        self._files = Files(self._project)
        await self._project.store.open()
        try:
            recovered = await recover(self._project)
            if recovered:
                self._log.info("{jobs} jobs were applied before a crash", jobs=recovered)
            await self._listen(self._build(faults, catalogue_lock))
        except BaseException:
            await self._project.store.close()
            raise
        self._runner.start()
        self._tidying = LoopingCall(self._tidy)
        self._tidying.clock = self._reactor
        self._tidied = self._tidying.start(TIDY_INTERVAL_SECONDS)
        self._log.info(
            "sandbox of the Storage API on {url}, tables in {path}",
            url=self.url,
            path=str(self.data_path),
        )

    def _build(self, faults: Faults, catalogue_lock: DeferredLock) -> list[Route]:
        project, wake = self._project, self._runner.wake
        self._gate = Gate(self._reactor, self._tokens.authenticate, faults)
        api = [
            *self._tokens.routes(),
            *self._programs.routes(),
            *Buckets(project, wake).routes(),
            *Tables(project, catalogue_lock, wake).routes(),
            *self._files.routes(),
            *Jobs(project).routes(),
            *Events(project).routes(),
        ]
        names = frozenset(route.name for route in api)
        local = LocalControl(project, self._runner, faults, catalogue_lock, names)
        return [*api, *local.routes(), *Pages(project).routes(), health_route()]

    async def _listen(self, routes: list[Route]) -> None:
        self._site = SandboxSite(build_app(self._gate, routes))
        endpoint = _endpoint(self._reactor, self._host, self._port_number)
        self._listening = await endpoint.listen(self._site)
        address: Any = self._listening.getHost()
        loopback = ip_address(address.host).is_loopback
        self.url = _url(address.host, address.port)
        self._project.base_url = self._public_url or self.url
        self._gate.loopback = loopback
        self._gate.hosts = [urlsplit(self._project.base_url).hostname or ""]
        if not loopback:
            self._log.warn(
                "the sandbox listens on {host}, which other machines may reach: its token must be "
                "a secret one",
                host=address.host,
            )

    async def _stop(self) -> None:
        if self._listening is None:
            return
        listening, self._listening = self._listening, None
        try:
            await maybeDeferred(listening.stopListening)
            await self._gate.drain()
            await self._runner.stop()
            self._tidying.stop()
            await self._tidied  # fires when the current run has ended
            self._site.hang_up()
        finally:
            await self._project.store.close()

    async def _tidy(self) -> None:
        try:
            removed = await self._files.remove_old()
        except Exception:
            self._log.failure("cannot remove old files, retrying later")
        else:
            if removed:
                self._log.info("removed {files} old files", files=removed)


def _parse_listen(listen: str) -> tuple[str, int]:
    host, separator, port = listen.rpartition(":")
    number = whole_number(port, most=65535, may_have_sign=False)
    if not separator or number is None:
        raise UserError(f'invalid address "{listen}": expected "host:port"')
    host = host.removeprefix("[").removesuffix("]")
    return ("127.0.0.1" if host == "localhost" else host), number


def _endpoint(reactor: Any, host: str, port: int) -> TCP4ServerEndpoint | TCP6ServerEndpoint:
    if ":" in host:
        return TCP6ServerEndpoint(reactor, port, interface=host)
    return TCP4ServerEndpoint(reactor, port, interface=host)


def _url(host: str, port: int) -> str:
    address = ip_address(host)
    if address.is_unspecified:
        return f"http://127.0.0.1:{port}" if address.version == 4 else f"http://[::1]:{port}"
    return f"http://{host}:{port}" if address.version == 4 else f"http://[{host}]:{port}"
