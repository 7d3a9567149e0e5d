"""The client's address, which is the peer's or comes from a trusted proxy's header.

An address is always parsed and formatted again, so no other text from a header is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from stream.source.http.head import Head
from stream.values.ip import read_address

__all__ = ["ClientAddress"]

Network = IPv4Network | IPv6Network

MAX_HOPS = 100
"""Maximum number of hops that are read, because each costs a few microseconds."""


class ClientAddress:
    """Finds the address of the client of a request.

    :param trusted_proxies: networks (``10.0.0.0/8``) or addresses of proxies; invalid ones raise
        ValueError.
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
        """Return the nearest hop that isn't a trusted proxy.

        If that hop is invalid or beyond the last `MAX_HOPS`, return the last valid one. Empty
        elements of the list are skipped, as RFC 9110 requires for every list in a header.
        """
        client = peer
        hops = [
            hop
            for name, value in head.headers.raw
            if name.lower() == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
            if hop.strip(" \t")
        ]
        del hops[:-MAX_HOPS]
        while self._is_trusted(client) and hops:
            hop = read_address(hops.pop())
            if hop is None:
                break
            client = str(hop)
        return client

    def _is_trusted(self, text: str) -> bool:
        address = read_address(text)
        return address is not None and any(address in network for network in self._trusted)
