"""Inspection of the running process over HTTP, for clients on the same machine only.

======================================  =========================================================
``GET /debug/pprof/``                   index of this interface
``GET /debug/pprof/cmdline``            command line of the process
``GET /debug/pprof/profile?seconds=10`` stacks and their sample counts, for flame graphs
``GET /debug/pprof/goroutine``          stacks of all threads, and what the reactor waits for
``GET /debug/pprof/heap``               number of objects by type
``GET /debug/pprof/heap?seconds=10``    where memory was allocated and not freed in this period
``GET /debug/log-level``                log levels by namespace
``PUT /debug/log-level?namespace=etcd&level=debug``  change one of them
======================================  =========================================================
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from twisted.application.service import Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from stream.errors import UserError
from stream.ops.debug.heap import allocations, objects
from stream.ops.debug.sampler import MAX_SECONDS, sample, thread_stacks
from stream.ops.logging.control import LogControl
from stream.ops.process.thread_pool import in_own_thread
from stream.ops.quiet_site import QuietSite
from stream.settings.address import is_loopback

__all__ = ["DebugListener"]

_log = Logger(namespace="stream.debug")
_DEFAULT_SECONDS = 10.0
_SHOWN = 200
_INDEX = b"cmdline\ngoroutine\nheap\nheap?seconds=10\nprofile?seconds=10\n"


class DebugListener(Service):
    """The HTTP listener that answers with profiles of the process.

    :param endpoint: where to listen.
    :param address: the same address, for log messages.
    """

    name = "debug"

    def __init__(
        self, reactor: Any, endpoint: IStreamServerEndpoint, address: str, log: LogControl
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        root = Resource()
        debug, pprof = Resource(), _Pprof(reactor)
        root.putChild(b"debug", debug)
        debug.putChild(b"pprof", pprof)
        debug.putChild(b"log-level", _LogLevel(log))
        self._site = QuietSite(root, reactor=reactor, timeout=2 * MAX_SECONDS)
        self.port: IListeningPort | None = None

    async def startService(self) -> None:
        """Open the port, and wait until it is open."""
        super().startService()
        self.port = await self._endpoint.listen(self._site)
        _log.info('PProf profiler enabled, listening on "{address}"', address=self._address)

    async def stopService(self) -> None:
        """Close the port, and wait until it is closed."""
        super().stopService()
        port, self.port = self.port, None
        if port is not None:
            await maybeDeferred(port.stopListening)


def _text(request: Request, text: str | bytes, status: int = 200) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    return text if isinstance(text, bytes) else text.encode()


def _argument(request: Request, name: bytes) -> str:
    arguments: Any = request.args or {}
    return str(arguments.get(name, [b""])[0].decode("utf-8", "replace"))


def _from_here(request: Request) -> bool:
    """Return whether the ``Host`` of the request names this machine.

    A web page that reaches this port by DNS rebinding sends another ``Host``. Any ``Host`` is
    accepted if ``pprof.listen`` isn't a loopback address: the operator then allows other machines.
    """
    host = request.getRequestHostname().decode("latin-1").strip("[]")
    own = getattr(request.getHost(), "host", "")
    return is_loopback(host) or not is_loopback(own)


class _Local(Resource):
    """Answers requests whose ``Host`` names this machine."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        if not _from_here(request):
            return _text(request, "unknown host\n", 403)
        return super().render(request)


class _Pprof(_Local):
    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._is_looking = False

    def render_GET(self, request: Request) -> bytes | int:
        match b"/".join(request.postpath or []):
            case b"":
                return _text(request, _INDEX)
            case b"cmdline":
                return _text(request, "\0".join(sys.orig_argv))
            case b"goroutine":
                return _text(request, thread_stacks() + "\n" + _waiting(self._reactor))
            case b"heap" if not _argument(request, b"seconds"):
                return _text(request, objects())
            case b"heap":
                return self._look(request, allocations)
            case b"profile":
                return self._look(request, lambda seconds: sample(seconds).folded())
        return _text(request, "not found\n", 404)

    def _look(self, request: Request, look: Callable[[float], str]) -> bytes | int:
        """Answer with the result of *look*, called with the requested number of seconds."""
        try:
            seconds = float(_argument(request, b"seconds") or _DEFAULT_SECONDS)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= MAX_SECONDS:
            return _text(
                request, f"seconds must be greater than 0 and at most {MAX_SECONDS:g}\n", 400
            )
        if self._is_looking:
            return _text(request, "another profile is running, try again later\n", 503)
        self._is_looking = True
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def answer(seen: str) -> None:
            if not gone:
                request.write(_text(request, seen))
                request.finish()

        def over(result: Any) -> Any:
            self._is_looking = False
            return result

        looking = in_own_thread(self._reactor, look, seconds).addBoth(over)
        looking.addCallback(answer)
        looking.addErrback(lambda failure: _log.failure("profiling failed", failure))
        return NOT_DONE_YET


def _waiting(reactor: Any) -> str:
    """Return the reactor's pending calls, the next one first, and its open files."""
    now = reactor.seconds()
    calls = sorted(reactor.getDelayedCalls(), key=lambda call: call.getTime())
    lines = [f"{len(calls)} delayed calls:"]
    lines += [f"    in {call.getTime() - now:.1f} s: {_name(call.func)}" for call in calls[:_SHOWN]]
    readers = Counter(type(reader).__qualname__ for reader in reactor.getReaders())
    lines.append(f"{readers.total()} open descriptors:")
    lines += [f"    {count} {kind}" for kind, count in readers.most_common(_SHOWN)]
    return "\n".join(lines) + "\n"


def _name(function: Any) -> str:
    repeated = getattr(function, "f", function)  # the function of a LoopingCall
    return str(getattr(repeated, "__qualname__", type(repeated).__qualname__))


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
