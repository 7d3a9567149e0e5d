"""``python -m benchmarks.lost_lease``: how soon a source answers again after it has lost its lease.

The lease ends because etcd is killed, stopped or unreachable, or because the source is stopped,
each for longer than the lease. The time begins when etcd answers again, or when the source goes
on. It ends with the first 200 that no refusal follows. With ``--sinks`` the source has many sinks,
all with an open file: the slowest answer to a probe shows how long the reactor was held.
"""

from __future__ import annotations

import argparse
import http.client
import os
import select
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.scale import SINKS_PER_SOURCE, define
from stream.etcd import EtcdClient
from stream.settings import Settings
from stream.settings.declare import with_values
from tests.e2e.processes import Deployment, Running, request, wait_for

__all__ = ["CASES", "recovery_seconds", "run", "run_with_sinks"]

_PACE_SECONDS = 0.005
_ANSWER_SECONDS = 8.0
_STEADY_SECONDS = 1.5
_RECOVERY_SECONDS = 60.0
_OK = 200
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PIECE = 64 * 1024
_PROBE_SECONDS = 0.002
_ROUND_PACE_SECONDS = 0.02
_SINKS_SECONDS = 300.0
_STOP_SECONDS = 120.0


class Relay:
    """A TCP relay to etcd that can be silent.

    Bytes sent meanwhile arrive late, since TCP repeats them at growing intervals: after the end of
    the silence it takes as long again.
    """

    def __init__(self, target: int) -> None:
        self._is_silent = False
        self._ended = 0.0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Forward nothing more."""
        self._is_silent = True

    def resume(self) -> None:
        """Forward new bytes at once, and those sent meanwhile later."""
        self._ended = time.monotonic()
        self._is_silent = False

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(("127.0.0.1", self._target)) as far:
            self._wait()
            ends = {near: far, far: near}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(_PIECE)
                    if not data:
                        return
                    self._wait()
                    ends[end].sendall(data)

    def _wait(self) -> None:
        """Wait until bytes sent now arrive."""
        if not self._is_silent:
            return
        sent = time.monotonic()
        while self._is_silent:
            time.sleep(_PACE_SECONDS)
        time.sleep(max(0.0, 2 * self._ended - sent - time.monotonic()))


class Producer:
    """A producer that sends one record after the other, whatever the answers.

    :ivar answers: time and status of each answer; 0 without one.
    """

    def __init__(self, url: str, method: str = "POST", pace: float = _PACE_SECONDS) -> None:
        self.answers: list[tuple[float, int]] = []
        self.longest: list[tuple[float, float]] = []
        self._address = urlsplit(url)
        self._method = method
        self._pace = pace
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more."""
        self._over.set()
        self._thread.join()

    def _send(self) -> None:
        connection: http.client.HTTPConnection | None = None
        body = b'{"id":"a"}' if self._method == "POST" else None
        while not self._over.wait(self._pace):
            status, began = 0, time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(
                        self._address.netloc, timeout=_ANSWER_SECONDS
                    )
                headers = {"Content-Type": "application/json"} if body else {}
                connection.request(self._method, self._address.path, body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection = None
            now = time.monotonic()
            self.answers.append((now, status))
            self.longest.append((now, now - began))


def recovery_seconds(answers: list[tuple[float, int]], begun: float) -> float:
    """Return the seconds from *begun* to the first 200 that no other answer follows.

    :param answers: time and status of each answer, in order.
    """
    last_refusal = max((at for at, status in answers if status != _OK), default=begun)
    after = max(last_refusal, begun)
    return next(at for at, status in answers if at >= after and status == _OK) - begun


@attrs.define(eq=False)
class _World:
    """A deployment whose source reaches etcd through a relay."""

    deployed: Deployment
    ttl: int
    etcd: Running
    source: Running
    relay: Relay
    url: str

    def wait_lost(self, producer: Producer) -> None:
        """Wait until the source refuses records."""
        since = time.monotonic()
        wait_for(
            lambda: any(at > since and status == 503 for at, status in producer.answers[-50:]),
            "the end of the lease",
        )

    def answers(self) -> bool:
        """Return whether etcd answers a linearizable read."""
        url = f"http://127.0.0.1:{self.deployed.ports['etcd']}/v3/kv/range"
        with suppress(OSError, http.client.HTTPException):
            return request("POST", url, b'{"key":"YQ=="}', {})[0] == _OK
        return False


def _etcd_killed(world: _World, producer: Producer) -> float:
    world.etcd.kill()
    world.wait_lost(producer)
    time.sleep(world.ttl)
    world.etcd = world.deployed.spawn("etcd")
    while not world.answers():
        time.sleep(_PACE_SECONDS)
    return time.monotonic()


def _etcd_stopped(world: _World, producer: Producer) -> float:
    # The component runs etcd as a child of its own.
    etcd = _child(world.etcd.process.pid)
    os.kill(etcd, signal.SIGSTOP)
    world.wait_lost(producer)
    time.sleep(world.ttl)
    os.kill(etcd, signal.SIGCONT)
    return time.monotonic()


def _etcd_unreachable(world: _World, producer: Producer) -> float:
    world.relay.silence()
    world.wait_lost(producer)
    time.sleep(world.ttl)
    world.relay.resume()
    return time.monotonic()


def _source_stopped(world: _World, producer: Producer) -> float:
    world.source.process.send_signal(signal.SIGSTOP)
    time.sleep(2.5 * world.ttl)
    world.source.process.send_signal(signal.SIGCONT)
    return time.monotonic()


CASES: dict[str, Callable[[_World, Producer], float]] = {
    "etcd is killed and started again": _etcd_killed,
    "etcd is stopped and goes on": _etcd_stopped,
    "the source can't reach etcd": _etcd_unreachable,
    "the source is stopped and goes on": _source_stopped,
}
"""The ways to lose a lease; each returns the time from which on the source can get another one."""


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(child) for child in children if "etcd" in _command(int(child)))


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()


