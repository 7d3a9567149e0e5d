"""Metrics of a node that are computed when they are scraped: etcd, threads, open files."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.python.threadpool import ThreadPool

from stream.etcd import EtcdClient, Session
from stream.ops.metrics.families import Gauge
from stream.ops.metrics.registry import Metrics
from stream.ops.process.thread_pool import AbandonableThreadPool

if TYPE_CHECKING:
    from stream.sink.router import SinkRouter

__all__ = ["watch_descriptors", "watch_etcd", "watch_lease", "watch_source", "watch_threads"]

_TREES = ("definition/", "storage/")
"""Prefixes whose keys form a tree (definitions, files, slices, statistics); others are flat."""


_DESCRIPTORS = (Path("/proc/self/fd"), Path("/dev/fd"))
"""Directories that list the open files of the current process, on Linux and other systems."""


def watch_etcd(metrics: Metrics, client: EtcdClient) -> None:
    """Export metrics of the mirrors of *client*."""

    def collect() -> None:
        lags: dict[tuple[str, ...], Gauge] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for mirror in client.mirrors:
            prefix = mirror.prefix
            lag = max(mirror.lag_seconds, lags[prefix,].value if (prefix,) in lags else 0.0)
            lags[prefix,] = Gauge(lag)
            keys, size = sizes.get(prefix, (0, 0))
            sizes[prefix] = keys + len(mirror.items), size + mirror.stored_bytes
        metrics.own("stream_etcd_watch_lag_seconds").replace(lags)
        for prefix, (keys, size) in sizes.items():
            metrics.mirror_size("tree" if prefix.startswith(_TREES) else "map", prefix, keys, size)

    metrics.on_collect(collect)


def watch_lease(metrics: Metrics, session: Session, of: str) -> None:
    """Export whether *session* has its lease.

    :param of: what the lease is for: ``node`` or ``volumes``.
    """
    gauge: Gauge = metrics.own("stream_etcd_lease_held").labels({"lease": of})
    metrics.on_collect(lambda: gauge.set(session.lease_id is not None))


def watch_threads(metrics: Metrics, pools: Mapping[str, ThreadPool]) -> None:
    """Export, for each of *pools* by name, the number of jobs that wait for a thread."""

    def collect() -> None:
        family = metrics.own("stream_threads_waiting")
        for name, pool in pools.items():
            family.labels({"pool": name}).set(_backlog(pool))

    metrics.on_collect(collect)


def _backlog(pool: ThreadPool) -> int:
    """Return the number of jobs that wait for a thread of *pool*."""
    if isinstance(pool, AbandonableThreadPool):
        return pool.backlog
    count: int = pool._team.statistics().backloggedWorkCount
    return count


def watch_descriptors(metrics: Metrics) -> None:
    """Export the number of open files, which is counted in a thread when scraped."""
    used, total = metrics.descriptor_gauges()
    used.set_function(count_descriptors)
    total.set_function(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def count_descriptors() -> int:
    """Return the number of open files of this process; 0 if the system can't report it."""
    for directory in _DESCRIPTORS:
        try:
            return sum(1 for _ in directory.iterdir())
        except OSError:
            continue
    return 0


def watch_source(
    metrics: Metrics,
    router: SinkRouter,
    connections: Callable[[], int],
    held_bytes: Callable[[], int],
) -> None:
    """Export the slices that a source node writes to, and the connections of producers."""

    def collect() -> None:
        held = 0
        states: dict[tuple[str, ...], Gauge] = {}
        for pipeline in router.slices():
            held += pipeline.held_bytes
            states.setdefault((pipeline.state.value,), Gauge()).add(1)
        metrics.own("stream_sink_pipelines").replace(states)
        metrics.own("stream_sink_held_bytes").labels({}).set(held)
        metrics.own("stream_source_connections").labels({}).set(connections())
        metrics.own("stream_source_held_bytes").labels({}).set(held_bytes())

    metrics.on_collect(collect)
