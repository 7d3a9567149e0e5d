"""Addresses in settings, such as ``host:port``, ``[::1]:port`` and ``:port``."""

from __future__ import annotations

import ipaddress
import re

from stream.values.number import whole_number

__all__ = ["is_host", "is_loopback", "split_address"]

_LABEL = re.compile(r"(?!-)[a-zA-Z0-9_-]{1,63}(?<!-)")
_MAX_HOST = 253
_MAX_PORT = 65535


def split_address(text: str) -> tuple[str, int]:
    """Return the host and the port of *text*.

    The host has no brackets, and is empty for every interface. Raises ValueError: *text* isn't an
    address.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("the port is missing")
    number = whole_number(port, most=_MAX_PORT, may_have_sign=False)
    if number is None:
        raise ValueError("the port is not a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)
    elif host and not is_host(host):
        raise ValueError("the host is not valid")
    return host, number


def is_host(text: str) -> bool:
    """Return whether *text* is a DNS name or an IPv4 address."""
    name = text.removesuffix(".")
    return 0 < len(name) <= _MAX_HOST and all(_LABEL.fullmatch(part) for part in name.split("."))


def is_loopback(host: str) -> bool:
    """Return whether *host* is a loopback address or the name ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
