"""Metrics, logs and traces of a service of separate processes, with and without failures.

All tests share one deployment: each component has a separate process, the source has two workers,
and every process has tracing. The metrics are recorded before and after failures.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import pytest

from stream.ops.metrics.registry import Metrics
from tests.conftest import free_port
from tests.e2e.processes import TOKEN, Deployment, Running, request, wait_for
from tests.e2e.scrape import Page, queries, scrape
from tests.otlp_collector import Collector, SentSpan, collecting

RECORDS = 300
TRACE = "0af7651916cd43dd8448eb211c80319c"
COMPONENTS = ("api", "storage-writer", "storage-reader", "storage-coordinator", "http-source")
FILE_KEY_SLASHES = 4
TOKEN_FORM = re.compile(rb"\b\d+-\d+-[0-9A-Za-z_-]{16,}")
"""The form of sink tokens."""
JSON = {"Content-Type": "application/json"}

INFINITE = float("inf")
BOUNDS = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000, INFINITE)
OPERATION_BOUNDS = (
    *(0, 10, 30, 100, 300, 1000, 3000, 10000, 30000),
    *(100000, 300000, 1000000, INFINITE),
)

_SINK = {"project_id", "branch_id", "source_id", "sink_id"}
_SOURCE = _SINK - {"sink_id"}
_VOLUME = {"volume_id", "volume_type", "volume_label", "volume_path"}
_CALL = {"http_method", "http_url_host"}
_ANSWER = {*_CALL, "http_result_type", "http_url_path", "http_status_code"}
_OPERATION = {*_SINK, "error_type", "operation", "condition", "target"}
_WITH_MAPS = {"api", "http-source", "storage-coordinator"}
_MS = "duration_milliseconds_bucket"
FAMILIES: dict[str, tuple[set[str], set[str]]] = {
    # The labels that dashboards of the original use, and the components that export them.
    f"stream_source_record_{_MS}": ({*_SOURCE, "has_error", "source_type"}, {"http-source"}),
    "stream_source_in_bytes_B_total": ({*_SOURCE, "has_error", "source_type"}, {"http-source"}),
    f"stream_sink_record_{_MS}": ({*_SINK, "error_type", "sink_type"}, {"http-source"}),
    "stream_sink_encoded_bytes_B_total": ({*_SINK, "error_type", "sink_type"}, {"http-source"}),
    f"stream_operation_{_MS}": (_OPERATION, {"storage-coordinator", "storage-reader"}),
    "stream_operation_bytes_compressed_B_total": (
        _OPERATION,
        {"storage-coordinator", "storage-reader"},
    ),
    "stream_operation_bytes_uncompressed_B_total": (
        _OPERATION,
        {"storage-coordinator", "storage-reader"},
    ),
    "stream_operation_filerotation_failed_count_bucket": (
        {*_SINK, "operation", "target"},
        {"storage-coordinator"},
    ),
    "stream_operation_fileimport_failed_count_bucket": (
        {*_SINK, "operation", "target"},
        {"storage-coordinator"},
    ),
    "stream_operation_sliceupload_failed_count_bucket": (
        {*_SINK, "operation", "target"},
        {"storage-reader"},
    ),
    "stream_writer_disk_used_B": (_VOLUME, {"storage-writer"}),
    "stream_writer_disk_total_B": (_VOLUME, {"storage-writer"}),
    "stream_writer_file_descriptor_used_fd": (set(), set(COMPONENTS)),
    "stream_writer_file_descriptor_total_fd": (set(), set(COMPONENTS)),
    "task_running": ({"task_type"}, {"api"}),
    f"task_{_MS}": ({"task_type", "is_success", "is_application_error", "error_type"}, {"api"}),
    "mirror_map_num_keys_count": ({"prefix"}, _WITH_MAPS),
    "mirror_tree_num_keys_count": ({"prefix"}, set(COMPONENTS)),
    "mirror_map_memory_usage_bytes": ({"prefix"}, _WITH_MAPS),
    "mirror_tree_memory_usage_bytes": ({"prefix"}, set(COMPONENTS)),
    "client_request_in_flight": (_CALL, {"api", "storage-coordinator", "storage-reader"}),
    f"client_request_{_MS}": (_ANSWER, {"api", "storage-coordinator", "storage-reader"}),
    "client_request_parse_in_flight": (_CALL, {"api", "storage-coordinator", "storage-reader"}),
    f"client_request_parse_{_MS}": (_ANSWER, {"api", "storage-coordinator", "storage-reader"}),
    "http_request_in_flight": (_CALL, {"api", "storage-coordinator", "storage-reader"}),
    f"http_request_{_MS}": (_ANSWER, {"api", "storage-coordinator", "storage-reader"}),
    "http_request_content_length_bytes_total": (
        _ANSWER,
        {"api", "storage-coordinator", "storage-reader"},
    ),
    "http_response_content_length_bytes_total": (
        _ANSWER,
        {"api", "storage-coordinator", "storage-reader"},
    ),
}
_UNSEEN = {
    # These don't occur here; the unit tests cover them.
    *("keboola_go_stream_operation_slicerotation_failed_count",),
    *("keboola_go_stream_operation_filecleanup_failed_count",),
    *("keboola_go_stream_operation_jobcleanup_failed_count",),
    *("keboola_go_stream_storage_damaged",),
    *("stream_sink_quarantined_records", "stream_templates_refused_records"),
    *("stream_templates_processes_ended", "stream_source_without_sink_records"),
}


@attrs.define(eq=False)
class Observed:
    """The observed deployment.

    :ivar running: its processes by component.
    :ivar good: the metrics of all processes before anything failed.
    :ivar bad: the metrics of each process after that.
    :ivar refused: number of records sent before the first slice was open.
    :ivar created: the id of the request that created a source.
    """

    deployed: Deployment
    running: dict[str, Running]
    addresses: dict[str, list[str]]
    collector: Collector
    good: Page
    bad: dict[str, Page]
    url: str
    created: str
    refused: int

    @property
    def all(self) -> Page:
        page = Page()
        for each in self.bad.values():
            page.add(each)
        return page

    def lines(self, component: str) -> list[dict[str, Any]]:
        """Return the log of a process."""
        return [
            json.loads(line)
            for line in self.running[component].log.read_text().splitlines()
            if line.startswith("{")
        ]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    deployed = Deployment(tmp_path_factory.mktemp("observed"))
    with collecting() as collector:
        try:
            yield _scenario(deployed, collector)
        finally:
            deployed.stop_all()


def _scenario(deployed: Deployment, collector: Collector) -> Observed:
    tracing = {
        "STREAM_TRACING_ENABLED": "true",
        "STREAM_TRACING_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        # Secrets are searched in everything that can be logged.
        "STREAM_DEBUG_LOG": "true",
        "STREAM_DEBUG_HTTPCLIENT": "true",
        "STREAM_ETCD_DEBUG_LOG": "true",
    }
    deployed.start("etcd", "sandbox")
    base = free_port()
    running = {
        name: deployed.spawn(
            name,
            node_id=name,
            **tracing,
            **(
                {
                    "STREAM_SOURCE_HTTP_WORKERS": "2",
                    "STREAM_METRICS_LISTEN": f"127.0.0.1:{base}",
                }
                if name == "http-source"
                else {}
            ),
        )
        for name in COMPONENTS
    }
    for each in running.values():
        deployed.wait_ready(each)
    addresses = {name: [running[name].health] for name in COMPONENTS}
    addresses["http-source"] = [f"127.0.0.1:{base + worker}" for worker in range(3)]
    everyone = [address for each in addresses.values() for address in each]
    created = _created(deployed)
    url = deployed.define()
    refused = _good_time(deployed, url)
    wait_for(
        lambda: (
            scrape(*addresses["storage-coordinator"]).sum("stream_sink_imported_records_total")
            == RECORDS
        ),
        "the end of the imports",
    )
    good = scrape(*everyone)
    _bad_time(deployed, url, addresses)
    bad = {name: scrape(*addresses[name]) for name in COMPONENTS}
    return Observed(deployed, running, addresses, collector, good, bad, url, created, refused)


def _created(deployed: Deployment) -> str:
    """Create a source in the caller's trace, and return the id of the request."""
    body = json.dumps({"type": "http", "name": "Traced"}).encode()
    parts = deployed.api.removeprefix("http://")
    connection = http.client.HTTPConnection(parts, timeout=30)
    connection.request(
        "POST",
        "/v1/branches/default/sources?token=hunter2hunter2",
        body,
        {
            **JSON,
            "X-StorageApi-Token": TOKEN,
            "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
            "Authorization": "Bearer hunter2hunter2",
            "Cookie": "session=hunter2hunter2",
        },
    )
    answer = connection.getresponse()
    assert answer.status == 202, answer.read()
    task = json.loads(answer.read())
    connection.close()
    wait_for(
        lambda: deployed.call("GET", task["url"])[1]["isFinished"], "the end of the traced task"
    )
    found = answer.headers["X-Request-Id"]
    assert found
    return found


