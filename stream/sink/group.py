"""A group of rows that is compressed, appended, synced and answered together."""

from __future__ import annotations

import attrs

from stream.errors import UserError
from stream.sink.outcome import Waiter

__all__ = ["Group", "SentGroup"]


@attrs.define(eq=False)
class Group:
    """:ivar rows: blocks of one or more CSV rows, each row with its line feed.
    :ivar waiting: the requests to answer; shorter than `rows` where nobody waits.
    :ivar count: rows in all blocks.
    :ivar size: bytes in `rows`.
    :ivar first_at: receive time of the first record, milliseconds since the epoch.
    :ivar last_at: the same of the last one.
    """

    rows: list[bytes] = attrs.Factory(list)
    waiting: list[Waiter] = attrs.Factory(list)
    count: int = 0
    size: int = 0
    first_at: int = 0
    last_at: int = 0

    def add(self, rows: bytes, count: int, received_at: int, waiter: Waiter | None) -> None:
        if not self.rows:
            self.first_at = received_at
        self.last_at = received_at
        self.rows.append(rows)
        self.count += count
        self.size += len(rows)
        if waiter is not None:
            self.waiting.append(waiter)

    def stored(self) -> None:
        for waiter in self.waiting:
            waiter.stored()

    def failed(self, error: UserError) -> None:
        for waiter in self.waiting:
            waiter.failed(error)


@attrs.define(eq=False)
class SentGroup:
    """A group on its way to the writer; kept until acknowledged, to be sent again if need be.

    :ivar data: the compressed rows, empty until compressed.
    :ivar offset: where they go in the file.
    :ivar sent_at: reactor time of the first sending, seconds.
    """

    group: Group
    sent_at: float
    data: bytes = b""
    offset: int = -1
