"""The processes of a cluster: starting, killing, pausing and restarting them."""

from __future__ import annotations

import enum
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.e2e.processes import Deployment, Running, wait_for

__all__ = ["Cluster", "Ended", "Node", "State", "free_ports", "new_node"]

_PORTS = range(12_000, 30_000)
"""Ports outside the range of outgoing connections, which could take a dead node's port."""
_READY = b'"message":"ready to serve"'
_BACK_SECONDS = 180.0
_TIMING = {
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_MIN_INTERVAL": "2s",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "2s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_MIN_INTERVAL": "5s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "5s",
    "STREAM_STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT": "4",
    # Imported files are kept, for the analysis of failures.
    "STREAM_STORAGE_METADATA_CLEANUP_ARCHIVED_FILE_RETENTION_PER_SINK": "100",
}


class State(enum.Enum):
    """The last action on a node."""

    UP = "up"
    PAUSED = "paused"
    STOPPING = "stopping"
    DOWN = "down"


@attrs.frozen
class Ended:
    """A process that ended.

    :ivar asked: whether the end was requested.
    :ivar was_ready: whether it had been ready; otherwise it may not handle signals yet.
    """

    node: str
    code: int
    asked: bool
    was_ready: bool
    log: Path
    words: str


@attrs.define(eq=False)
class Node:
    """One node of the cluster, with successive processes.

    :ivar ready: whether the process has been ready.
    """

    name: str
    component: str
    settings: dict[str, str]
    state: State = State.DOWN
    running: Running | None = None
    since: float = 0.0
    ready: bool = False

    def signalled(self) -> list[int]:
        """Return process ids: the node's own, preceded by that of its etcd."""
        assert self.running is not None
        own = self.running.process.pid
        return [*(_children(own) if self.component == "etcd" else ()), own]


