"""What can go wrong with etcd."""

from __future__ import annotations

__all__ = [
    "Compacted",
    "EtcdError",
    "EtcdUnavailable",
    "InvalidToken",
    "LeaseNotFound",
    "TxnTooLarge",
    "error_from",
]

_UNAVAILABLE_CODES = {2, 4, 8, 13, 14}
"""gRPC's Unknown, DeadlineExceeded, ResourceExhausted, Internal, Unavailable."""
_UNAUTHENTICATED = 16


class EtcdError(Exception):
    """etcd refused a request."""


class EtcdUnavailable(EtcdError):
    """No endpoint answered, or etcd can't serve at the moment; worth another try."""


class Compacted(EtcdError):
    """The wanted revision isn't kept any more."""


class LeaseNotFound(EtcdError):
    """The lease has expired or was revoked."""


class TxnTooLarge(EtcdError):
    """The transaction has more operations than etcd takes (``--max-txn-ops``)."""


class InvalidToken(EtcdError):
    """The authentication token has expired; a new one is needed."""


def error_from(code: int, message: str) -> EtcdError:
    """The exception for a gRPC status."""
    if "compacted" in message:
        return Compacted(message)
    if "requested lease not found" in message:
        return LeaseNotFound(message)
    if "too many operations" in message:
        return TxnTooLarge(message)
    if code == _UNAUTHENTICATED or "invalid auth token" in message:
        return InvalidToken(message)
    if code in _UNAVAILABLE_CODES:
        return EtcdUnavailable(message)
    return EtcdError(message)
