"""``python -m benchmarks.api_stress``: many clients change the same sinks through two APIs.

The clients create, change, disable, enable, delete and undelete sinks at random. Answers that a
sink is missing, exists already or is being changed by another task are expected. Everything else is
a failure: other errors, tasks that don't end or fail without a reason, and violations found by
`benchmarks.invariants`: inconsistent records, or a missing change that was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks.client import JsonClient
from tests.conftest import free_port
from tests.e2e.processes import TOKEN, Deployment, deployment

__all__ = ["Outcome", "stress"]

ROOT = Path(__file__).parents[1]
SOURCES = 20
SINKS = 10
CLIENTS = 200
_SOURCES_PATH = "/v1/branches/default/sources"
_TASK_SECONDS = 120.0
_FIRST_POLL_SECONDS = 0.1
_MAX_POLL_SECONDS = 1.0
_OUR_FAULT = "Unknown error"
_ALREADY_RUNNING = "stream.api.internalError"
"""The answer, with status 500, while another task works on the same sink."""

# Twice, so that more sinks are changed than deleted.
_OPERATIONS = ("create", "create", "update", "update", "disable", "enable", "delete", "undelete")
_MADE = {
    "create": "New sink.",
    "disable": "Disabled.",
    "enable": "Enabled.",
    "undelete": "Undeleted.",
}


@attrs.define
class Outcome:
    """The outcome of a run of many calls at once.

    :ivar answers: number of answers by operation and status.
    :ivar tasks: number of finished tasks by operation and error.
    :ivar latencies: seconds from the request to the end of its task.
    :ivar unexpected: answers that are failures.
    :ivar made: by sink, the number of acknowledged changes by description.
    :ivar invariants: output of the checker.
    """

    answers: Counter[str] = attrs.Factory(Counter)
    tasks: Counter[str] = attrs.Factory(Counter)
    latencies: list[float] = attrs.Factory(list)
    unexpected: list[str] = attrs.Factory(list)
    made: dict[str, Counter[str]] = attrs.Factory(lambda: defaultdict(Counter))
    seconds: float = 0.0
    invariants: str = ""
    is_consistent: bool = False

    @property
    def is_good(self) -> bool:
        """Return whether the invariants hold and every answer was expected."""
        return self.is_consistent and not self.unexpected

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run, for its report."""
        ordered = sorted(self.latencies)
        return {
            "seconds": round(self.seconds, 1),
            "calls": sum(self.answers.values()),
            "tasks": sum(self.tasks.values()),
            "tasksPerSecond": round(sum(self.tasks.values()) / max(self.seconds, 0.1), 1),
            "taskP50ms": round(1000 * ordered[len(ordered) // 2]) if ordered else 0,
            "taskP99ms": round(1000 * ordered[int(len(ordered) * 0.99)]) if ordered else 0,
            "answers": dict(sorted(self.answers.items())),
            "ends": dict(sorted(self.tasks.items())),
            "unexpected": self.unexpected[:20],
        }


class _Client:
    """Makes one change after the other, each through any of the APIs."""

    def __init__(self, number: int, urls: Sequence[str], outcome: Outcome) -> None:
        self._number = number
        self._random = random.Random(number)
        self._apis = [JsonClient(url, {"X-StorageApi-Token": TOKEN}) for url in urls]
        self._outcome = outcome
        self._changes = 0

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            operation = self._random.choice(_OPERATIONS)
            source, sink = self._random.randrange(SOURCES), self._random.randrange(SINKS)
            await self._change(operation, f"s{source}", f"k{sink}")
        for api in self._apis:
            api.close()

    async def _change(self, operation: str, source: str, sink: str) -> None:
        api = self._random.choice(self._apis)
        description = f"{self._number}/{self._changes}"
        self._changes += 1
        started = time.monotonic()
        status, answer = await api.call(*_request(operation, source, sink, description))
        self._outcome.answers[f"{operation} {status}"] += 1
        if status == 202:
            task = await self._ended(answer["url"])
            self._outcome.latencies.append(time.monotonic() - started)
            self._judge(operation, description, task)
        elif not _is_expected(status, answer):
            self._outcome.unexpected.append(f"{operation} {source}/{sink}: {status} {answer}")

    async def _ended(self, url: str) -> Any:
        deadline = time.monotonic() + _TASK_SECONDS
        delay = _FIRST_POLL_SECONDS
        while time.monotonic() < deadline:
            # Tasks wait for each other; more frequent polls would be most of the load.
            await asyncio.sleep(delay * self._random.uniform(0.8, 1.2))
            delay = min(_MAX_POLL_SECONDS, delay * 1.5)
            api = self._random.choice(self._apis)
            status, task = await api.call("GET", urlsplit(url).path)
            if status != 200:
                self._outcome.unexpected.append(f"GET {url}: {status} {task}")
            elif task["isFinished"]:
                return task
        return {"status": "lost", "taskId": url}

    def _judge(self, operation: str, description: str, task: Any) -> None:
        error = task.get("error", "")
        told = re.sub('"[^"]*"', "…", error)
        self._outcome.tasks[f"{operation} {task['status']} {told}".strip()] += 1
        if task["status"] == "lost" or error == _OUR_FAULT:
            self._outcome.unexpected.append(f"{operation}: {task}")
        if task["status"] == "success" and operation != "delete":
            outputs = task["outputs"]
            key = "/".join(
                str(outputs[name]) for name in ("projectId", "branchId", "sourceId", "sinkId")
            )
            self._outcome.made[key][_MADE.get(operation, description)] += 1


def _request(operation: str, source: str, sink: str, description: str) -> tuple[str, str, Any]:
    sinks = f"{_SOURCES_PATH}/{source}/sinks"
    if operation == "create":
        return "POST", sinks, _sink(source, sink)
    if operation == "update":
        return "PATCH", f"{sinks}/{sink}", {"name": description, "changeDescription": description}
    if operation == "delete":
        return "DELETE", f"{sinks}/{sink}", None
    return "PUT", f"{sinks}/{sink}/{operation}", None


def _sink(source: str, sink: str) -> dict[str, Any]:
    table = {
        "type": "keboola",
        "tableId": f"in.c-{source}.{sink}",
        "mapping": {"columns": [{"type": "uuid", "name": "id"}, {"type": "body", "name": "body"}]},
    }
    return {"type": "table", "sinkId": sink, "name": sink, "table": table}


def _is_expected(status: int, answer: Any) -> bool:
    return status in (404, 409) or (status == 500 and answer["error"] == _ALREADY_RUNNING)


async def _load(urls: Sequence[str], clients: int, seconds: float, outcome: Outcome) -> None:
    started = time.monotonic()
    await asyncio.gather(
        *(_Client(number, urls, outcome).run(started + seconds) for number in range(clients))
    )
    outcome.seconds = time.monotonic() - started


def stress(deployed: Deployment, *, clients: int = CLIENTS, seconds: float = 60.0) -> Outcome:
    """Put load on a new deployment, and check its state afterwards."""
    outcome = Outcome()
    others = ("etcd", "sandbox", "storage-writer", "storage-coordinator")
    deployed.start(*others, node_id="others")
    second = f"127.0.0.1:{free_port()}"
    nodes = [
        deployed.start("api", node_id="api-1"),
        deployed.start("api", node_id="api-2", STREAM_API_LISTEN=second),
    ]
    for number in range(SOURCES):
        source = {"type": "http", "sourceId": f"s{number}", "name": f"Source {number}"}
        deployed.task("POST", deployed.api + _SOURCES_PATH, source)
    asyncio.run(_load((deployed.api, f"http://{second}"), clients, seconds, outcome))
    for node in nodes:
        outcome.unexpected += _errors(node.log)
    _check(deployed, outcome)
    return outcome


def _errors(log: Path) -> list[str]:
    """Return the errors that the processes logged."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [f"{log.name}: {line}" for line in lines if line["level"] == "error"]


def _check(deployed: Deployment, outcome: Outcome) -> None:
    """Check the invariants in a separate process, which needs its own reactor."""
    changes = deployed.root / "changes.json"
    changes.write_text(json.dumps(outcome.made))
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.invariants"),
            f"127.0.0.1:{deployed.ports['etcd']}",
            *("--namespace=e2e", "--resting", f"--changes={changes}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    outcome.invariants = ended.stdout + ended.stderr
    outcome.is_consistent = ended.returncode == 0


def main() -> int:
    """Run the test and print the findings; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api_stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, deployment(Path(root)) as deployed:
        outcome = stress(deployed, clients=options.clients, seconds=options.seconds)
    sys.stdout.write(json.dumps(outcome.summary(), indent=2) + "\n" + outcome.invariants)
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