def _good_time(deployed: Deployment, url: str) -> int:
    """Run without failures. Return the number of records refused before both workers had an open
    slice.
    """
    refused = 0

    def pushed(number: int) -> bool:
        nonlocal refused
        status = deployed.push(url, {"id": str(number)})[0]
        refused += status not in (200, 404)
        return status == 200

    for number in range(RECORDS - 10):
        wait_for(partial(pushed, number), "an open slice")
    batch = json.dumps([{"id": str(number)} for number in range(RECORDS - 10, RECORDS)])
    assert request("POST", f"{url}?batch=true", batch.encode(), JSON)[0] == 200
    deployed.wait_ids({str(number) for number in range(RECORDS)})
    return refused


def _fault(deployed: Deployment, route: str, **fault: Any) -> None:
    url = f"http://127.0.0.1:{deployed.ports['sandbox']}/_local/faults"
    assert deployed.call("POST", url, {"route": route, **fault})[0] in (200, 201)


def _bad_time(deployed: Deployment, url: str, addresses: dict[str, list[str]]) -> None:
    """Cause a refused batch, and failures of a task, an import, a rotation and an upload."""
    operation = "keboola_go_stream_operation_{}_failed_count_count"

    def failed(component: str, name: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        def has_failed() -> bool:
            meanwhile()
            return scrape(*addresses[component]).sum(operation.format(name)) > 0

        wait_for(has_failed, f"the failure of {name}")

    def block_staging() -> None:
        """Replace the folders of staged files by files."""
        for folder in (deployed.root / "sandbox" / "project-123" / "staging").iterdir():
            if folder.is_dir():
                folder.rename(deployed.root / f"staged-{folder.name}")
                folder.touch()

    assert request("POST", f"{url}?batch=true", b"[1", JSON)[0] == 400
    sources = f"{deployed.api}/v1/branches/default/sources"
    _fault(deployed, "createBucket", status=403, code="storage.accessDenied")
    column = {"type": "body", "name": "body"}
    status, task = deployed.call(
        "POST",
        f"{sources}/traced/sinks",
        {
            "type": "table",
            "name": "Refused",
            "table": {
                "type": "keboola",
                "tableId": "in.c-other.events",
                "mapping": {"columns": [column]},
            },
        },
    )
    assert status == 202
    _fault(deployed, "job")
    assert deployed.push(url, {"id": "import"})[0] == 200
    failed("storage-coordinator", "fileimport")
    block_staging()
    assert deployed.push(url, {"id": "upload"})[0] == 200
    failed("storage-reader", "sliceupload", block_staging)
    _fault(deployed, "prepareFile", status=403, code="storage.accessDenied")
    assert deployed.push(url, {"id": "rotation"})[0] == 200
    failed("storage-coordinator", "filerotation")
    assert (
        wait_for(
            lambda: (found := deployed.call("GET", task["url"])[1])["isFinished"] and found,
            "a task",
        )["status"]
        == "error"
    )


def test_every_family_is_exported(observed: Observed) -> None:
    """Each family has its labels and is exported by its components."""
    for name, (labels, components) in FAMILIES.items():
        told = {c for c, page in observed.bad.items() if page.told(f"keboola_go_{name}")}
        assert told == components, name
        found = observed.all.labels[f"keboola_go_{name}"]
        assert found - {"le"} == labels, name
        if name.endswith("_bucket"):
            bounds = {float(le) for le in observed.all.values_of(f"keboola_go_{name}", "le")}
            is_operation = name.startswith("stream_operation_duration")
            assert bounds == set(OPERATION_BOUNDS if is_operation else BOUNDS), name


def test_every_documented_family_has_values(observed: Observed) -> None:
    """Every family in the reference has values, unless its event hasn't occurred."""
    page = observed.all
    page.add(observed.good)
    never_told = {
        family.name
        for family in Metrics().families()
        if not any(page.told(family.name + suffix) for suffix in ("", "_total", "_count"))
    }
    assert never_told <= _UNSEEN


def test_counts_agree(observed: Observed) -> None:
    """Each record counts once at each stage, for any worker."""
    good = observed.good
    for stage in ("acknowledged", "synced", "uploaded", "imported"):
        assert good.sum(f"stream_sink_{stage}_records_total", sink_id="my-sink") == RECORDS, stage
    source = "keboola_go_stream_source_record_duration_milliseconds_count"
    sink = "keboola_go_stream_sink_record_duration_milliseconds_count"
    assert good.sum(source, has_error="false", source_type="http") == RECORDS
    assert good.sum(sink, error_type="", sink_type="table") == RECORDS
    assert good.sum(source, has_error="true") == observed.refused
    assert observed.all.sum(source, has_error="true") == observed.refused + 1
    parent, *workers = (scrape(a) for a in observed.addresses["http-source"])
    counts = [page.sum("stream_sink_acknowledged_records_total") for page in workers]
    assert not parent.told("stream_sink_acknowledged_records_total")
    assert sum(counts) == RECORDS + 3
    assert good.sum("stream_etcd_lease_held", lease="node") >= len(COMPONENTS) - 2
    assert good.sum("stream_etcd_lease_held", lease="volumes") >= 1
    assert good.sum("stream_writer_sync_milliseconds_count") > 0


def test_failures_have_their_kind(observed: Observed) -> None:
    """Failures are exported with the type of the error."""
    page = observed.all
    tasks = "keboola_go_task_duration_milliseconds_count"
    assert page.sum(tasks, is_success="false", error_type="storage_api_403") == 1
    operations = "keboola_go_stream_operation_duration_milliseconds_count"
    assert page.sum(operations, operation="filerotation", error_type="storage_api_403") >= 1
    assert page.sum(operations, operation="fileimport", error_type="storage.injectedFault") >= 1
    assert page.sum("stream_sink_failing_uploads", sink_id="my-sink") >= 1
    conditions = page.values("condition")
    assert "time" in conditions
    assert conditions <= {"", "none", "time", "unknown"}
    assert not [value for _, labels in page.samples for _, value in labels if TOKEN in value]


def test_queries_of_dashboard_and_alerts(observed: Observed) -> None:
    """Each name and label in the dashboard and in the alert rules is exported."""
    page = observed.all
    page.add(observed.good)
    asked = list(queries())
    names = {name for query in asked for name in query.names}
    assert len(asked) > 60
    assert len(names) > 30
    assert names <= set(page.labels)
    rare = {name for name in names if not page.told(name)}
    assert rare <= {
        "keboola_go_stream_operation_filecleanup_failed_count_count",
        "keboola_go_stream_operation_jobcleanup_failed_count_count",
        "stream_source_without_sink_records_total",
        "keboola_go_stream_operation_slicerotation_failed_count_count",
        "keboola_go_stream_storage_damaged_total",
        "stream_sink_quarantined_records_total",
    }
    for query in asked:
        if not query.names & rare:
            assert not query.unknown_labels(page), query


def _path_down(collector: Collector, span: SentSpan, *names: str) -> SentSpan:
    for name in names:
        (span, *_) = [s for s in collector.below(span) if s.name == name]
    return span


def test_the_trace_of_a_request(observed: Observed) -> None:
    """The caller's span contains those of the request, its task, and the calls of the
    Storage API.
    """
    collector = observed.collector
    (root,) = wait_for(
        lambda: [
            s
            for s in collector.spans
            if s.trace_id.hex() == TRACE and s.name == "http.server.request"
        ],
        "the span of the request",
    )
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    physical = _path_down(
        collector,
        root,
        "keboola.go.task",
        "http.go.api.client.request",
        "http.go.client.request",
        "http.request",
    )
    assert physical.trace_id.hex() == TRACE
    assert {a.key: a.value.int_value for a in physical.attributes}["http.status_code"] in (200, 201)
    attributes = {a.key: a.value.string_value or a.value.int_value for a in root.attributes}
    assert attributes["http.route"] == "/v1/branches/{branchId}/sources"
    assert attributes["http.status_code"] == 202
    sent = [
        line["headers"]
        for line in observed.lines("api")
        if line["message"].startswith("request ") and TRACE in line["headers"]
    ]
    assert any(f'"X-B3-SpanId":"{physical.span_id.hex()}"' in headers for headers in sent)
    assert not [s for s in collector.spans if b"health-check" in s.SerializeToString()]


def test_the_trace_of_a_slice(observed: Observed) -> None:
    """Each step of a file and of a slice has a span, also failed steps."""
    prefix = "keboola.go.stream."
    wanted = {
        *("operator.slicerotation.rotateSlice", "operator.slicerotation.closeSlice"),
        *("operator.filerotation.rotateFile", "operator.filerotation.closeFile"),
        *("operator.sliceupload.uploadSlice", "operator.fileimport.importFile"),
        *("model.metacleanup.cleanMetadataFiles", "model.jobcleanup.cleanJobs"),
        *("model.cleanup.disk.cleanDisk", "dependencies.StorageWriterService"),
    }
    collector = observed.collector
    wait_for(lambda: wanted <= {s.name.removeprefix(prefix) for s in collector.spans}, "all spans")
    failed = {
        s.name.removeprefix(prefix): s.status.message for s in collector.spans if s.status.code
    }
    assert failed["operator.fileimport.importFile"] == "JobFailed"
    assert failed["operator.filerotation.rotateFile"] == "StorageApiError"
    assert failed["operator.sliceupload.uploadSlice"] == "StagingError"


def test_log_events_have_trace_ids(observed: Observed) -> None:
    """Log events of a running task have the ids of its trace."""
    lines = [line for line in observed.lines("api") if line["message"] == "started task"]
    assert str(int(TRACE[16:], 16)) in {line["dd.trace_id"] for line in lines}
    access = [
        line for line in observed.lines("api") if line.get("http.request_id") == observed.created
    ]
    (line,) = [line for line in access if line["message"].startswith("req ")]
    assert line["component"] == "api.http.server"
    assert line["message"] == "req 202 /v1/branches/default/sources?token=***"
    assert line["http.status"] == 202
    assert line["http.bytes"] > 0
    assert re.fullmatch(r"[\d.]+(µs|ms|s)", line["http.time"])
    assert line["http.client.ip"] == "127.0.0.1"
    assert "http.client.agent" in line
    assert line["dd.trace_id"] == str(int(TRACE[16:], 16))
    assert line["stream.projectId"] == 123


def test_each_state_change_is_logged(observed: Observed) -> None:
    """The log shows each state of each file and slice up to the table."""
    told: dict[str, list[tuple[str, str]]] = {}
    for line in (line for component in COMPONENTS for line in observed.lines(component)):
        if "before" in line and "state" in line:
            assert line["level"] == "info"
            assert line["project.id"] == "123"
            assert line["sink.id"] == "my-sink"
            key = line.get("slice.id") or line["file.id"]
            told.setdefault(key, []).append((line["before"], line["state"]))
    ways = {
        "file": ["new", "writing", "closing", "importing", "imported"],
        "slice": ["new", "writing", "closing", "uploading", "uploaded", "imported"],
    }
    for key, changes in told.items():
        way = ways["file" if key.count("/") == FILE_KEY_SLASHES else "slice"]
        steps = list(itertools.pairwise(way))
        assert sorted(changes, key=steps.index) == steps[: len(changes)], key
    done = [changes for changes in told.values() if changes[-1][1] == "imported"]
    assert len(done) >= 2


def test_no_secret_is_exported(observed: Observed) -> None:
    """Logs, spans and pages of metrics contain no token and no secret of a source."""
    secret = observed.url.rpartition("/")[2]
    assert len(secret) > 20
    request("POST", f"{observed.deployed.api}/stream/123/my-source/{secret}", b"{}", JSON)
    request("POST", f"{observed.url}x", b"{}", JSON)
    logs = [(r.log.name, r.log.read_bytes()) for r in observed.running.values()]
    pages = [
        (address, request("GET", f"http://{address}/metrics", None, {})[1])
        for each in observed.addresses.values()
        for address in each
    ]
    spans = [("spans", body) for body in observed.collector.bodies]
    for place, text in (*logs, *pages, *spans):
        for hidden in (TOKEN, secret, "hunter2hunter2"):
            at = text.find(hidden.encode())
            assert at < 0, (place, text[max(0, at - 300) : at + 60])
        found = TOKEN_FORM.search(text)
        assert found is None, (place, text[max(0, found.start() - 300) : found.end()])


def test_metrics_of_a_deleted_sink(observed: Observed) -> None:
    """The source stops exporting the metrics of a deleted sink."""
    deployed, addresses = observed.deployed, observed.addresses["http-source"]
    assert "my-sink" in scrape(*addresses).values("sink_id")
    deployed.task("DELETE", f"{deployed.api}/v1/branches/default/sources/my-source/sinks/my-sink")
    wait_for(lambda: "my-sink" not in scrape(*addresses).values("sink_id"), "the sink's end")