def _start(deployed: Deployment, ttl: int) -> _World:
    etcd = deployed.start("etcd")
    relay = Relay(deployed.ports["etcd"])
    deployed.start("sandbox", "storage-coordinator", "api")
    deployed.start("storage-writer", "storage-reader", node_id="writer")
    source = deployed.start(
        "http-source", node_id="source", STREAM_ETCD_ENDPOINT=f"127.0.0.1:{relay.port}"
    )
    return _World(deployed, ttl, etcd, source, relay, "")


def run(root: Path, rounds: int, ttl: int) -> dict[str, list[float]]:
    """Return the seconds of each round of each case.

    :param root: directory for all data.
    :param ttl: time to live of the lease in seconds.
    """
    deployed = Deployment(root, {"STREAM_DISTRIBUTION_TTL_SECONDS": str(ttl)})
    found: dict[str, list[float]] = {case: [] for case in CASES}
    try:
        world = _start(deployed, ttl)
        world.url = world.deployed.define()
        wait_for(lambda: world.deployed.push(world.url, {"id": "a"})[0] == _OK, "a first 200")
        for _ in range(rounds):
            for case, lose in CASES.items():
                producer = Producer(world.url)
                try:
                    begun = lose(world, producer)
                    _wait_steady(producer, begun)
                finally:
                    producer.stop()
                found[case].append(recovery_seconds(producer.answers, begun))
    finally:
        deployed.stop_all()
    return found


def _wait_steady(producer: Producer, begun: float) -> None:
    def is_steady() -> bool:
        now = time.monotonic()
        late = [status for at, status in producer.answers[-1000:] if at > now - _STEADY_SECONDS]
        return now > begun + _STEADY_SECONDS and bool(late) and set(late) == {_OK}

    wait_for(is_steady, "steady answers", _RECOVERY_SECONDS)


@attrs.frozen
class WithSinks:
    """The figures of a source with many sinks that loses its lease.

    :ivar steady: longest answer to a probe under the same load with a lease, in seconds.
    :ivar lost: the same while the lease is lost.
    :ivar renewed: the same from the new lease until all sinks accept records again.
    :ivar first: seconds from the return of etcd until the first record is stored.
    :ivar all: the same until a record of every source is stored.
    :ivar before: resident memory with a lease, in bytes.
    :ivar most: maximum resident memory afterwards.
    :ivar stop: seconds from SIGTERM until the source has ended, with all files open.
    :ivar writer_stop: the same of the writer, after the source.
    """

    sinks: int
    steady: float
    lost: float
    renewed: float
    first: float
    all: float
    before: int
    most: int
    stop: float
    writer_stop: float


class _Rounds:
    """Sends a record to each source in turn, and again; records when each was stored last."""

    def __init__(self, urls: list[str]) -> None:
        self.stored: list[tuple[float, str]] = []
        self.refused = 0.0
        self._urls = urls
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def first_stored(self, since: float) -> dict[str, float]:
        """Return when each source has stored its first record since a time."""
        found: dict[str, float] = {}
        for at, url in list(self.stored):
            if at > since:
                found.setdefault(url, at)
        return found

    def are_all_stored(self, since: float) -> bool:
        """Return whether every source has stored a record since a time."""
        return len(self.first_stored(since)) == len(self._urls)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._over.is_set():
            for url in self._urls:
                if self._over.wait(_ROUND_PACE_SECONDS):
                    return
                with suppress(OSError, http.client.HTTPException):
                    status, _ = request(
                        "POST", url, b'{"id":"a"}', {"Content-Type": "application/json"}
                    )
                    now = time.monotonic()
                    if status == _OK:
                        self.stored.append((now, url))
                    else:
                        self.refused = now


