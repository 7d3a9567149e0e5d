"""A run: start, load and kills, healing, waiting, comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.chaos.accounts import Accounts, balance
from benchmarks.chaos.changes import SinkChanges
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.evidence import complaints, whereabouts
from benchmarks.chaos.producers import read_journal
from benchmarks.chaos.replays import Replays
from benchmarks.chaos.report import Rejections, Report
from benchmarks.chaos.stages import BRANCH, Settings, Stages
from tests.e2e.processes import TABLE

__all__ = ["Settings", "run"]

_TRACED = 30
_REJECTED = 400
_MODES = {
    (False, False): "records are sent once",
    (False, True): "failed records are sent again",
    (True, False): "producers of stream.client",
    (True, True): "producers of stream.client",
}


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
        url, sink = _define(cluster, with_checks=settings.bad > 0)
        changes = self._changes(sink)
        changes.start()
        killer = stages.under_load(cluster.source_urls(url))
        changes.finish()
        pending, done_at = stages.imported()
        attempts, rows = read_journal(stages.journal), _rows(cluster)
        if settings.with_client:
            # The client resolves unknown outcomes itself, so a second row is a fault.
            attempts = [each for each in attempts if not self._is_bad(each.number)]
        accounts = balance(attempts, {n: c for n, c in rows.items() if not self._is_bad(n)})
        rejected = self._rejected(rows)
        notes = stages.finish()
        notes += self._traces(accounts)
        return Report(
            title=f"{settings.seconds:g} s, {settings.rate:g} records/s, seed {settings.seed}, "
            + _MODES[settings.with_client, settings.retry],
            accounts=accounts,
            rejected=rejected,
            kills=killer.counts(),
            tasks=changes.ends,
            files=pending.imported,
            behind=None if done_at is None else max(0.0, done_at - accounts.last_acknowledged),
            complaints=complaints(stages.logs()),
            notes=notes,
            faults=stages.faults,
        )

    def _changes(self, sink: str) -> SinkChanges | Replays:
        settings, deployed = self._settings, self._cluster.deployed
        if settings.bad:
            return Replays(deployed, [sink], _checking_table, settings.changes)
        return SinkChanges(deployed, sink, _table, settings.changes or 1e9)

    def _is_bad(self, number: int) -> bool:
        bad = self._settings.bad
        return bad > 0 and number % bad == 0

    def _rejected(self, rows: Mapping[int, int]) -> Rejections | None:
        """Return the outcome of rejected records.

        The rejected records of a retried batch are rejected again, so one may be kept twice, with
        different times; each of these is stored once.
        """
        if not self._settings.bad:
            return None
        answered = {
            attempt.number
            for attempt in read_journal(self._stages.journal)
            if attempt.status == _REJECTED
        }
        query = f'SELECT id, count(*) FROM "{TABLE}" GROUP BY id, at HAVING count(*) > 1'
        twice = [int(number) for number, _ in self._cluster.deployed.query(query)]
        self._stages.faults += [
            f"the rejected record {number} is replayed twice"
            for number in twice
            if self._is_bad(number)
        ]
        return Rejections(
            answered=len(answered),
            stored=sum(1 for number in answered if number in rows),
            kept_twice=sum(1 for number in answered if rows.get(number, 0) > 1),
            missing=sorted(number for number in answered if number not in rows),
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


def _checking_table(sink: str, is_strict: bool) -> dict[str, Any]:
    """Return a table that accepts records without a mark, or rejects them."""
    table = _table(0)
    mark: dict[str, Any] = {"type": "path", "name": "ok", "path": "ok"}
    if not is_strict:
        mark["defaultValue"] = "no"
    table["mapping"]["columns"].append(mark)
    return table


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


def _define(cluster: Cluster, *, with_checks: bool) -> tuple[str, str]:
    """Create source and sink; return the URL for records and the URL of the sink."""
    deployed = cluster.deployed
    source = {"type": "http", "name": "Chaos", "sourceId": "chaos"}
    url = deployed.task("POST", deployed.api + BRANCH, source)["url"]
    table = _checking_table("", True) if with_checks else _table(0)
    sink = {"type": "table", "name": "Chaos", "sinkId": "chaos", "table": table}
    sink_url = deployed.task("POST", f"{url}/sinks", sink)["url"]
    _, answer = deployed.call("GET", url)
    return answer["http"]["url"], sink_url


def _rows(cluster: Cluster) -> dict[int, int]:
    query = f'SELECT id, count(*) FROM "{TABLE}" GROUP BY id'
    return {int(number): count for number, count in cluster.deployed.query(query)}
