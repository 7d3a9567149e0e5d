"""A run: start, load and kills, healing, waiting, comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from benchmarks.chaos.accounts import Accounts, balance
from benchmarks.chaos.cluster import Cluster, free_ports, new_node
from benchmarks.chaos.evidence import complaints
from benchmarks.chaos.producers import read_journal
from benchmarks.chaos.replays import Replays
from benchmarks.chaos.report import answers_table, kills_table
from benchmarks.chaos.stages import BRANCH, Settings, Stages
from benchmarks.chaos_targets.tables import (
    READERS,
    TYPES,
    connections,
    left_behind,
    rows_of,
    table_of,
)
from benchmarks.markdown import bullets, table
from tests.e2e.processes import Deployment
from tests.postgres import Postgres

__all__ = ["Report", "markdown", "run"]

COORDINATORS = 3
SOURCES = 3
"""Number of sources; each belongs to one coordinator, ideally to different ones."""
_TIMING = {
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "2s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "4s",
    "STREAM_DISTRIBUTION_TTL_SECONDS": "3",
    # Imported files are kept, for the analysis of failures.
    "STREAM_STORAGE_METADATA_CLEANUP_ARCHIVED_FILE_RETENTION_PER_SINK": "100",
}
_JOINED = b"is in its table already"
_REJECTED = (207, 400)
"""Records that are rejected by all sinks of a source, or by some of them."""
_SHOWN = 20
_DEFINED_SECONDS = 300.0
"""The first table of Iceberg starts a process, which may take long on a busy machine."""
REPLAY_SECONDS = 1.0
"""Seconds between two sinks whose rejected records are replayed."""


@attrs.frozen
class Report:
    """The report of a run with all targets.

    :ivar accounts: accounts by type of table.
    :ivar rejected: number of rejected records, and of replayed records per table.
    :ivar tasks: tasks of changed mappings and replays, by outcome.
    :ivar joined: number of imports that found the rows of their file in the table.
    :ivar behind: seconds from the last acknowledgement to the last import.
    """

    title: str
    accounts: dict[str, Accounts]
    kills: Counter[tuple[str, str]]
    files: int
    rejected: int
    tasks: Counter[str]
    joined: int
    behind: float | None
    complaints: Counter[str]
    notes: list[str]
    faults: list[str]

    @property
    def is_good(self) -> bool:
        """Return whether all accounts balance and nothing else went wrong."""
        return not self.faults and all(each.is_balanced for each in self.accounts.values())


def run(settings: Settings, server: Postgres) -> Report:
    """Run all stages; the processes are always stopped at the end."""
    cluster = _cluster(settings, server)
    try:
        cluster.start()
        return _report(settings, cluster, server)
    finally:
        cluster.deployed.stop_all()


def _cluster(settings: Settings, server: Postgres) -> Cluster:
    ports = free_ports(settings.seed)
    names = ("etcd", "sandbox", "api", "source", "writer")
    environment = {
        **_TIMING,
        "STREAM_TARGET_CONNECTIONS": connections(settings.root, server),
        "STREAM_TARGET_STAGING_URL": (settings.root / "staging").as_uri(),
    }
    deployed = Deployment(settings.root, environment, {name: next(ports) for name in names})
    nodes = [new_node(name, name, ports) for name in ("etcd", "sandbox")]
    nodes += [new_node(f"storage-{name}", name, ports) for name in ("writer", "reader")]
    nodes += [
        new_node("storage-coordinator", f"coordinator-{number}", ports)
        for number in range(1, COORDINATORS + 1)
    ]
    listen = f"127.0.0.1:{deployed.ports['source']}"
    nodes.append(new_node("http-source", "source", ports, STREAM_SOURCE_HTTP_LISTEN=listen))
    nodes.append(new_node("api", "api", ports))
    return Cluster(deployed, nodes)


def _report(settings: Settings, cluster: Cluster, server: Postgres) -> Report:
    stages = Stages(settings, cluster)
    defined = [_define(cluster.deployed, number) for number in range(SOURCES)]
    sinks = [sink for _, sinks in defined for sink in sinks]
    replays = Replays(cluster.deployed, sinks, _table, REPLAY_SECONDS) if settings.bad else None
    if replays is not None:
        replays.start()
    killer = stages.under_load([url for url, _ in defined])
    if replays is not None:
        replays.finish()
    pending, done_at = stages.imported()
    attempts = read_journal(stages.journal)
    rows = rows_of(settings.root, server)
    accounts = {type_: balance(attempts, found) for type_, found in rows.items()}
    rejected = {each.number for each in attempts if each.status in _REJECTED}
    stages.faults += [
        f"{type_}: the rejected record {number} is there {found.get(number, 0)} times"
        for type_, found in rows.items()
        for number in sorted(rejected)
        if found.get(number, 0) != 1
    ]
    last = max(each.last_acknowledged for each in accounts.values())
    notes = stages.finish()
    return Report(
        title=f"{settings.seconds:g} s, {settings.rate:g} records/s, seed {settings.seed}",
        accounts=accounts,
        kills=killer.counts(),
        files=pending.imported,
        rejected=len(rejected),
        tasks=replays.ends if replays is not None else Counter(),
        joined=sum(log.read_bytes().count(_JOINED) for log in stages.logs()),
        behind=None if done_at is None else max(0.0, done_at - last),
        complaints=complaints(stages.logs()),
        notes=notes,
        faults=stages.faults + left_behind(settings.root),
    )


def _table(sink: str, is_strict: bool) -> dict[str, Any]:
    return table_of(sink.rpartition("/")[2], is_strict=is_strict)


def _define(deployed: Deployment, number: int) -> tuple[str, list[str]]:
    """Create a source with a sink for each table; return the URLs for records and of sinks."""
    body = {"type": "http", "name": f"Chaos {number}", "sourceId": f"chaos-{number}"}
    source = deployed.task("POST", deployed.api + BRANCH, body)["url"]
    sinks = []
    for type_ in TYPES:
        table = table_of(type_, is_strict=True)
        sink = {"type": "table", "name": type_, "sinkId": type_, "table": table}
        made = deployed.task("POST", f"{source}/sinks", sink, seconds=_DEFINED_SECONDS)
        sinks.append(made["url"])
    _, answer = deployed.call("GET", source)
    return answer["http"]["url"], sinks


def markdown(report: Report) -> str:
    """Return the whole report."""
    first = next(iter(report.accounts.values()))
    parts = [
        f"## Chaos of targets: {report.title}",
        kills_table(report.kills),
        answers_table(first),
        table(
            ("records", *(f"{type_}, by {READERS[type_]}" for type_ in report.accounts)),
            _records(report.accounts.values()),
            numbers=True,
        ),
        f"{report.rejected} records were rejected, and are to be in each table by a replay."
        if report.rejected
        else "",
        f"{report.files} files were imported; {report.joined} imports found that the file was in "
        f"its table already. All rows were there "
        + ("never." if report.behind is None else f"{report.behind:.1f} s after the last answer."),
    ]
    if report.tasks:
        parts.append(table(("tasks", "times"), sorted(report.tasks.items()), numbers=True))
    if report.complaints:
        complained = report.complaints.most_common(_SHOWN)
        parts.append(table(("logged errors", "times"), complained, numbers=True))
    parts += [bullets("Notes", report.notes), bullets("Faults", report.faults)]
    parts.append("**Everything is right.**" if report.is_good else "**Something is wrong.**")
    return "\n\n".join(part for part in parts if part) + "\n"


def _records(accounts: Iterable[Accounts]) -> Iterable[tuple[object, ...]]:
    every = list(accounts)
    yield "acknowledged", *(each.acknowledged for each in every)
    yield "rows", *(each.rows for each in every)
    yield "**lost**: acknowledged, not in the table", *(len(each.lost) for each in every)
    yield "**repeated by the service**: more rows than attempts", *(len(e.surplus) for e in every)
    yield "not acknowledged, in the table", *(sum(each.present.values()) for each in every)
    yield "never sent, in the table", *(len(each.unknown) for each in every)
