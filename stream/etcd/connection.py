"""Connections to etcd that detect a dead peer.

A watch may be silent for hours. Without TCP probes, the client wouldn't notice that a machine or a
firewall has dropped the connection.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

__all__ = ["ProbedEndpoints"]

CONNECT_SECONDS = 3.0
_PROBE_OPTIONS = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Idle seconds before the first probe, seconds between probes, maximum of unanswered probes."""
_USER_TIMEOUT = {"TCP_USER_TIMEOUT": 20_000}
"""Milliseconds that sent data may remain unacknowledged."""


@implementer(IAgentEndpointFactory)
class ProbedEndpoints:
    """Endpoints of an Agent with TCP keep-alive probes."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._policy = BrowserLikePolicyForHTTPS()
        self._known: dict[tuple[bytes, bytes, int], IStreamClientEndpoint] = {}

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return the endpoint; the Agent asks for it with each request, also if it is connected."""
        key = (uri.scheme, uri.host, uri.port)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._endpoint(uri)
        return known

    def _endpoint(self, uri: URI) -> IStreamClientEndpoint:
        probed = _Probed(
            HostnameEndpoint(self._reactor, uri.host.decode(), uri.port, timeout=CONNECT_SECONDS)
        )
        if uri.scheme == b"http":
            return probed
        if uri.scheme == b"https":
            creator = self._policy.creatorForNetloc(uri.host, uri.port)
            return wrapClientTLS(creator, probed)
        raise SchemeNotSupported(f"unsupported scheme: {uri.scheme!r}")


@implementer(IStreamClientEndpoint)
class _Probed:
    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(_probe)


def _probe(protocol: Any) -> Any:
    """Enable TCP keep-alive probes; skip options that the system doesn't support."""
    protocol.transport.setTcpKeepAlive(True)
    handle = protocol.transport.getHandle()
    for name, value in (_PROBE_OPTIONS | _USER_TIMEOUT).items():
        option = getattr(socket, name, None)
        if option is not None:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)
    return protocol
