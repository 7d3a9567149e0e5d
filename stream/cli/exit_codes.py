"""The exit codes of the command. `docs/cli.md` has the same table."""

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
"""Any failure that has no specific code."""
USAGE = 2
"""The command line, or a file that it names, is invalid."""
NOT_ALLOWED = 3
NOT_FOUND = 4
CONFLICT = 5
"""An object already exists, or is being changed concurrently."""
UNAVAILABLE = 6
"""There is no answer, or the service asks the client to retry later."""
REJECTED = 7
"""All records were sent, but some were rejected."""
CHANGES = 8
"""`apply --dry-run` would change something."""
INTERRUPTED = 130
"""Ctrl-C."""

_BY_STATUS = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 409: CONFLICT, 429: UNAVAILABLE}


def exit_code_of(error: ClientError) -> int:
    """Return the exit code for *error*."""
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
