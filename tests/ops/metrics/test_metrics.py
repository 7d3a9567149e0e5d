"""Metrics and their text format."""

from __future__ import annotations

import math

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from stream.ops.metrics.families import Histogram
from stream.ops.metrics.registry import CallLabels, Metrics, SinkLabels, SourceLabels, VolumeLabels

SOURCE = SourceLabels("1", "2", "src")
SINK = SinkLabels("1", "2", "src", "snk")
CALL = CallLabels("GET", "File", "host", "/v2/{id}", 200)
VOLUME = VolumeLabels("v1", "hdd", "001", "/stream/volumes/hdd/001")
PREFIX = "keboola_go_"

FAMILIES = [
    "stream_source_record_duration_milliseconds",
    "stream_source_in_bytes_B",
    "stream_sink_record_duration_milliseconds",
    "stream_sink_encoded_bytes_B",
    "stream_operation_duration_milliseconds",
    "stream_operation_bytes_compressed_B",
    "stream_operation_bytes_uncompressed_B",
    "stream_operation_filerotation_failed_count",
    "stream_operation_slicerotation_failed_count",
    "stream_operation_fileimport_failed_count",
    "stream_operation_sliceupload_failed_count",
    "stream_operation_filecleanup_failed_count",
    "stream_operation_jobcleanup_failed_count",
    "stream_writer_disk_used_B",
    "stream_writer_disk_total_B",
    "stream_writer_file_descriptor_used_fd",
    "stream_writer_file_descriptor_total_fd",
    "task_running",
    "task_duration_milliseconds",
    "mirror_map_num_keys_count",
    "mirror_tree_num_keys_count",
    "mirror_map_memory_usage_bytes",
    "mirror_tree_memory_usage_bytes",
    "client_request_in_flight",
    "client_request_duration_milliseconds",
    "client_request_parse_in_flight",
    "client_request_parse_duration_milliseconds",
    "http_request_in_flight",
    "http_request_duration_milliseconds",
    "http_request_content_length_bytes",
    "http_response_content_length_bytes",
]


def _page(metrics: Metrics) -> dict[str, Metric]:
    return {m.name: m for m in text_string_to_metric_families(metrics.page().decode())}


def _value(metrics: Metrics, sample: str, **labels: str) -> float:
    found = [
        s.value
        for family in _page(metrics).values()
        for s in family.samples
        if s.name == sample and labels.items() <= s.labels.items()
    ]
    assert len(found) == 1, (sample, found)
    return found[0]


def _scenario() -> Metrics:
    metrics = Metrics()
    metrics.source_meter(SOURCE, "http", lambda: 1.003).answered(1000, 100)
    metrics.sink_meter(SINK, "table").record(12, 80, records=4)
    for operation in ("filerotation", "slicerotation", "fileimport", "sliceupload"):
        metrics.operation_failed(SINK, operation, 2, target="keboola")
    metrics.operation_failed(SINK, "filecleanup", target="keboola")
    metrics.operation_failed(SINK, "jobcleanup", target="keboola")
    metrics.operation_finished(
        SINK, "sliceupload", 31, target="keboola", compressed=10, uncompressed=20
    )
    metrics.operation_finished(
        SINK, "filerotation", 5, target="keboola", condition="time", error_type="net"
    )
    metrics.volume_space(VOLUME, 5, 50)
    used, total = metrics.descriptor_gauges()
    used.set(12)
    total.set(1024)
    metrics.task_started("api.create.source")
    metrics.task_finished("api.create.source", 7)
    for kind in ("map", "tree"):
        metrics.mirror_size(kind, "definition/source/", 3, 300)
    for call in ("client_request", "client_request_parse", "http_request"):
        metrics.call_started(call, "GET", "host")
        metrics.call_finished(call, CALL, 40)
    metrics.bytes_transferred(CALL, 10, 1000)
    return metrics


def test_every_family_has_samples() -> None:
    """The page has each family that dashboards use, after one event of each kind."""
    page = _page(_scenario())
    for name in FAMILIES:
        assert page[PREFIX + name].samples, name


def test_empty_page() -> None:
    """Initially the page has only the identity, and never a metric of the process."""
    metrics = Metrics()
    assert _value(metrics, "target_info", service_name="stream") == 1
    samples = [s.name for family in _page(metrics).values() for s in family.samples]
    assert samples == ["target_info"]
    assert "process_" not in metrics.page().decode()
    assert "_created" not in _scenario().page().decode()