def run_with_sinks(root: Path, sinks: int, ttl: int) -> WithSinks:
    """Return the figures of a source with many sinks.

    :param root: directory for all data.
    :param ttl: time to live of the lease in seconds.
    """
    deployed = Deployment(
        root,
        {"STREAM_DISTRIBUTION_TTL_SECONDS": str(ttl)},
    )
    (root / "volumes" / "default" / "one" / "volume-id").write_text("volume-one")
    try:
        etcd = deployed.start("etcd")
        try:
            react(lambda reactor: Deferred.fromCoroutine(_define(reactor, deployed, sinks)))
        except SystemExit as ended:  # the end of every reactor
            if ended.code:
                raise
        writer = deployed.start("storage-writer", node_id="writer")
        source = deployed.start("http-source", node_id="source")
        base = f"http://127.0.0.1:{deployed.ports['source']}"
        urls = [
            f"{base}/stream/123/s{number}/{'x' * 48}"
            for number in range(-(-sinks // SINKS_PER_SOURCE))
        ]
        return _lose_with_sinks(etcd, writer, source, base, urls, sinks, ttl)
    finally:
        deployed.stop_all()


async def _define(reactor: Any, deployed: Deployment, sinks: int) -> None:
    client = EtcdClient(reactor, [f"127.0.0.1:{deployed.ports['etcd']}"], "e2e")
    await client.startService()
    level = with_values(
        Settings().storage.level,
        {
            ("local", "encoding", "sync", "mode"): "cache",
            # The stored slices decide, not the writer's settings: 3,000 would reserve 300 GB.
            ("local", "writer", "allocation", "enabled"): False,
        },
    )
    await define(client, sinks, level)
    await client.stopService()


def _longest(probe: Producer, begin: float, end: float) -> float:
    """Return the longest time of an answer between two times."""
    return max((took for at, took in probe.longest if begin < at <= end), default=0.0)


def _resident(running: Running) -> int:
    pages = Path(f"/proc/{running.process.pid}/statm").read_text().split()[1]
    return int(pages) * _PAGE


def _most_resident(running: Running) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _lose_with_sinks(
    etcd: Running,
    writer: Running,
    source: Running,
    base: str,
    urls: list[str],
    sinks: int,
    ttl: int,
) -> WithSinks:
    rounds = _Rounds(urls)
    probe = Producer(f"{base}/health-check", "GET", _PROBE_SECONDS)
    try:
        began = time.monotonic()
        wait_for(lambda: rounds.are_all_stored(began), "the first records", _SINKS_SECONDS)
        opened = time.monotonic()
        wait_for(lambda: rounds.are_all_stored(opened), "further records", _SINKS_SECONDS)
        before = _resident(source)
        pid = _child(etcd.process.pid)
        lost = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: rounds.refused > lost, "the end of the lease")
        time.sleep(ttl)
        os.kill(pid, signal.SIGCONT)
        renewed = time.monotonic()
        wait_for(lambda: rounds.are_all_stored(renewed), "records of all sinks", _SINKS_SECONDS)
        time.sleep(_STEADY_SECONDS)
    finally:
        probe.stop()
        rounds.stop()
    back = rounds.first_stored(renewed).values()
    end = time.monotonic()
    most = _most_resident(source)
    return WithSinks(
        sinks,
        _longest(probe, opened, lost),
        _longest(probe, lost, renewed),
        _longest(probe, renewed, end),
        min(back) - renewed,
        max(back) - renewed,
        before,
        most,
        _stop_seconds(source),
        _stop_seconds(writer),
    )


def _stop_seconds(running: Running) -> float:
    """Stop a process; return how long it takes. Raises AssertionError: it has ended otherwise."""
    began = time.monotonic()
    running.process.terminate()
    status = running.process.wait(_STOP_SECONDS)
    assert status == 0, status
    return time.monotonic() - began


def _cases_table(found: dict[str, list[float]]) -> str:
    lines = [
        "| the lease is lost since | rounds | s until 200, median | most |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {case} | {len(times)} | {statistics.median(times):.2f} | {max(times):.2f} |"
        for case, times in found.items()
    ]
    return "\n".join(lines)


def _sinks_table(found: WithSinks) -> str:
    return "\n".join(
        (
            "| sinks | longest answer to a probe with a lease, ms | without | after it "
            "| s until a first 200 | until all | MB before | most MB | s to stop | the writer |",
            "|---|---|---|---|---|---|---|---|---|---|",
            f"| {found.sinks:,} | {1000 * found.steady:.0f} | {1000 * found.lost:.0f} "
            f"| {1000 * found.renewed:.0f} | {found.first:.2f} | {found.all:.2f} "
            f"| {found.before / 1e6:.0f} | {found.most / 1e6:.0f} "
            f"| {found.stop:.1f} | {found.writer_stop:.1f} |",
        )
    )


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lost_lease", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ttl", type=int, default=5, help="of the lease, seconds")
    parser.add_argument("--sinks", type=int, default=0, help="measure a source with many sinks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stream-lost-lease-") as folder:
        if options.sinks:
            print(_sinks_table(run_with_sinks(Path(folder), options.sinks, options.ttl)))
        else:
            print(_cases_table(run(Path(folder), options.rounds, options.ttl)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
