"""The HTTP listener of metrics, health and readiness, which every node has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.web.http import Request as HTTPRequest
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from stream.ops.metrics.health import HealthCheck, Readiness
from stream.ops.metrics.registry import Metrics
from stream.ops.metrics.shared_page import SharedPage
from stream.ops.process.thread_pool import AbandonableThreadPool
from stream.ops.quiet_site import QuietSite

__all__ = ["MetricsListener"]

_log = Logger(namespace="stream.metrics")  # a class attribute would get another name

_IDLE_TIMEOUT_SECONDS = 60
_MAX_WAITING = 100
"""Maximum number of requests that wait for the next page; each is an open connection."""


class MetricsListener(Service):
    """Serves ``/metrics``, ``/health-check`` and ``/ready``.

    The Deferred returned by startService fires when the port is open, and fails if the port can't
    be opened. The Deferred returned by stopService fires when the port is closed.
    """

    name = "metrics"

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint,
        metrics: Metrics,
        address: str,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """:param endpoint: where to listen.
        :param address: the same address, for log messages.
        :param is_ready: returns whether all components of the process are ready.
        """
        self._endpoint = endpoint
        self._address = address
        # One thread, so pages are rendered one after another, and never in the reactor's thread.
        self._threads = AbandonableThreadPool(0, 1, name="metrics")
        root = _Root()
        self._page = MetricsPage(reactor, self._threads, metrics)
        root.putChild(b"metrics", self._page)
        root.putChild(b"health-check", HealthCheck(b"OK"))
        root.putChild(b"ready", Readiness(is_ready))
        self._site = QuietSite(root, reactor=reactor, timeout=_IDLE_TIMEOUT_SECONDS)
        self.port: IListeningPort | None = None

    def startService(self) -> Deferred[None]:
        super().startService()
        _log.info('starting HTTP server on "{address}"', address=self._address)
        return Deferred.fromCoroutine(self._start())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        self._threads.start()
        try:
            self.port = await self._endpoint.listen(self._site)
        except BaseException:
            self._threads.stop()
            raise
        _log.info('started HTTP server on "{address}", endpoint "metrics"', address=self._address)

    async def _stop(self) -> None:
        port, self.port = self.port, None
        if port is None:
            return
        _log.info('shutting down HTTP server at "{address}"', address=self._address)
        await maybeDeferred(port.stopListening)
        await self._page.drained()
        self._threads.stop()
        _log.info("HTTP server shutdown finished")


class _Root(Resource):
    """The root resource, which has no content of its own."""

    def getChild(self, path: bytes, request: HTTPRequest) -> IResource:
        return notFound()


class MetricsPage(Resource):
    """The metrics in text form.

    Rendering may take a while, so a thread renders one page for all waiting requests.
    """

    isLeaf = True

    def __init__(self, reactor: Any, threads: ThreadPool, metrics: Metrics) -> None:
        super().__init__()
        self._reactor = reactor
        self._threads = threads
        self._metrics = metrics
        self._page = SharedPage(reactor, self._make)

    def drained(self) -> Deferred[None]:
        """Return a Deferred that fires when no page is being rendered."""
        return self._page.drained()

    def _make(self) -> Deferred[bytes]:
        self._metrics.collect()
        making: Deferred[bytes] = deferToThreadPool(
            self._reactor, self._threads, self._metrics.page
        )
        making.addErrback(_not_made)
        return making

    def render_GET(self, request: Request) -> int | bytes:
        if self._page.waiting >= _MAX_WAITING:
            request.setResponseCode(503)
            request.setHeader(b"Retry-After", b"1")
            return b""
        page = self._page.get()
        request.notifyFinish().addErrback(lambda _: page.cancel())
        page.addCallbacks(lambda made: _send(request, made), lambda why: _fail(request, why))
        return NOT_DONE_YET


def _not_made(failure: Failure) -> Failure:
    _log.failure("cannot render the metrics page", failure)
    return failure


def _fail(request: Request, reason: Failure) -> None:
    if reason.check(CancelledError) is None:
        request.setResponseCode(500)
        request.finish()


def _send(request: Request, page: bytes) -> None:
    request.setHeader(b"Content-Type", CONTENT_TYPE_PLAIN_0_0_4.encode())
    request.setHeader(b"Content-Length", str(len(page)).encode())
    if request.method != b"HEAD":
        request.write(page)
    request.finish()
