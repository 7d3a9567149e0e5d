"""Random IDs by which a request or a failure is found in the log."""

from __future__ import annotations

import secrets
import string

__all__ = ["exception_id", "random_id", "request_id"]

_ALPHABET = string.digits + string.ascii_letters
_REQUEST_ID_LENGTH = 15


def random_id(length: int) -> str:
    """Return *length* random unpredictable digits and letters."""
    # One draw for all characters, with enough bits to make all characters equally likely.
    number = secrets.randbits(8 * length)
    drawn = []
    for _ in range(length):
        number, index = divmod(number, len(_ALPHABET))
        drawn.append(_ALPHABET[index])
    return "".join(drawn)


def request_id() -> str:
    """Return a new request ID."""
    return random_id(_REQUEST_ID_LENGTH)


def exception_id(service: str, request: str | None = None) -> str:
    """Return the ID of a failure, which its log line and its response contain.

    :param service: the service that failed, e.g. ``keboola-stream-api``.
    :param request: the ID of the request that failed; by default a new ID.
    """
    return f"{service}-{request or request_id()}"
