"""Requests to etcd's JSON gateway: pooled connections, several endpoints, authentication."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
from twisted.internet.defer import Deferred, TimeoutError, ensureDeferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.logger import Logger
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    PartialDownloadError,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from stream.etcd.body import BytesBody, read_body
from stream.etcd.errors import EtcdUnavailable, InvalidToken, error_from

__all__ = ["Transport"]

_log = Logger()

CONNECT_SECONDS = 3.0
_POOL_SIZE = 16
_NETWORK_ERRORS = (
    ConnectError,
    ConnectionClosed,
    PartialDownloadError,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
    TimeoutError,
    OSError,
)


class Transport:
    """:param endpoints: ``host:port`` or URLs; the next one is tried when one doesn't answer.
    :param request_timeout: seconds for one request to one endpoint.
    """

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[str],
        username: str,
        password: str,
        request_timeout: float,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self._reactor = reactor
        self._endpoints = [_url(endpoint) for endpoint in endpoints]
        random.shuffle(self._endpoints)
        self._username = username
        self._password = password
        self._token = ""
        self._timeout = request_timeout
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = _POOL_SIZE
        self._pool.retryAutomatically = False
        self._agent = Agent(reactor, connectTimeout=CONNECT_SECONDS, pool=self._pool)
        self._streaming_agent = Agent(reactor, connectTimeout=CONNECT_SECONDS)

    def close(self) -> Deferred[None]:
        """Close the idle connections."""
        return cast("Deferred[None]", self._pool.closeCachedConnections())

    async def call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call ``/v3/<method>``; every endpoint is tried once.

        Raises `EtcdUnavailable` if none answers, and other `EtcdError`s.
        """
        data = orjson.dumps(body)
        problem = ""
        for _ in range(len(self._endpoints)):
            endpoint = self._endpoints[0]
            try:
                return await self._call_authenticated(endpoint, method, data)
            except _NETWORK_ERRORS as error:
                problem = f"{endpoint}: {_text(error)}"
                self._next_endpoint(endpoint)
        raise EtcdUnavailable(f"etcd does not answer: {problem}")

    async def stream(self, method: str, body: Mapping[str, Any]) -> IResponse:
        """Call a method with a streaming answer; fires when its head has come."""
        endpoint = self._endpoints[0]
        try:
            token = await self._valid_token(endpoint)
            response = await self._request(
                self._streaming_agent, endpoint, method, orjson.dumps(body), token
            )
        except _NETWORK_ERRORS as error:
            self._next_endpoint(endpoint)
            raise EtcdUnavailable(f"etcd does not answer: {endpoint}: {_text(error)}") from error
        if response.code != 200:
            try:
                await self._read(response)
            except InvalidToken:
                self._token = ""
                raise
        return response

    def _next_endpoint(self, failed: str) -> None:
        if self._endpoints[0] == failed:
            self._endpoints.append(self._endpoints.pop(0))

    async def _call_authenticated(self, endpoint: str, method: str, data: bytes) -> dict[str, Any]:
        token = await self._valid_token(endpoint)
        try:
            return await self._call_once(endpoint, method, data, token)
        except InvalidToken:
            if not self._username:
                raise
            if self._token == token:
                self._token = ""
            return await self._call_once(endpoint, method, data, await self._valid_token(endpoint))

    async def _call_once(
        self, endpoint: str, method: str, data: bytes, token: str
    ) -> dict[str, Any]:
        called = ensureDeferred(self._call_and_read(endpoint, method, data, token))
        called.addTimeout(self._timeout, self._reactor)
        return await called

    async def _call_and_read(
        self, endpoint: str, method: str, data: bytes, token: str
    ) -> dict[str, Any]:
        response = await self._request(self._agent, endpoint, method, data, token)
        return await self._read(response)

    async def _request(
        self, agent: Agent, endpoint: str, method: str, data: bytes, token: str
    ) -> IResponse:
        headers = Headers({b"Content-Type": [b"application/json"]})
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
            raise EtcdUnavailable(f"etcd answered {response.code} with no JSON") from None
        if response.code == 200:
            found: dict[str, Any] = answer
            return found
        raise error_from(
            int(answer.get("code", 2)), str(answer.get("message") or answer.get("error", ""))
        )

    async def _valid_token(self, endpoint: str) -> str:
        """The present token, or a new one."""
        if not self._username or self._token:
            return self._token
        data = orjson.dumps({"name": self._username, "password": self._password})
        answer = await self._call_once(endpoint, "auth/authenticate", data, "")
        self._token = str(answer.get("token", ""))
        return self._token


def _url(endpoint: str) -> str:
    trimmed = endpoint.strip().rstrip("/")
    return trimmed if "://" in trimmed else f"http://{trimmed}"


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
