"""Distribution of work over the nodes of a group, computed identically by each node."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

import xxhash
from twisted.application.service import Service
from twisted.internet.defer import TimeoutError, ensureDeferred
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.concurrency.waiters import Waiters
from stream.etcd.client import EtcdClient
from stream.etcd.mirror import Batch, Mirror
from stream.etcd.request import KeyValue
from stream.etcd.session import Registration, Session

__all__ = ["Group", "HashRing"]

_log = Logger()

POINTS_PER_NODE = 128
JOIN_SECONDS = 60.0
"""How long a node waits for its own registration when it joins a group.

If its lease ends meanwhile, on a slow or paused host, the node joins with the next lease.
"""


class HashRing:
    """A consistent hash ring. If a node joins or leaves, only about its share of the keys moves.

    :param nodes: node ids, in any order.
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        points = sorted(
            (_hash(f"{node}\0{i}"), node) for node in set(nodes) for i in range(POINTS_PER_NODE)
        )
        self._hashes = [point for point, _ in points]
        self._nodes = [node for _, node in points]

    def owner(self, key: str) -> str | None:
        """The node that is responsible for *key*; ``None`` if there are no nodes."""
        if not self._nodes:
            return None
        return self._nodes[bisect_right(self._hashes, _hash(key)) % len(self._nodes)]


def _hash(text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode())


class Group(Service):
    """This node's membership in a group.

    :param grouping_interval: interval in seconds; changes within it are reported together.
    """

    def __init__(
        self,
        client: EtcdClient,
        session: Session,
        name: str,
        node_id: str,
        *,
        grouping_interval: float,
        reactor: Any,
    ) -> None:
        self.name = name
        self._session = session
        self._node_id = node_id
        self._interval = grouping_interval
        self._reactor = reactor
        self._prefix = f"runtime/distribution/group/{name}/nodes/"
        self._registration: Registration | None = None
        self._ring = HashRing(())
        self._nodes: tuple[str, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        self._telling: Any = None
        self._joined = Waiters[None]()
        self._mirror: Mirror[str] = Mirror(client, self._prefix, _node_id, on_change=self._changed)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Sorted ids of all nodes of the group."""
        return self._nodes

    def is_owner(self, key: str) -> bool:
        """Return whether this node is responsible for *key* according to its view of the group.

        Without a lease, the node is responsible for nothing, because the other nodes consider it
        gone. This node may not see that.
        """
        return self._session.lease_id is not None and self._ring.owner(key) == self._node_id

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever nodes have joined or left."""
        self._listeners.append(listener)

    async def startService(self) -> None:
        """Join the group, and wait until the node sees its own registration."""
        super().startService()
        _log.info(
            "joining distribution group",
            distribution_group=self.name,
            distribution_node=self._node_id,
        )
        self._registration = await self._session.register(
            f"{self._prefix}{self._node_id}", self._node_id.encode()
        )
        await self._mirror.startService()
        if self._node_id in self._nodes:
            return
        joined = self._joined.wait()
        try:
            await within(joined, JOIN_SECONDS, self._reactor, "joining the group")
        except TimeoutError:
            await self.stopService()
            raise RuntimeError(
                f'self-discovery failed: missing "{self._node_id}" in discovered nodes'
            ) from None

    async def stopService(self) -> None:
        """Leave the group."""
        super().stopService()
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        self._joined.cancel()
        await self._mirror.stopService()
        if self._registration is not None:
            await self._registration.remove()

    def _changed(self, batch: Batch[str]) -> None:
        before = set(self._nodes)
        self._nodes = tuple(sorted(self._mirror.items.values()))
        self._ring = HashRing(self._nodes)
        for node in sorted(set(self._nodes) - before):
            _log.info('found a new node "{node}"', node=node, distribution_group=self.name)
        for node in sorted(before - set(self._nodes)):
            _log.info('the node "{node}" has left', node=node, distribution_group=self.name)
        if self._node_id in self._nodes:
            self._joined.fire(None)
        elif self._node_id in before:
            self._put_again()
        if before and before != set(self._nodes) and self._telling is None:
            self._telling = self._reactor.callLater(self._interval, self._tell)

    def _put_again(self) -> None:
        """Put the node's own key again after it was deleted.

        If the node has a lease, another process has deleted the key, for example a second process
        with the same name that has ended.
        """
        if self.running and self._registration is not None:
            putting = ensureDeferred(self._session.put_again(self._registration))
            putting.addErrback(
                lambda failure: _log.failure("cannot rejoin group {group}", group=self.name)
            )

    def _tell(self) -> None:
        self._telling = None
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:
                _log.failure("a listener of group {group} failed", group=self.name)


def _node_id(kv: KeyValue) -> str:
    return kv.value.decode()
