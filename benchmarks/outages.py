"""The effect of a killed component on producers and tables, second by second.

``python -m benchmarks.outages tools/pictures/outages.json`` starts two of each component that can
have several, sends a few records a second, kills one process with ``kill -9``, starts it again 20 s
later, and records each second's answers and the rows that are missing in the table. It does so for
each component, and writes the data of the pictures in ``docs/recover.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks.chaos.cluster import Cluster, Node
from tests.e2e.processes import TABLE, Deployment, wait_for

__all__ = ["COMPONENTS", "Answer", "main", "seconds_of"]

COMPONENTS = (
    "http-source",
    "storage-writer",
    "storage-reader",
    "storage-coordinator",
    "api",
    "etcd",
    "sandbox",
)
_RATE = 20
_BEFORE, _AFTER, _DOWN = 10, 60, 20
_ANSWER_SECONDS = 40.0
_SETTLE_SECONDS = 12.0
_IMPORT_SECONDS = 900.0
_OK = 200


@attrs.frozen
class Answer:
    """One request and its answer.

    :ivar sent: seconds since the kill; negative before it.
    :ivar status: status of the answer; 0 without one.
    :ivar took: seconds until the answer.
    :ivar id: id of the record.
    """

    sent: float
    status: int
    took: float
    id: str = ""


def seconds_of(answers: list[Answer], begin: int, end: int) -> list[dict[str, Any]]:
    """Return the answers by the second in which their requests were sent.

    :param begin: the first second.
    :param end: the second after the last one.
    """
    found = []
    for second in range(begin, end):
        of_it = [answer for answer in answers if second <= answer.sent < second + 1]
        statuses = Counter(answer.status for answer in of_it)
        took = sorted(answer.took for answer in of_it if answer.status == _OK)
        found.append(
            {
                "second": second,
                "stored": statuses.pop(_OK, 0),
                "failed": {str(status): count for status, count in sorted(statuses.items())},
                "medianMs": round(1000 * took[len(took) // 2]) if took else None,
                "slowestMs": round(1000 * took[-1]) if took else None,
            }
        )
    return found


async def _send(urls: list[str], number: int, record: str) -> int:
    """Return the status of one record; try the next node if the connection is refused."""
    body = json.dumps({"id": record, "amount": number}).encode()
    for url in urls[number % len(urls) :] + urls[: number % len(urls)]:
        parts = urlsplit(url)
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            continue
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            writer.write(head.encode() + body)
            line = await asyncio.wait_for(reader.readline(), _ANSWER_SECONDS)
        except (OSError, TimeoutError):
            return 0
        finally:
            writer.close()
        return int(line.split()[1]) if line else 0
    return 0


def _rows(deployed: Deployment) -> int:
    try:
        return int(deployed.query(f'SELECT count(*) FROM "{TABLE}"')[0][0])
    except sqlite3.OperationalError:
        return 0


class _Run:
    """A run in which one component is killed under load."""

    def __init__(self, cluster: Cluster, urls: list[str], node: Node) -> None:
        self._cluster, self._urls, self._node = cluster, urls, node
        self._answers: list[Answer] = []
        self._missing: dict[int, int] = {}
        self._back: float | None = None

    async def record(self) -> dict[str, Any]:
        """Return the data of the picture."""
        before = await asyncio.to_thread(_rows, self._cluster.deployed)
        kill_at = time.monotonic() + _BEFORE
        load = asyncio.create_task(self._load(kill_at))
        look = asyncio.create_task(self._look(kill_at, before))
        await asyncio.sleep(kill_at - time.monotonic())
        await asyncio.to_thread(self._cluster.kill, self._node)
        await asyncio.sleep(kill_at + _DOWN - time.monotonic())
        self._cluster.bring_back(self._node)
        await asyncio.to_thread(self._cluster.wait_ready)
        self._back = time.monotonic() - kill_at
        await load
        look.cancel()
        with suppress(asyncio.CancelledError):
            await look
        stored = sum(answer.status == _OK for answer in self._answers)
        await asyncio.to_thread(
            wait_for,
            lambda: _rows(self._cluster.deployed) >= before + stored,
            "the import of all records",
            _IMPORT_SECONDS,
        )
        ids = Counter(self._cluster.deployed.ids())
        return {
            "component": self._node.component,
            "down": _DOWN,
            "ready": round(self._back, 1),
            "sent": len(self._answers),
            "stored": stored,
            "imported": ids.total() - before,
            "lost": sum(x.status == _OK and x.id not in ids for x in self._answers),
            "twice": sum(ids[answer.id] > 1 for answer in self._answers),
            "allImportedAfter": round(time.monotonic() - kill_at, 1),
            "seconds": [
                {**second, "missing": self._missing.get(second["second"])}
                for second in seconds_of(self._answers, -_BEFORE, _AFTER)
            ],
        }

    async def _load(self, kill_at: float) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(_RATE * (_BEFORE + _AFTER)):
                due = kill_at - _BEFORE + number / _RATE
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._one(number, kill_at))

    async def _one(self, number: int, kill_at: float) -> None:
        started, record = time.monotonic(), f"r{number}"
        status = await _send(self._urls, number, record)
        took = time.monotonic() - started
        self._answers.append(Answer(started - kill_at, status, took, record))

    async def _look(self, kill_at: float, before: int) -> None:
        """Record once a second how many stored records aren't in the table."""
        for second in range(-_BEFORE, _AFTER):
            await asyncio.sleep(kill_at + second + 1 - time.monotonic())
            stored = sum(answer.status == _OK for answer in self._answers)
            rows = await asyncio.to_thread(_rows, self._cluster.deployed)
            self._missing[second] = max(0, stored - (rows - before))


def _outage(component: str) -> dict[str, Any]:
    """Start a cluster, and kill the first process of *component*."""
    root = Path(tempfile.mkdtemp(prefix="stream-outage-"))
    cluster = Cluster.plan(root, seed=1)
    try:
        cluster.start()
        url = cluster.deployed.define()
        urls = cluster.source_urls(url)
        wait_for(lambda: cluster.deployed.push(urls[0], {"id": "first"})[0] == _OK, "a first 200")
        wait_for(lambda: cluster.deployed.push(urls[1], {"id": "first"})[0] == _OK, "another 200")
        time.sleep(_SETTLE_SECONDS)
        node = next(node for node in cluster.nodes if node.component == component)
        return asyncio.run(_Run(cluster, urls, node).record())
    finally:
        cluster.stop()
        shutil.rmtree(root)


def main() -> None:
    """Record the requested outages, and keep the others in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--only", nargs="*", choices=COMPONENTS, default=COMPONENTS)
    options = parser.parse_args()
    path: Path = options.path
    recorded = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for component in options.only:
        outage = _outage(component)
        recorded[component] = outage
        sys.stderr.write(
            f"{component}: {outage['stored']} of {outage['sent']} stored, "
            f"{outage['imported']} in the table after {outage['allImportedAfter']} s\n"
        )
        ordered = {name: recorded[name] for name in COMPONENTS if name in recorded}
        path.write_text(_compact(ordered), encoding="utf-8")


def _compact(recorded: dict[str, Any]) -> str:
    """Return JSON with one line for each second."""
    text = json.dumps(recorded, indent=1)
    lines, inside = [], ""
    for line in text.split("\n"):
        if line == "   {":
            inside = line
        elif inside:
            inside += " " + line.strip() if not inside.endswith("{") else line.strip()
            if line in ("   }", "   },"):
                lines.append(inside)
                inside = ""
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
