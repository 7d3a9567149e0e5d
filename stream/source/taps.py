"""Which records of a source are shown to those who watch it.

Records pass here on their way to the sinks, so a record that isn't shown costs next to nothing, and
whatever goes wrong here is nobody's problem but the watcher's. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

from stream.definition.key import SourceKey
from stream.definition.tail import TailSubscription
from stream.record.context import RecordContext
from stream.record.tail import shown_record
from stream.source.batch import Element
from stream.values.bucket import TokenBucket

__all__ = ["MAX_QUEUE_BYTES", "MAX_SENT_BYTES", "MAX_TAPS", "Sample", "Tap", "Taps"]

MAX_TAPS = 50
"""Of one source on one node; further ones get nothing."""
MAX_QUEUE_BYTES = 512 * 1024
"""Shown records of one tap that wait to be sent."""
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

    def encode(self) -> bytes:
        """As JSON."""
        counts = b'{"overRate":%d,"overflow":%d,"records":[' % (self.over_rate, self.overflow)
        return counts + b",".join(self.records) + b"]}"


class Tap:
    """Takes records for one subscription.

    :ivar error: what went wrong with a record last; whoever tells of it clears it.
    """

    __slots__ = (
        "_bucket",
        "_bytes",
        "_over_rate",
        "_overflow",
        "_queue",
        "error",
        "subscription",
    )

    def __init__(self, subscription: TailSubscription, now: float) -> None:
        self.subscription = subscription
        self.error: Exception | None = None
        self._bucket = TokenBucket(subscription.rate, now)
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._over_rate = 0
        self._overflow = 0

    def offer(self, record: RecordContext) -> None:
        """Take *record*, or count it."""
        if self._bucket.take(record.timestamp_ms / 1000):
            self._put(record)
        else:
            self._over_rate += 1

    def offer_batch(self, shared: RecordContext, elements: Sequence[Element]) -> None:
        """Take the first ones of a batch, count the others.

        :param shared: has what all records of the batch share.
        """
        granted = self._bucket.take(shared.timestamp_ms / 1000, len(elements))
        self._over_rate += len(elements) - granted
        for _, body, _ in elements[:granted]:
            self._put(RecordContext(shared.timestamp_ms, shared.client_ip, shared.headers, body))

    def _put(self, record: RecordContext) -> None:
        try:
            shown = shown_record(record, self.subscription.max_body_bytes)
        except Exception as error:
            self.error = error
            self._overflow += 1
            return
        if self._bytes + len(shown) > MAX_QUEUE_BYTES:
            self._overflow += 1
            return
        self._queue.append(shown)
        self._bytes += len(shown)

    def take(self) -> Sample | None:
        """What is to be sent next, if anything."""
        if not (self._queue or self._over_rate or self._overflow):
            return None
        records: list[bytes] = []
        size = 0
        while self._queue and (not records or size + len(self._queue[0]) <= MAX_SENT_BYTES):
            records.append(self._queue.popleft())
            size += len(records[-1])
        self._bytes -= size
        sample = Sample(tuple(records), self._over_rate, self._overflow)
        self._over_rate = self._overflow = 0
        return sample

    def not_sent(self, sample: Sample) -> None:
        """Count what *sample* held as left out."""
        self._over_rate += sample.over_rate
        self._overflow += sample.overflow + len(sample.records)


class Taps(dict[SourceKey, tuple[Tap, ...]]):
    """The taps of all sources. Empty, and so false, while nobody watches any of them."""

    def offer(self, sources: Sequence[SourceKey], record: RecordContext) -> None:
        """Show *record* to those who watch one of its sources."""
        for source in sources:
            for tap in self.get(source, ()):
                tap.offer(record)

    def offer_batch(
        self, sources: Sequence[SourceKey], shared: RecordContext, elements: Sequence[Element]
    ) -> None:
        """Show the records of a batch; see `Tap.offer_batch`."""
        for source in sources:
            for tap in self.get(source, ()):
                tap.offer_batch(shared, elements)
