"""One HTTP exchange with the Storage API: a request, and the complete answer or an error."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import attrs
import orjson
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    ContentDecoderAgent,
    FileBodyProducer,
    GzipDecoder,
    HTTPConnectionPool,
    RequestGenerationFailed,
    ResponseDone,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

# A private name: the agent raises this error, but exports no public alias.
from twisted.web._newclient import RequestNotSent  # isort: skip

from stream.target.keboola.retry import Outcome

__all__ = ["ExchangeFailed", "Reply", "Transport", "persistent_pool"]

MAX_REPLY_BYTES = 32 * 1024 * 1024
_JSON_MEDIA_TYPE = re.compile(r"application/([a-zA-Z0-9.\-]+\+)?json")
_TOLD_HEADERS = ("content-type", "date", "retry-after", "x-request-id")
_MAX_TOLD_CHARS = 200
_IDLE_CONNECTIONS_PER_HOST = 8
# Shorter than the idle timeout of common load balancers, so that this side closes first.
_IDLE_SECONDS = 30.0


@attrs.frozen
class Reply:
    """A complete answer.

    :param status: the HTTP status.
    :param phrase: the reason phrase of the status.
    :param json: the decoded body; ``None`` if there was no body or it wasn't JSON.
    :param sent: bytes of the request's body.
    :param received: bytes of the answer's body after decompression.
    :param parse_seconds: duration of parsing the JSON.
    :param headers: headers of the answer that help to diagnose problems, by lower-case name.
    """

    status: int
    phrase: str
    json: Any = attrs.field(repr=False)
    sent: int = 0
    received: int = 0
    parse_seconds: float = 0.0
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def request_id(self) -> str:
        """The ID that the server or its proxy gave to the request; ``""`` if there is none."""
        return self.headers.get("x-request-id", "")


class ExchangeFailed(Exception):
    """There was no usable answer.

    :param outcome: the outcome of the request.
    """

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


def persistent_pool(reactor: Any) -> HTTPConnectionPool:
    """Return a pool of persistent connections, with limits for one Storage API host."""
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = _IDLE_CONNECTIONS_PER_HOST
    pool.cachedConnectionTimeout = _IDLE_SECONDS  # type: ignore[assignment]
    pool.retryAutomatically = False  # the caller decides about retries and counts them
    return pool


class Transport:
    """Sends requests over persistent connections, or over a new connection for each request.

    The other side may close a persistent connection just when a request is written to it; then it
    is unknown whether the request has arrived. So calls that must not be made twice use a new
    connection.

    :param reactor: used for connections and time.
    :param pool: pool of persistent connections.
    :param connect_timeout: time limit of connecting in seconds.
    """

    def __init__(self, reactor: Any, pool: HTTPConnectionPool, connect_timeout: float) -> None:
        self._reactor = reactor
        self._pool = pool
        decoders = [(b"gzip", GzipDecoder)]
        self._kept: IAgent = ContentDecoderAgent(
            Agent(reactor, connectTimeout=connect_timeout, pool=pool), decoders
        )
        self._fresh: IAgent = ContentDecoderAgent(
            Agent(reactor, connectTimeout=connect_timeout), decoders
        )

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any,
        *,
        timeout: float,
        fresh: bool,
    ) -> Reply:
        """Send one request and read the answer.

        Raises ExchangeFailed: there was no usable answer in time.

        :param body: sent as JSON; ``None`` for no body.
        :param timeout: time limit of the whole exchange in seconds.
        :param fresh: whether to use a new connection.
        """
        producer = None if body is None else _JsonBody(body)

        def too_late(_result: object, seconds: float) -> Failure:
            unsent = producer is not None and not producer.started
            outcome = Outcome.NOT_SENT if unsent else Outcome.LOST
            return Failure(ExchangeFailed(outcome, f"no answer within {seconds:.1f} s"))

        exchange = Deferred.fromCoroutine(self._exchange(method, url, headers, producer, fresh))
        exchange.addTimeout(timeout, self._reactor, too_late)
        return await exchange

    async def close(self) -> None:
        """Close the persistent connections."""
        await self._pool.closeCachedConnections()

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        producer: _JsonBody | None,
        fresh: bool,
    ) -> Reply:
        agent = self._fresh if fresh else self._kept
        raw = Headers({name: [value] for name, value in headers.items()})
        if producer is not None:
            raw.setRawHeaders("Content-Type", ["application/json"])
        try:
            response = await agent.request(method.encode(), url.encode(), raw, producer)
            data = await _read(response)
        except ExchangeFailed:
            raise
        except Exception as problem:
            raise _explained(problem) from None
        started = time.perf_counter()
        decoded = _decoded(response, data)
        return Reply(
            status=response.code,
            phrase=response.phrase.decode("latin-1"),
            json=decoded,
            sent=0 if producer is None else producer.size,
            received=len(data),
            parse_seconds=time.perf_counter() - started,
            headers=_headers_of(response),
        )


class _JsonBody(FileBodyProducer):
    """A request body that records whether a connection has started to send it.

    :ivar started: whether at least a part of the request may have been sent.
    """

    def __init__(self, body: Any) -> None:
        data = orjson.dumps(body)
        super().__init__(BytesIO(data))
        self.size = len(data)
        self.started = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.started = True
        return super().startProducing(consumer)  # type: ignore[no-any-return]


def _headers_of(response: IResponse) -> dict[str, str]:
    found = ((name, response.headers.getRawHeaders(name)) for name in _TOLD_HEADERS)
    return {name: values[0][:_MAX_TOLD_CHARS] for name, values in found if values}


def _decoded(response: IResponse, data: bytes) -> Any:
    media_type = (response.headers.getRawHeaders("Content-Type") or [""])[0].partition(";")[0]
    if not data or _JSON_MEDIA_TYPE.fullmatch(media_type.strip()) is None:
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as problem:
        if response.code >= 400:
            return None  # the status is enough
        raise ExchangeFailed(Outcome.UNUSABLE, f"the reply is not JSON: {problem}") from None


def _explained(problem: Exception) -> Exception:
    """Return the `ExchangeFailed` for a failure of the agent; keep a cancellation unchanged."""
    causes = _causes(problem)
    for cause in causes:
        if isinstance(cause, CancelledError):
            return cause
    reason = "; ".join(f"{type(cause).__name__}: {cause}" for cause in causes)
    if isinstance(problem, error.DNSLookupError):
        return ExchangeFailed(Outcome.UNKNOWN_HOST, reason)
    if isinstance(problem, (error.ConnectError, RequestNotSent, RequestGenerationFailed)):
        return ExchangeFailed(Outcome.NOT_SENT, reason)
    return ExchangeFailed(Outcome.LOST, reason)


def _causes(problem: BaseException) -> list[BaseException]:
    reasons = getattr(problem, "reasons", None)
    if not reasons:
        return [problem]
    return [cause for reason in reasons for cause in _causes(reason.value)]


class _BoundedBody(Protocol):
    """Collects the body of a reply, up to `MAX_REPLY_BYTES`."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(self._cancelled)
        self._parts: list[bytes] = []
        self._size = 0
        self._finished = False

    def dataReceived(self, data: bytes) -> None:
        if self._finished:
            return
        self._size += len(data)
        if self._size > MAX_REPLY_BYTES:
            self._finish()
            self.done.errback(
                ExchangeFailed(
                    Outcome.UNUSABLE, f"the reply is larger than {MAX_REPLY_BYTES} bytes"
                )
            )
            return
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._finished:
            return
        self._finished = True
        # Without a length, the body ends with the connection; parsing the JSON shows if it is
        # truncated.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)

    def _cancelled(self, _deferred: Deferred[bytes]) -> None:
        self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._parts.clear()
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()


def _read(response: IResponse) -> Deferred[bytes]:
    body = _BoundedBody()
    response.deliverBody(body)
    return body.done
