"""Builds URLs with parts that come from users; percent-encodes every part of a path."""

from __future__ import annotations

from urllib.parse import quote

__all__ = ["path_of", "quoted_path"]

_SAFE = "!$&'()*+,;=:@"
"""Characters, besides letters, digits and ``-._~``, that a part of a path may contain (RFC 3986).
"""


def path_of(*parts: str | int) -> str:
    """Return a path of percent-encoded *parts*, each preceded by a slash.

    >>> path_of("stream", 123, "ße", "a/b")
    '/stream/123/%C3%9Fe/a%2Fb'
    """
    return "".join(f"/{quote(str(part), safe=_SAFE)}" for part in parts)


def quoted_path(path: str) -> str:
    """Return *path*, in which slashes separate the parts, with its parts percent-encoded."""
    return quote(path, safe=_SAFE + "/")
