"""The outcomes of a row, and the completion that is called with them."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import attrs

from stream.errors import NestedError, UserError
from stream.values.bytesize import ByteSize
from stream.values.utctime import format_time

__all__ = [
    "ACCEPTED",
    "PROCESSED",
    "Completion",
    "Stored",
    "no_opened_slice",
    "no_pipeline_ready",
    "not_stored",
    "outcome_unknown",
    "over_quota",
    "shutting_down",
]

PROCESSED = 200
"""The rows are stored as durably as the sink's settings require."""

ACCEPTED = 202
"""The rows are accepted without waiting, according to the sink's settings."""


class Completion(Protocol):
    """The completion of one request's rows: a sink calls one of the methods, once.

    The request itself implements it, so that a record needs no Deferred, closure or timer.
    """

    def stored(self) -> None:
        """Handle that the rows are as durable as the sink's settings require."""

    def accepted(self, status: int) -> None:
        """Handle that the sink has accepted the rows without waiting, with *status*."""

    def failed(self, error: Exception) -> None:
        """Handle that the rows aren't acknowledged."""


@attrs.frozen
class Stored:
    """The number of stored rows of a request: one for each record and each sink.

    :ivar rows: number of rows that the request makes, or would make.
    :ivar stored: number of rows known to be stored.
    :ivar unknown: number of rows with an unknown outcome; a retry may store them twice.
    """

    rows: int = 0
    stored: int = 0
    unknown: int = 0

    @property
    def is_all(self) -> bool:
        """Return whether all rows were stored."""
        return self.stored == self.rows

    def __str__(self) -> str:
        """Return ``1/2``, or ``1/3; unknown=1``."""
        unknown = f"; unknown={self.unknown}" if self.unknown else ""
        return f"{self.stored}/{self.rows}{unknown}"


def no_pipeline_ready() -> UserError:
    """Return the error: every slice pipeline of the sink is opening, stalled or full."""
    return UserError("no pipeline is ready", status=503, name="noPipelineReady")


def no_opened_slice(next_attempt: datetime) -> UserError:
    """Return the error: the sink has no slice that this node may write to."""
    return UserError(
        "cannot open sink pipeline: no opened slice found, "
        f"next attempt after {format_time(next_attempt)}",
        status=503,
        name="noOpenedSliceFound",
    )


def over_quota(sink: str, buffered: ByteSize, quota: ByteSize) -> UserError:
    """Return the error: the sink exceeds its quota on the local disks."""
    return UserError(
        f'full storage buffer for the sink "{sink}", buffered "{buffered}", quota "{quota}"',
        status=507,
        name="insufficientStorage",
    )


def shutting_down() -> UserError:
    """Return the error: the node accepts no more records."""
    return UserError("node is shutting down", status=503, name="shutdown")


def not_stored(cause: Exception) -> UserError:
    """Return the error: the row is certainly not stored; a retry is safe."""
    return NestedError("row not stored", [cause], status=503, name="notStored")


def outcome_unknown(cause: Exception) -> UserError:
    """Return the error: the row may or may not be stored; a retry can duplicate it."""
    return NestedError("error when waiting for sync", [cause], status=500, name="genericError")
