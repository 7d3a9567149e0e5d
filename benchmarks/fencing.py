"""Sources that are paused for longer than their lease, replaced, and resumed under load.

Each round stops the source with SIGSTOP, starts another process with the same name, resumes the
first while the second receives records, and waits for its end. At the end, every acknowledged
record must be in the table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from tests.conftest import free_port
from tests.e2e.processes import Deployment, Running, wait_for

__all__ = ["Report", "run"]

TTL_SECONDS = 2
"""Time to live of the lease: the shortest that etcd grants."""
PRODUCERS = 3
"""Number of producers for each of the two addresses."""

_ANSWER_SECONDS = 8.0
_PACE_SECONDS = 0.01
_NOBODY_SECONDS = 0.05
_END_SECONDS = 60.0
_BOTH_SECONDS = 1.0
_IMPORT_SECONDS = 300.0
_STARTS = 5


@attrs.frozen
class Report:
    """The report of a run in which nodes replace one another.

    :ivar rounds: number of rounds.
    :ivar ended: exit codes of replaced sources.
    :ivar statuses: number of requests by status; 0 without an answer.
    :ivar acknowledged: number of records answered with 200.
    :ivar by_former: number of these answered by a process that was already replaced.
    :ivar rows: number of records in the table.
    :ivar lost: acknowledged records that are missing in the table.
    :ivar doubled: records with more than one row.
    :ivar takeovers: seconds from SIGSTOP until the replacement received records.
    """

    rounds: int
    ended: Counter[int]
    statuses: Counter[int]
    acknowledged: int
    by_former: int
    rows: int
    lost: int
    doubled: int
    takeovers: list[float]

    @property
    def is_good(self) -> bool:
        """Return whether no record is lost and every replaced source has ended by itself."""
        return not self.lost and not self.doubled and set(self.ended) == {1}

    def __str__(self) -> str:
        times = self.takeovers
        return "\n".join(
            (
                "| rounds | acknowledged | in the table | lost | twice | answers | exit codes "
                "| s from SIGSTOP to a replacement that is ready (median, most) |",
                "|---|---|---|---|---|---|---|---|",
                f"| {self.rounds} | {self.acknowledged:,} ({self.by_former:,} by the former one "
                f"after SIGCONT) | {self.rows:,} | {self.lost} | {self.doubled} "
                f"| {_counts(self.statuses)} | {_counts(self.ended)} "
                f"| {statistics.median(times):.1f}, {max(times):.1f} |",
            )
        )


def _counts(counter: Counter[int]) -> str:
    return ", ".join(f"{value}: {count:,}" for value, count in sorted(counter.items()))


class _Load:
    """Producers that push to two addresses, each as fast as it gets answers.

    :ivar acknowledged: ids of records answered with 200, by the port that answered.
    """

    def __init__(self, url: str, ports: tuple[int, int]) -> None:
        self.acknowledged: dict[int, list[str]] = {port: [] for port in ports}
        self.statuses: Counter[int] = Counter()
        self._path = urlsplit(url).path
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._produce, args=(port, number))
            for port in ports
            for number in range(PRODUCERS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for_one(self, port: int) -> None:
        """Wait until a further record is acknowledged at *port*."""
        before = len(self.acknowledged[port])
        wait_for(lambda: len(self.acknowledged[port]) > before, "an answer")

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _produce(self, port: int, producer: int) -> None:
        sent = 0
        connection: http.client.HTTPConnection | None = None
        while not self._over.wait(_PACE_SECONDS):
            record = f"{port}-{producer}-{sent}"
            sent += 1
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(
                        "127.0.0.1", port, timeout=_ANSWER_SECONDS
                    )
                body = json.dumps({"id": record})
                connection.request("POST", self._path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self.statuses[0] += 1
                if connection is not None:
                    connection.close()
                connection = None
                self._over.wait(_NOBODY_SECONDS)
                continue
            self.statuses[answer.status] += 1
            if answer.status == http.HTTPStatus.OK:
                self.acknowledged[port].append(record)


def run(root: Path, rounds: int, seed: int, ttl: int = TTL_SECONDS) -> Report:
    """Replace a source node repeatedly under load, and compare records with rows.

    :param root: directory for all data.
    :param ttl: time to live of the nodes' leases in seconds.
    """
    choose = random.Random(seed)
    deployed = Deployment(root, {"STREAM_DISTRIBUTION_TTL_SECONDS": str(ttl)})
    ports = (deployed.ports["source"], free_port())
    try:
        deployed.start("etcd", "sandbox", "storage-coordinator", "api")
        deployed.start("storage-writer", "storage-reader", node_id="writer")
        current, port = _source(deployed, ports[0]), ports[0]
        load = _Load(deployed.define(), ports)
        load.start()
        try:
            load.wait_for_one(port)
            ended: Counter[int] = Counter()
            takeovers: list[float] = []
            by_former = 0
            for _ in range(rounds):
                other = ports[1] if port == ports[0] else ports[0]
                stopped = time.monotonic()
                current.process.send_signal(signal.SIGSTOP)
                time.sleep(choose.uniform(0.0, 1.5 * ttl))
                replacement = _source(deployed, other)
                takeovers.append(time.monotonic() - stopped)
                load.wait_for_one(other)
                seen = len(load.acknowledged[port])
                current.process.send_signal(signal.SIGCONT)
                ended[current.process.wait(_END_SECONDS)] += 1
                by_former += len(load.acknowledged[port]) - seen
                time.sleep(choose.uniform(0.0, _BOTH_SECONDS))
                current, port = replacement, other
        finally:
            load.stop()
        return _account(deployed, load, rounds, ended, by_former, takeovers)
    finally:
        deployed.stop_all()


def _source(deployed: Deployment, port: int) -> Running:
    """Start a source at *port*; retry if another process temporarily uses one of its ports."""
    for attempt in range(_STARTS):
        try:
            return deployed.start(
                "http-source", node_id="source", STREAM_SOURCE_HTTP_LISTEN=f"127.0.0.1:{port}"
            )
        except AssertionError as error:
            if "Address already in use" not in str(error) or attempt == _STARTS - 1:
                raise
            time.sleep(_NOBODY_SECONDS)
    raise AssertionError("unreachable")


def _account(
    deployed: Deployment,
    load: _Load,
    rounds: int,
    ended: Counter[int],
    by_former: int,
    takeovers: list[float],
) -> Report:
    acknowledged = {record for records in load.acknowledged.values() for record in records}
    with suppress(AssertionError):  # missing records are counted
        deployed.wait_ids(acknowledged, _IMPORT_SECONDS)
    counts = Counter(deployed.ids())
    return Report(
        rounds,
        ended,
        load.statuses,
        len(acknowledged),
        by_former,
        sum(counts.values()),
        len(acknowledged - set(counts)),
        sum(count > 1 for count in counts.values()),
        takeovers,
    )


def main() -> int:
    """Run the test; return 1 if a record is lost or doubled, or a replaced source doesn't end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fencing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ttl", type=int, default=TTL_SECONDS, help="of the lease, seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stream-fencing-") as folder:
        report = run(Path(folder), options.rounds, options.seed, options.ttl)
    print(report)
    return int(not report.is_good)


if __name__ == "__main__":
    sys.exit(main())
