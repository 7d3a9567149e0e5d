"""Requests to etcd's JSON gateway: pooled connections, several endpoints, authentication."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    TimeoutError,
    ensureDeferred,
)
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    PartialDownloadError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from stream.etcd.body import BytesBody, read_body
from stream.etcd.connection import ProbedEndpoints
from stream.etcd.errors import EtcdError, EtcdUnavailable, InvalidToken, NotReached, error_from
from stream.etcd.operation_log import keys_of
from stream.values.duration import Duration

__all__ = ["Transport"]

_log = Logger()
T = TypeVar("T")

_POOL_SIZE = 16
_IDLE_SECONDS = 30
_LEASES = "lease/"
"""Beginning of methods with connections of their own; see Note [Connections for leases]."""
_CLOSE_AGAIN_SECONDS = 10.0
"""Minimum interval between closings of all pooled connections; newer ones have just answered."""
_REQUIRE_LEADER = b"Grpc-Metadata-hasleader"
"""Header that makes a member without a leader end its watches instead of keeping them silent."""
_NOT_SENT = (ConnectError, DNSLookupError, RequestNotSent)
_BROKEN = (
    ConnectionClosed,
    PartialDownloadError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    OSError,
)


def _pool(reactor: Any) -> HTTPConnectionPool:
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = _POOL_SIZE
    pool.retryAutomatically = False
    pool.cachedConnectionTimeout = _IDLE_SECONDS
    return pool


class Transport:
    """The connection to an etcd cluster: requests, streams, authentication, failover.

    Note [Connections for leases]: a keep-alive must not wait for other requests. The reactor serves
    connections that use little time first (`stream.ops.process.fair_turns`), so requests about
    leases have connections that nothing else uses.

    :param endpoints: ``host:port`` or URLs; the next one is tried when one doesn't answer.
    :param request_timeout: seconds for one request to one endpoint.
    :param log_operations: whether to log each request at level debug.
    """

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[str],
        username: str,
        password: str,
        request_timeout: float,
        log_operations: bool = False,
    ) -> None:
        self._log_operations = log_operations
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self._reactor = reactor
        self._endpoints = [_url(endpoint) for endpoint in endpoints]
        random.shuffle(self._endpoints)
        self._username = username
        self._password = password
        self._token: str | None = None
        self._authenticating = DeferredLock()
        self._timeout = request_timeout
        self._close_at = 0.0
        endpoint_factory = ProbedEndpoints(reactor)
        self._pools = [_pool(reactor), _pool(reactor)]
        self._agent, self._lease_agent = (
            Agent.usingEndpointFactory(reactor, endpoint_factory, pool) for pool in self._pools
        )
        self._streaming_agent = Agent.usingEndpointFactory(reactor, endpoint_factory)

    async def close(self) -> None:
        """Close the idle connections."""
        for pool in self._pools:
            await pool.closeCachedConnections()

    async def call(
        self,
        method: str,
        body: Mapping[str, Any],
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Call ``/v3/<method>``; try each endpoint once.

        A request that has been sent is repeated at the next endpoint only if it is *repeatable*. A
        repeatable request gets one more attempt, because a pooled connection may turn out to be
        closed.

        Raises NotReached: the request was not sent. Raises EtcdUnavailable: there is no usable
        answer.
        """
        seconds = self._timeout if timeout is None else timeout
        data = orjson.dumps(body)
        if self._log_operations:
            return await self._logged(method, body, data, repeatable, seconds)
        return await self._call_any(method, data, repeatable, seconds)

    async def _logged(
        self, method: str, body: Mapping[str, Any], data: bytes, repeatable: bool, seconds: float
    ) -> dict[str, Any]:
        began = self._reactor.seconds()
        outcome = "cancelled"
        try:
            answer = await self._call_any(method, data, repeatable, seconds)
            revision = answer.get("header", {}).get("revision", "-")
            outcome = f"revision {revision}"
        except EtcdError as error:
            outcome = str(error)
            raise
        else:
            return answer
        finally:
            _log.debug(
                "{method} {keys}: {outcome}",
                method=method,
                keys=keys_of(body),
                outcome=outcome,
                duration=str(Duration.of_seconds(self._reactor.seconds() - began)),
            )

    async def _call_any(
        self, method: str, data: bytes, repeatable: bool, seconds: float
    ) -> dict[str, Any]:
        left = len(self._endpoints)
        spare = 1 if repeatable else 0
        problem: EtcdUnavailable = NotReached("etcd was not called")
        while left:
            left -= 1
            endpoint = self._endpoints[0]
            try:
                return await self._call_authenticated(endpoint, method, data, seconds)
            except NotReached as error:
                problem = problem if _is_sent(problem) else error
            except EtcdUnavailable as error:
                problem = error
                if not repeatable:
                    left = 0
                elif isinstance(error.__cause__, _BROKEN):
                    left, spare = left + spare, 0
            self._next_endpoint(endpoint)
        raise problem

    async def stream(self, method: str, body: Mapping[str, Any]) -> IResponse:
        """Call a method with a streaming answer; wait until the response headers have arrived."""
        endpoint = self._endpoints[0]
        if self._log_operations:
            _log.debug("{method} {keys}", method=method, keys=keys_of(body))
        try:
            token = await self._valid_token(endpoint)
            return await self._timed(
                endpoint, self._open(endpoint, method, orjson.dumps(body), token), self._timeout
            )
        except EtcdUnavailable:
            self._next_endpoint(endpoint)
            raise

    async def _open(self, endpoint: str, method: str, data: bytes, token: str) -> IResponse:
        response = await self._request(self._streaming_agent, endpoint, method, data, token)
        if response.code != 200:
            await self._read(response)
            raise EtcdUnavailable(f"etcd answered {response.code} to {method}")
        return response

    def forget_token(self) -> None:
        """Discard the token; the next request gets a new one."""
        self._token = None

    def avoid_endpoint(self) -> None:
        """Send the next request to another endpoint, if possible on a new connection."""
        self._close_kept()
        self._next_endpoint(self._endpoints[0])

    def _next_endpoint(self, failed: str) -> None:
        if self._endpoints[0] == failed:
            self._endpoints.append(self._endpoints.pop(0))

    async def _call_authenticated(
        self, endpoint: str, method: str, data: bytes, seconds: float
    ) -> dict[str, Any]:
        token = await self._valid_token(endpoint)
        try:
            return await self._call_once(endpoint, method, data, token, seconds)
        except InvalidToken:
            if not self._username:
                raise
            if self._token == token:
                self._token = None
            token = await self._valid_token(endpoint)
            return await self._call_once(endpoint, method, data, token, seconds)

    async def _call_once(
        self, endpoint: str, method: str, data: bytes, token: str, seconds: float
    ) -> dict[str, Any]:
        # etcd 3.5.1 crashes when the client of a read-only transaction disconnects.
        return await self._timed(
            endpoint,
            self._call_and_read(endpoint, method, data, token),
            seconds,
            goes_on=method == "kv/txn",
        )

    async def _timed(
        self,
        endpoint: str,
        calling: Coroutine[Any, Any, T],
        seconds: float,
        *,
        goes_on: bool = False,
    ) -> T:
        """Await a call with a timeout of *seconds*; raise its network errors as `EtcdError`.

        :param goes_on: whether the call continues until the timeout if the caller is cancelled.
        """
        waiting = _bounded(self._reactor, ensureDeferred(calling), seconds, goes_on=goes_on)
        try:
            return await waiting
        except TimeoutError:
            self._close_kept()
            problem = f"no answer within {seconds:g} s"
            raise EtcdUnavailable(f"etcd does not answer: {endpoint}: {problem}") from None
        except _NOT_SENT as error:
            raise NotReached(f"etcd does not answer: {endpoint}: {_text(error)}") from error
        except _BROKEN as error:
            raise EtcdUnavailable(f"etcd does not answer: {endpoint}: {_text(error)}") from error

    def _close_kept(self) -> None:
        """Close the pooled connections, because the network may have dropped them as well.

        If etcd is slow, connections that work aren't closed again and again.
        """
        now = self._reactor.seconds()
        if now >= self._close_at:
            self._close_at = now + _CLOSE_AGAIN_SECONDS
            for pool in self._pools:
                pool.closeCachedConnections()

    async def _call_and_read(
        self, endpoint: str, method: str, data: bytes, token: str
    ) -> dict[str, Any]:
        agent = self._lease_agent if method.startswith(_LEASES) else self._agent
        response = await self._request(agent, endpoint, method, data, token)
        return await self._read(response)

    async def _request(
        self, agent: Agent, endpoint: str, method: str, data: bytes, token: str
    ) -> IResponse:
        headers = Headers({b"Content-Type": [b"application/json"], _REQUIRE_LEADER: [b"true"]})
        if token:
            headers.addRawHeader(b"Authorization", token.encode())
        response: IResponse = await agent.request(
            b"POST", f"{endpoint}/v3/{method}".encode(), headers, BytesBody(data)
        )
        return response

    async def _read(self, response: IResponse) -> dict[str, Any]:
        body = await read_body(response)
        try:
            answer = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError:
            raise EtcdUnavailable(f"etcd answered {response.code} without JSON") from None
        if response.code == 200:
            found: dict[str, Any] = answer
            return found
        raise error_from(
            int(answer.get("code", 2)), str(answer.get("message") or answer.get("error", ""))
        )

    async def _valid_token(self, endpoint: str) -> str:
        """Return the current token, or a new one; empty without authentication."""
        if not self._username:
            return ""
        if self._token is not None:
            return self._token
        await self._authenticating.acquire()  # One request for a token serves all waiters.
        try:
            if self._token is None:
                self._token = await self._new_token(endpoint)
            return self._token
        finally:
            self._authenticating.release()

    async def _new_token(self, endpoint: str) -> str:
        data = orjson.dumps({"name": self._username, "password": self._password})
        try:
            answer = await self._call_once(endpoint, "auth/authenticate", data, "", self._timeout)
        except EtcdError as error:
            if "authentication is not enabled" in str(error):
                return ""
            raise
        return str(answer.get("token", ""))


