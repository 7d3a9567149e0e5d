"""Which records are shown."""

from __future__ import annotations

from typing import Any

import orjson

from stream.definition.key import SourceKey
from stream.definition.tail import TailSubscription
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.source.taps import MAX_QUEUE_BYTES, MAX_SENT_BYTES, Tap, Taps
from stream.values.utctime import from_timestamp

SOURCE = SourceKey(123, 456, "my-source")
OTHER = SourceKey(123, 456, "other")


def subscription(rate: int = 3, source: SourceKey = SOURCE, **changes: Any) -> TailSubscription:
    members: dict[str, Any] = {
        "source": source,
        "id": "one",
        "address": "127.0.0.1:1",
        "host": "localhost",
        "token": "t",
        "rate": rate,
        "max_body_bytes": 16 * 1024,
        "expires_at": from_timestamp(1000.0),
    }
    return TailSubscription(**(members | changes))


def record(body: bytes = b"{}", at: float = 0.0) -> RecordContext:
    return RecordContext(int(at * 1000), "::1", RecordHeaders(()), body)


def bodies(tap: Tap) -> list[str]:
    sample = tap.take()
    return [] if sample is None else [orjson.loads(shown)["body"] for shown in sample.records]


def test_only_the_rate_is_shown() -> None:
    """What is over it is counted, and the count is told once."""
    tap = Tap(subscription(rate=2), 0.0)
    for text in (b"a", b"b", b"c"):
        tap.offer(record(text))
    tap.offer(record(b"d", at=1.0))
    sample = tap.take()
    assert sample is not None
    assert [orjson.loads(shown)["body"] for shown in sample.records] == ["a", "b", "d"]
    assert (sample.over_rate, sample.overflow) == (1, 0)
    assert tap.take() is None


def test_batches() -> None:
    """The first ones of a batch, as far as the rate allows."""
    tap = Tap(subscription(rate=2), 0.0)
    tap.offer_batch(record(), [(place, b"%d" % place, place) for place in range(1, 6)])
    sample = tap.take()
    assert sample is not None
    assert [orjson.loads(shown)["body"] for shown in sample.records] == ["1", "2"]
    assert sample.over_rate == 3


def test_the_queue_is_bounded() -> None:
    """Many large records are left out and counted; a sample isn't larger than it may be."""
    tap = Tap(subscription(rate=100), 0.0)
    for _ in range(100):
        tap.offer(record(b"x" * 16_000))
    kept, samples = 0, []
    while (sample := tap.take()) is not None:
        samples.append(sample)
        kept += len(sample.records)
        assert sum(map(len, sample.records)) <= MAX_SENT_BYTES
    assert 0 < kept * 16_000 <= MAX_QUEUE_BYTES
    assert samples[0].overflow == 100 - kept
    assert all(sample.overflow == 0 for sample in samples[1:])


def test_what_was_not_sent_is_counted() -> None:
    """The watcher learns how many it hasn't seen."""
    tap = Tap(subscription(rate=2), 0.0)
    for _ in range(3):
        tap.offer(record())
    sample = tap.take()
    assert sample is not None
    tap.not_sent(sample)
    again = tap.take()
    assert again is not None
    assert (again.records, again.over_rate, again.overflow) == ((), 1, 2)


def test_taps_of_a_source() -> None:
    """Each source's watchers see its records alone; without watchers nothing is done."""
    first, second = Tap(subscription(), 0.0), Tap(subscription(), 0.0)
    taps = Taps({SOURCE: (first, second)})
    assert taps
    assert not Taps()
    taps.offer([SOURCE, OTHER], record(b"mine"))
    taps.offer([OTHER], record(b"another's"))
    assert bodies(first) == bodies(second) == ["mine"]
    assert bodies(first) == []


def test_a_record_that_cannot_be_shown() -> None:
    """Is counted; ingestion never learns of it."""
    tap = Tap(subscription(), 0.0)
    broken: Any = record()
    broken.body = None
    tap.offer(broken)
    assert isinstance(tap.error, TypeError)
    sample = tap.take()
    assert sample is not None
    assert sample.overflow == 1
