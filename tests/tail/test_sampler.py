"""Sampling of records for tails."""

from __future__ import annotations

from typing import Any

import orjson

from stream.definition.key import SourceKey
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.tail.sampler import (
    MAX_ALL_QUEUES_BYTES,
    MAX_QUEUE_BYTES,
    MAX_SENT_BYTES,
    MAX_TAPS,
    TailSampler,
    Tap,
)
from stream.tail.subscription import TailSubscription
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


def opened(taps: TailSampler, **changes: Any) -> Tap:
    tap = taps.add(subscription(**changes), 0.0)
    assert tap is not None
    return tap


def bodies(tap: Tap) -> list[str]:
    sample = tap.take()
    return [] if sample is None else [orjson.loads(shown)["body"] for shown in sample.records]


def test_the_rate_is_a_limit() -> None:
    """Records above the rate are counted, and each count is sent once."""
    taps = TailSampler()
    tap = opened(taps, rate=2)
    for text in (b"a", b"b", b"c"):
        taps.offer([SOURCE], record(text))
    taps.offer([SOURCE], record(b"d", at=1.0))
    sample = tap.take()
    assert sample is not None
    assert [orjson.loads(shown)["body"] for shown in sample.records] == ["a", "b", "d"]
    assert (sample.over_rate, sample.overflow) == (1, 0)
    assert tap.take() is None


def test_the_first_records_of_a_batch_are_sampled() -> None:
    """The first records of a batch are sampled, as far as the rate allows."""
    taps = TailSampler()
    tap = opened(taps, rate=2)
    elements = [(place, b"%d" % place, place) for place in range(1, 6)]
    taps.offer_batch([SOURCE], record(), elements)
    taps.offer_batch([SOURCE], record(at=0.5), elements)
    sample = tap.take()
    assert sample is not None
    assert [orjson.loads(shown)["body"] for shown in sample.records] == ["1", "2", "1"]
    assert sample.over_rate == 7


def test_the_queue_is_limited() -> None:
    """Many large records are omitted and counted, and a sample has a maximum size."""
    taps = TailSampler()
    tap = opened(taps, rate=100)
    for _ in range(100):
        taps.offer([SOURCE], record(b"x" * 16_000))
    kept, samples = 0, []
    while (sample := tap.take()) is not None:
        samples.append(sample)
        kept += len(sample.records)
        assert sum(map(len, sample.records)) <= MAX_SENT_BYTES
    assert 0 < kept * 16_000 <= MAX_QUEUE_BYTES
    assert samples[0].overflow == 100 - kept
    assert all((sample.over_rate, sample.overflow) == (0, 0) for sample in samples[1:])


def test_the_queues_of_a_source_have_a_common_limit() -> None:
    """Many tails of one source don't affect the tail of another."""
    taps = TailSampler()
    flood = [
        opened(taps, source=SourceKey(123, 456, f"busy{number % 5}"), rate=100, id=str(number))
        for number in range(5 * MAX_TAPS)
    ]
    mine = opened(taps, source=OTHER, rate=100, id="mine")
    share = MAX_ALL_QUEUES_BYTES // 6
    for _ in range(50):
        taps.offer(list(taps), record(b"x" * 16_000))
    for source, watched in taps.items():
        assert watched.max_queued == share
        assert 0 < watched.queued <= share, source
        assert watched.queued == sum(tap._bytes for tap in watched.taps)
    assert sum(watched.queued for watched in taps.values()) <= MAX_ALL_QUEUES_BYTES
    assert len(bodies(mine)) * 16_000 > MAX_SENT_BYTES - 32_000
    for tap in flood:
        tap.take()
        taps.remove(tap)
    assert taps[OTHER].queued == mine._bytes > 0
    assert taps[OTHER].max_queued == MAX_ALL_QUEUES_BYTES // 4
    second = opened(taps, source=OTHER, rate=100, id="second")
    taps.offer([OTHER], record(b"x", at=1.0))
    assert taps[OTHER].queued == mine._bytes + second._bytes > mine._bytes
    taps.remove(second)
    assert taps[OTHER].queued == mine._bytes > 0
    mine.take()
    assert taps[OTHER].queued == mine._bytes == 0


def test_omitted_records_are_counted() -> None:
    """The client gets the number of omitted records."""
    taps = TailSampler()
    tap = opened(taps, rate=2)
    for _ in range(3):
        taps.offer([SOURCE], record())
    sample = tap.take()
    assert sample is not None
    tap.not_sent(sample)
    again = tap.take()
    assert again is not None
    assert (again.records, again.over_rate, again.overflow) == ((), 1, 2)


def test_taps_of_a_source() -> None:
    """Tails of a source get only its records, and no work is done without tails."""
    taps = TailSampler()
    assert not taps
    first, second = opened(taps, id="one"), opened(taps, id="two")
    assert taps
    taps.offer([SOURCE, OTHER], record(b"mine"))
    taps.offer([OTHER], record(b"another's"))
    assert bodies(first) == bodies(second) == ["mine"]
    taps.remove(first)
    taps.offer([SOURCE], record(b"more"))
    assert (bodies(first), bodies(second)) == ([], ["more"])
    taps.remove(second)
    assert not taps


def test_taps_have_separate_rates() -> None:
    """A slow tap delays no other, and a new one starts at once."""
    taps = TailSampler()
    slow, fast = opened(taps, id="slow", rate=1), opened(taps, id="fast", rate=10)
    for tenth in range(20):
        taps.offer([SOURCE], record(at=tenth / 10))
    late = opened(taps, id="late", rate=1)
    taps.offer([SOURCE], record(b"late", at=1.91))
    assert bodies(late) == ["late"]
    assert len(bodies(slow)) == 2
    assert len(bodies(fast)) == 21


def test_the_number_of_taps_is_limited() -> None:
    """The number of taps of one source is limited."""
    taps = TailSampler()
    for _ in range(MAX_TAPS):
        opened(taps)
    assert taps.add(subscription(), 0.0) is None
    assert taps.add(subscription(source=OTHER), 0.0) is not None


def test_a_record_that_can_not_be_sampled() -> None:
    """The error is counted, and ingestion isn't affected."""
    taps = TailSampler()
    tap = opened(taps)
    broken: Any = record()
    broken.body = None
    taps.offer([SOURCE], broken)
    assert isinstance(tap.error, TypeError)
    sample = tap.take()
    assert sample is not None
    assert sample.overflow == 1
