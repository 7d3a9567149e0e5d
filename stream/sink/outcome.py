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
"""Stored as durably as the sink's settings ask."""

ACCEPTED = 202
"""Taken, but not waited for: the sink's settings say so."""


class Completion(Protocol):
    """The completion of one request's rows: a sink calls one of the methods, once.

    The request itself implements it, so that a record costs no Deferred, closure or timer.
    """

    def stored(self) -> None:
        """The rows are as durable as the sink's settings ask."""

    def accepted(self, status: int) -> None:
        """The sink has taken the rows and doesn't wait, and says so with *status*."""

    def failed(self, error: Exception) -> None:
        """The rows aren't acknowledged."""


@attrs.frozen
class Stored:
    """How many of the rows that a request makes are stored: one for each record and each sink.

    :ivar rows: that it makes, or would make.
    :ivar stored: of these, as far as is known.
    :ivar unknown: of these; a retry may store them twice.
    """

    rows: int = 0
    stored: int = 0
    unknown: int = 0

    @property
    def is_all(self) -> bool:
        """Whether all rows were stored."""
        return self.stored == self.rows

    def __str__(self) -> str:
        """``1/2``, or ``1/3; unknown=1``."""
        unknown = f"; unknown={self.unknown}" if self.unknown else ""
        return f"{self.stored}/{self.rows}{unknown}"


def no_pipeline_ready() -> UserError:
    """Every slice pipeline of the sink is opening, stalled or full."""
    return UserError("no pipeline is ready", status=503, name="noPipelineReady")


def no_opened_slice(next_attempt: datetime) -> UserError:
    """The sink has no slice that this node may write to."""
    return UserError(
        "cannot open sink pipeline: no opened slice found, "
        f"next attempt after {format_time(next_attempt)}",
        status=503,
        name="noOpenedSliceFound",
    )


def over_quota(sink: str, buffered: ByteSize, quota: ByteSize) -> UserError:
    """The local disks hold more of the sink than it may have there."""
    return UserError(
        f'full storage buffer for the sink "{sink}", buffered "{buffered}", quota "{quota}"',
        status=507,
        name="insufficientStorage",
    )


def shutting_down() -> UserError:
    """The node takes no more records."""
    return UserError("node is shutting down", status=503, name="shutdown")


def not_stored(cause: Exception) -> UserError:
    """The row is certainly not stored; a retry is safe."""
    return NestedError("row not stored", [cause], status=503, name="notStored")


def outcome_unknown(cause: Exception) -> UserError:
    """The row may or may not be stored; a retry can duplicate it."""
    return NestedError("error when waiting for sync", [cause], status=500, name="genericError")
