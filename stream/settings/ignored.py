"""Settings that are accepted, checked and shown but have no effect, with the reasons.

Configurations of Keboola Stream must load unchanged, so these keys exist. An operator who tries to
tune one of them must learn that it has no effect, so the reference contains the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["IGNORED_SETTINGS"]

_DATADOG = "nothing is sent to Datadog; Prometheus collects the metrics."
_GO_PROFILER = "there is no such profile in Python."
_KCP = "the transport `kcp` is refused."
_GROUP_COMMIT = "a chunk is committed as soon as the previous commit has finished."
_ADAPTIVE = "groups follow the pace of the disk; nothing is checked at intervals."
_LEASE = "the time to live of the lease (`distribution.ttlSeconds`) is the limit."

IGNORED_SETTINGS: Mapping[str, str] = {
    "watchTelemetryInterval": "the lag of a watch is measured with each event.",
    "datadog.enabled": _DATADOG,
    "datadog.debug": _DATADOG,
    "datadog.profiler.enabled": _DATADOG,
    "datadog.profiler.cpu": _DATADOG,
    "datadog.profiler.memory": _DATADOG,
    "datadog.profiler.block": _GO_PROFILER,
    "datadog.profiler.mutex": _GO_PROFILER,
    "datadog.profiler.goroutine": _GO_PROFILER,
    "etcd.keepAliveTimeout": "each call has its own timeout.",
    "etcd.keepAliveInterval": "each call has its own timeout.",
    "distribution.grantTimeout": _LEASE,
    "distribution.startupTimeout": _LEASE,
    "distribution.shutdownTimeout": _LEASE,
    "source.http.writeBufferSize": "responses are written as a whole.",
    "storage.statistics.sync.timeout": "a failed sync is repeated together with the next one.",
    "storage.statistics.cache.L2.enabled": "sums are kept up to date by one watch.",
    "storage.level.local.encoding.encoder.concurrency": "rows are rendered by the source itself.",
    "storage.level.local.encoding.inputBuffer": _GROUP_COMMIT,
    "storage.level.local.encoding.failedChunksThreshold": (
        "a chunk that fails is answered immediately, or sent to another slice."
    ),
    "storage.level.local.encoding.compression.gzip.blockSize": "each group is a gzip member.",
    "storage.level.local.encoding.compression.gzip.concurrency": "a node shares one thread pool.",
    "storage.level.local.encoding.sync.checkInterval": _ADAPTIVE,
    "storage.level.local.encoding.sync.compressedBytesTrigger": _GROUP_COMMIT,
    "storage.level.local.writer.network.kcpInputBuffer": _KCP,
    "storage.level.local.writer.network.kcpResponseBuffer": _KCP,
}
"""The reasons by key of the setting."""
