"""What a running service tells about itself, and what dashboards and alerts ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import ALL, Deployment, Running, load_of, request, wait_for

MONITORING = Path(__file__).parents[2] / "provisioning" / "monitoring"
RECORDS = 300
_NAME = re.compile(r"\b(?:stream|keboola_go)_[a-zA-Z_]+")
_RARE = re.compile(r"_failed_count|failing_uploads|storage_damaged")
"""Families without numbers as long as nothing fails."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _scrape(running: Running) -> tuple[set[str], Samples]:
    """Names that can be asked for, and the numbers."""
    status, page = request("GET", f"http://{running.health}/metrics", None, {})
    assert status == 200
    names: set[str] = set()
    samples: Samples = {}
    for family in text_string_to_metric_families(page.decode()):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
        for sample in family.samples:
            samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return names, samples


def _sum(samples: Samples, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(v for (n, found), v in samples.items() if n == name and wanted <= set(found))


def _expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("expr", "query") and isinstance(item, str):
                yield item
            yield from _expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _expressions(item)


def _asked_for() -> set[str]:
    """The names in the dashboard and in the alert rules."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    texts = [*_expressions(dashboard), *_expressions(alerts)]
    return {name for text in texts for name in _NAME.findall(text)}


def test_dashboard_and_alerts_find_their_numbers(deployed: Deployment) -> None:
    """A service at work has every number that is asked for, and its records add up."""
    running = deployed.start(*ALL)
    url = deployed.define()
    for number in range(RECORDS):
        assert deployed.push(url, {"id": str(number)})[0] == 200
    status, _ = request("POST", f"{url}?batch=true", b"[1", {"Content-Type": "application/json"})
    assert status == 400
    deployed.wait_ids({str(number) for number in range(RECORDS)})
    wait_for(
        lambda: _sum(_scrape(running)[1], "stream_sink_imported_records_total") == RECORDS,
        "the end of the imports",
    )
    wait_for(
        lambda: _sum(_scrape(running)[1], "stream_sink_pending_records") == 0, "nothing pending"
    )
    names, samples = _scrape(running)
    asked = _asked_for()
    assert len(asked) > 30
    assert asked <= names
    told = {name for name, _ in samples}
    rare = {name for name in asked - told if _RARE.search(name)}
    assert asked - told - rare <= {
        # nothing is pending any more
        "stream_sink_oldest_record_age_seconds",
        "stream_sink_pending_records",
    }
    for stage in ("acknowledged", "synced", "uploaded", "imported"):
        assert _sum(samples, f"stream_sink_{stage}_records_total", sink_id="my-sink") == RECORDS
    source = "keboola_go_stream_source_record_duration_milliseconds_count"
    assert _sum(samples, source, has_error="false", source_type="http") == RECORDS
    assert _sum(samples, "stream_writer_sync_milliseconds_count") > 0
    assert _sum(samples, "stream_etcd_lease_held") == 1
    operations = {dict(labels).get("operation") for _, labels in samples} - {None}
    assert {"filerotation", "slicerotation", "fileimport", "sliceupload"} <= operations


def test_the_sum_of_all_workers_is_the_sum_of_all_records(
    deployed: Deployment, tmp_path: Path
) -> None:
    """Each worker tells its own records, and none is told twice."""
    deployed.start("etcd", "sandbox", "api", "storage-writer", "storage-reader")
    deployed.start("storage-coordinator", node_id="coordinator")
    base = 20_000 + deployed.ports["source"] % 10_000
    source = deployed.start(
        "http-source",
        node_id="source",
        STREAM_SOURCE_HTTP_WORKERS="2",
        STREAM_METRICS_LISTEN=f"127.0.0.1:{base}",
    )
    url = deployed.define()
    wait_for(lambda: deployed.push(url, {"id": "first"})[0] == 200, "an open slice")
    acknowledged = tmp_path / "acknowledged"
    with load_of(url, 2_000, acknowledged) as load:
        assert load.wait(60) == 0
    told = len(acknowledged.read_text().split()) + 1
    pages = [
        _scrape(Running(source.process, source.log, f"127.0.0.1:{base + number}"))[1]
        for number in range(3)
    ]
    counts = [_sum(page, "stream_sink_acknowledged_records_total") for page in pages]
    assert counts[0] == 0
    assert sum(counts) == told
