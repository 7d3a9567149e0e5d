"""One run: nodes with load and faults, then no faults until every slice is uploaded, then the
verdict.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import random
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import attrs
import orjson
from twisted.internet.defer import ensureDeferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.errors import UserError
from stream.etcd import AtomicTxn, atomic
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.state import Level
from stream.storage.model.volume import Volume
from stream.storage.store.repository import StorageRepository
from stream.storage.writer.disk_thread import COUNT
from stream.storage.writer.uncounted import CHECK_SECONDS
from stream.values.codec import encode
from tests.simulation.disk import Disk, Os
from tests.simulation.etcd import Etcd, EtcdTransport
from tests.simulation.network import Network
from tests.simulation.nodes import Node, build, client_of, level_settings, time_of
from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.threads import CompiledThread, Pool, Threading
from tests.storage.histories.world import SINK, SINK_KEY, SOURCE, SOURCE_KEY, prepared_file

__all__ = ["FAULTS", "Result", "simulate"]

_LOAD_SECONDS = (4.0, 8.0, 12.0)
_PEACE_SECONDS = 2.0
_PATIENCE_SECONDS = 900.0
_COUNT_SECONDS = 4 * CHECK_SECONDS
_WAIT_SECONDS = 0.06
_FAULT_SECONDS = (0.4, 1.0)
_COLLECTIONS = 3
_HEADERS = RecordHeaders(())
_POOL_SIZE = 4
_SOURCES = ("source-1", "source-2")
_DISKS = ("disk-1", "disk-2")


@attrs.frozen
class Result:
    """The result of a run.

    :ivar violations: violated guarantees, empty if there is none.
    :ivar trace: hash of all events.
    :ivar faults: number of faults of each kind.
    :ivar logged: failures that the service has logged with a traceback.
    """

    seed: int
    violations: tuple[str, ...]
    trace: str
    steps: int
    seconds: float
    written: int
    acknowledged: int
    rows: int
    slices: int
    faults: Counter[str]
    logged: Counter[str]


@attrs.define(eq=False)
class _Request:
    """A producer's request with one record, which is answered once.

    :ivar process: the process that has read it. A process that is stopped while paused may end with
        unread requests.
    """

    number: int
    world: World
    process: Process | None = None
    outcome: str = ""

    def stored(self) -> None:
        self._tell("stored")

    def accepted(self, status: int) -> None:
        self._tell("accepted")

    def failed(self, error: Exception) -> None:
        self._tell(error.name if isinstance(error, UserError) else "failed")

    def _tell(self, outcome: str) -> None:
        process = self.world.scheduler.running
        if process is not None and process.is_dead:
            return
        if self.outcome:
            self.world.violations.append(f"request {self.number} was answered twice")
        self.outcome = outcome
        self.world.scheduler.note(f"request {self.number} {outcome}")


@attrs.define(eq=False)
class _Place:
    """The position of a node, whose lives are successive, or concurrent by mistake.

    :ivar node: the latest life; ``None`` while it is down.
    :ivar former: earlier lives that weren't killed when the latest was started.
    """

    kind: str
    name: str
    host: str
    node: Node | None = None
    former: list[Node] = attrs.Factory(list)
    lives: int = 0

    @property
    def living(self) -> list[Node]:
        """All running lives, the latest last."""
        return [*self.former, *([self.node] if self.node is not None else [])]


class World:
    """The simulated deployment.

    :param allowed: kinds of faults. Each seed uses some of them, or all if *all_kinds*.
    """

    def __init__(
        self, seed: int, directory: Path, allowed: tuple[str, ...], all_kinds: bool
    ) -> None:
        self.scheduler = Scheduler(seed)
        self.has_compiled_threads = seed % 2 == 1
        self.random = self.scheduler.random
        self.network = Network(self.scheduler)
        self.etcd = Etcd(self.scheduler)
        self.os = Os(self.scheduler)
        self.violations: list[str] = []
        self.requests: list[_Request] = []
        self.staged: dict[str, bytes] = {}
        self.faults: Counter[str] = Counter()
        self.logged: Counter[str] = Counter()
        self._directory = directory
        self._ttl = self.random.choice((2, 4))
        self._load_seconds = self.random.choice(_LOAD_SECONDS)
        self._fault_seconds = self.random.choice(_FAULT_SECONDS)
        self._allowed = tuple(kind for kind in allowed if all_kinds or self.random.random() < 0.5)
        self.compression = self.random.choice(("gzip", "gzip", "none"))
        mode = "disk" if "power" in self._allowed else self.random.choice(("disk", "cache"))
        self.level = level_settings(self.compression, mode)
        self.places = [
            *(_Place("source", name, name) for name in _SOURCES),
            *(_Place("writer", f"writer-{host}", host) for host in _DISKS),
            *(_Place("reader", f"reader-{host}", host) for host in _DISKS),
            _Place("coordinator", "coordinator", "coordinator"),
        ]
        for host in _DISKS:
            (directory / host / "default" / host).mkdir(parents=True)
            (directory / host / "default" / host / "volume-id").write_text(host)
            self.os.disks[host] = Disk(directory / host / "default" / host)

    # processes

    def process(self, name: str, host: str) -> Process:
        process = Process(self.scheduler, name, host)
        process.network = self.network
        process.pool = Pool(process, _POOL_SIZE)
        return process

    def start(self, place: _Place, host: str = "") -> None:
        """Start a new life. If the start fails, the life ends at once, and its supervisor
        retries.
        """
        place.lives += 1
        process = self.process(f"{place.name}/{place.lives}", host or place.host)
        node = build(
            place.kind,
            place.name,
            process,
            ttl=self._ttl,
            volumes=self._directory / place.host,
            level=self.level,
            staged=self._staged,
        )
        if place.node is not None:
            place.former.append(place.node)
        place.node = node
        if node.session is not None:
            node.session.on_replaced.append(lambda _: self.stop(place, node))

        def failed(_: object) -> None:
            self.kill(place, node)

        def begin() -> None:
            node.start().addErrback(failed)

        self.scheduler.after(0.0, begin, "starts", process)

    def kill(self, place: _Place, node: Node) -> None:
        node.process.kill()
        if node in place.former:
            place.former.remove(node)
        elif place.node is node and place.former:
            place.node = place.former.pop()
        elif place.node is node:
            place.node = None
            self.scheduler.after(
                self.random.expovariate(1 / 1.5), lambda: self.start(place), f"restart {place.name}"
            )

    def _staged(self, slice_: Slice, content: bytes) -> None:
        self.staged[str(slice_.key)] = content

    # load

    def produce(self, place: _Place) -> None:
        """Let a source node receive some records from time to time."""
        if self.scheduler.now > self._load_seconds:
            return
        self.scheduler.after(
            self.random.expovariate(1 / _WAIT_SECONDS), lambda: self.produce(place), "load"
        )
        if not place.living:
            return
        node = self.random.choice(place.living)
        if node.router is None or node.is_stopping:
            return
        router = node.router
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            request = _Request(len(self.requests), self)
            self.requests.append(request)
            write = partial(self._write, node, router, request)
            self.scheduler.after(0.0, write, "request", node.process)

    def _write(self, node: Node, router: Any, request: _Request) -> None:
        request.process = node.process
        now = int(time_of(node.process).timestamp() * 1000)
        record = RecordContext(now, "10.0.0.1", _HEADERS, b"r%d" % request.number)
        targets = router.eligible(SOURCE_KEY, "")
        if not targets:
            request.failed(UserError("no sink", status=404, name="noSink"))
        for _, target in targets:
            target.write(record, request)

    # faults

    def break_something(self) -> None:
        """Cause one fault, and schedule the next one."""
        if self.scheduler.now > self._load_seconds or not self._allowed:
            return
        self.scheduler.after(
            self.random.expovariate(1 / self._fault_seconds), self.break_something, "fault"
        )
        kind = self.random.choice(self._allowed)
        self.faults[kind] += 1
        self.scheduler.note(f"fault {kind}")
        FAULTS[kind](self)

    def _living(self) -> tuple[_Place, Node] | None:
        living = [(place, node) for place in self.places for node in place.living]
        return self.random.choice(living) if living else None

    def _kill_some(self) -> None:
        """Kill some processes, each between any two of its events."""
        found = self._living()
        if found is not None:
            place, node = found
            node.process.meets(
                1 + int(self.random.expovariate(1 / 40)), lambda: self.kill(place, node)
            )

    def _stop_some(self) -> None:
        """Stop some processes (SIGTERM)."""
        found = self._living()
        if found is None:
            return
        self.stop(*found)

    def stop(self, place: _Place, node: Node) -> None:
        """Stop a process, and kill it if it doesn't end."""

        def stopped(_: object) -> None:
            asked = [request for request in self.requests if request.process is node.process]
            left = [request.number for request in asked if not request.outcome]
            if left:
                self.violations.append(f"{node.process.name} left {left} without an answer")
            self.kill(place, node)

        def stop() -> None:
            if not node.is_stopping:
                ensureDeferred(node.stop()).addBoth(stopped)

        self.scheduler.after(0.0, stop, "stops", node.process)
        self.scheduler.after(40.0, lambda: self.kill(place, node), "is killed")

    def _pause_some(self) -> None:
        """Pause some processes (SIGSTOP), and resume them later (SIGCONT)."""
        found = self._living()
        if found is not None:
            process = found[1].process
            until = self.scheduler.now + self.random.uniform(0.1, 2.5 * self._ttl)
            process.stopped_until = max(process.stopped_until, until)

    def _double_some(self) -> None:
        """Pause processes, perhaps for longer than their lease, start others with the same names,
        and resume.
        """
        found = self._living()
        if found is None or found[0].node is not found[1]:
            return
        place, node = found
        until = self.scheduler.now + self.random.uniform(0.0, 3.0 * self._ttl)
        node.process.stopped_until = max(node.process.stopped_until, until)
        host = self.random.choice(_SOURCES) if place.kind == "source" else ""

        def double() -> None:
            if place.node is node and not node.process.is_dead:
                self.start(place, host)

        self.scheduler.after(self.random.uniform(0.0, 2.0 * self._ttl), double, "is doubled")

    def _lose_power(self) -> None:
        host = self.random.choice(_DISKS)
        for place in self.places:
            for node in place.living:
                if node.process.host == host:
                    self.kill(place, node)
        self.os.disks[host].lose_power(self.scheduler)

    def _cut(self) -> None:
        connections = list(self.network.connections)
        if connections:
            self.random.choice(connections).cut()

    def _block(self) -> None:
        until = self.scheduler.now + self.random.uniform(0.1, 2.5 * self._ttl)
        if self.random.random() < 0.5:
            self.network.block(self.random.choice(_SOURCES), self.random.choice(_DISKS), until)
        else:
            host = self.random.choice((*_SOURCES, *_DISKS, "coordinator"))
            self.network.block(host, "etcd", until)

    def _etcd_leaves(self) -> None:
        if self.etcd.is_away:
            return
        self.etcd.leave()
        self.scheduler.after(self.random.uniform(0.1, 3.0), self.etcd.come_back, "etcd is back")

    def _break_watches(self) -> None:
        for watch in list(self.etcd.watches):
            if self.random.random() < 0.5:
                watch.cut()

    def _refuse_writes(self) -> None:
        disk = self.os.disks[self.random.choice(_DISKS)]
        disk.refusing = self.random.choice((errno.ENOSPC, errno.EIO))

        def again() -> None:
            disk.refusing = 0

        self.scheduler.after(self.random.uniform(0.05, 1.0), again, "the disk works")

    def make_peace(self) -> None:
        """End all faults, and start all nodes that are down."""
        self.network.heal()
        if self.etcd.is_away:
            self.etcd.come_back()
        for disk in self.os.disks.values():
            disk.refusing = 0

    # the run

    def run(self) -> None:
        self._await(self._define())
        for place in self.places:
            self.start(place)
        self.scheduler.run(self.scheduler.now + 1.0)
        for place in self.places[: len(_SOURCES)]:
            self.produce(place)
        self.break_something()
        self.scheduler.run(self._load_seconds)
        self.make_peace()
        self.scheduler.run(self.scheduler.now + _PEACE_SECONDS)
        deadline = self.scheduler.now + _COUNT_SECONDS
        while self._uncounted() and self.scheduler.now < deadline:
            self.scheduler.run(self.scheduler.now + 1.0)
        self.violations += [f"slice {key} looks empty" for key in self._uncounted()]
        self._await(self._close())
        deadline = self.scheduler.now + _PATIENCE_SECONDS
        while self._unfinished() and self.scheduler.now < deadline:
            self.scheduler.run(self.scheduler.now + 1.0)
        self.scheduler.run(self.scheduler.now + 1.0)

    def _await(self, coroutine: Any) -> None:
        """Run a call of the world's own process, which has no faults."""
        outcome: list[Any] = []
        process = self.process("world", "world")

        def begin() -> None:
            ensureDeferred(coroutine(process)).addBoth(outcome.append)

        self.scheduler.after(0.0, begin, "begins", process)
        self.scheduler.run(self.scheduler.now + 60.0, lambda: bool(outcome))
        if outcome != [None]:
            raise RuntimeError(f"the world is broken: {outcome}")

    def _define(self) -> Callable[[Process], Any]:
        volumes = [Volume(host, host, f"{host}:1", "", "default", host) for host in _DISKS]
        repository = StorageRepository(self.level, lambda: volumes)

        async def define(process: Process) -> None:
            client = client_of(process, _PATIENCE_SECONDS)
            await client.put(f"{SOURCE_ACTIVE}{SOURCE.key}", encode(SOURCE))
            await client.put(f"{SINK_ACTIVE}{SINK.key}", encode(SINK))
            prepared = prepared_file(SINK, time_of(process))

            async def body(txn: AtomicTxn) -> None:
                await repository.open_file(txn, SOURCE, SINK, prepared)

            await atomic(client, body)

        return define

    def _close(self) -> Callable[[Process], Any]:
        repository = StorageRepository(self.level, lambda: ())

        async def close(process: Process) -> None:
            async def body(txn: AtomicTxn) -> None:
                await repository.close_files(txn, SINK_KEY, time_of(process))

            await atomic(client_of(process, _PATIENCE_SECONDS), body)

        return close

    # the verdict

    def _stored(self, below: str) -> dict[str, Any]:
        """Return the stored content below a key."""
        start = f"stream/{below}"
        return {
            key.decode().removeprefix(start): orjson.loads(versions[-1][1].value)
            for key, versions in self.etcd._versions.items()
            if key.decode().startswith(start) and versions[-1][1] is not None
        }

    def _unfinished(self) -> list[str]:
        slices = self._stored(prefix.SLICE_ALL)
        return [key for key, value in slices.items() if value["state"] != "uploaded"]

    def _uncounted(self) -> list[str]:
        """Return the slices that are being written and have rows, but no counts."""
        found = []
        for key, value in self._stored(prefix.slice_level(Level.LOCAL)).items():
            counts = self._stored(f"{prefix.statistics(Level.LOCAL)}{key}/").values()
            is_counted = any(count.get("recordsCount", 0) for count in counts)
            if value["state"] == "writing" and not is_counted and self._on_disk(key, value):
                found.append(key)
        return found

    def _on_disk(self, key: str, value: Any) -> list[int]:
        """Return the rows in the files of a slice."""
        volume = self.os.disks[key.split("/")[5]].root
        rows: list[int] = []
        for path in sorted((volume / value["local"]["dir"]).glob("slice-*")):
            if not path.name.endswith(".damaged"):
                rows += self._rows(path.read_bytes())
        return rows

    def judge(self) -> tuple[list[str], int, int]:
        """Return violations, rows in staging, slices."""
        found = list(self.violations)
        found += [f"slice {key} is never uploaded" for key in self._unfinished()]
        slices = self._stored(prefix.SLICE_ALL)
        rows: Counter[int] = Counter()
        for key, value in slices.items():
            staged = self._rows(self.staged.get(key, b""))
            rows.update(staged)
            found += self._judge_slice(key, value, staged)
        for number, count in rows.items():
            if count > 1:
                found.append(f"record {number} is there {count} times")
        for request in self.requests:
            if request.outcome == "stored" and not rows[request.number]:
                found.append(f"record {request.number} is lost")
            if request.outcome == "notStored" and rows[request.number]:
                found.append(f"record {request.number} is there, although refused for certain")
        return found, sum(rows.values()), len(slices)

    def _judge_slice(self, key: str, value: Any, staged: list[int]) -> Iterator[str]:
        late = sorted(set(self._on_disk(key, value)) - set(staged))
        if late:
            yield f"slice {key} got {late} after it was uploaded"
        counts = self._stored(f"{prefix.statistics(Level.STAGING)}{key}/")
        counted = sum(count.get("recordsCount", 0) for count in counts.values())
        if value["state"] == "uploaded" and counted != len(staged):
            yield f"slice {key} has {len(staged)} rows, {counted} are counted"

    def _rows(self, content: bytes) -> list[int]:
        plain = b""
        while content and self.compression != "none":
            member = zlib.decompressobj(31)
            try:
                rows = member.decompress(content)
            except zlib.error:
                break
            if not member.eof:  # truncated, so it was not acknowledged
                break
            plain += rows
            content = member.unused_data
        if self.compression == "none":
            plain = content
        lines = plain.split(b"\n")[:-1]
        return [int(line[2:-1]) for line in lines if line.startswith(b'"r')]


