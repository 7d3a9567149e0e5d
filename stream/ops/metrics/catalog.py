"""Metric families that the original service doesn't have, for the guarantees to producers.

They are registered when the process starts, so that a dashboard finds each of them in every scrape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

__all__ = ["OWN", "SINK_LABELS", "SOURCE_LABELS", "VOLUME_LABELS", "Definition"]

SOURCE_LABELS = ("project_id", "branch_id", "source_id")
SINK_LABELS = (*SOURCE_LABELS, "sink_id")
TARGET_LABELS = (*SINK_LABELS, "target")
VOLUME_LABELS = ("volume_id", "volume_type", "volume_label", "volume_path")

_SYNC_BUCKETS_MS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30000)


@attrs.frozen
class Definition:
    """The declaration of one metric family.

    :ivar name: name as scraped, but without a counter's ``_total``.
    :ivar buckets: upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help_text: str
    labels: Sequence[str] = ()
    buckets: Sequence[float] = ()


OWN: tuple[Definition, ...] = (
    Definition(
        "stream_sink_acknowledged_records",
        "counter",
        "Records that were acknowledged to producers, with 200, or with 202 before they were on "
        "disk.",
        SINK_LABELS,
    ),
    Definition(
        "stream_sink_synced_records",
        "counter",
        "Records that a disk writer has confirmed after fdatasync.",
        SINK_LABELS,
    ),
    Definition(
        "stream_sink_uploaded_records",
        "counter",
        "Records of slices that were uploaded to staging.",
        TARGET_LABELS,
    ),
    Definition(
        "stream_sink_imported_records",
        "counter",
        "Records of files that were imported into their tables.",
        TARGET_LABELS,
    ),
    Definition(
        "stream_sink_quarantined_records",
        "counter",
        "Records that the target refused. They are in quarantine: in a file of the project's file "
        "storage, or in a second table in the schema of their table.",
        TARGET_LABELS,
    ),
    Definition(
        "stream_sink_oldest_record_age_seconds",
        "gauge",
        "Age of the oldest record that isn't in its table yet; no value if all records are "
        "in their table. Exported by the coordinator that is responsible for the source.",
        SINK_LABELS,
    ),
    Definition(
        "stream_sink_pending_records",
        "gauge",
        "Records that aren't in their table yet. Exported by the same coordinator.",
        SINK_LABELS,
    ),
    Definition(
        "stream_sink_failing_uploads",
        "gauge",
        "Slices whose upload has failed and will be retried. Until they are uploaded, their files "
        "aren't imported. Exported by the reader of their volumes.",
        TARGET_LABELS,
    ),
    Definition(
        "stream_sink_held_bytes",
        "gauge",
        "Bytes of rows that wait in this source node for a disk writer.",
    ),
    Definition(
        "stream_sink_pipelines",
        "gauge",
        "Slices that this source node writes to, by the state of their pipelines.",
        ("state",),
    ),
    Definition(
        "stream_source_connections", "gauge", "Open connections of producers to this source node."
    ),
    Definition(
        "stream_source_held_bytes",
        "gauge",
        "Bytes of large or incomplete requests of producers that haven't been answered yet.",
    ),
    Definition(
        "stream_api_live_streams", "gauge", "Live streams of branches that this node serves."
    ),
    Definition(
        "stream_api_live_refused_streams",
        "counter",
        "Live streams that this node refused because it had the maximum number or was stopping.",
    ),
    Definition(
        "stream_api_live_ended_streams",
        "counter",
        "Live streams that this node has ended, by reason: slow (the caller read too slowly), "
        "token (no longer valid), duration (an hour), stopping.",
        ("reason",),
    ),
    Definition(
        "stream_templates_evaluations",
        "counter",
        "Records whose templates were evaluated, by outcome: ok, error, or stopped "
        "because they exceeded the limit of CPU time or memory.",
        ("result",),
    ),
    Definition("stream_templates_seconds", "counter", "CPU time that templates have used."),
    Definition(
        "stream_templates_refused_records",
        "counter",
        "Records that were refused with 503 because of their templates, by reason: full (the "
        "queue), late, paused, killed, stopping.",
        ("reason",),
    ),
    Definition(
        "stream_templates_processes_ended",
        "counter",
        "Processes for templates that ended unexpectedly, by cause: processor, crash, outside, "
        "start.",
        ("cause",),
    ),
    Definition("stream_templates_processes", "gauge", "Running processes for templates."),
    Definition(
        "stream_templates_waiting_records",
        "gauge",
        "Records whose templates wait for their turn or are evaluated.",
    ),
    Definition(
        "stream_writer_queue_bytes",
        "gauge",
        "Bytes that wait for the disk of a volume.",
        ("volume_id",),
    ),
    Definition(
        "stream_writer_volume_drained",
        "gauge",
        "1 if a volume accepts no new slices: drained by hand, full, failing or stuck.",
        ("volume_id",),
    ),
    Definition("stream_writer_open_files", "gauge", "Open slice files of this disk writer."),
    Definition(
        "stream_writer_sync_milliseconds",
        "histogram",
        "Duration of fdatasync.",
        ("volume_id",),
        _SYNC_BUCKETS_MS,
    ),
    Definition(
        "stream_operator_items",
        "gauge",
        "Files or slices that an operator watches.",
        ("operator",),
    ),
    Definition(
        "stream_operator_running",
        "gauge",
        "Files or slices that an operator works on, or that wait for their turn.",
        ("operator",),
    ),
    Definition("stream_threads_waiting", "gauge", "Jobs that wait for a thread.", ("pool",)),
    Definition(
        "stream_etcd_watch_lag_seconds",
        "gauge",
        "For how long a mirror of an etcd prefix may have been out of date: since its watch broke, "
        "or since it received a change that isn't processed yet; 0 while it is current.",
        ("prefix",),
    ),
    Definition(
        "stream_etcd_lease_held",
        "gauge",
        "1 while this node holds a lease in etcd: either the lease of the node itself (without it "
        "a source accepts no records), or that of a writer's volumes (without it they get no new "
        "slices).",
        ("lease",),
    ),
    Definition(
        "stream_definitions_largest_project_bytes",
        "gauge",
        "Size in etcd of the definitions of the largest project, as counted for "
        "`api.definitions.maxSize`.",
        (),
    ),
    Definition(
        "stream_definitions_limit_bytes",
        "gauge",
        "Limit of the size in etcd of the definitions of a project (`api.definitions.maxSize`).",
        (),
    ),
    Definition(
        "keboola_go_stream_storage_damaged",
        "counter",
        "Slices in which a damaged file was found, by volume.",
        ("volume_id",),
    ),
    Definition(
        "stream_source_without_sink_records",
        "counter",
        "Records that were accepted but not stored, because their source had no enabled sink.",
        ("project_id", "branch_id", "source_id"),
    ),
    Definition(
        "stream_rejected_records",
        "counter",
        "Records that couldn't be rendered: kept, or dropped because there were too many, the disk "
        "failed, or newer ones replaced them.",
        ("result",),
    ),
)
