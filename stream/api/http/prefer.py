"""The header ``Prefer`` (RFC 7240): how long a caller waits for a task."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stream.api.spec.operation import MAX_WAIT_SECONDS

__all__ = ["preferred_wait"]

_PREFERENCE = re.compile(
    r"""[\s,]*
    (?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)
    (?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s",;]*)))?
    (?:\s*;[^,"]*(?:"(?:[^"\\]|\\.)*"[^,"]*)*)?  # parameters
    \s*(?=,|$)""",
    re.VERBOSE | re.DOTALL,
)
_MAX_DIGITS = 9


def preferred_wait(values: Iterable[str]) -> int:
    """Return the seconds of the first ``wait`` in the header's *values*, up to `MAX_WAIT_SECONDS`.

    Invalid preferences are ignored, as the RFC requires; without a valid ``wait`` the result is 0.
    """
    text = ",".join(values)
    position = 0
    while match := _PREFERENCE.match(text, position):
        position = match.end()
        if match["name"].lower() == "wait":
            value = match["quoted"] if match["quoted"] is not None else match["token"] or ""
            is_number = value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
            return min(int(value), MAX_WAIT_SECONDS) if is_number else 0
    return 0