FAULTS: dict[str, Callable[[World], None]] = {
    "kill": World._kill_some,
    "term": World._stop_some,
    "pause": World._pause_some,
    "double": World._double_some,
    "power": World._lose_power,
    "cut": World._cut,
    "block": World._block,
    "etcd": World._etcd_leaves,
    "watches": World._break_watches,
    "disk": World._refuse_writes,
}


@contextlib.contextmanager
def _in_place(world: World) -> Iterator[None]:
    """Replace network, disks and threads of the service's code by those of the world."""
    scheduler = world.scheduler

    def transport(
        process: Process,
        endpoints: object,
        username: str,
        password: str,
        timeout: float,
        log_operations: bool,
    ) -> EtcdTransport:
        return EtcdTransport(process, world.etcd, world.network, timeout)

    def pool(minimum: int, maximum: int, name: str = "") -> Pool:
        assert scheduler.running is not None
        return Pool(scheduler.running, maximum)

    def disk_threads(process: Process) -> list[CompiledThread]:
        return [CompiledThread(process) for _ in range(COUNT if world.has_compiled_threads else 0)]

    seeded = SimpleNamespace(
        Random=lambda: random.Random(scheduler.random.random()), uniform=scheduler.random.uniform
    )

    def started(number: int) -> int | None:
        return None if scheduler.processes[number].is_dead else number + 1

    def number() -> int:
        assert scheduler.running is not None
        return scheduler.processes.index(scheduler.running)

    patches: dict[str, Any] = {
        "stream.etcd.claims.os": SimpleNamespace(getpid=number),
        "stream.etcd.claims._machine": lambda: scheduler.processes[number()].host,
        "stream.etcd.claims._namespace": lambda: "pid:[1]",
        "stream.etcd.claims._started": started,
        "stream.etcd.client.Transport": transport,
        "stream.storage.writer.writer.AbandonableThreadPool": pool,
        "stream.storage.writer.writer.disk_threads": disk_threads,
        "stream.storage.writer.disk.os": world.os,
        "stream.storage.writer.disk.sync_directory": world.os.sync_directory,
        "stream.storage.volumes.local_volume.os": world.os,
        "stream.storage.writer.appender.threading": Threading(scheduler),
        "stream.sink.slice_pipeline.random": seeded,
        "stream.values.backoff._random": seeded,
        "stream.storage.network.client._REDIAL": lambda attempts: min(0.1 * 2**attempts, 5.0),
    }
    with contextlib.ExitStack() as stack:
        for target, replacement in patches.items():
            stack.enter_context(mock.patch(target, replacement))
        yield


