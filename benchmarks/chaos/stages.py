"""Stages shared by runs: load and kills, healing, waiting for imports, and checks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.evidence import unhandled
from benchmarks.chaos.killer import Killer, Plan
from benchmarks.chaos.pending import Pending, read_pending, unfinished_tasks
from tests.e2e.processes import wait_for

__all__ = ["BRANCH", "Settings", "Stages"]

BRANCH = "/v1/branches/default/sources"
_ROOT = Path(__file__).parents[2]
_NAMESPACE = "e2e"
_TICK_SECONDS = 0.1
_POLL_SECONDS = 1.0
_PRODUCERS_END_SECONDS = 120.0
_RETRY_SECONDS = 120.0
_BY_SIGTERM = -15


@attrs.frozen
class Settings:
    """The settings of a run under chaos.

    :ivar root: directory of all data.
    :ivar seconds: duration of load and kills.
    :ivar rate: records a second.
    :ivar retry: whether producers retry failed records with the same number.
    :ivar patience: time limit of all imports after the healing, in seconds.
    :ivar changes: seconds between two changes of the sink; 0 = none.
    :ivar bad: every *bad*-th record has an amount that isn't a number; 0 for none.
    :ivar with_client: the producers are those of `stream.client`, behind a balancer.
    :ivar say: called with progress messages.
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
    bad: int = 0
    with_client: bool = False
    say: Callable[[str], None] = lambda _: None


class Stages:
    """The stages of one run.

    :ivar faults: faults so far.
    :ivar journal: journal of the producers.
    """

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self.faults: list[str] = []
        self.journal = settings.root / "journal"
        self._endpoint = f"127.0.0.1:{cluster.deployed.ports['etcd']}"

    def under_load(self, urls: list[str]) -> Killer:
        """Send records to *urls* while processes are killed; then heal the cluster."""
        settings = self._settings
        module, retry_seconds = "producers", _RETRY_SECONDS if settings.retry else 0.0
        if settings.with_client:
            module, retry_seconds = "client_producers", settings.patience
        producers = subprocess.Popen(
            [
                *(sys.executable, "-m", f"benchmarks.chaos.{module}", *urls),
                f"--rate={settings.rate}",
                f"--seconds={settings.seconds}",
                f"--retry={retry_seconds}",
                f"--connections={settings.connections}",
                f"--bad={settings.bad}",
                f"--journal={self.journal}",
            ],
            cwd=_ROOT,
        )
        try:
            killer = Killer(self._cluster, settings.plan, settings.seed, settings.say)
            end = time.monotonic() + settings.seconds
            while time.monotonic() < end:
                killer.tick()
                time.sleep(_TICK_SECONDS)
            settings.say("healing")
            self._attempt(self._cluster.heal)
            if producers.wait(_PRODUCERS_END_SECONDS + retry_seconds):
                self.faults.append("the producers failed")
        finally:
            producers.kill()
        return killer

    def finish(self) -> list[str]:
        """Check the state in etcd and the ends of processes, and stop the cluster.

        Returns remarkable findings that are no faults.
        """
        self._attempt(self._end_tasks)
        self._check_invariants()
        notes = self._judge_ends()
        self._cluster.stop()
        self._judge_stop()
        self.faults += unhandled(self.logs())
        return notes

    def logs(self) -> list[Path]:
        """Return the logs of all processes, oldest first."""
        return sorted(self._settings.root.glob("*.log"))

    def _attempt(self, do: Callable[[], None]) -> None:
        try:
            do()
        except AssertionError as error:
            self.faults.append(str(error))

    def _end_tasks(self) -> None:
        """Poll unfinished tasks: each gets an end, even if its node has died."""
        deployed = self._cluster.deployed

        def ended() -> bool:
            left = unfinished_tasks(self._endpoint, _NAMESPACE)
            for task in left:
                deployed.call("GET", f"{deployed.api}/v1/tasks/{task}")
            return not left

        wait_for(ended, "the end of all tasks")

    def imported(self) -> tuple[Pending, float | None]:
        """Wait for all imports; return the remaining items, and the time when there were none."""
        settings = self._settings
        end = time.monotonic() + settings.patience
        said = 0.0
        while True:
            self._cluster.watch()
            pending = read_pending(self._endpoint, _NAMESPACE)
            if not pending.items:
                return pending, time.time()
            if time.monotonic() >= end:
                self.faults += [f"not imported: {item}" for item in pending.items]
                return pending, None
            if time.monotonic() - said > 15.0:
                said = time.monotonic()
                settings.say(f"{len(pending.items)} to be imported: {pending.items[0]}")
            time.sleep(_POLL_SECONDS)

    def _check_invariants(self) -> None:
        """Check the invariants in a separate process, which needs its own reactor."""
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.invariants"),
                self._endpoint,
                *(f"--namespace={_NAMESPACE}", "--resting"),
            ],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            self.faults += (ended.stdout + ended.stderr).splitlines()

    def _judge_ends(self) -> list[str]:
        """Check which processes ended unexpectedly or with an error."""
        notes = []
        for ended in self._cluster.ended:
            text = f"{ended.node} ended with {ended.code} ({ended.log.name}) {ended.words[-300:]!r}"
            is_fine = ended.code == 0 or (ended.code == _BY_SIGTERM and not ended.was_ready)
            if ended.asked and not is_fine:
                self.faults.append(f"after a requested stop, {text}")
            elif not ended.asked and ended.was_ready:
                self.faults.append(f"unexpectedly, {text}")
            elif not ended.asked:
                notes.append(f"could not start, was started again: {text}")
        self._cluster.ended.clear()
        return notes

    def _judge_stop(self) -> None:
        for ended in self._cluster.ended:
            if ended.code != 0:
                self.faults.append(f"at the end, {ended.node} ended with {ended.code}")
