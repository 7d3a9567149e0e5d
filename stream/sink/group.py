"""A group of rows that is compressed, appended, synced and answered together."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from itertools import accumulate
from typing import Protocol

import attrs

from stream.errors import UserError
from stream.sink.outcome import Completion
from stream.storage.model.marks import Mark

__all__ = ["Group", "GroupMeter", "SentGroup"]


class GroupMeter(Protocol):
    """The meter of the outcomes of groups; see `stream.sink.meters`."""

    def stored(self, group: Group, /) -> None:
        """Called when *group* is stored and its rows are acknowledged."""

    def failed(self, group: Group, error: UserError, /) -> None:
        """Called when no row of *group* is acknowledged."""


@attrs.frozen(eq=False)
class MarkedRows:
    """The position in a group of the rows of a request with an idempotency key.

    :ivar place: index of the block with the rows in `Group.rows`.
    :ivar before: number of rows in the blocks before that one.
    :ivar count: number of the request's rows.
    :ivar completion: completion that waits for the rows; ``None`` if the producer already has its
        answer.
    """

    mark: Mark
    place: int
    before: int
    count: int
    completion: Completion | None


@attrs.define(eq=False)
class Group:
    """Rows of one slice that are compressed, sent and synced together.

    :ivar rows: blocks of one or more CSV rows, each row with its line feed.
    :ivar waiting: completions to call; fewer than `rows` if some producers don't wait.
    :ivar count: number of rows in all blocks.
    :ivar size: number of bytes in `rows`.
    :ivar first_at: receive time of the first record, milliseconds since the epoch.
    :ivar last_at: receive time of the last record.
    :ivar arrivals: pairs of an earlier receive time and the number of rows received until then. So
        a row costs only a comparison, and its waiting time can still be computed later.
    :ivar meter: counts the outcome of the group.
    :ivar marked: rows of requests with idempotency keys, in the order of the rows.
    """

    rows: list[bytes] = attrs.Factory(list)
    waiting: list[Completion] = attrs.Factory(list)
    count: int = 0
    size: int = 0
    first_at: int = 0
    last_at: int = 0
    arrivals: list[tuple[int, int]] = attrs.Factory(list)
    meter: GroupMeter | None = None
    marked: list[MarkedRows] = attrs.Factory(list)

    @property
    def marks(self) -> list[Mark]:
        """The marks of the requests with idempotency keys."""
        return [each.mark for each in self.marked]

    def add(
        self,
        rows: bytes,
        count: int,
        received_at: int,
        completion: Completion | None,
        mark: Mark | None = None,
    ) -> None:
        """Add rows, and the completion that waits for them."""
        if mark is not None:
            self.marked.append(MarkedRows(mark, len(self.rows), self.count, count, completion))
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

    def take_out(self, keys: Collection[bytes]) -> Group:
        """Remove and return the rows of the requests with these *keys*.

        Rows that no request waits for remain, without their marks.
        """
        taken = [
            each for each in self.marked if each.mark.key in keys and each.completion is not None
        ]
        refused = Group(meter=self.meter, first_at=self.first_at, last_at=self.last_at)
        refused.rows = [self.rows[each.place] for each in taken]
        refused.count = sum(each.count for each in taken)
        refused.size = sum(map(len, refused.rows))
        refused.waiting = [each.completion for each in taken if each.completion is not None]
        # A group may have hundreds of rows and keys, so both are looked up.
        places = [each.place for each in taken]
        starts = [each.before for each in taken]
        removed = [0, *accumulate(each.count for each in taken)]
        gone = set(places)
        self.rows = [rows for place, rows in enumerate(self.rows) if place not in gone]
        self.count -= refused.count
        self.size -= refused.size
        self.arrivals = [
            (at, count - removed[bisect_left(starts, count)]) for at, count in self.arrivals
        ]
        answered = Counter(id(completion) for completion in refused.waiting)
        self.waiting = [each for each in self.waiting if not _takes(answered, id(each))]
        left = [each for each in self.marked if each.mark.key not in keys]
        moved = [bisect_left(places, each.place) for each in left]
        self.marked = [
            attrs.evolve(each, place=each.place - number, before=each.before - removed[number])
            for each, number in zip(left, moved, strict=True)
        ]
        return refused

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
    """A group that was sent to the writer, kept until it is acknowledged so that it can be resent.

    :ivar data: the compressed rows; empty until they are compressed.
    :ivar offset: offset of the rows in the file.
    :ivar sent_at: reactor time when it was first sent, in seconds.
    :ivar sendings: how often it was sent; only the answer to the last transmission is used.
    """

    group: Group
    sent_at: float
    data: bytes = b""
    offset: int = -1
    sendings: int = 0


def _takes(counts: Counter[int], key: int) -> bool:
    """Decrement the count of *key*; return False if it is already 0."""
    if not counts[key]:
        return False
    counts[key] -= 1
    return True
