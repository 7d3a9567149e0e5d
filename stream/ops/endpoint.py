"""Twisted endpoints for addresses in the settings."""

from __future__ import annotations

import socket
import sys
from typing import Any

from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint

from stream.errors import UserError
from stream.settings.address import split_address

__all__ = ["server_endpoint"]


def server_endpoint(
    reactor: Any, listen: str, *, backlog: int = 511, shared: bool = False
) -> IStreamServerEndpoint:
    """Return the endpoint for *listen*, ``host:port``; an empty host means every IPv4 interface.

    Raises ValueError: *listen* isn't an address. Raises CannotListenError: a shared address is in
    use.

    :param shared: whether other processes may listen on the same address. A shared address is bound
        immediately, and the kernel distributes connections over the processes.
    """
    host, port = split_address(listen)
    if shared:
        return _shared_endpoint(reactor, host, port, backlog)
    if ":" in host:
        return TCP6ServerEndpoint(reactor, port, backlog=backlog, interface=host)
    return TCP4ServerEndpoint(reactor, port, backlog=backlog, interface=host)


def _shared_endpoint(reactor: Any, host: str, port: int, backlog: int) -> IStreamServerEndpoint:
    if not sys.platform.startswith("linux"):
        raise UserError(
            "this platform doesn't spread connections over the processes that share an address: "
            "leave source.http.sharePort off, and source.http.workers at 1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise CannotListenError(host, port, error) from error
    # The endpoint listens on a copy of the descriptor, and closes the descriptor itself.
    return AdoptedStreamServerEndpoint(reactor, listening.detach(), family)
