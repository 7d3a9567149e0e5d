"""Three coordinators share many sinks; one after the other is killed and restarted."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks.chaos.cluster import Cluster, Node, State, free_ports, new_node
from benchmarks.chaos.evidence import complaints, unhandled
from benchmarks.chaos.pending import Pending, read_pending
from benchmarks.coordination import life
from benchmarks.coordination.accounts import Work, account, misplaced
from benchmarks.coordination.evidence import (
    NAMESPACE,
    count_objects,
    files_of,
    read_jobs,
    read_rows,
    records_of_slices,
)
from benchmarks.coordination.journal import Journal, read_journal
from benchmarks.coordination.sender import Sender
from benchmarks.markdown import bullets, table
from tests.e2e.processes import Deployment, request

__all__ = ["Plan", "Report", "markdown", "run"]

COORDINATORS = 3
SINKS_PER_SOURCE = 100
DEFINED_AT_ONCE = 8
_BACK_SECONDS = 5.0
_TICK_SECONDS = 0.1
_BRANCH = "/v1/branches/default/sources"
_COLUMNS = [{"type": "path", "name": "id", "path": "id"}, {"type": "uuid", "name": "uuid"}]


@attrs.frozen
class Plan:
    """The plan of a run with three coordinators, which are killed in turn.

    :ivar root: directory of all data.
    :ivar seconds: duration of load and kills.
    :ivar every: seconds between two kills.
    :ivar pace: seconds between two records of a source, which all its sinks get.
    :ivar upload: seconds until a slice with records is rotated.
    :ivar import_: seconds until a file with records is rotated.
    :ivar patience: time limit of all imports after the last record, in seconds.
    """

    root: Path
    sinks: int = 300
    seconds: float = 180.0
    every: float = 20.0
    pace: float = 2.0
    upload: float = 15.0
    import_: float = 30.0
    patience: float = 300.0
    seed: int = 1
    say: Callable[[str], None] = lambda _: None


@attrs.frozen
class Report:
    """The report of such a run.

    :ivar kills: number of kills by node.
    :ivar acknowledged: number of acknowledged records, which all tables of their source get.
    :ivar tables: faults of all tables.
    :ivar metrics: metrics of the readers and coordinators that are alive at the end.
    :ivar behind: seconds from the last record to the last import.
    """

    plan: Plan
    kills: Counter[str]
    acknowledged: int
    refused: int
    rows: int
    tables: Counter[str]
    work: Work
    journal: Journal
    metrics: dict[str, float]
    behind: float
    complaints: Counter[str]
    faults: list[str]

    @property
    def is_good(self) -> bool:
        """Return whether nothing was lost, repeated or done twice."""
        return not (self.faults or self.work.faults or any(self.tables.values()))


def run(plan: Plan) -> Report:
    """Run all stages; the processes are always stopped at the end."""
    cluster = _cluster(plan)
    try:
        cluster.start()
        return _Run(plan, cluster).report()
    finally:
        cluster.deployed.stop_all()


def _cluster(plan: Plan) -> Cluster:
    ports = free_ports(plan.seed)
    names = ("etcd", "sandbox", "api", "source", "writer")
    timing = {
        "STREAM_STORAGE_LEVEL_LOCAL_WRITER_ALLOCATION_STATIC": "10KB",
        "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": f"{plan.upload:g}s",
        "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": f"{plan.import_:g}s",
        "STREAM_STORAGE_METADATA_CLEANUP_ARCHIVED_FILE_RETENTION_PER_SINK": "100",
    }
    deployed = Deployment(plan.root, timing, {name: next(ports) for name in names})
    nodes = [new_node(name, name, ports) for name in ("etcd", "sandbox")]
    nodes += [new_node(f"storage-{name}", name, ports) for name in ("writer", "reader")]
    nodes += [
        new_node("storage-coordinator", f"coordinator-{number}", ports)
        for number in range(1, COORDINATORS + 1)
    ]
    nodes += [new_node("api", "api", ports), new_node("http-source", "source", ports)]
    return Cluster(deployed, nodes)


class _Run:
    def __init__(self, plan: Plan, cluster: Cluster) -> None:
        self._plan = plan
        self._cluster = cluster
        self._faults: list[str] = []
        self._kills: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    def report(self) -> Report:
        plan, deployed = self._plan, self._cluster.deployed
        sources = self._define()
        senders = [Sender(url, plan.pace) for url in sources.values()]
        with ExitStack() as stack:
            for sender in senders:
                stack.enter_context(sender)
            self._kill_for(plan.seconds)
        ended = time.time()
        plan.say("healing")
        self._cluster.heal()
        for item in self._wait().items:
            self._faults.append(f"not imported: {item}")
        slices = records_of_slices(deployed)
        metrics = self._metrics()
        self._name_logs()
        self._cluster.stop()
        for end in self._cluster.ended:
            if end.code != 0:
                self._faults.append(f"{end.node} ended with {end.code}: {end.words[-300:]!r}")
        logs = sorted(plan.root.glob("*.log"))
        journal = read_journal(logs, self._names)
        tables, rows = self._tables(dict(zip(sources, senders, strict=True)))
        imports = [event.at.timestamp() for event in journal.of("imported file")]
        return Report(
            plan=plan,
            kills=self._kills,
            acknowledged=sum(s == 200 for sender in senders for s in sender.answers.values()),
            refused=sum(s != 200 for sender in senders for s in sender.answers.values()),
            rows=rows,
            tables=tables,
            work=account(
                journal, slices, files_of(slices), read_jobs(deployed), count_objects(deployed)
            ),
            journal=journal,
            metrics=metrics,
            behind=max(imports, default=ended) - ended,
            complaints=complaints(logs),
            faults=[*self._faults, *unhandled(logs)],
        )

    def _define(self) -> dict[str, str]:
        """Create sources and sinks; return URLs for records, by id of the source."""
        urls = {}
        deployed, count = self._cluster.deployed, self._plan.sinks
        for number in range(-(-count // SINKS_PER_SOURCE)):
            name = f"s{number}"
            source = {"type": "http", "name": name, "sourceId": name}
            made = deployed.task("POST", deployed.api + _BRANCH, source)["url"]
            sinks = range(min(SINKS_PER_SOURCE, count - number * SINKS_PER_SOURCE))
            self._plan.say(f"defining {len(sinks)} sinks of {name}")
            with ThreadPoolExecutor(DEFINED_AT_ONCE) as pool:
                list(pool.map(partial(self._sink, made, name), sinks))
            _, answer = deployed.call("GET", made)
            urls[name] = answer["http"]["url"]
        return urls

    def _sink(self, source_url: str, source: str, number: int) -> None:
        sink: dict[str, Any] = {
            "type": "table",
            "name": f"k{number}",
            "sinkId": f"k{number}",
            "table": {
                "type": "keboola",
                "tableId": f"in.c-{source}.k{number}",
                "mapping": {"columns": _COLUMNS},
            },
        }
        self._cluster.deployed.task("POST", f"{source_url}/sinks", sink)

    def _kill_for(self, seconds: float) -> None:
        """Kill each coordinator in turn, and restart it after some seconds."""
        victims = itertools.cycle(
            [node for node in self._cluster.nodes if node.component == "storage-coordinator"]
        )
        end = time.monotonic() + seconds
        due = time.monotonic() + self._plan.every
        while time.monotonic() < end:
            self._cluster.watch()
            for node in self._cluster.of(State.DOWN):
                if time.monotonic() - node.since > min(_BACK_SECONDS, self._plan.every / 2):
                    self._cluster.bring_back(node)
            if time.monotonic() >= due:
                due += self._plan.every
                self._kill(next(victims))
            time.sleep(_TICK_SECONDS)

    def _kill(self, node: Node) -> None:
        if node.state is not State.UP:
            return
        self._plan.say(f"kill -9 {node.name}")
        self._name_logs()
        self._cluster.kill(node)
        self._kills[node.name] += 1

    def _name_logs(self) -> None:
        """Map logs to nodes: a restarted node has a new log."""
        for node in self._cluster.nodes:
            if node.running is not None:
                log = node.running.log.stem
                self._names[log] = f"{node.name} (process {log[:2]})"

    def _wait(self) -> Pending:
        endpoint = f"127.0.0.1:{self._cluster.deployed.ports['etcd']}"
        end = time.monotonic() + self._plan.patience
        while True:
            self._cluster.watch()
            pending = read_pending(endpoint, NAMESPACE)
            if not pending.items or time.monotonic() > end:
                return pending
            time.sleep(1.0)

    def _metrics(self) -> dict[str, float]:
        """Return sums over live nodes; counts of killed coordinators are lost."""
        wanted = ("stream_sink_uploaded_records_total", "stream_sink_imported_records_total")
        found = dict.fromkeys(wanted, 0.0)
        for node in self._cluster.nodes:
            if node.running is None or not node.component.startswith("storage-"):
                continue
            _, page = request("GET", f"http://{node.running.health}/metrics", None, {})
            for line in page.decode().splitlines():
                name = line.partition("{")[0].partition(" ")[0]
                if name in found:
                    found[name] += float(line.rpartition(" ")[2])
        return found

    def _tables(self, senders: dict[str, Sender]) -> tuple[Counter[str], int]:
        wrong: Counter[str] = Counter()
        rows = 0
        for number in range(self._plan.sinks):
            source, sink = f"s{number // SINKS_PER_SOURCE}", number % SINKS_PER_SOURCE
            answers = senders[source].answers
            acknowledged = [number for number, status in answers.items() if status == 200]
            found = read_rows(self._cluster.deployed, f"in.c-{source}.k{sink}")
            wrong += misplaced(acknowledged, answers, found)
            rows += sum(found.values())
        return wrong, rows


def markdown(report: Report) -> str:
    """The whole report."""
    plan, work = report.plan, report.work
    head = (
        f"## {COORDINATORS} coordinators, {plan.sinks} sinks, {plan.seconds:g} s, "
        f"kill -9 every {plan.every:g} s"
    )
    done = (
        ("records acknowledged (each for all sinks of its source)", report.acknowledged),
        ("records not acknowledged", report.refused),
        ("rows in the tables", report.rows),
        ("**lost** (acknowledged, not in a table)", report.tables["lost"]),
        ("**repeated** in a table", report.tables["repeated"]),
        ("never sent, in a table", report.tables["unknown"]),
        ("slices with records: uploads needed", work.slices),
        ("uploads made (failed attempts)", f"{work.uploads} ({work.failed_uploads})"),
        ("slices in staging", work.objects),
        ("files with records: imports needed", work.files),
        ("import jobs by their end", dict(work.jobs)),
        ("rotations logged: slices, files", "{}, {}".format(*work.rotations)),
        *((f"{name}, of living nodes", f"{value:g}") for name, value in report.metrics.items()),
        ("from the last record to the last import", f"{report.behind:.1f} s"),
    )
    parts = [
        head,
        table(("killed", "times"), sorted(report.kills.items())),
        table(("what", ""), done),
        "### The life of a file\n\n" + life.one_life(report.journal),
        "### How long each step took\n\n" + life.steps(report.journal),
        table(("logged errors", "times"), report.complaints.most_common(20))
        if report.complaints
        else "",
        bullets("Faults", [*report.faults, *work.faults]),
        "**Everything is right.**" if report.is_good else "**Something is wrong.**",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
