"""See `benchmarks.hostile`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks.hostile.attacks import ATTACKS, Attack
from benchmarks.hostile.target import Place, Target
from tests.e2e.processes import ALL, TOKEN, Deployment, wait_for

__all__ = ["Row", "main", "run"]

MAX_P99_MS = 100.0
SECONDS = 8.0
SETTLE_SECONDS = 20.0
"""Maximum time for the service to settle between two attacks."""
ALONE_SECONDS = 4.0
"""How long the good producer is measured without an attack before each attack."""
MAX_RATIO = 3.0
"""On a slow machine: maximum ratio of the p99 with and without an attack."""
_ELSEWHERE = ("etcd", "sandbox")
"""They replace other machines: a separate process with its own interpreter lock."""
_NICENESS = 10
"""Niceness of the attacker, which replaces other machines: it leaves the CPU to the service."""
_ROOT = Path(__file__).parents[2]
_LEASE_LOST = b"the lease has ended"
_NAMES: list[dict[str, Any]] = [
    {"type": "uuid", "name": "id"},
    {"type": "datetime", "name": "at"},
    {"type": "path", "name": "user", "path": "user.name", "defaultValue": ""},
]
_TEMPLATE = """\
local f(n) = if n < 2 then 1 else f(n - 1) + f(n - 2);
f(Body('n', 1)) + std.length(std.repeat('x', Body('size', 1)))
"""
_TEMPLATES: list[dict[str, Any]] = [
    {
        "type": "template",
        "name": "t",
        "template": {"language": "jsonnet", "content": _TEMPLATE},
    }
]
_COLUMNS: list[dict[str, Any]] = [
    *(
        {"type": "path", "name": f"k{number}", "path": f"k{number}", "defaultValue": ""}
        for number in range(49)
    ),
    *(
        {"type": "path", "name": f"a{number}", "path": ".".join("a" * number), "defaultValue": ""}
        for number in range(1, 51)
    ),
    {
        "type": "template",
        "name": "t",
        "template": {"language": "jsonnet", "content": "Now('%Y')"},
    },
]
_BODIES: list[dict[str, Any]] = [{"type": "body", "name": "body"}]


@attrs.frozen
class Row:
    """One attack's figures; latencies of the good producer.

    :ivar answers: answers to the good producer, by status.
    :ivar mib: resident memory of the service before, at its peak and afterwards, alone and with its
        children, without etcd.
    :ivar leases_lost: number of lost leases in the log.
    :ivar p99_alone_ms: p99 without an attack: before this one or at the beginning, whichever is
        greater.
    :ivar max_mib: see `Attack`.
    """

    name: str
    outcome: str
    p50_ms: float
    p99_ms: float
    max_ms: float
    answers: dict[str, int]
    mib: tuple[int, int, int]
    mib_with_children: int
    leases_lost: int
    p99_alone_ms: float
    max_mib: int

    @property
    def verdict(self) -> str:
        """Return what is wrong; empty if nothing is."""
        faults = []
        if self.answers.keys() != {"200"}:
            faults.append("refused")
        if self.p99_ms >= max(MAX_P99_MS, MAX_RATIO * self.p99_alone_ms):
            faults.append("slow")
        if self.mib_with_children > self.max_mib:
            faults.append("memory")
        if self.leases_lost:
            faults.append("lease")
        return ", ".join(faults)


class _Memory:
    """Watches the memory of a process and its children from a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped = threading.Event()
        self.peak = self.peak_with_children = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def now(self) -> tuple[int, int]:
        """Return MiB of the process alone, and with its children."""
        alone = _resident(self._pid)
        return alone, alone + sum(_resident(pid) for pid in _descendants(self._pid))

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            alone, all_of_them = self.now()
            self.peak = max(self.peak, alone)
            self.peak_with_children = max(self.peak_with_children, all_of_them)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        if "\nVmRSS:" not in status or status.startswith("Name:\tetcd"):
            return 0
        return int(status.partition("\nVmRSS:")[2].split()[0]) // 1024
    except OSError:
        return 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _descendants(pid: int) -> Iterator[int]:
    """Return descendants with a program of their own: before exec, a child only shares memory."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            if _command(child) != _command(pid):
                yield child
                yield from _descendants(child)


@contextmanager
def _good(url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.hostile.good", url]
    with subprocess.Popen(
        command, cwd=_ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _period(good: subprocess.Popen[str]) -> tuple[list[float], dict[str, int]]:
    """Return the measurements of the good producer since the last call."""
    assert good.stdin is not None and good.stdout is not None
    good.stdin.write("\n")
    good.stdin.flush()
    found = json.loads(good.stdout.readline())
    return sorted(found["latencies"]), found["answers"]


def _define(deployed: Deployment, id: str, columns: Sequence[dict[str, Any]], **more: Any) -> Any:
    """Create a source with a sink; return the API's view of it."""
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = {"type": "http", "name": id, "sourceId": id, **more}
    url = deployed.task("POST", sources, source)["url"]
    table = {"type": "keboola", "tableId": f"in.c-hostile.{id}", "mapping": {"columns": columns}}
    deployed.task("POST", f"{url}/sinks", {"type": "table", "name": "Sink", "table": table})
    return deployed.call("GET", url)[1]


