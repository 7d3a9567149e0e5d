"""A group of rows that is compressed, appended, synced and answered together."""

from __future__ import annotations

from typing import Protocol

import attrs

from stream.errors import UserError
from stream.sink.outcome import Completion
from stream.storage.model.marks import Mark

__all__ = ["Group", "GroupMeter", "SentGroup"]


class GroupMeter(Protocol):
    """The meter of outcomes of groups; see `stream.sink.meters`."""

    def stored(self, group: Group, /) -> None:
        """Handle that *group* is stored: its rows are acknowledged."""

    def failed(self, group: Group, error: UserError, /) -> None:
        """Handle that nothing of *group* is acknowledged."""


@attrs.define(eq=False)
class Group:
    """Rows of one slice that are compressed, sent and synced together.

    :ivar rows: blocks of one or more CSV rows, each row with its line feed.
    :ivar waiting: completions to call; fewer than `rows` if producers don't wait.
    :ivar count: number of rows in all blocks.
    :ivar size: bytes in `rows`.
    :ivar first_at: receive time of the first record, milliseconds since the epoch.
    :ivar last_at: receive time of the last one.
    :ivar arrivals: for each earlier receive time, the number of rows received by its end. So a row
        costs only a comparison, and its waiting time can still be computed later.
    :ivar meter: counts the outcome of the group.
    :ivar marks: of requests with idempotency keys.
    """

    rows: list[bytes] = attrs.Factory(list)
    waiting: list[Completion] = attrs.Factory(list)
    count: int = 0
    size: int = 0
    first_at: int = 0
    last_at: int = 0
    arrivals: list[tuple[int, int]] = attrs.Factory(list)
    meter: GroupMeter | None = None
    marks: list[Mark] = attrs.Factory(list)

    def add(self, rows: bytes, count: int, received_at: int, completion: Completion | None) -> None:
        """Add rows and the completion that waits for them."""
        if received_at != self.last_at:
            if self.rows:
                self.arrivals.append((self.last_at, self.count))
            else:
                self.first_at = received_at
            self.last_at = received_at
        self.rows.append(rows)
        self.count += count
        self.size += len(rows)
        if completion is not None:
            self.waiting.append(completion)

    def stored(self) -> None:
        if self.meter is not None:
            self.meter.stored(self)
        for completion in self.waiting:
            completion.stored()

    def failed(self, error: UserError) -> None:
        if self.meter is not None:
            self.meter.failed(self, error)
        for completion in self.waiting:
            completion.failed(error)


@attrs.define(eq=False)
class SentGroup:
    """A group in flight to the writer, kept until acknowledged so that it can be sent again.

    :ivar data: the compressed rows, empty until compressed.
    :ivar offset: their offset in the file.
    :ivar sent_at: reactor time of the first sending, seconds.
    """

    group: Group
    sent_at: float
    data: bytes = b""
    offset: int = -1
