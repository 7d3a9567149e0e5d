"""Reading etcd records for API requests.

A record may be damaged, or written by a newer version of the service. It must not hide other
records. So a request for the record itself fails with `UnreadableRecord`, which names the record,
and lists omit it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from twisted.logger import Logger

from stream.errors import UserError, shortened
from stream.etcd import KeyValue
from stream.ops.logging.throttle import LogThrottle
from stream.values.codec import decode

__all__ = ["UnreadableRecord", "read_stored", "readable"]

_log = Logger()

T = TypeVar("T")

LOG_SECONDS = 600.0
"""Minimum seconds between log messages about the same omitted record."""

_left_out = LogThrottle(LOG_SECONDS, time.monotonic)


class UnreadableRecord(UserError):
    """The value of an etcd key isn't a record of the expected kind.

    :ivar key: key of the record.
    """

    status = 409
    name = "unreadableRecord"

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f'the stored record "{key}" can\'t be read: {shortened(reason)}',
            detail="it is damaged, or was written by a newer version of the service; "
            "`stream-service check-takeover` lists all such records for the operator",
        )
        self.key = key


def read_stored(kind: type[T], stored: KeyValue) -> T:
    """Return the record. Raises `UnreadableRecord`."""
    try:
        return decode(kind, stored.value)
    except ValueError as error:
        raise UnreadableRecord(stored.key, str(error)) from error


def readable(kind: type[T], stored: Iterable[KeyValue]) -> Iterator[tuple[KeyValue, T]]:
    """Return the readable records of a list; log a warning about the others."""
    for kv in stored:
        try:
            record = read_stored(kind, kv)
        except UnreadableRecord as error:
            warn_left_out(error)
        else:
            yield kv, record


def warn_left_out(error: UnreadableRecord) -> None:
    """Log, with throttling, that a record is omitted from lists."""
    if _left_out.due(error.key) is not None:
        _log.warn("{error}; it is omitted from lists", error=error.message)
