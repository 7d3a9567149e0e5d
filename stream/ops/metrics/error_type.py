"""The classification of failures in metrics."""

from __future__ import annotations

import builtins

from twisted.internet import defer, error
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from stream.errors import UserError

__all__ = ["error_type"]


def error_type(problem: BaseException | None) -> str:
    """Return the label ``error_type`` of *problem*; empty if there is none.

    An error class can define its type in an attribute ``error_type``.
    """
    if problem is None:
        return ""
    own = getattr(problem, "error_type", None)
    if isinstance(own, str):
        return own
    for kind, name in _KINDS:
        if isinstance(problem, kind):
            return name
    return problem.name if isinstance(problem, UserError) else "other"


# The order matters: a network timeout is also a network failure.
_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (defer.CancelledError, "context_canceled"),
    (error.TimeoutError, "net_timeout"),
    (error.TCPTimedOutError, "net_timeout"),
    (defer.TimeoutError, "deadline_exceeded"),
    (builtins.TimeoutError, "deadline_exceeded"),
    (error.ConnectError, "net"),
    (error.ConnectionClosed, "net"),
    (error.DNSLookupError, "net"),
    (ResponseNeverReceived, "net"),
    (ResponseFailed, "net"),
)
