"""The source node's listener for questions about rejected records, registered in etcd."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort

from stream.etcd import Registration, Session
from stream.ops.endpoint import server_endpoint
from stream.rejected.link import Answer, NodeFactory, tls_credentials
from stream.rejected.state import NODE, RejectedNode
from stream.settings.address import is_loopback, split_address
from stream.settings.local import WriterTlsSettings
from stream.values.codec import encode

__all__ = ["RejectedServer", "node_address"]

_SECRET_BYTES = 32


def node_address(listen: str, hostname: str, port: int) -> str:
    """Return the address at which other nodes reach the listener on *listen*."""
    host, _ = split_address(listen)
    name = host if is_loopback(host) else hostname
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


class RejectedServer(Service):
    """The listener for questions about rejected records.

    The Deferred returned by startService fires when the port is open and registered.

    :param hostname: name at which the API reaches this node.
    :param answer: answers a question.
    :param has_files: returns whether this node has a directory of rejected records; called when the
        service is started.
    :param directory: returns the ID of this directory.
    :param tls: the certificates of this node, if it has any.
    """

    def __init__(
        self,
        reactor: Any,
        session: Session,
        node_id: str,
        listen: str,
        hostname: str,
        answer: Answer,
        has_files: Callable[[], bool],
        directory: Callable[[], str],
        tls: WriterTlsSettings,
    ) -> None:
        self._reactor = reactor
        self._session = session
        self._node_id = node_id
        self._listen = listen
        self._hostname = hostname
        self._has_files = has_files
        self._directory = directory
        self._tls = tls
        self._secret = secrets.token_hex(_SECRET_BYTES)
        self._factory = NodeFactory(reactor, self._secret, answer)
        self._port: IListeningPort | None = None
        self._registration: Registration | None = None

    async def startService(self) -> None:
        """Open the port and register it. Raises UserError if the certificates are unusable."""
        super().startService()
        found = tls_credentials(self._tls)
        factory: Any = self._factory
        if found is not None:
            from twisted.protocols.tls import TLSMemoryBIOFactory

            factory = TLSMemoryBIOFactory(found.server(), False, self._factory)
        self._port = await server_endpoint(self._reactor, self._listen).listen(factory)
        self._registration = await self._session.register(
            f"{NODE}{self._node_id}", encode(self._described())
        )

    def _described(self) -> RejectedNode:
        port: int = self._port.getHost().port  # type: ignore[union-attr]
        return RejectedNode(
            node_id=self._node_id,
            address=node_address(self._listen, self._hostname, port),
            host=self._hostname,
            secret=self._secret,
            has_files=self._has_files(),
            directory=self._directory(),
        )

    async def directory_changed(self) -> None:
        """Register the ID of another directory."""
        if self._registration is not None:
            await self._registration.update(encode(self._described()))

    async def stopService(self) -> None:
        super().stopService()
        if self._registration is not None:
            await self._registration.remove()
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        self._factory.hang_up()