@attrs.define(eq=False)
class Cluster:
    """The processes of a deployment under chaos.

    :ivar ended: all ended processes except killed ones, oldest first.
    """

    deployed: Deployment
    nodes: list[Node]
    ended: list[Ended] = attrs.Factory(list)

    @classmethod
    def plan(cls, root: Path, seed: int) -> Cluster:
        """Plan two sources, writers, readers and coordinators, one API, etcd and sandbox."""
        ports = free_ports(seed)
        names = ("etcd", "sandbox", "api", "source", "writer")
        deployed = Deployment(root, dict(_TIMING), {name: next(ports) for name in names})
        nodes = [new_node(name, name, ports) for name in ("etcd", "sandbox")]
        for number in (1, 2):
            volumes = root / f"volumes-{number}"
            for label in ("a", "b"):
                (volumes / "default" / label).mkdir(parents=True, exist_ok=True)
            disk = {"STREAM_STORAGE_VOLUMES_PATH": str(volumes)}
            nodes += [
                new_node(
                    "storage-writer",
                    f"writer-{number}",
                    ports,
                    STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_LISTEN=f"127.0.0.1:{next(ports)}",
                    **disk,
                ),
                new_node("storage-reader", f"reader-{number}", ports, **disk),
                new_node("storage-coordinator", f"coordinator-{number}", ports),
                new_node(
                    "http-source",
                    f"source-{number}",
                    ports,
                    STREAM_SOURCE_HTTP_LISTEN=f"127.0.0.1:{next(ports)}",
                ),
            ]
        nodes.append(new_node("api", "api", ports))
        return cls(deployed, nodes)

    def start(self) -> None:
        """Start everything, and wait until it is ready."""
        for node in self.nodes[:2]:
            self.bring_back(node)
            self.wait_ready()
        for node in self.nodes[2:]:
            self.bring_back(node)
        self.wait_ready()

    def source_urls(self, url: str) -> list[str]:
        """Return the URL of a source at each node that serves it."""
        path = "/" + url.split("/", 3)[3]
        return [
            f"http://{node.settings['STREAM_SOURCE_HTTP_LISTEN']}{path}"
            for node in self.nodes
            if node.component == "http-source"
        ]

    def of(self, *states: State) -> list[Node]:
        """Return the nodes in one of these states."""
        return [node for node in self.nodes if node.state in states]

    def bring_back(self, node: Node) -> None:
        """Start or continue the node's process."""
        if node.state is State.PAUSED:
            _signal(node, signal.SIGCONT)
        else:
            node.running = self.deployed.spawn(node.component, node_id=node.name, **node.settings)
            node.ready = False
        self._now(node, State.UP)

    def kill(self, node: Node) -> None:
        """Send SIGKILL, also to etcd."""
        pids = node.signalled()
        for pid in pids:
            _kill(pid, signal.SIGKILL)
        assert node.running is not None
        node.running.process.wait(10)
        wait_for(lambda: not any(_is_alive(pid) for pid in pids), "the end of killed processes")
        self._now(node, State.DOWN)

    def pause(self, node: Node) -> None:
        """Send SIGSTOP, also to etcd."""
        _signal(node, signal.SIGSTOP)
        self._now(node, State.PAUSED)

    def terminate(self, node: Node) -> None:
        """Send SIGTERM; `watch` notices the end of the process."""
        assert node.running is not None
        node.running.process.terminate()
        self._now(node, State.STOPPING)

    def watch(self) -> None:
        """Detect processes that became ready or ended."""
        for node in self.of(State.UP, State.STOPPING):
            assert node.running is not None
            if not node.ready and _READY in node.running.log.read_bytes():
                node.ready = True
            code = node.running.process.poll()
            if code is None:
                continue
            asked = node.state is State.STOPPING
            log = node.running.log
            words = "" if asked and code == 0 else log.read_text(errors="replace")[-600:]
            self.ended.append(Ended(node.name, code, asked, node.ready, log, words))
            self._now(node, State.DOWN)

    def wait_ready(self, seconds: float = _BACK_SECONDS) -> None:
        """Wait until all nodes that should run are ready."""

        def ready() -> bool:
            self.watch()
            return all(node.ready for node in self.of(State.UP))

        wait_for(ready, "readiness", seconds)

    def heal(self, seconds: float = _BACK_SECONDS) -> None:
        """Continue and start nodes, restart ended ones, and wait until everything is ready."""

        def whole() -> bool:
            self.watch()
            for node in self.of(State.PAUSED, State.DOWN):
                if node.state is State.PAUSED or time.monotonic() - node.since > 1.0:
                    self.bring_back(node)
            return all(node.state is State.UP and node.ready for node in self.nodes)

        wait_for(whole, "the healing of the cluster", seconds)

    def stop(self) -> None:
        """Continue paused nodes and stop everything, etcd last."""
        for node in self.of(State.PAUSED):
            self.bring_back(node)
        for node in reversed(self.nodes):
            if node.state is State.UP:
                self.terminate(node)
                self._wait_end(node)

    def _wait_end(self, node: Node) -> None:
        def gone() -> bool:
            self.watch()
            return node.state is State.DOWN

        try:
            wait_for(gone, f"the end of {node.name}")
        except AssertionError:
            assert node.running is not None
            self.ended.append(Ended(node.name, -1, True, True, node.running.log, "didn't stop"))
            self.kill(node)

    def _now(self, node: Node, state: State) -> None:
        node.state, node.since = state, time.monotonic()


def new_node(component: str, name: str, ports: Iterator[int], **settings: str) -> Node:
    """Return a node that isn't started; its metrics get the next port."""
    return Node(name, component, {"STREAM_METRICS_LISTEN": f"127.0.0.1:{next(ports)}", **settings})


def free_ports(seed: int) -> Iterator[int]:
    """Return free ports, in sequence."""
    for port in random.Random(f"ports {seed} {os.getpid()}").sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def _signal(node: Node, number: signal.Signals) -> None:
    for pid in node.signalled():
        _kill(pid, number)


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _is_alive(pid: int) -> bool:
    """Return whether the process is alive; a zombie holds no resources."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(") ")[2][:1] not in ("Z", "X")
