"""The page ``docs/metrics.md``: ``python -m tools.reference.metrics > docs/metrics.md``."""

from __future__ import annotations

from stream.ops.metrics.registry import Metrics

__all__ = ["reference"]

_HEAD = """\
# Metrics

Each process serves Prometheus text at `http://<metrics.listen>/metrics` (port 9000), with numbers
of its own alone: no count is exported by two processes, so `sum` over all processes is right for
counters and histograms. With `--workers N` worker *i* has its own page on the port
`metrics.listen` + *i*, and the parent's page has no records: let Prometheus scrape all N + 1
ports. A count begins at 0 when its process starts; use `rate` and `increase`. Metrics of a
sink end when the sink is deleted, at the coordinator and the reader five minutes after the last
thing that happened to it. No label has a token, a secret, or a number of values that grows with
the number of files, slices or records.

Exceptions: `stream_sink_oldest_record_age_seconds` and `stream_sink_pending_records` are
exported by the one coordinator that is responsible for the source; while it changes, two may export
them, so take `max by`. Each process exports its own mirrors and their lag.

`provisioning/monitoring/` has a Grafana dashboard, alert rules and Prometheus configurations, for
one machine (`prometheus.yaml`) and for a cluster (`prometheus-kubernetes.yaml`). The job is
`stream` in both.
Each name and label that they query is exported by a real deployment, and `make check-alerts` runs
the cases in which each alert fires, and doesn't (`alerts_test.yaml`), with Prometheus' promtool.
`make watch-check` has a real Prometheus watch real processes, with shorter times.
Two families of the original, `…mirror_*_num_keys` and `…mirror_*_memory_usage`, are gauges here:
there they were counters to which the present size was added again and again. The bytes of a
mirror are those of its content in etcd, estimated from the mean size of its values. Metrics of
the process and the runtime are left to the exporters of the platform, as in the original.

`error_type` is empty after a success, and otherwise `context_canceled`, `deadline_exceeded`,
`net_timeout`, `net`, `storage_api_<status>`, the name of the error as the API shows it, or `other`.
`target` is the type of the table, such as `keboola` or `postgres`.
`condition` is what triggered a rotation: `expiration`, `sliceCount`, `recordCount`,
`size`, `time`, `maxSlices`, or `unknown` if an operator asked for it. A request that has found its
source and is refused as a whole (a batch that is no JSON, say) counts as one record with
`has_error="true"`; one that finds no source has no labels to be counted under.

In the table a counter is named as it is scraped; a histogram has `_bucket`, `_sum` and `_count`.
"""


def reference() -> str:
    """The page."""
    rows = ["| family | kind | labels | meaning |", "|---|---|---|---|"]
    for family in sorted(Metrics().families(), key=lambda family: family.name):
        suffix = "_total" if family.kind == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in family.label_names)
        rows.append(f"| `{family.name}{suffix}` | {family.kind} | {labels} | {family.help_text} |")
    return _HEAD + "\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
