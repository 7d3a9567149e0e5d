"""The client's address: the peer's, or the one in a trusted proxy's header.

An address is always parsed and formatted again, so no other text of a header is used. The scope of
a link-local address (``fe80::1%eth0``) is a name that has a meaning on one machine only, and that
anybody may set; it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from stream.source.http.head import Head

__all__ = ["ClientAddress", "without_scope"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::.*)?|([^:]*):[^:]*")


class ClientAddress:
    """Finds the address of a request's client.

    :param trusted_proxies: networks (``10.0.0.0/8``) or addresses of proxies. Raises ValueError.
    """

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._trusted: tuple[Network, ...] = tuple(
            ip_network(text, strict=False) for text in trusted_proxies
        )

    @property
    def is_peer(self) -> bool:
        """Whether no proxy is trusted, so that the client is always the peer."""
        return not self._trusted

    def find(self, peer: str, head: Head) -> str:
        """Return the nearest hop that is no trusted proxy; the last valid one if it is invalid.

        Empty elements of the list are skipped, as RFC 9110 requires for every list in a header.
        """
        client = peer
        hops = [
            hop
            for name, value in head.headers.raw
            if name.lower() == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
            if hop.strip(" \t")
        ]
        while self._is_trusted(client) and hops:
            hop = _read(hops.pop())
            if hop is None:
                break
            client = str(hop)
        return client

    def _is_trusted(self, text: str) -> bool:
        address = _read(text)
        return address is not None and any(address in network for network in self._trusted)


def without_scope(host: str) -> str:
    """Return the address of a peer, as reported by its socket, without a scope."""
    return host.partition("%")[0]


def _read(text: str) -> Address | None:
    """Parse an address with an optional port: ``1.2.3.4:80``, ``[::1]:80``."""
    text = text.strip(" \t")
    match = _WITH_PORT.fullmatch(text)
    if match is not None:
        text = match[1] or match[2] or ""
    if ":" in text:
        text = without_scope(text)
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
