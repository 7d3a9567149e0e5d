"""Counters of the records of sources."""

from __future__ import annotations

from stream.definition.key import SourceKey
from stream.ops.metrics.registry import Metrics
from stream.source.meters import SourceMeters


def test_deleted_sources_are_not_exported() -> None:
    """After a gap in the watch only existing sources are exported."""
    metrics = Metrics()
    meters = SourceMeters(metrics, lambda: 10.0)
    first, second, third = (SourceKey(1, 2, name) for name in ("first", "second", "third"))
    meters.http[first].stored(9_000, 1)
    meters.otlp[second].stored(9_000, 1)
    meters.http[third].stored(9_000, 1)
    meters.keep({first})
    text = metrics.page().decode()
    assert 'source_id="first"' in text
    assert 'source_id="second"' not in text
    assert 'source_id="third"' not in text