def _url(endpoint: str) -> str:
    trimmed = endpoint.strip().rstrip("/")
    return trimmed if "://" in trimmed else f"http://{trimmed}"


def _is_sent(problem: EtcdUnavailable) -> bool:
    return not isinstance(problem, NotReached)


def _bounded(
    reactor: Any, called: Deferred[T], seconds: float, *, goes_on: bool = False
) -> Deferred[T]:
    """Return a Deferred with the result of *called*, a ``TimeoutError`` or a ``CancelledError``.

    :param goes_on: whether a cancellation leaves *called* running until the timeout.

    The Agent may report a cancelled request as a broken connection or even an unknown host. So the
    outcome of *called* is ignored after the returned Deferred has fired.
    """

    def end(error: Exception) -> None:
        if not waiting.called:
            waiting.errback(error)
        if not goes_on or not isinstance(error, CancelledError):
            called.cancel()

    def pass_on(result: T | Failure) -> None:
        if timer.active():
            timer.cancel()
        if not waiting.called:
            waiting.callback(result)

    waiting: Deferred[T] = Deferred(lambda _: end(CancelledError()))
    timer = reactor.callLater(seconds, end, TimeoutError())
    called.addBoth(pass_on)
    return waiting


def _text(error: BaseException) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _text(reasons[0].value)
    return str(error) or type(error).__name__