@contextmanager
def deployed_target(folder: Path, seconds: float, scale: int) -> Iterator[tuple[Deployment, Any]]:
    """Run a service; yield the target of attacks and the URL of the good producer's source."""
    deployed = Deployment(folder)
    try:
        deployed.start(*_ELSEWHERE)
        running = deployed.start(*(name for name in ALL if name not in _ELSEWHERE))
        good = _define(deployed, "good", _NAMES)["http"]["url"]
        attacked = _define(deployed, "hostile", _NAMES)["http"]["url"]
        templates = _define(deployed, "hostile-templates", _TEMPLATES)["http"]["url"]
        columns = _define(deployed, "hostile-columns", _COLUMNS)["http"]["url"]
        otlp = _define(deployed, "hostile-otlp", _BODIES, type="otlp")["otlp"]["url"]
        for url in (good, attacked, templates, columns):
            wait_for(partial(_takes, deployed, url), "the first record")
        parts = urlsplit(attacked)
        host, _, port = running.health.rpartition(":")
        target = Target(
            source=Place(parts.hostname or "", parts.port or 0),
            api=Place("127.0.0.1", deployed.ports["api"]),
            metrics=Place(host, int(port)),
            writer=Place("127.0.0.1", deployed.ports["writer"]),
            path=parts.path,
            templates=urlsplit(templates).path,
            columns=urlsplit(columns).path,
            otlp=urlsplit(otlp).path,
            sources="/v1/branches/default/sources",
            token=TOKEN,
            seconds=seconds,
            scale=scale,
        )
        yield deployed, (target, good)
    finally:
        deployed.stop_all()


def _takes(deployed: Deployment, url: str) -> bool:
    return deployed.push(url, {})[0] == 200


async def _nobody(target: Target) -> str:
    """Do nothing: no attack."""
    await asyncio.sleep(target.seconds)
    return "–"


NOBODY = Attack("nobody else", _nobody)


def _measure(
    attack: Attack,
    target: Target,
    good: subprocess.Popen[str],
    deployed: Deployment,
    p99_alone_ms: float,
) -> Row:
    attack.prepare()
    running = deployed.running[-1]
    _settle(good, max(MAX_P99_MS, MAX_RATIO * p99_alone_ms))
    if p99_alone_ms:
        time.sleep(ALONE_SECONDS)
        p99_alone_ms = max(_p99(_period(good)[0]), p99_alone_ms)
    memory = _Memory(running.process.pid)
    before, _ = memory.now()
    lost = running.log.read_bytes().count(_LEASE_LOST)
    target.begin()
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(_NICENESS,)) as attacker:
        outcome = attacker.submit(asyncio.run, _carried_out(attack, target)).result()
    latencies, answers = _period(good)
    memory.stop()
    latencies = latencies or [0.0]  # it rested
    return Row(
        attack.name,
        outcome,
        latencies[len(latencies) // 2],
        _p99(latencies),
        latencies[-1],
        answers,
        (before, memory.peak, memory.now()[0]),
        memory.peak_with_children,
        running.log.read_bytes().count(_LEASE_LOST) - lost,
        p99_alone_ms,
        attack.max_mib,
    )


def _p99(latencies: Sequence[float]) -> float:
    """:param latencies: sorted."""
    return latencies[int(len(latencies) * 0.99)] if latencies else 0.0


async def _carried_out(attack: Attack, target: Target) -> str:
    return await attack.run(target)


def _settle(good: subprocess.Popen[str], usual_ms: float) -> None:
    """Wait until the good producer's latency is normal again before the next attack."""
    end = time.monotonic() + SETTLE_SECONDS
    _period(good)
    while time.monotonic() < end:
        time.sleep(1.0)
        latencies, answers = _period(good)
        if latencies and set(answers) == {"200"} and latencies[-1] < usual_ms:
            return


def run(
    attacks: Sequence[Attack], *, seconds: float = SECONDS, scale: int = 1, shown: bool = False
) -> list[Row]:
    """Return the rows of *attacks*, between two rows without an attack.

    :param seconds: duration of each attack.
    :param scale: divisor of the full size, e.g. 10.
    :param shown: whether each row is printed at once.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="stream-hostile-") as folder,
        deployed_target(Path(folder), seconds, scale) as (deployed, (target, good_url)),
        _good(good_url) as good,
    ):
        for attack in (NOBODY, *attacks, NOBODY):
            alone = rows[0].p99_ms if rows else 0.0
            rows.append(_measure(attack, target, good, deployed, alone))
            if shown:
                print(_line(rows[-1]), flush=True)
    return rows


_HEAD = (
    "| attack | outcome | good: p50 / p99 / max ms | p99 ÷ alone | not 200 "
    "| MiB before / peak / after | with children | lease | verdict |\n" + 9 * "|---" + "|"
)


def _line(row: Row) -> str:
    bad = {status: count for status, count in row.answers.items() if status != "200"}
    told = ", ".join(f"{count} × {status}" for status, count in sorted(bad.items())) or "0"
    ratio = row.p99_ms / max(row.p99_alone_ms or row.p99_ms, 0.1)
    return (
        f"| {row.name} | {row.outcome} | {row.p50_ms:.0f} / {row.p99_ms:.0f} / {row.max_ms:.0f} "
        f"| {ratio:.1f} | {told} | {' / '.join(map(str, row.mib))} "
        f"| {row.mib_with_children} | {'lost' if row.leases_lost else 'kept'} "
        f"| {row.verdict or 'good'} |"
    )


def main() -> None:
    """Attack the service and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the names of attacks; all by default")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each attack")
    parser.add_argument("--scale", type=int, default=1, help="a part of the full size, e.g. 10")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the service is stopped, too
    chosen = [
        attack
        for attack in ATTACKS
        if not options.names or any(name in attack.name for name in options.names)
    ]
    print(_HEAD, flush=True)
    rows = run(chosen, seconds=options.seconds, scale=options.scale, shown=True)
    bad = [row for row in rows if row.verdict]
    print(f"\n{len(rows) - len(bad)} of {len(rows)} rows are good")


if __name__ == "__main__":
    main()
