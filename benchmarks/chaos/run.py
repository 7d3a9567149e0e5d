"""A run: start, load and kills, healing, waiting, comparison."""

from __future__ import annotations

from typing import Any

from benchmarks.chaos.accounts import Accounts, balance
from benchmarks.chaos.changes import SinkChanges
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.evidence import complaints, whereabouts
from benchmarks.chaos.producers import read_journal
from benchmarks.chaos.report import Report
from benchmarks.chaos.stages import BRANCH, Settings, Stages
from tests.e2e.processes import TABLE

__all__ = ["Settings", "run"]

_TRACED = 30


def run(settings: Settings) -> Report:
    """Run all stages; the processes are always stopped at the end."""
    cluster = Cluster.plan(settings.root, settings.seed)
    try:
        cluster.start()
        return _Run(settings, cluster).report()
    finally:
        cluster.deployed.stop_all()


class _Run:
    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._stages = Stages(settings, cluster)

    def report(self) -> Report:
        settings, cluster, stages = self._settings, self._cluster, self._stages
        url, sink = _define(cluster)
        changes = SinkChanges(cluster.deployed, sink, _table, settings.changes or 1e9)
        changes.start()
        killer = stages.under_load(cluster.source_urls(url))
        changes.finish()
        pending, done_at = stages.imported()
        accounts = balance(read_journal(stages.journal), _rows(cluster))
        notes = stages.finish()
        notes += self._traces(accounts)
        return Report(
            title=f"{settings.seconds:g} s, {settings.rate:g} records/s, seed {settings.seed}, "
            + ("failed records are sent again" if settings.retry else "records are sent once"),
            accounts=accounts,
            kills=killer.counts(),
            tasks=changes.ends,
            files=pending.imported,
            behind=None if done_at is None else max(0.0, done_at - accounts.last_acknowledged),
            complaints=complaints(stages.logs()),
            notes=notes,
            faults=stages.faults,
        )

    def _traces(self, accounts: Accounts) -> list[str]:
        wanted = [*accounts.lost[:_TRACED], *accounts.surplus[:_TRACED]]
        if not wanted:
            return []
        places = whereabouts(self._settings.root, wanted)
        attempts: dict[int, list[str]] = {number: [] for number in wanted}
        for attempt in read_journal(self._stages.journal):
            if attempt.number in attempts:
                attempts[attempt.number].append(attempt.line().strip())
        return [f"{number}: {attempts[number]} is in {places.get(number)}" for number in wanted]


def _table(change: int) -> dict[str, Any]:
    """Return the table, whose uuid distinguishes repeated writes from repeated renderings."""
    return {
        "type": "keboola",
        "tableId": TABLE,
        "mapping": {
            "columns": [
                {"type": "path", "name": "id", "path": "id"},
                {"type": "uuid", "name": "uuid"},
                {"type": "datetime", "name": "at"},
                {"type": "path", "name": "text", "path": "text", "defaultValue": f"{change}"},
            ]
        },
    }


def _define(cluster: Cluster) -> tuple[str, str]:
    """Create source and sink; return the URL for records and the URL of the sink."""
    deployed = cluster.deployed
    source = {"type": "http", "name": "Chaos", "sourceId": "chaos"}
    url = deployed.task("POST", deployed.api + BRANCH, source)["url"]
    sink = {"type": "table", "name": "Chaos", "sinkId": "chaos", "table": _table(0)}
    sink_url = deployed.task("POST", f"{url}/sinks", sink)["url"]
    _, answer = deployed.call("GET", url)
    return answer["http"]["url"], sink_url


def _rows(cluster: Cluster) -> dict[int, int]:
    query = f'SELECT id, count(*) FROM "{TABLE}" GROUP BY id'
    return {int(number): count for number, count in cluster.deployed.query(query)}
