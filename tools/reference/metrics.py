"""The page ``docs/metrics.md``: ``python -m tools.reference.metrics > docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from stream.ops.metrics.registry import Metrics

__all__ = ["QUESTIONS", "Question", "group", "reference"]


@attrs.frozen
class Question:
    """A question of an operator, and the metric families that answer it.

    :ivar answer: the answer, in Markdown.
    :ivar query: a query in PromQL; empty for none.
    :ivar families: registered names, or their prefixes.
    """

    asked: str
    answer: str
    query: str
    families: Sequence[str]


QUESTIONS = (
    Question(
        "Are records arriving?",
        "The rate of records that were acknowledged to producers, by sink. If it falls to 0 while "
        "producers send, look at the next question.",
        "sum by (source_id, sink_id) (rate(stream_sink_acknowledged_records_total[5m]))",
        (
            "stream_sink_acknowledged_records",
            "stream_sink_synced_records",
            "keboola_go_stream_sink_encoded_bytes",
            "keboola_go_stream_source_in_bytes",
        ),
    ),
    Question(
        "Are records refused?",
        'The share of records with `has_error="true"`, by source. A request that is refused as a '
        "whole counts as one record of its source. A request whose URL matches no source isn't "
        "counted, because it has no labels.",
        "sum by (source_id) (rate(keboola_go_stream_source_record_duration_milliseconds_count"
        '{has_error="true"}[5m]))',
        (
            "keboola_go_stream_source_record_duration",
            "stream_rejected_records",
            "stream_source_without_sink_records",
            "stream_templates_refused_records",
        ),
    ),
    Question(
        "How fast are the answers?",
        "The duration of a record in its sink. It includes the sync of the disk, which also has a "
        "separate metric.",
        "histogram_quantile(0.99, sum by (le) "
        "(rate(keboola_go_stream_sink_record_duration_milliseconds_bucket[5m])))",
        (
            "keboola_go_stream_sink_record_duration",
            "stream_writer_sync",
            "stream_reactor_lag",
            "stream_threads_waiting",
        ),
    ),
    Question(
        "How old is the oldest record that isn't in its table?",
        "For each source, one coordinator exports this metric. While another coordinator takes "
        "over, two may export it, so use `max by`.",
        "max by (source_id, sink_id) (stream_sink_oldest_record_age_seconds)",
        ("stream_sink_oldest_record_age", "stream_sink_pending_records"),
    ),
    Question(
        "Are slices uploaded, and files imported?",
        "Durations, rates, and failures by the number of the attempt, for each step. "
        "`condition` is the trigger of a rotation: `expiration`, `sliceCount`, `recordCount`, "
        "`size`, `time`, `maxSlices`, `volumes` if other volumes have become available, or "
        "`unknown` if an operator asked for it. `target` is the type of the table, such as "
        "`keboola` or `postgres`.",
        "sum by (operation, error_type) (rate("
        'keboola_go_stream_operation_duration_milliseconds_count{error_type!=""}[15m]))',
        (
            "stream_sink_uploaded_records",
            "stream_sink_imported_records",
            "stream_sink_failing_uploads",
            "keboola_go_stream_operation_",
        ),
    ),
    Question(
        "Are rows missing, or files damaged?",
        "If one of these numbers increases, an operator must act.",
        "sum by (sink_id) (increase(stream_sink_quarantined_records_total[1h]))",
        ("stream_sink_quarantined_records", "keboola_go_stream_storage_damaged"),
    ),
    Question(
        "Are the disks full or slow?",
        "A volume with the value 1 accepts no new slices.",
        "max by (volume_id) (stream_writer_volume_drained)",
        ("keboola_go_stream_writer_", "stream_writer_"),
    ),
    Question(
        "Is a source full?",
        "The waiting bytes and the open connections of each source node.",
        "sum by (instance) (stream_source_held_bytes + stream_sink_held_bytes)",
        ("stream_source_connections", "stream_source_held", "stream_sink_held", "stream_sink_pipe"),
    ),
    Question(
        "Do templates take too long?",
        "The rate of templates that were stopped, and records that wait for their turn.",
        'sum by (instance) (rate(stream_templates_evaluations_total{result="stopped"}[5m]))',
        ("stream_templates_",),
    ),
    Question(
        "Does etcd answer?",
        "A source node without its lease accepts no records. Each process exports the metrics of "
        "its own mirrors. The bytes of a mirror are the size of its content in etcd, which is "
        "estimated from the mean size of its values.",
        "max by (prefix) (stream_etcd_watch_lag_seconds)",
        ("stream_etcd_", "keboola_go_mirror_"),
    ),
    Question(
        "Is a project near its limit of definitions?",
        "At the limit, changes that need more space are refused with `definitionSizeLimitReached`. "
        "The key `definition/size/<project>` in etcd contains the size of each project that isn't "
        "very small.",
        "max(stream_definitions_largest_project_bytes / stream_definitions_limit_bytes)",
        ("stream_definitions",),
    ),
    Question(
        "Does the Storage API answer?",
        "Calls to other services, by host and status.",
        "sum by (http_url_host, http_status_code) "
        "(rate(keboola_go_client_request_duration_milliseconds_count[5m]))",
        ("keboola_go_client_", "keboola_go_http_"),
    ),
    Question(
        "Do changes through the API succeed?",
        "Tasks by their outcome, and live streams of the console.",
        'sum by (task_type) (rate(keboola_go_task_duration_milliseconds_count{is_success="false"}'
        "[15m]))",
        ("keboola_go_task_", "stream_api_"),
    ),
)
"""All questions of the page, in order."""

_OTHER = Question("What is the coordinator doing?", "Work in progress, by operator.", "", ())

_HEAD = """\
# Metrics

