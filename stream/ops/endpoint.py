"""From an address in the settings to something that can listen there."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint

from stream.settings.address import split_address

__all__ = ["server_endpoint"]


def server_endpoint(reactor: Any, listen: str, *, backlog: int = 511) -> IStreamServerEndpoint:
    """The endpoint for *listen*, ``host:port``; without a host it is every IPv4 interface.

    Raises ValueError for what isn't an address.
    """
    host, port = split_address(listen)
    if ":" in host:
        return TCP6ServerEndpoint(reactor, port, backlog=backlog, interface=host)
    return TCP4ServerEndpoint(reactor, port, backlog=backlog, interface=host)
