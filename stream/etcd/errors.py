"""Errors raised by the etcd client."""

from __future__ import annotations

__all__ = [
    "Compacted",
    "EtcdError",
    "EtcdUnavailable",
    "InvalidToken",
    "LeaseNotFound",
    "NotReached",
    "TooManyChanges",
    "TxnTooLarge",
    "error_from",
]

_UNAVAILABLE_CODES = {2, 4, 8, 13, 14}
"""gRPC's Unknown, DeadlineExceeded, ResourceExhausted, Internal, Unavailable."""
_UNAUTHENTICATED = 16
_SIZE_PROBLEMS = ("too many operations", "request is too large", "larger than max")
_TOKEN_PROBLEMS = ("invalid auth token", "revision in header is old", "user name is empty")


class EtcdError(Exception):
    """etcd refused a request."""


class EtcdUnavailable(EtcdError):
    """etcd did not answer or can't serve at the moment; the request may be retried.

    It is unknown whether the request was applied, unless the error is a `NotReached`.
    """


class NotReached(EtcdUnavailable):
    """The request was not sent, because no endpoint accepted a connection."""


class Compacted(EtcdError):
    """The requested revision has been compacted."""


class TooManyChanges(Compacted):
    """A watch returned more data at once than is accepted. The keys have to be read instead."""


class LeaseNotFound(EtcdError):
    """The lease has expired or was revoked."""


class TxnTooLarge(EtcdError):
    """A request exceeds etcd's limit of operations (``--max-txn-ops``) or of bytes."""


class InvalidToken(EtcdError):
    """The authentication token is no longer valid; a new one is needed."""


def error_from(code: int, message: str) -> EtcdError:
    """Return the exception for a gRPC status."""
    if "compacted" in message:
        return Compacted(message)
    if "requested lease not found" in message:
        return LeaseNotFound(message)
    if any(problem in message for problem in _SIZE_PROBLEMS):
        return TxnTooLarge(message)
    if code == _UNAUTHENTICATED or any(problem in message for problem in _TOKEN_PROBLEMS):
        return InvalidToken(message)
    if code in _UNAVAILABLE_CODES:
        return EtcdUnavailable(message)
    return EtcdError(message)
