"""A run: start, load and kill, heal, wait, compare."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from benchmarks.chaos.accounts import Accounts, balance
from benchmarks.chaos.changes import SinkChanges
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.evidence import complaints, unhandled, whereabouts
from benchmarks.chaos.killer import Killer, Plan
from benchmarks.chaos.pending import Pending, read_pending, unfinished_tasks
from benchmarks.chaos.producers import read_journal
from benchmarks.chaos.report import Report
from tests.e2e.processes import TABLE, wait_for

__all__ = ["Settings", "run"]

ROOT = Path(__file__).parents[2]
_NAMESPACE = "e2e"
_TICK_SECONDS = 0.1
_POLL_SECONDS = 1.0
_PRODUCERS_END_SECONDS = 240.0
_TRACED = 30
_BY_SIGTERM = -15
_ITS_BRANCH = "/v1/branches/default/sources"


@attrs.frozen
class Settings:
    """The settings of a run under chaos.

    :ivar root: directory of everything.
    :ivar seconds: of load and killing.
    :ivar rate: records a second.
    :ivar retry: producers send failed records again, with the same number.
    :ivar patience: seconds until everything must be imported after the healing.
    :ivar changes: seconds between two changes of the sink; 0 = none.
    :ivar say: told what happens.
    """

    root: Path
    seconds: float
    rate: float
    seed: int
    plan: Plan
    retry: bool = False
    patience: float = 900.0
    changes: float = 15.0
    connections: int = 64
    say: Callable[[str], None] = lambda _: None


def run(settings: Settings) -> Report:
    """Do it all; the processes are stopped at the end, whatever happens."""
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
        self._faults: list[str] = []
        self._journal = settings.root / "journal"
        self._endpoint = f"127.0.0.1:{cluster.deployed.ports['etcd']}"

    def report(self) -> Report:
        settings, cluster = self._settings, self._cluster
        url, sink = _define(cluster)
        changes = SinkChanges(cluster.deployed, sink, _table, settings.changes or 1e9)
        changes.start()
        killer = self._under_load(cluster.source_urls(url))
        changes.finish()
        pending, done_at = self._imported()
        accounts = balance(read_journal(self._journal), _rows(cluster))
        self._attempt(self._end_tasks)
        self._check_invariants()
        notes = self._judge_ends()
        cluster.stop()
        self._judge_stop()
        self._faults += [f"not imported: {item}" for item in pending.items]
        logs = sorted(settings.root.glob("*.log"))
        self._faults += unhandled(logs)
        notes += self._traces(accounts)
        return Report(
            title=f"{settings.seconds:g} s, {settings.rate:g} records/s, seed {settings.seed}, "
            + ("failed records are sent again" if settings.retry else "records are sent once"),
            accounts=accounts,
            kills=killer.counts(),
            tasks=changes.ends,
            files=pending.imported,
            behind=None if done_at is None else max(0.0, done_at - accounts.last_acknowledged),
            complaints=complaints(logs),
            notes=notes,
            faults=self._faults,
        )

    def _under_load(self, urls: list[str]) -> Killer:
        settings = self._settings
        producers = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.chaos.producers", *urls),
                f"--rate={settings.rate}",
                f"--seconds={settings.seconds}",
                f"--retry={120.0 if settings.retry else 0.0}",
                f"--connections={settings.connections}",
                f"--journal={self._journal}",
            ],
            cwd=ROOT,
        )
        try:
            killer = Killer(self._cluster, settings.plan, settings.seed, settings.say)
            end = time.monotonic() + settings.seconds
            while time.monotonic() < end:
                killer.tick()
                time.sleep(_TICK_SECONDS)
            settings.say("healing")
            self._attempt(self._cluster.heal)
            if producers.wait(_PRODUCERS_END_SECONDS):
                self._faults.append("the producers failed")
        finally:
            producers.kill()
        return killer

    def _attempt(self, do: Callable[[], None]) -> None:
        try:
            do()
        except AssertionError as error:
            self._faults.append(str(error))

    def _end_tasks(self) -> None:
        """Whoever asks for a task is told its end, even if the node that ran it has died."""
        deployed = self._cluster.deployed

        def ended() -> bool:
            left = unfinished_tasks(self._endpoint, _NAMESPACE)
            for task in left:
                deployed.call("GET", f"{deployed.api}/v1/tasks/{task}")
            return not left

        wait_for(ended, "the end of all tasks")

    def _imported(self) -> tuple[Pending, float | None]:
        """Wait for everything; what is left, and when nothing was."""
        settings = self._settings
        end = time.monotonic() + settings.patience
        said = 0.0
        while True:
            self._cluster.watch()
            pending = read_pending(self._endpoint, _NAMESPACE)
            if not pending.items:
                return pending, time.time()
            if time.monotonic() >= end:
                return pending, None
            if time.monotonic() - said > 15.0:
                said = time.monotonic()
                settings.say(f"{len(pending.items)} to be imported: {pending.items[0]}")
            time.sleep(_POLL_SECONDS)

    def _check_invariants(self) -> None:
        """In a process of its own, since it needs a reactor."""
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.invariants"),
                self._endpoint,
                *(f"--namespace={_NAMESPACE}", "--resting"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            self._faults += (ended.stdout + ended.stderr).splitlines()

    def _judge_ends(self) -> list[str]:
        """What ended unasked or badly."""
        notes = []
        for ended in self._cluster.ended:
            text = f"{ended.node} ended with {ended.code} ({ended.log.name}) {ended.words[-300:]!r}"
            is_fine = ended.code == 0 or (ended.code == _BY_SIGTERM and not ended.was_ready)
            if ended.asked and not is_fine:
                self._faults.append(f"told to stop, {text}")
            elif not ended.asked and ended.was_ready:
                self._faults.append(f"unasked, {text}")
            elif not ended.asked:
                notes.append(f"could not start, was started again: {text}")
        self._cluster.ended.clear()
        return notes

    def _judge_stop(self) -> None:
        for ended in self._cluster.ended:
            if ended.code != 0:
                self._faults.append(f"at the end, {ended.node} ended with {ended.code}")

    def _traces(self, accounts: Accounts) -> list[str]:
        wanted = [*accounts.lost[:_TRACED], *accounts.surplus[:_TRACED]]
        if not wanted:
            return []
        places = whereabouts(self._settings.root, wanted)
        attempts: dict[int, list[str]] = {number: [] for number in wanted}
        for attempt in read_journal(self._journal):
            if attempt.number in attempts:
                attempts[attempt.number].append(attempt.line().strip())
        return [f"{number}: {attempts[number]} is in {places.get(number)}" for number in wanted]


def _table(change: int) -> dict[str, Any]:
    """The uuid tells rows of one rendering, written or imported twice, from rows of two."""
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
    """The URL to push records to, and the URL of the sink."""
    deployed = cluster.deployed
    source = {"type": "http", "name": "Chaos", "sourceId": "chaos"}
    url = deployed.task("POST", deployed.api + _ITS_BRANCH, source)["url"]
    sink = {"type": "table", "name": "Chaos", "sinkId": "chaos", "table": _table(0)}
    sink_url = deployed.task("POST", f"{url}/sinks", sink)["url"]
    _, answer = deployed.call("GET", url)
    return answer["http"]["url"], sink_url


def _rows(cluster: Cluster) -> dict[int, int]:
    query = f'SELECT id, count(*) FROM "{TABLE}" GROUP BY id'
    return {int(number): count for number, count in cluster.deployed.query(query)}
