"""The plan of kills, derived from a seed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

import attrs

from benchmarks.chaos.cluster import Cluster, Node, State

__all__ = ["Hit", "Killer", "Plan"]

_LONGEST_ABSENCE_SECONDS = 4.0
_LONGEST_STOP_SECONDS = 60.0
_RESTART_SECONDS = 1.0


@attrs.frozen
class Plan:
    """When and how processes are hit.

    :ivar interval: seconds between two hits, on average.
    :ivar pause: seconds that a process stays stopped by SIGSTOP.
    :ivar spared: components that are never hit.
    :ivar rare: seconds between two hits of etcd or the sandbox, which have only one process.
    :ivar most: maximum number of nodes that are down.
    :ivar kinds: kinds of hits, weighted by repetition.
    """

    interval: float = 4.0
    pause: float = 20.0
    spared: frozenset[str] = frozenset()
    rare: float = 45.0
    most: int = 3
    kinds: tuple[str, ...] = ("kill -9", "kill -9", "SIGTERM", "SIGSTOP")


@attrs.frozen
class Hit:
    """One hit of a process.

    :ivar at: seconds since the epoch.
    """

    at: float
    node: str
    component: str
    kind: str
    was_ready: bool


class Killer:
    """The loop that kills, pauses and terminates processes.

    :ivar hits: all hits, oldest first.
    """

    def __init__(self, cluster: Cluster, plan: Plan, seed: int, say: Callable[[str], None]) -> None:
        self.hits: list[Hit] = []
        self._cluster = cluster
        self._plan = plan
        self._random = random.Random(seed)
        self._say = say
        self._back_at: dict[str, float] = {}
        self._spared_until: dict[str, float] = {}
        self._next_hit = time.monotonic() + self._gap()

    def counts(self) -> Counter[tuple[str, str]]:
        """Return the number of hits by component and kind."""
        return Counter((hit.component, hit.kind) for hit in self.hits)

    def tick(self) -> None:
        """Restart and hit nodes that are due; called repeatedly."""
        self._cluster.watch()
        now = time.monotonic()
        for node in self._cluster.of(State.PAUSED, State.DOWN):
            if now >= self._back_at.get(node.name, node.since + _RESTART_SECONDS):
                self._back_at.pop(node.name, None)
                self._cluster.bring_back(node)
        for node in self._cluster.of(State.STOPPING):
            if now - node.since > _LONGEST_STOP_SECONDS:
                self._say(f"{node.name} doesn't stop")
                self._hit(node, "SIGTERM, then kill -9")
        if now >= self._next_hit:
            self._next_hit = now + self._gap()
            victims = self._victims(now)
            if victims:
                self._hit(self._random.choice(victims), self._random.choice(self._plan.kinds))

    def _gap(self) -> float:
        return self._plan.interval * self._random.uniform(0.5, 1.5)

    def _victims(self, now: float) -> list[Node]:
        if len(self._cluster.of(State.PAUSED, State.DOWN, State.STOPPING)) >= self._plan.most:
            return []
        return [
            node
            for node in self._cluster.of(State.UP)
            if node.component not in self._plan.spared
            and now >= self._spared_until.get(node.component, 0.0)
        ]

    def _hit(self, node: Node, kind: str) -> None:
        now = time.monotonic()
        self.hits.append(Hit(time.time(), node.name, node.component, kind, node.ready))
        self._say(f"{kind} {node.name}{'' if node.ready else ', which was starting'}")
        if node.component in ("etcd", "sandbox"):
            self._spared_until[node.component] = now + self._plan.rare
        absence = self._random.uniform(0.0, _LONGEST_ABSENCE_SECONDS)
        if kind == "SIGSTOP":
            self._cluster.pause(node)
            self._back_at[node.name] = now + self._plan.pause
        elif kind == "SIGTERM":
            self._cluster.terminate(node)
        else:
            self._cluster.kill(node)
            self._back_at[node.name] = now + absence
