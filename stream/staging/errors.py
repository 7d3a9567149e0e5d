"""Errors of staging, which show whether a retry can help."""

from __future__ import annotations

from datetime import datetime

from stream.values.utctime import format_time

__all__ = ["CredentialsExpired", "ObjectMismatch", "StagingError"]


class StagingError(Exception):
    """An object could not be stored. The text never contains credentials.

    :param retryable: whether the same upload may succeed later.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class CredentialsExpired(StagingError):
    """The file's credentials have expired; a retry doesn't help.

    :param file_key: key of the file that the credentials belong to.
    :param expiration: time at which the credentials expired.
    """

    def __init__(self, file_key: str, expiration: datetime) -> None:
        super().__init__(
            f"upload credentials have expired: credentials for file {file_key} "
            f"expired at {format_time(expiration)}",
            retryable=False,
        )
        self.file_key = file_key
        self.expiration = expiration


class ObjectMismatch(StagingError):
    """The stored content differs from what was sent; the upload must be repeated."""