@contextlib.contextmanager
def _listened_to(world: World) -> Iterator[None]:
    """Report the service's log events, and count its failures."""

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if world.scheduler.is_watched:
            world.scheduler.tell(f"log {formatEvent(event)}")
        if "log_failure" in event:
            failure = event["log_failure"]
            world.logged[f"{event.get('log_format')}: {failure.type.__name__}"] += 1

    # Other observers are removed, since some keep events and all objects that they refer to.
    with mock.patch.object(globalLogPublisher, "_observers", [observe]):
        yield


def simulate(
    seed: int,
    *,
    faults: tuple[str, ...] = tuple(FAULTS),
    all_kinds: bool = False,
    watcher: Callable[[str], None] | None = None,
) -> Result:
    """Run the world of *seed*.

    :param faults: kinds of faults that may occur.
    :param all_kinds: whether all of them occur; otherwise each seed has some.
    :param watcher: called with a description of each event.
    """
    gc.disable()
    gc.freeze()  # earlier objects needn't be collected each time
    try:
        return _simulate(seed, faults, all_kinds, watcher)
    except Exception as error:
        error.add_note(f"in the simulation with the seed {seed}")
        raise
    finally:
        with mock.patch.object(sys, "unraisablehook", lambda _: None):
            for _ in range(_COLLECTIONS):
                gc.collect()  # coroutines of killed processes never end well, nor at once
        gc.unfreeze()
        gc.enable()


def _simulate(
    seed: int, faults: tuple[str, ...], all_kinds: bool, watcher: Callable[[str], None] | None
) -> Result:
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="stream-simulation-", dir=base) as directory:
        world = World(seed, Path(directory), faults, all_kinds)
        scheduler = world.scheduler
        if watcher is not None:
            scheduler.watch(watcher)
        with _in_place(world), _listened_to(world):
            try:
                world.run()
            finally:
                scheduler.end()
        violations, rows, slices = world.judge()
        return Result(
            seed,
            tuple(violations),
            scheduler.trace,
            scheduler.steps,
            scheduler.now,
            len(world.requests),
            sum(request.outcome == "stored" for request in world.requests),
            rows,
            slices,
            world.faults,
            world.logged,
        )