def test_counters_of_records() -> None:
    """Records are counted by source and outcome, by sink and type of error."""
    metrics = Metrics()
    meter = metrics.source_meter(SOURCE, "http", lambda: 1.0)
    meter.stored(997, 100)
    meter.answered(930, 50, failed=True)
    meter.answered(996, 1)
    duration = f"{PREFIX}stream_source_record_duration_milliseconds"
    labels = {"project_id": "1", "branch_id": "2", "source_id": "src", "source_type": "http"}
    assert _value(metrics, f"{duration}_count", has_error="false", **labels) == 2
    assert _value(metrics, f"{duration}_sum", has_error="false", **labels) == 7
    assert _value(metrics, f"{duration}_bucket", has_error="false", le="0.0") == 0
    assert _value(metrics, f"{duration}_bucket", has_error="false", le="5.0") == 2
    assert _value(metrics, f"{duration}_bucket", has_error="true", le="50.0") == 0
    assert _value(metrics, f"{duration}_bucket", has_error="true", le="75.0") == 1
    total = f"{PREFIX}stream_source_in_bytes_B_total"
    assert _value(metrics, total, has_error="false") == 101
    sink = metrics.sink_meter(SINK, "table")
    sink.record(12, 80, records=4)
    sink.record(12, 0, error_type="net")
    count = f"{PREFIX}stream_sink_record_duration_milliseconds_count"
    assert _value(metrics, count, error_type="", sink_id="snk", sink_type="table") == 4
    assert _value(metrics, count, error_type="net") == 1


def test_counters_of_bytes() -> None:
    """Bytes are counted after successes only, and failures by their attempt."""
    metrics = _scenario()
    duration = f"{PREFIX}stream_operation_duration_milliseconds"
    assert _value(metrics, f"{duration}_bucket", operation="sliceupload", le="30.0") == 0
    assert _value(metrics, f"{duration}_bucket", operation="sliceupload", le="100.0") == 1
    failed = {"operation": "filerotation", "condition": "time", "error_type": "net"}
    assert _value(metrics, f"{duration}_count", **failed) == 1
    compressed = f"{PREFIX}stream_operation_bytes_compressed_B_total"
    assert _value(metrics, compressed) == 10
    attempts = f"{PREFIX}stream_operation_fileimport_failed_count_sum"
    assert _value(metrics, attempts, operation="fileimport", sink_id="snk") == 2


def test_the_gauge_of_running_tasks() -> None:
    """Running tasks are counted up and down; finished tasks have an outcome."""
    metrics = Metrics()
    metrics.task_started("t")
    metrics.task_started("t")
    metrics.task_finished("t", 7, error_type="other", application_error=True)
    assert _value(metrics, f"{PREFIX}task_running", task_type="t") == 1
    labels = {"is_success": "false", "is_application_error": "true", "error_type": "other"}
    assert _value(metrics, f"{PREFIX}task_duration_milliseconds_count", **labels) == 1


def test_a_deleted_sink_is_no_longer_exported() -> None:
    """The metrics of a deleted sink, or of a source with its sinks, are removed; others remain."""
    metrics = _scenario()
    other = SinkLabels("1", "2", "src", "other")
    metrics.sink_meter(other, "table").record(1, 1)
    metrics.forget(SINK)
    text = metrics.page().decode()
    assert 'sink_id="snk"' not in text
    assert 'sink_id="other"' in text
    metrics.forget(SOURCE)
    text = metrics.page().decode()
    assert 'source_id="src"' not in text
    assert 'task_type="api.create.source"' in text


def test_shared_families() -> None:
    """A family is created once, and a second use with other labels is an error."""
    metrics = Metrics()
    family = metrics.gauge("stream_queue_length", "Length.", ["queue"])
    assert metrics.gauge("stream_queue_length", "Length.", ["queue"]) is family
    gauge = family.labels({"queue": "q"})
    gauge.set_function(lambda: 42)
    assert _value(metrics, "stream_queue_length", queue="q") == 42
    with pytest.raises(ValueError, match="other labels"):
        metrics.gauge("stream_queue_length", "Length.", ["name"])
    with pytest.raises(ValueError, match="has no label nope"):
        family.labels({"nope": "x"})


def test_a_gauge_that_fails() -> None:
    """The gauge of a volume that is gone doesn't affect the rest of the page."""

    def gone() -> float:
        raise FileNotFoundError("volume")

    metrics = Metrics()
    metrics.gauge("stream_x", "X.").labels({}).set_function(gone)
    assert math.isnan(_value(metrics, "stream_x"))


def test_histogram_bounds() -> None:
    """An observation equal to a bound counts below it, and one above all bounds as infinite."""
    histogram = Histogram((0, 5, 10))
    for value in (0, 5, 5.1, 11):
        histogram.observe(value)
    assert histogram.buckets() == [("0.0", 1), ("5.0", 2), ("10.0", 3), ("+Inf", 4)]
