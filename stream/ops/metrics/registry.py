"""The metrics of the service, in a registry without metrics of the process or the runtime.

`Metrics` has a family for each metric name that dashboards use, and methods that record events. The
page shows only the help text of a family without values. Durations are in milliseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs
from prometheus_client import CollectorRegistry, Info
from prometheus_client.exposition import generate_latest
from twisted.logger import Logger

from stream.ops.metrics.catalog import OWN, SINK_LABELS, SOURCE_LABELS, VOLUME_LABELS
from stream.ops.metrics.families import DEFAULT_BUCKETS_MS, Counter, Family, Gauge, Histogram

__all__ = [
    "Call",
    "CallLabels",
    "Metrics",
    "Operation",
    "SinkLabels",
    "SinkMeter",
    "SourceLabels",
    "SourceMeter",
    "VolumeLabels",
]

_log = Logger()
C = TypeVar("C", Counter, Gauge, Histogram)
Operation = Literal[
    "filerotation", "slicerotation", "fileimport", "sliceupload", "filecleanup", "jobcleanup"
]
_OPERATIONS: tuple[Operation, ...] = (
    "filerotation",
    "slicerotation",
    "fileimport",
    "sliceupload",
    "filecleanup",
    "jobcleanup",
)
# A client's call including retries; the decoding of its response; one physical request.
Call = Literal["client_request", "client_request_parse", "http_request"]
_CALLS: tuple[Call, ...] = ("client_request", "client_request_parse", "http_request")
_OPERATION_BUCKETS_MS = (
    *(0, 10, 30, 100, 300, 1000, 3000, 10000),
    *(30000, 100000, 300000, 1000000),
)
_LAG_BUCKETS_MS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 5000)
_SOURCE, _SINK, _VOLUME = SOURCE_LABELS, SINK_LABELS, VOLUME_LABELS
_REQUEST = (
    "http_method",
    "http_result_type",
    "http_url_host",
    "http_url_path",
    "http_status_code",
)
_PREFIX = "keboola_go_"


@attrs.frozen
class SourceLabels:
    """The labels of a source."""

    project_id: str
    branch_id: str
    source_id: str

    def as_labels(self) -> dict[str, str]:
        """The labels by name."""
        return attrs.asdict(self)


@attrs.frozen
class SinkLabels(SourceLabels):
    """The labels of a sink."""

    sink_id: str


@attrs.frozen
class VolumeLabels:
    """The labels of a volume."""

    volume_id: str
    volume_type: str
    volume_label: str
    volume_path: str

    def as_labels(self) -> dict[str, str]:
        """The labels by name."""
        return attrs.asdict(self)


@attrs.frozen
class CallLabels:
    """The labels of a call to another service.

    :ivar http_result_type: type of the response's content.
    :ivar http_url_path: URL path with placeholders instead of IDs, to limit the number of values.
    :ivar http_status_code: status code; 0 if there was no response.
    """

    http_method: str
    http_result_type: str
    http_url_host: str
    http_url_path: str
    http_status_code: int

    def as_labels(self) -> dict[str, str]:
        """The labels by name."""
        return {name: str(value) for name, value in attrs.asdict(self).items()}


class SourceMeter:
    """The meter of one source's records, which the handler of its requests uses.

    :param clock: returns seconds since the epoch.
    """

    __slots__ = ("_children", "_clock", "_families", "_labels", "_usual")

    def __init__(
        self,
        durations: Family[Histogram],
        sizes: Family[Counter],
        labels: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._families = durations, sizes
        self._labels = dict(labels)
        self._clock = clock
        self._children: dict[bool, tuple[Histogram, Counter]] = {}
        self._usual: tuple[Sequence[float], list[int], Histogram, Counter] | None = None

    def stored(self, at: int, size: int) -> None:
        """Count one answered record of *size* bytes; a fast version of `answered`.

        :param at: receive time, milliseconds since the epoch.
        """
        bounds, counts, durations, sizes = self._usual or self._make_usual()
        elapsed = self._clock() * 1000 - at
        if elapsed < 0:
            elapsed = 0.0  # the clock was set back
        counts[bisect_left(bounds, elapsed)] += 1
        durations.sum += elapsed
        sizes.value += size

    def answered(self, at: int, size: int, *, failed: bool = False, records: int = 1) -> None:
        """Count *records* answered records, *size* bytes in total.

        :param at: receive time, milliseconds since the epoch.
        """
        durations, sizes = self._children.get(failed) or self._make(failed)
        durations.observe(max(0.0, self._clock() * 1000 - at), records)
        sizes.add(size)

    def _make_usual(self) -> tuple[Sequence[float], list[int], Histogram, Counter]:
        durations, sizes = self._children.get(False) or self._make(False)
        self._usual = durations.bounds, durations.counts, durations, sizes
        return self._usual

    def _make(self, failed: bool) -> tuple[Histogram, Counter]:
        labels = {**self._labels, "has_error": "true" if failed else "false"}
        durations, sizes = self._families
        children = self._children[failed] = durations.labels(labels), sizes.labels(labels)
        return children


class SinkMeter:
    """The meter of one sink's records, which the sink's pipeline uses."""

    def __init__(
        self, durations: Family[Histogram], sizes: Family[Counter], labels: Mapping[str, str]
    ) -> None:
        self._families = durations, sizes
        self._labels = dict(labels)
        self._children: dict[str, tuple[Histogram, Counter]] = {}

    def record(
        self, milliseconds: float, encoded: int, *, error_type: str = "", records: int = 1
    ) -> None:
        """Count *records* written records, *encoded* bytes in total, *milliseconds* each."""
        children = self._children.get(error_type)
        if children is None:
            labels = {**self._labels, "error_type": error_type}
            durations, sizes = self._families
            children = durations.labels(labels), sizes.labels(labels)
            self._children[error_type] = children
        children[0].observe(milliseconds, records)
        children[1].add(encoded)


class Metrics:
    """All metric families; each process has one such object.

    :ivar registry: the library's registry, which contains all families.
    """

    def __init__(self, service_name: str = "stream") -> None:
        self.registry = CollectorRegistry()
        self._families: dict[str, Family[Any]] = {}
        Info("target", "Target metadata.", registry=self.registry).info(
            {"service_name": service_name}
        )
        self._define_records()
        self._define_operations()
        self._define_node()
        self._define_requests()
        self._define_own()
        self._collectors: list[Callable[[], None]] = []

    def on_collect(self, collect: Callable[[], None]) -> None:
        """Call *collect* in the reactor's thread before each scrape.

        *collect* copies counts from elsewhere, and must be fast.
        """
        self._collectors.append(collect)

    def collect(self) -> None:
        """Update the metrics that are computed on demand; call it in the reactor's thread."""
        for collect in self._collectors:
            try:
                collect()
            except Exception:
                _log.failure("cannot collect metrics")

    def page(self) -> bytes:
        """Return all metrics in the Prometheus text format; call `collect` first. Thread-safe."""
        return generate_latest(self.registry)

    def families(self) -> Iterable[Family[Any]]:
        """Return all families, in the order of their definition."""
        return self._families.values()

    def own(self, name: str) -> Family[Any]:
        """Return the family *name* of `stream.ops.metrics.catalog`."""
        return self._families[name]

    def moved(self, name: str, sink: SinkLabels, records: int, *, target: str) -> None:
        """Count *records* of *sink* in the counter *name*.

        :param target: name of the target of its table.
        """
        self._families[name].labels({**sink.as_labels(), "target": target}).add(records)

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Family[Counter]:
        """Return the counter *name* (scraped with ``_total``), registered on first use."""
        return self._registered(Family(name, help_text, labels, Counter))

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Family[Gauge]:
        """Return the gauge *name*, registered on first use."""
        return self._registered(Family(name, help_text, labels, Gauge))

    def histogram(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = DEFAULT_BUCKETS_MS,
    ) -> Family[Histogram]:
        """Return the histogram *name*, registered on first use."""
        bounds = tuple(buckets)
        return self._registered(Family(name, help_text, labels, lambda: Histogram(bounds)))

    def source_meter(
        self, source: SourceLabels, source_type: str, clock: Callable[[], float]
    ) -> SourceMeter:
        """Return the meter of the records of *source*; *clock* returns seconds since the epoch."""
        labels = {**source.as_labels(), "source_type": source_type}
        return SourceMeter(self._source_duration, self._source_bytes, labels, clock)

    def sink_meter(self, sink: SinkLabels, sink_type: str) -> SinkMeter:
        """Return the meter of the records of *sink*."""
        labels = {**sink.as_labels(), "sink_type": sink_type}
        return SinkMeter(self._sink_duration, self._sink_bytes, labels)

    def forget(self, labels: SourceLabels) -> None:
        """Drop all metrics of a deleted sink, or of a deleted source with its sinks.

        Values of their existing meters are no longer exported.
        """
        values = labels.as_labels()
        for family in self._families.values():
            family.forget(values)

    def operation_finished(
        self,
        sink: SinkLabels,
        operation: Operation,
        milliseconds: float,
        *,
        target: str,
        condition: str = "",
        error_type: str = "",
        compressed: int = 0,
        uncompressed: int = 0,
    ) -> None:
        """Record that a rotation, upload, import or cleanup has ended.

        :param target: name of the target of the sink's table.
        :param condition: the trigger of a rotation.
        :param error_type: type of the error; empty after a success.
        :param compressed: size of the processed data after compression, counted only after a
            success.
        :param uncompressed: size of the same data before compression.
        """
        labels = {
            **sink.as_labels(),
            "operation": operation,
            "target": target,
            "condition": condition,
            "error_type": error_type,
        }
        self._operation_duration.labels(labels).observe(milliseconds)
        if not error_type and (compressed or uncompressed):
            self._operation_compressed.labels(labels).add(compressed)
            self._operation_uncompressed.labels(labels).add(uncompressed)

    def operation_failed(
        self, sink: SinkLabels, operation: Operation, attempt: int = 1, *, target: str
    ) -> None:
        """Record that the *attempt*-th attempt at an operation has failed."""
        labels = {**sink.as_labels(), "operation": operation, "target": target}
        self._operation_failures[operation].labels(labels).observe(attempt)

    def volume_space(self, volume: VolumeLabels, used: float, total: float) -> None:
        """Set the *total* and *used* bytes of the disk of *volume*."""
        self._disk_used.labels(volume.as_labels()).set(used)
        self._disk_total.labels(volume.as_labels()).set(total)

    def descriptor_gauges(self) -> tuple[Gauge, Gauge]:
        """Return the gauge of open files and the gauge of their limit."""
        return self._descriptors_used.labels({}), self._descriptors_total.labels({})

    def task_started(self, task_type: str) -> None:
        """Count a task as running."""
        self._tasks_running.labels({"task_type": task_type}).add(1)

    def task_finished(
        self,
        task_type: str,
        milliseconds: float,
        *,
        error_type: str = "",
        application_error: bool = False,
    ) -> None:
        """Record that a running task has ended.

        :param error_type: type of the error; empty after a success.
        :param application_error: whether the failure was caused by a bug and not by the user.
        """
        self._tasks_running.labels({"task_type": task_type}).add(-1)
        labels = {"task_type": task_type, "is_success": "false" if error_type else "true"}
        if error_type:
            labels["is_application_error"] = "true" if application_error else "false"
            labels["error_type"] = error_type
        self._task_duration.labels(labels).observe(milliseconds)

    def mirror_size(
        self, kind: Literal["map", "tree"], prefix: str, keys: int, memory: int
    ) -> None:
        """Set the size of the mirror of *prefix*: *keys* keys, about *memory* bytes."""
        self._mirror_keys[kind].labels({"prefix": prefix}).set(keys)
        self._mirror_memory[kind].labels({"prefix": prefix}).set(memory)

    def call_started(self, call: Call, method: str, host: str) -> None:
        """Count a call to another service as started."""
        labels = {"http_method": method, "http_url_host": host}
        self._calls_in_flight[call].labels(labels).add(1)

    def call_finished(self, call: Call, labels: CallLabels, milliseconds: float) -> None:
        """Record that a started call has ended."""
        in_flight = {"http_method": labels.http_method, "http_url_host": labels.http_url_host}
        self._calls_in_flight[call].labels(in_flight).add(-1)
        self._call_duration[call].labels(labels.as_labels()).observe(milliseconds)

    def bytes_transferred(self, labels: CallLabels, sent: int, received: int) -> None:
        """Count the sizes of the bodies of one physical request and its response."""
        values = labels.as_labels()
        self._request_bytes.labels(values).add(sent)
        self._response_bytes.labels(values).add(received)

    def reactor_lag(self, milliseconds: float) -> None:
        """Record that the reactor ran a call *milliseconds* late."""
        self._reactor_lag.labels({}).observe(milliseconds)

    def _registered(self, family: Family[C]) -> Family[C]:
        known: Family[C] | None = self._families.get(family.name)
        if known is not None:
            if known.label_names != family.label_names:
                raise ValueError(f"{family.name} already has other labels")
            return known
        self._families[family.name] = family
        self.registry.register(family)
        return family

    def _define_records(self) -> None:
        source = (*_SOURCE, "has_error", "source_type")
        self._source_duration = self.histogram(
            f"{_PREFIX}stream_source_record_duration_milliseconds",
            "Duration of one record in its source.",
            source,
        )
        self._source_bytes = self.counter(
            f"{_PREFIX}stream_source_in_bytes_B", "Bytes of the records of a source.", source
        )
        sink = (*_SINK, "error_type", "sink_type")
        self._sink_duration = self.histogram(
            f"{_PREFIX}stream_sink_record_duration_milliseconds",
            "Duration of writing one record to a sink.",
            sink,
        )
        self._sink_bytes = self.counter(
            f"{_PREFIX}stream_sink_encoded_bytes_B", "Bytes of the rows of a sink.", sink
        )

    def _define_operations(self) -> None:
        stream = f"{_PREFIX}stream_operation_"
        labels = (*_SINK, "error_type", "operation", "condition", "target")
        self._operation_duration = self.histogram(
            f"{stream}duration_milliseconds",
            "Duration of rotations, uploads, imports and cleanups.",
            labels,
            _OPERATION_BUCKETS_MS,
        )
        self._operation_compressed = self.counter(
            f"{stream}bytes_compressed_B", "Compressed bytes that were processed.", labels
        )
        self._operation_uncompressed = self.counter(
            f"{stream}bytes_uncompressed_B", "The same bytes before compression.", labels
        )
        self._operation_failures = {
            operation: self.histogram(
                f"{stream}{operation}_failed_count",
                "Failures, by the number of the attempt.",
                (*_SINK, "operation", "target"),
            )
            for operation in _OPERATIONS
        }

    def _define_node(self) -> None:
        writer = f"{_PREFIX}stream_writer_"
        self._disk_used = self.gauge(f"{writer}disk_used_B", "Used bytes of a volume.", _VOLUME)
        self._disk_total = self.gauge(f"{writer}disk_total_B", "All bytes of a volume.", _VOLUME)
        self._descriptors_used = self.gauge(
            f"{writer}file_descriptor_used_fd", "Open file descriptors."
        )
        self._descriptors_total = self.gauge(
            f"{writer}file_descriptor_total_fd", "File descriptors that may be opened."
        )
        self._tasks_running = self.gauge(f"{_PREFIX}task_running", "Running tasks.", ["task_type"])
        self._task_duration = self.histogram(
            f"{_PREFIX}task_duration_milliseconds",
            "Duration of tasks.",
            ("task_type", "is_success", "is_application_error", "error_type"),
        )
        self._mirror_keys = {
            kind: self.gauge(
                f"{_PREFIX}mirror_{kind}_num_keys_count", "Keys in a mirror of etcd.", ["prefix"]
            )
            for kind in ("map", "tree")
        }
        self._mirror_memory = {
            kind: self.gauge(
                f"{_PREFIX}mirror_{kind}_memory_usage_bytes", "Bytes of a mirror.", ["prefix"]
            )
            for kind in ("map", "tree")
        }
        self._reactor_lag = self.histogram(
            "stream_reactor_lag_milliseconds",
            "Delay with which the reactor runs scheduled calls.",
            (),
            _LAG_BUCKETS_MS,
        )

    def _define_own(self) -> None:
        for family in OWN:
            if family.kind == "counter":
                self.counter(family.name, family.help_text, family.labels)
            elif family.kind == "gauge":
                self.gauge(family.name, family.help_text, family.labels)
            else:
                self.histogram(family.name, family.help_text, family.labels, family.buckets)

    def _define_requests(self) -> None:
        self._calls_in_flight = {
            call: self.gauge(
                f"{_PREFIX}{call}_in_flight",
                "Running calls to other services.",
                ("http_method", "http_url_host"),
            )
            for call in _CALLS
        }
        self._call_duration = {
            call: self.histogram(
                f"{_PREFIX}{call}_duration_milliseconds",
                "Duration of calls to other services.",
                _REQUEST,
            )
            for call in _CALLS
        }
        self._request_bytes = self.counter(
            f"{_PREFIX}http_request_content_length_bytes", "Bytes of request bodies.", _REQUEST
        )
        self._response_bytes = self.counter(
            f"{_PREFIX}http_response_content_length_bytes", "Bytes of response bodies.", _REQUEST
        )
