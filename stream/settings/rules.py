"""Rules for values, written as ``required,min=1,max=100``.

The API and the dump show the text of a rule, so it is kept as declared. The conditions are:

- ``required``: not zero, not empty.
- ``min=``, ``max=`` for numbers (and the length of lists), ``minBytes=``, ``maxBytes=`` for sizes,
  ``minDuration=``, ``maxDuration=`` for durations.
- ``oneof=a b``: one of the words.
- ``len=32``: exactly that many bytes.
- ``url``: an absolute http(s) URL. ``host_or_url``: such a URL, or a host with or without a port.
- ``endpoints``: addresses of one or more servers, ``host:port`` or URLs, separated by commas.
- ``hostname_port``: an address to listen on. ``loopback_port``: a loopback address to listen on.
  ``networks``: a list of IP addresses or networks.
- ``gtefield=name``: at least the value of that sibling. Only `stream.settings.validate` knows
  siblings.

Negative numbers, durations and sizes are always invalid.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

import attrs

from stream.settings.address import is_host, is_loopback, split_address
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = ["Rule", "is_url"]

REQUIRED = "is a required field"


@attrs.frozen
class Rule:
    """Conditions in the order in which they are checked.

    :ivar text: the rule as declared.
    :ivar conditions: pairs of a name and an argument, which is empty if there is none.
    """

    text: str
    conditions: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form. Raises ValueError if a condition is unknown."""
        conditions = []
        for part in filter(None, text.split(",")):
            name, _, argument = part.partition("=")
            if name not in _CHECKS and name not in {"required", "gtefield"}:
                raise ValueError(f'unknown condition "{name}"')
            conditions.append((name, argument))
        return cls(text, tuple(conditions))

    @property
    def required(self) -> bool:
        """Return whether the setting must have a value."""
        return ("required", "") in self.conditions

    def argument(self, name: str) -> str | None:
        """Return the argument of the condition *name*; None if the rule lacks the condition."""
        return dict(self.conditions).get(name)

    def violation(self, value: Any, *, zero_is_a_number: bool = False) -> str | None:
        """Return what is wrong with *value*, as the end of a sentence; None if it is valid.

        :param zero_is_a_number: whether zero is compared with the bounds and not treated as
            missing.
        """
        empty = not value or (isinstance(value, Duration) and value.nanoseconds == 0)
        if empty and self.required and not zero_is_a_number:
            return REQUIRED
        if isinstance(value, Duration) and value.nanoseconds < 0:
            return "must be 0s or greater"
        if isinstance(value, int) and value < 0 and self.argument("min") is None:
            return "must be 0 or greater"
        for name, argument in self.conditions:
            check = _CHECKS.get(name)
            problem = check(value, argument) if check is not None else None
            if problem is not None:
                return problem
        return None


def is_url(text: str) -> bool:
    """Return whether *text* is an absolute http(s) URL with a host and without secrets."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.username is None
            and (parts.port is None or parts.port > 0)
            and not any(character.isspace() for character in text)
        )
    except ValueError:
        return False


def _amount(value: Any) -> int:
    return len(value) if isinstance(value, tuple) else int(value)


def _at_least(read: Callable[[str], Any], convert: Callable[[Any], Any]) -> Any:
    def check(value: Any, bound: str) -> str | None:
        return None if convert(value) >= read(bound) else f"must be {bound} or greater"

    return check


def _at_most(read: Callable[[str], Any], convert: Callable[[Any], Any]) -> Any:
    def check(value: Any, bound: str) -> str | None:
        return None if convert(value) <= read(bound) else f"must be {bound} or less"

    return check


def _same(value: Any) -> Any:
    return value


def _one_of(value: Any, words: str) -> str | None:
    return None if value in words.split(" ") else f"must be one of [{words}]"


def _length(value: Any, length: str) -> str | None:
    # Only "required" reports an empty value.
    return None if len(value) in {0, int(length)} else f"is invalid: must be {length} bytes long"


def _url(value: Any, _: str) -> str | None:
    return None if not value or is_url(value) else "is invalid: must be an absolute http(s) URL"


def _host_or_url(value: Any, _: str) -> str | None:
    if not value or is_url(value) or is_host(value):
        return None
    if _is_reachable(value):
        return None
    return "is invalid: must be a host name or an absolute http(s) URL"


def _endpoints(value: Any, _: str) -> str | None:
    items = [part.strip() for part in value.split(",")] if value else []
    if all(is_url(item) or _is_reachable(item) for item in items):
        return None
    return "is invalid: must be host:port or an absolute http(s) URL without a password"


def _is_reachable(address: str) -> bool:
    try:
        host, port = split_address(address)
    except ValueError:
        return False
    return bool(host and port)


def _hostname_port(value: Any, _: str) -> str | None:
    try:
        split_address(value)
    except ValueError as error:
        return f"is invalid: must be host:port, {error}"
    return None


def _loopback_port(value: Any, argument: str) -> str | None:
    problem = _hostname_port(value, argument)
    if problem is not None:
        return problem
    if not is_loopback(split_address(value)[0]):
        return "is invalid: must be an address of loopback, e.g. 127.0.0.1:4022"
    return None


def _networks(value: Any, _: str) -> str | None:
    for item in value:
        try:
            ipaddress.ip_network(item, strict=False)
        except ValueError:
            return f'is invalid: "{item}" is neither an IP address nor a network'
    return None


_CHECKS: dict[str, Callable[[Any, str], str | None]] = {
    "min": _at_least(int, _amount),
    "max": _at_most(int, _amount),
    "minBytes": _at_least(ByteSize.parse, _same),
    "maxBytes": _at_most(ByteSize.parse, _same),
    "minDuration": _at_least(Duration.parse, _same),
    "maxDuration": _at_most(Duration.parse, _same),
    "oneof": _one_of,
    "len": _length,
    "url": _url,
    "host_or_url": _host_or_url,
    "endpoints": _endpoints,
    "hostname_port": _hostname_port,
    "loopback_port": _loopback_port,
    "networks": _networks,
}
