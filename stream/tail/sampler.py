"""Sampling of a source's records for live tails.

Records pass through the sampler on their way to the sinks. So a record that isn't shown costs
almost nothing, and failures affect only the tail. Pure.

Note [Shares of the queues]: the size of the queued records is limited per tap and in total. Each
watched source has an equal share of the total, and no single source gets more than three quarters.
So tails of one source never make another source's tails lose a record.
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
"""Maximum number of taps for one source on one node; additional subscriptions get no records."""
MAX_QUEUE_BYTES = 512 * 1024
"""Maximum size of the queued records of one tap."""
MAX_ALL_QUEUES_BYTES = 32 * 1024 * 1024
"""Maximum size of the queued records of all taps; see Note [Shares of the queues]."""
_MIN_SHARES = 4
MAX_SENT_BYTES = 256 * 1024
"""Maximum size of records sent together, unless a single record is larger."""


@attrs.frozen
class Sample:
    """The records that are sent to a tail together.

    :ivar records: the records as JSON objects.
    :ivar over_rate: number of records omitted because of the rate limit since the last sample.
    :ivar overflow: number of records omitted because they couldn't be sent in time.
    """

    records: tuple[bytes, ...]
    over_rate: int
    overflow: int

    def encode(self, subscription: TailSubscription) -> bytes:
        """Return the sample as JSON, with the token that proves that it was requested."""
        head = b'{"id":"%s","token":"%s","overRate":%d,"overflow":%d,"records":[' % (
            subscription.id.encode(),
            subscription.token.encode(),
            self.over_rate,
            self.overflow,
        )
        return head + b",".join(self.records) + b"]}"


class Tap:
    """Selects records for one subscription.

    :param watched: the source whose records are selected.

    :ivar error: the last failure to show a record; cleared when it is reported.
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
        """The earliest time at which the next record may be shown, seconds since the epoch."""
        return self._bucket.due

    def offer(self, record: RecordContext) -> None:
        """Take *record* if the rate allows it."""
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
        """Return the next sample; ``None`` if there is none."""
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
        """Drop the queued records."""
        self._queue.clear()
        self._watched.queued -= self._bytes
        self._bytes = 0

    def not_sent(self, sample: Sample) -> None:
        """Count the records of *sample* as omitted."""
        self._over_rate += sample.over_rate
        self._overflow += sample.overflow + len(sample.records)


class Watched:
    """A source that is watched by at least one tail.

    Most records of a busy source aren't shown. Such a record costs a counter and a comparison,
    regardless of the number of tails.

    :ivar offered: number of records so far.
    :ivar queued: number of bytes in the queues of the source's taps.
    :ivar max_queued: the source's share of the maximum size of all queues.
    """

    __slots__ = ("_quiet_from", "_quiet_to", "max_queued", "offered", "queued", "taps")

    def __init__(self) -> None:
        self.taps: list[Tap] = []
        self.queued = 0
        self.max_queued = 0
        self.offered = 0
        self._quiet_from = self._quiet_to = 0.0

    def offer(self, record: RecordContext) -> None:
        """Show *record* if one is due."""
        self.offered += 1
        if not self._quiet_from <= record.timestamp_ms < self._quiet_to:
            for tap in self.taps:
                tap.offer(record)
            self.renew()

    def offer_batch(self, shared: RecordContext, elements: Sequence[Element]) -> None:
        """Show records of a batch if one is due.

        :param shared: a record with the data that all records of the batch share.
        """
        self.offered += len(elements)
        if not self.is_quiet(shared.timestamp_ms):
            for tap in self.taps:
                tap.offer_batch(shared, elements)
            self.renew()

    def is_quiet(self, now_ms: int) -> bool:
        """Return whether no record is due at *now_ms*, milliseconds since the epoch."""
        return self._quiet_from <= now_ms < self._quiet_to

    def renew(self) -> None:
        """Compute the interval in which no record is due.

        The interval is at most a second, so that setting the clock back doesn't stop the tail.
        """
        self._quiet_to = 1000 * min((tap.due for tap in self.taps), default=0.0)
        self._quiet_from = self._quiet_to - 1000


class TailSampler(dict[SourceKey, Watched]):
    """The watched sources; it is empty, and therefore false, if there are no tails."""

    def add(self, subscription: TailSubscription, now: float) -> Tap | None:
        """Open a tap; return ``None`` if the source has the maximum number of taps."""
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
        """Compute the shares; see Note [Shares of the queues]."""
        share = MAX_ALL_QUEUES_BYTES // max(len(self), _MIN_SHARES)
        for watched in self.values():
            watched.max_queued = share

    def offer(self, sources: Sequence[SourceKey], record: RecordContext) -> None:
        """Show *record* to the tails of its sources."""
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
