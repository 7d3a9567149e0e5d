"""Counters of a sink's records, by group."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from stream.definition.key import SinkKey
from stream.ops.metrics.registry import Metrics
from stream.sink.group import Group
from stream.sink.meters import SinkMeters
from stream.sink.outcome import no_pipeline_ready

KEY = SinkKey(1, 2, "source", "sink")
DURATION = "keboola_go_stream_sink_record_duration_milliseconds"


class _Waiter:
    def stored(self) -> None: ...

    def accepted(self, status: int) -> None: ...

    def failed(self, error: object) -> None: ...


def _samples(metrics: Metrics) -> dict[tuple[str, str, str], float]:
    return {
        (sample.name, sample.labels.get("error_type", ""), sample.labels.get("le", "")): (
            sample.value
        )
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def test_durations_of_a_group() -> None:
    """The duration of each row starts when it was received; the bytes are those of the group."""
    metrics = Metrics()
    group = Group(meter=SinkMeters(metrics, lambda: 10.0).of(KEY))
    group.add(b"aa\n", 1, 9_900, _Waiter())
    group.add(b"bb\nbb\n", 2, 9_900, _Waiter())
    group.add(b"c\n", 1, 9_996, _Waiter())
    group.stored()
    samples = _samples(metrics)
    assert samples[f"{DURATION}_bucket", "", "5.0"] == 1
    assert samples[f"{DURATION}_bucket", "", "100.0"] == 4
    assert samples[f"{DURATION}_sum", "", ""] == 304
    assert samples["keboola_go_stream_sink_encoded_bytes_B_total", "", ""] == 11
    assert samples["stream_sink_acknowledged_records_total", "", ""] == 4


def test_early_acknowledgements_are_not_repeated() -> None:
    """Rows acknowledged on arrival aren't acknowledged again when they are stored."""
    metrics = Metrics()
    counts = SinkMeters(metrics, lambda: 10.0).of(KEY)
    counts.acknowledged(1)
    group = Group(meter=counts)
    group.add(b"aa\n", 1, 9_900, None)
    group.stored()
    assert _samples(metrics)["stream_sink_acknowledged_records_total", "", ""] == 1


def test_failed_records_are_counted_by_error() -> None:
    """Records that weren't stored have separate durations, and no bytes."""
    metrics = Metrics()
    meters = SinkMeters(metrics, lambda: 10.0)
    group = Group(meter=meters.of(KEY))
    group.add(b"aa\n", 3, 9_990, _Waiter())
    group.failed(no_pipeline_ready())
    samples = _samples(metrics)
    assert samples[f"{DURATION}_count", "noPipelineReady", ""] == 3
    assert samples["keboola_go_stream_sink_encoded_bytes_B_total", "noPipelineReady", ""] == 0
    assert samples["stream_sink_acknowledged_records_total", "", ""] == 0


def test_a_deleted_sink_is_not_exported() -> None:
    """A deleted sink has no metrics."""
    metrics = Metrics()
    meters = SinkMeters(metrics, lambda: 10.0)
    meters.of(KEY).acknowledged(1)
    meters.forget(KEY)
    assert b'sink_id="sink"' not in metrics.page()


def test_missed_deletions() -> None:
    """After a gap in the watch only existing sinks are exported."""
    metrics = Metrics()
    meters = SinkMeters(metrics, lambda: 10.0)
    other = SinkKey(1, 2, "source", "other")
    for key in (KEY, other):
        meters.of(key).acknowledged(1)
    meters.keep({KEY})
    text = metrics.page().decode()
    assert 'sink_id="sink"' in text
    assert 'sink_id="other"' not in text
