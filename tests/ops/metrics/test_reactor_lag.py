"""The lag of the reactor."""

from __future__ import annotations

from twisted.internet.task import Clock

from stream.ops.metrics.reactor_lag import ReactorLag
from stream.ops.metrics.registry import Metrics


def test_the_lag_is_observed() -> None:
    """A late call is counted with its delay; a stopped service has no pending call."""
    clock, metrics = Clock(), Metrics()
    service = ReactorLag(clock, metrics)
    service.startService()
    clock.advance(0.5)
    clock.advance(0.8)
    page = metrics.page().decode()
    assert 'stream_reactor_lag_milliseconds_bucket{le="1.0"} 1.0' in page
    assert 'stream_reactor_lag_milliseconds_bucket{le="500.0"} 2.0' in page
    assert 'stream_reactor_lag_milliseconds_bucket{le="250.0"} 1.0' in page
    service.stopService()
    assert clock.getDelayedCalls() == []
