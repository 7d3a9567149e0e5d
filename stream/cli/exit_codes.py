"""How the command ends, for scripts. `docs/cli.md` has the same table."""

from __future__ import annotations

from stream.client.errors import ClientError, ServiceError, Unreachable

__all__ = [
    "CHANGES",
    "CONFLICT",
    "FAILED",
    "INTERRUPTED",
    "NOT_ALLOWED",
    "NOT_FOUND",
    "REJECTED",
    "UNAVAILABLE",
    "USAGE",
    "exit_code_of",
]

FAILED = 1
"""Anything that has no code of its own."""
USAGE = 2
"""The command line or a file that it names is wrong."""
NOT_ALLOWED = 3
NOT_FOUND = 4
CONFLICT = 5
"""Something exists already, or others change it at the same time."""
UNAVAILABLE = 6
"""No answer, or the service asks to come back later."""
REJECTED = 7
"""Everything was sent, but some records were rejected."""
CHANGES = 8
"""`apply --dry-run` would change something."""
INTERRUPTED = 130
"""Ctrl-C."""

_BY_STATUS = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 409: CONFLICT, 429: UNAVAILABLE}


def exit_code_of(error: ClientError) -> int:
    """The exit code for *error*."""
    own = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    if isinstance(error, Unreachable):
        return UNAVAILABLE
    if isinstance(error, ServiceError):
        return (
            UNAVAILABLE if error.status in (502, 503, 504) else _BY_STATUS.get(error.status, FAILED)
        )
    return FAILED
