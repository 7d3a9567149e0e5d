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
"""The status of rows that are stored as durably as the sink's settings require."""

ACCEPTED = 202
"""The status of rows that are accepted without waiting, as the sink's settings allow."""


class Completion(Protocol):
    """The completion of one request's rows; a sink calls exactly one of its methods, once.

    The request itself implements it, so that a record needs no Deferred, closure or timer.
    """

    def stored(self) -> None:
        """Called when the rows are stored as durably as the sink's settings require."""

    def accepted(self, status: int) -> None:
        """Called when the sink has accepted the rows without waiting, with *status*."""

    def failed(self, error: Exception) -> None:
        """Called when the rows aren't acknowledged."""


@attrs.frozen
class Stored:
    """The number of stored rows of a request, which has one row for each record and each sink.

    :ivar rows: number of all rows of the request, including rows that weren't rendered.
    :ivar stored: number of rows that are known to be stored.
    :ivar unknown: number of rows whose outcome is unknown; a retry may store them twice.
    """

    rows: int = 0
    stored: int = 0
    unknown: int = 0

    @property
    def is_all(self) -> bool:
        """Return whether all rows were stored."""
        return self.stored == self.rows

    def __str__(self) -> str:
        """Return text such as ``1/2`` or ``1/3; unknown=1``."""
        unknown = f"; unknown={self.unknown}" if self.unknown else ""
        return f"{self.stored}/{self.rows}{unknown}"


def no_pipeline_ready() -> UserError:
    """Return the error for a sink whose slice pipelines are all opening, stalled or full."""
    return UserError("no pipeline is ready", status=503, name="noPipelineReady")


def no_opened_slice(next_attempt: datetime) -> UserError:
    """Return the error for a sink that has no slice to which this node may write."""
    return UserError(
        "cannot open sink pipeline: no opened slice found, "
        f"next attempt after {format_time(next_attempt)}",
        status=503,
        name="noOpenedSliceFound",
    )


def over_quota(sink: str, buffered: ByteSize, quota: ByteSize) -> UserError:
    """Return the error for a sink that exceeds its quota on the local disks."""
    return UserError(
        f'full storage buffer for the sink "{sink}", buffered "{buffered}", quota "{quota}"',
        status=507,
        name="insufficientStorage",
    )


def shutting_down() -> UserError:
    """Return the error of a node that accepts no more records."""
    return UserError("node is shutting down", status=503, name="shutdown")


def not_stored(cause: Exception) -> UserError:
    """Return the error for a row that is certainly not stored, so that a retry is safe."""
    return NestedError("row not stored", [cause], status=503, name="notStored")


def outcome_unknown(cause: Exception) -> UserError:
    """Return the error for a row that may be stored, so that a retry can duplicate it."""
    return NestedError("error when waiting for sync", [cause], status=500, name="genericError")
