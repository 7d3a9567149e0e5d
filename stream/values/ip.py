"""Parses the addresses of clients, as headers and sockets contain them.

The scope of a link-local address (``fe80::1%eth0``) is removed, because it is a name that has a
meaning on only one machine and that any client may choose.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

__all__ = ["read_address", "without_scope"]

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::.*)?|([^:]*):[^:]*")


def without_scope(host: str) -> str:
    """Return the address of a peer, as reported by the socket, without its scope."""
    return host.partition("%")[0]


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address with an optional port: ``1.2.3.4:80``, ``[::1]:80``.

    Returns ``None`` if *text* isn't an address.
    """
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
