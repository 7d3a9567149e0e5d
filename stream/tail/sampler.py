"""Which records of a source are shown to those who watch it.

Records pass here on their way to the sinks, so a record that isn't shown costs next to nothing, and
whatever goes wrong here is nobody's problem but the watcher's. Pure.

Note [Shares of the queues]: the records that wait to be sent are bounded for each tap, and for all
together: each watched source has an equal share of the whole, and at least a quarter isn't given to
a single one. So nobody's tails cost another source's watchers a record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

from stream.definition.key import SourceKey
from stream.record.context import RecordContext
from stream.record.elements import Element
from stream.tail.shown_record import shown_record
from stream.tail.subscription import TailSubscription
from stream.values.bucket import TokenBucket

__all__ = [
    "MAX_ALL_QUEUES_BYTES",
    "MAX_QUEUE_BYTES",
    "MAX_SENT_BYTES",
    "MAX_TAPS",
    "Sample",
    "TailSampler",
    "Tap",
    "Watched",
]

MAX_TAPS = 50
"""Of one source on one node; further subscriptions get nothing from it."""
MAX_QUEUE_BYTES = 512 * 1024
"""Shown records of one tap that wait to be sent."""
MAX_ALL_QUEUES_BYTES = 32 * 1024 * 1024
"""Shown records of all taps, see Note [Shares of the queues]."""
_MIN_SHARES = 4
MAX_SENT_BYTES = 256 * 1024
"""Shown records that are sent together, unless a single one is larger."""


@attrs.frozen
class Sample:
    """What is sent to the watcher at once.

    :ivar records: JSON objects.
    :ivar over_rate: records left out because there were too many, since the last sample.
    :ivar overflow: records left out because they couldn't be sent in time.
    """

    records: tuple[bytes, ...]
    over_rate: int
    overflow: int

    def encode(self, subscription: TailSubscription) -> bytes:
        """As JSON, with what shows that it was asked for."""
        head = b'{"id":"%s","token":"%s","overRate":%d,"overflow":%d,"records":[' % (
            subscription.id.encode(),
            subscription.token.encode(),
            self.over_rate,
            self.overflow,
        )
        return head + b",".join(self.records) + b"]}"


class Tap:
    """Takes records for one subscription.

    :param watched: whose records are taken.

    :ivar error: what went wrong with a record last; whoever reports it clears it.
    """

    __slots__ = (
        "_bucket",
        "_bytes",
        "_granted",
        "_over_rate",
        "_overflow",
        "_queue",
        "_seen",
        "_watched",
        "error",
        "subscription",
    )

    def __init__(self, subscription: TailSubscription, watched: Watched, now: float) -> None:
        self.subscription = subscription
        self.error: Exception | None = None
        self._watched = watched
        self._seen = watched.offered
        self._granted = 0
        self._bucket = TokenBucket(subscription.rate, now)
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._over_rate = 0
        self._overflow = 0

    @property
    def due(self) -> float:
        """When the next record may be shown, seconds since the epoch."""
        return self._bucket.due

    def offer(self, record: RecordContext) -> None:
        """Take *record*, if the rate allows it."""
        if self._bucket.take(record.timestamp_ms / 1000):
            self._put(record)

    def offer_batch(self, shared: RecordContext, elements: Sequence[Element]) -> None:
        """Take as many of the first elements as the rate allows."""
        granted = self._bucket.take(shared.timestamp_ms / 1000, len(elements))
        for _, body, _ in elements[:granted]:
            self._put(RecordContext(shared.timestamp_ms, shared.client_ip, shared.headers, body))

    def _put(self, record: RecordContext) -> None:
        self._granted += 1
        try:
            shown = shown_record(record, self.subscription.max_body_bytes)
        except Exception as error:
            self.error = error
            self._overflow += 1
            return
        size = len(shown)
        watched = self._watched
        if self._bytes + size > MAX_QUEUE_BYTES or watched.queued + size > watched.max_queued:
            self._overflow += 1
            return
        self._queue.append(shown)
        self._bytes += size
        watched.queued += size

    def take(self) -> Sample | None:
        """What is to be sent next, if anything."""
        offered = self._watched.offered
        over_rate = self._over_rate + offered - self._seen - self._granted
        self._seen, self._granted = offered, 0
        self._over_rate = 0
        if not (self._queue or over_rate or self._overflow):
            return None
        records: list[bytes] = []
        size = 0
        while self._queue and (not records or size + len(self._queue[0]) <= MAX_SENT_BYTES):
            records.append(self._queue.popleft())
            size += len(records[-1])
        self._bytes -= size
        self._watched.queued -= size
        sample = Sample(tuple(records), over_rate, self._overflow)
        self._overflow = 0
        return sample

    def close(self) -> None:
        """Forget the records that wait."""
        self._queue.clear()
        self._watched.queued -= self._bytes
        self._bytes = 0

    def not_sent(self, sample: Sample) -> None:
        """Count what *sample* held as left out."""
        self._over_rate += sample.over_rate
        self._overflow += sample.overflow + len(sample.records)


class Watched:
    """A source that somebody watches.

    Most records of a busy source aren't shown to anybody. They cost a count and a comparison,
    however many watch.

    :ivar offered: records so far.
    :ivar queued: bytes that wait in the queues of its taps.
    :ivar max_queued: its share of what may wait in all queues.
    """

    __slots__ = ("_quiet_from", "_quiet_to", "max_queued", "offered", "queued", "taps")

    def __init__(self) -> None:
        self.taps: list[Tap] = []
        self.queued = 0
        self.max_queued = 0
        self.offered = 0
        self._quiet_from = self._quiet_to = 0.0

    def offer(self, record: RecordContext) -> None:
        """Show *record*, if one is due."""
        self.offered += 1
        if not self._quiet_from <= record.timestamp_ms < self._quiet_to:
            for tap in self.taps:
                tap.offer(record)
            self.renew()

    def offer_batch(self, shared: RecordContext, elements: Sequence[Element]) -> None:
        """Show records of a batch, if one is due.

        :param shared: has what all records of the batch share.
        """
        self.offered += len(elements)
        if not self._quiet_from <= shared.timestamp_ms < self._quiet_to:
            for tap in self.taps:
                tap.offer_batch(shared, elements)
            self.renew()

    def renew(self) -> None:
        """Compute the interval in which no record is due.

        It is at most a second long, so that a clock that is set back doesn't stop the tail.
        """
        self._quiet_to = 1000 * min((tap.due for tap in self.taps), default=0.0)
        self._quiet_from = self._quiet_to - 1000


class TailSampler(dict[SourceKey, Watched]):
    """The sources that are watched. Empty, and so false, while nobody watches any of them."""

    def add(self, subscription: TailSubscription, now: float) -> Tap | None:
        """Open a tap; ``None`` if the source has as many as it may have."""
        watched = self.setdefault(subscription.source, Watched())
        if len(watched.taps) >= MAX_TAPS:
            return None
        self._share()
        tap = Tap(subscription, watched, now)
        watched.taps.append(tap)
        watched.renew()
        return tap

    def remove(self, tap: Tap) -> None:
        """Close *tap*."""
        source = tap.subscription.source
        watched = self[source]
        watched.taps.remove(tap)
        tap.close()
        watched.renew()
        if not watched.taps:
            del self[source]
            self._share()

    def _share(self) -> None:
        """See Note [Shares of the queues]."""
        share = MAX_ALL_QUEUES_BYTES // max(len(self), _MIN_SHARES)
        for watched in self.values():
            watched.max_queued = share

    def offer(self, sources: Sequence[SourceKey], record: RecordContext) -> None:
        """Show *record* to those who watch one of its sources."""
        for source in sources:
            watched = self.get(source)
            if watched is not None:
                watched.offer(record)

    def offer_batch(
        self, sources: Sequence[SourceKey], shared: RecordContext, elements: Sequence[Element]
    ) -> None:
        """Show the records of a batch; see `Watched.offer_batch`."""
        for source in sources:
            watched = self.get(source)
            if watched is not None:
                watched.offer_batch(shared, elements)
