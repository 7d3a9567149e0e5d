"""Metrics and logs of operators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from twisted.internet.task import Clock

from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.ops.metrics.registry import Metrics
from stream.storage.model.key import FileKey
from stream.storage.model.pending import Pending, pending_by_sink
from stream.storage.model.statistics import Aggregated, Statistics
from stream.storage.reconcile.operation_meter import RETAIN_SECONDS, OperationMeter
from stream.storage.reconcile.operator import Requeue
from stream.values.bytesize import ByteSize

KEY = SinkKey(1, 2, "source", "sink")
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def _lines(metrics: Metrics, part: str) -> list[str]:
    return [line for line in metrics.page().decode().splitlines() if part in line]


def test_a_success() -> None:
    """A success is exported with duration, condition and bytes."""
    metrics = Metrics()
    times = iter([1.0, 1.02])
    meter = OperationMeter(metrics, lambda: next(times))
    with meter.measured(
        KEY, "slicerotation", target="postgres", item="slice", step="rotateSlice"
    ) as outcome:
        outcome.condition = "time"
        outcome.statistics = Statistics(
            records_count=2, compressed_size=ByteSize(10), uncompressed_size=ByteSize(70)
        )
    (count,) = _lines(metrics, "stream_operation_duration_milliseconds_count")
    assert 'condition="time"' in count and 'error_type=""' in count and count.endswith(" 1.0")
    (size,) = _lines(metrics, "bytes_compressed_B_total{")
    assert size.endswith(" 10.0")
    assert not _lines(metrics, "failed_count_count")


def test_a_failure() -> None:
    """A failure is exported with the type of the error and the number of the attempt."""
    metrics = Metrics()
    meter = OperationMeter(metrics, lambda: 1.0)
    with (
        pytest.raises(UserError),
        meter.measured(
            KEY, "fileimport", 3, target="postgres", item="file", step="importFile"
        ) as outcome,
    ):
        outcome.statistics = Statistics(records_count=1, compressed_size=ByteSize(5))
        raise UserError("no", name="storageApiUnreachable")
    (total,) = _lines(metrics, "fileimport_failed_count_sum")
    assert total.endswith(" 3.0")
    (count,) = _lines(metrics, "stream_operation_duration_milliseconds_count")
    assert 'error_type="storageApiUnreachable"' in count and 'target="postgres"' in count
    assert not _lines(metrics, "bytes_compressed_B_total{")


def test_a_premature_operation_is_not_recorded() -> None:
    """Neither a duration nor a failure is recorded."""
    metrics = Metrics()
    meter = OperationMeter(metrics, lambda: 1.0)
    with (
        pytest.raises(Requeue),
        meter.measured(KEY, "fileimport", target="postgres", item="file", step="importFile"),
    ):
        raise Requeue("later")
    assert not _lines(metrics, "{")[1:]


def test_a_deleted_sink_is_no_longer_exported() -> None:
    """The metrics of a sink are removed after its deletion, even if a cleanup runs long after."""
    metrics, clock = Metrics(), Clock()
    meter = OperationMeter(metrics, clock.seconds)
    other = SinkKey(1, 2, "source", "other")
    for key in (KEY, other):
        with meter.measured(key, "filecleanup", target="postgres", item="file", step="deleteFile"):
            pass
        meter.moved("stream_sink_imported_records", key, 1, target="postgres")
    meter.retire(lambda key: key == other)
    assert _lines(metrics, 'sink_id="sink"'), "it is scraped for the last time"
    clock.advance(RETAIN_SECONDS + 1)
    with meter.measured(KEY, "filecleanup", target="postgres", item="file", step="deleteFile"):
        pass
    meter.retire(lambda key: key == other)
    assert _lines(metrics, 'sink_id="sink"')
    clock.advance(RETAIN_SECONDS + 1)
    meter.retire(lambda key: key == other)
    assert not _lines(metrics, 'sink_id="sink"')
    assert _lines(metrics, 'sink_id="other"')


def test_pending_records_by_sink() -> None:
    """Records count until their file is imported; the oldest of all files of a sink is exported."""
    first = FileKey.of(KEY, NOON)
    second = FileKey.of(KEY, NOON + timedelta(minutes=1))
    done = FileKey.of(SinkKey(1, 2, "source", "other"), NOON)
    old = Statistics(records_count=3, first_record_at=NOON)
    new = Statistics(records_count=4, first_record_at=NOON + timedelta(minutes=2))
    files = [
        (second, Aggregated(local=new)),
        (first, Aggregated(staging=old)),
        (done, Aggregated(target=old)),
    ]
    assert pending_by_sink(files) == {KEY: Pending(7, NOON)}