Each process serves Prometheus text at `http://<metrics.listen>/metrics` (port 9000).
`provisioning/monitoring/` contains a Grafana dashboard, alert rules, and configurations of
Prometheus for one machine (`prometheus.yaml`) and for a cluster (`prometheus-kubernetes.yaml`). The
[runbook](runbook/index.md) says what to do about each alert.
"""

_TAIL = """\
## How to read the metrics

* **You can add up all processes.** A process exports only its own numbers, and no event is counted
  by two processes. For counters and histograms, use `sum` over all processes. The exceptions are
  `stream_sink_oldest_record_age_seconds` and `stream_sink_pending_records`: use `max by`.
* **Counters begin at 0** when their process starts. Use `rate` and `increase`.
* **Names**: the tables show the names of counters with their suffix. A histogram has the suffixes
  `_bucket`, `_sum` and `_count`.
* **Workers**: with `--workers N`, worker *i* serves a page of its own on the port
  `metrics.listen` + *i*. The page of the parent contains no metrics of records. Let Prometheus
  scrape all N + 1 ports.
* **Deleted sinks**: when a sink is deleted, its metrics disappear. On the coordinator and the
  reader they disappear five minutes after the last event of the sink.
* **Labels** contain no tokens or secrets. The number of their values doesn't depend on the number
  of files, slices or records.
* **`error_type`** is empty after a success. Otherwise it is `context_canceled`,
  `deadline_exceeded`, `net_timeout`, `net`, `storage_api_<status>`, the name of the error as the
  API shows it, or `other`.
* **Not included**: like the original, Stream exports no metrics of the process or the runtime. Use
  the exporters of the platform. The families `…mirror_*_num_keys` and `…mirror_*_memory_usage` are
  gauges; in the original they are counters, to which the current size is added repeatedly.

`make check-alerts` uses promtool of Prometheus to run the cases in which each alert fires and
doesn't fire (`alerts_test.yaml`). In `make watch-check` a real Prometheus monitors real processes,
with shorter times.
"""


def group(name: str) -> Question:
    """Return the question that the family of this name answers."""
    return next(
        (question for question in QUESTIONS if name.startswith(tuple(question.families))), _OTHER
    )


def reference() -> str:
    """Return the page."""
    families = sorted(Metrics().families(), key=lambda family: family.name)
    parts = [_HEAD]
    for question in (*QUESTIONS, _OTHER):
        rows = [f"## {question.asked}", "", question.answer, ""]
        if question.query:
            rows += ["```promql", question.query, "```", ""]
        rows += ["| family | kind | labels | meaning |", "|---|---|---|---|"]
        for family in families:
            if group(family.name) is not question:
                continue
            suffix = "_total" if family.kind == "counter" else ""
            labels = ", ".join(f"`{label}`" for label in family.label_names)
            name = f"`{family.name}{suffix}`"
            rows.append(f"| {name} | {family.kind} | {labels} | {family.help_text} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join((*parts, _TAIL))


if __name__ == "__main__":
    print(reference(), end="")
