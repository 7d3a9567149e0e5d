"""Which names say that they stand for a secret, and how an address is shown without one. Pure."""

from __future__ import annotations

import re

__all__ = ["MASK", "is_secret_name", "shown_url"]

MASK = "*****"
_SECRET = re.compile(
    r"(^|[._-])(password|passwd|secret|token|authorization|cookies?|credentials?"
    r"|(api|secret|access|private|account)[._-]?key|connection[._-]?string)$"
)
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SOURCE_SECRET = re.compile(r"(/stream/[^/?#]*/[^/?#]*/)[^/?#]+")
"""The path that producers push to ends with the secret of the source."""
_PARAMETER = re.compile(r"([?&])([^=&#]+)=([^&#]*)")
_USER = re.compile(r"(//)[^/@?#]*@")
_LINE_BREAKS = {ord("\r"): "\\r", ord("\n"): "\\n"}


def is_secret_name(name: str) -> bool:
    """Whether what has the *name* is a secret."""
    return _SECRET.search(_CAPITAL.sub("_", name).lower()) is not None


def shown_url(url: str) -> str:
    """*url*, or a part of it, on one line, without secrets in the path and in the query."""

    def parameter(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}={MASK}" if is_secret_name(match[2]) else match[0]

    shown = _SOURCE_SECRET.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", url))
    return _PARAMETER.sub(parameter, shown).translate(_LINE_BREAKS)
