"""A look inside of the running process over HTTP, for this machine alone.

======================================  =========================================================
``GET /debug/pprof/``                   what there is
``GET /debug/pprof/cmdline``            the command line
``GET /debug/pprof/profile?seconds=10`` stacks and how often they were seen, for flame graphs
``GET /debug/pprof/goroutine``          what each thread is doing now
``GET /debug/log-level``                levels of the log by namespace
``PUT /debug/log-level?namespace=etcd&level=debug``  change one of them
======================================  =========================================================
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
from twisted.application.service import Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from stream.errors import UserError
from stream.ops.log_control import LogControl
from stream.ops.sampler import MAX_SECONDS, Profile, sample, thread_stacks
from stream.settings.address import is_loopback

__all__ = ["DebugListener"]

_log = Logger(namespace="stream.debug")
_DEFAULT_SECONDS = 10.0
_INDEX = b"cmdline\ngoroutine\nprofile?seconds=10\n"


class DebugListener(Service):
    """:param endpoint: where to listen.
    :param address: the same for people.
    """

    name = "debug"

    def __init__(
        self, reactor: Any, endpoint: IStreamServerEndpoint, address: str, log: LogControl
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        root = Resource()
        debug, pprof = Resource(), _Pprof()
        root.putChild(b"debug", debug)
        debug.putChild(b"pprof", pprof)
        debug.putChild(b"log-level", _LogLevel(log))
        self._site = Site(root, reactor=reactor, timeout=2 * MAX_SECONDS)
        self._site.displayTracebacks = False
        self._site.noisy = False
        self._site.log = _no_access_log  # type: ignore[method-assign]
        self.port: IListeningPort | None = None

    async def startService(self) -> None:
        """Fires when the port is open."""
        super().startService()
        self.port = await self._endpoint.listen(self._site)
        _log.info('PProf profiler enabled, listening on "{address}"', address=self._address)

    async def stopService(self) -> None:
        """Fires when the port is closed."""
        super().stopService()
        port, self.port = self.port, None
        if port is not None:
            await maybeDeferred(port.stopListening)


def _no_access_log(request: Any) -> None:
    """Log nothing: whoever looks often would fill the log."""


def _text(request: Request, text: str | bytes, status: int = 200) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    return text if isinstance(text, bytes) else text.encode()


def _argument(request: Request, name: bytes) -> str:
    arguments: Any = request.args or {}
    return str(arguments.get(name, [b""])[0].decode("utf-8", "replace"))


def _from_here(request: Request) -> bool:
    """Whether the request names this machine: a page in a browser that was led here names another.

    Whoever lets other machines in by ``pprof.listen`` has decided so.
    """
    host = request.getRequestHostname().decode("latin-1").strip("[]")
    own = getattr(request.getHost(), "host", "")
    return is_loopback(host) or not is_loopback(own)


class _Local(Resource):
    """Answers those who name this machine."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        if not _from_here(request):
            return _text(request, "unknown host\n", 403)
        return super().render(request)


class _Pprof(_Local):
    def render_GET(self, request: Request) -> bytes | int:
        match b"/".join(request.postpath or []):
            case b"":
                return _text(request, _INDEX)
            case b"cmdline":
                return _text(request, "\0".join(sys.orig_argv))
            case b"goroutine":
                return _text(request, thread_stacks())
            case b"profile":
                return self._profile(request)
        return _text(request, "not found\n", 404)

    def _profile(self, request: Request) -> bytes | int:
        try:
            seconds = float(_argument(request, b"seconds") or _DEFAULT_SECONDS)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= MAX_SECONDS:
            return _text(request, f"seconds must be over 0, and at most {MAX_SECONDS:g}\n", 400)
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def answer(profile: Profile) -> None:
            if not gone:
                request.write(_text(request, profile.folded()))
                request.finish()

        sampling = deferToThread(sample, seconds)
        sampling.addCallback(answer)
        sampling.addErrback(lambda failure: _log.failure("cannot profile", failure))
        return NOT_DONE_YET


class _LogLevel(_Local):
    def __init__(self, log: LogControl) -> None:
        super().__init__()
        self._log = log

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"application/json")
        return orjson.dumps(dict(self._log.levels())) + b"\n"

    def render_PUT(self, request: Request) -> bytes:
        try:
            self._log.set_level(_argument(request, b"namespace"), _argument(request, b"level"))
        except UserError as error:
            return _text(request, f"{error}\n", 400)
        return self.render_GET(request)
