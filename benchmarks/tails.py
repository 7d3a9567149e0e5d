"""The rate of single records while live tails show their source."""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from urllib.parse import urlsplit

from benchmarks.servers import Service, service
from benchmarks.setting import Setting, cell
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load
from tests.e2e.processes import TOKEN

__all__ = ["section"]

CONNECTIONS = 256
RATE = 10
WATCHERS = (0, 1, 10)


def section(setting: Setting) -> list[str]:
    """Return the section about live tails."""
    runs: dict[int, list[Figure]] = {number: [] for number in WATCHERS}
    for round in range(setting.rounds):
        with service(setting.data()) as running:
            load(running.url, CONNECTIONS, WARM_UP_SECONDS, setting.single())
            for number, found in sorted(runs.items(), reverse=round % 2 == 1):
                with _watchers(running, number):
                    run = load(running.url, CONNECTIONS, setting.seconds, setting.single())
                    found.append(run)
    alone = _rate(runs[0])
    return [
        f"### Live tails of {RATE} records per second that no client reads, "
        f"{CONNECTIONS} connections",
        "",
        "| tails | records/s, median (range) | ÷ without |",
        "|---|---|---|",
        *(
            f"| {number} | {cell(found)} | {_rate(found) / alone:.2f} |"
            for number, found in runs.items()
        ),
        "",
    ]


def _rate(runs: list[Figure]) -> float:
    return statistics.median(run.rate for run in runs)


@contextmanager
def _watchers(running: Service, number: int) -> Iterator[None]:
    """Open tails whose clients read only the start."""
    deployed = running.deployed
    path = f"/v1/branches/default/sources/my-source/tail?rate={RATE}"
    with ExitStack() as stack:
        for _ in range(number):
            client = http.client.HTTPConnection(urlsplit(deployed.api).netloc, timeout=30)
            stack.enter_context(closing(client))
            client.request("GET", path, headers={"X-StorageApi-Token": TOKEN})
            answer = client.getresponse()
            assert answer.readline() == b"event: start\n"
            assert json.loads(answer.readline().partition(b" ")[2])["source"]
        yield
