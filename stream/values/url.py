"""URLs of what users made: every part of a path is percent-encoded by one function."""

from __future__ import annotations

from urllib.parse import quote

__all__ = ["path_of", "quoted_path"]

_SAFE = "!$&'()*+,;=:@"
"""What a part of a path may hold as it is, beside letters, digits and ``-._~`` (RFC 3986)."""


def path_of(*parts: str | int) -> str:
    """A path with a slash before each of the *parts*, whatever is in them.

    >>> path_of("stream", 123, "ße", "a/b")
    '/stream/123/%C3%9Fe/a%2Fb'
    """
    return "".join(f"/{quote(str(part), safe=_SAFE)}" for part in parts)


def quoted_path(path: str) -> str:
    """*path*, a text whose slashes separate its parts, percent-encoded."""
    return quote(path, safe=_SAFE + "/")
