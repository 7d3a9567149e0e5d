from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from stream.etcd import EtcdClient, Group, HashRing, Session
from tests.effort import examples
from tests.etcd.servers import fail, reactor
from tests.waiting import until

KEYS = [f"project/{i}" for i in range(4000)]
nodes_strategy = st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=8, unique=True)


@given(nodes_strategy, st.randoms(), st.text())
def test_ring_is_the_same_everywhere(nodes: list[str], random: Any, key: str) -> None:
    """The order of discovery doesn't matter, and each owner is one of the nodes."""
    shuffled = [*nodes, nodes[0]]
    random.shuffle(shuffled)
    owner = HashRing(nodes).owner(key)
    assert owner == HashRing(shuffled).owner(key)
    assert owner in nodes


@settings(max_examples=examples(10), deadline=None)
@given(nodes_strategy)
def test_a_leaving_node_moves_only_its_share(nodes: list[str]) -> None:
    """When a node leaves, only its keys move, about the n-th part of all."""
    before, after = HashRing(nodes), HashRing(nodes[1:])
    moved = 0
    for key in KEYS:
        owner = before.owner(key)
        if owner == nodes[0]:
            moved += 1
        else:
            assert after.owner(key) == owner
    assert 0.4 < moved * len(nodes) / len(KEYS) < 1.8


@settings(max_examples=examples(10), deadline=None)
@given(nodes_strategy)
def test_no_node_has_much_more_than_its_share(nodes: list[str]) -> None:
    """No node has much more or much less than its share."""
    ring = HashRing(nodes)
    shares = Counter(ring.owner(key) for key in KEYS)
    assert set(shares) == set(nodes)
    for count in shares.values():
        assert 0.4 < count * len(nodes) / len(KEYS) < 1.8


def test_the_ring_is_stable() -> None:
    """Nodes of different releases agree; without nodes there is no owner."""
    ring = HashRing(["node-1", "node-2", "node-3"])
    assert [ring.owner(f"key-{i}") for i in range(8)] == [
        f"node-{i}" for i in [1, 3, 2, 1, 3, 1, 2, 2]
    ]
    assert HashRing(()).owner("key") is None


async def _session(client: EtcdClient) -> Session:
    session = Session(client, ttl=2, reactor=reactor)
    await session.startService()
    return session


def _group(client: EtcdClient, session: Session, node: str) -> Group:
    return Group(client, session, "g", node, grouping_interval=0.1, reactor=reactor)


@pytest_twisted.ensureDeferred
async def test_join_and_leave(etcd: EtcdClient) -> None:
    """All nodes notice nodes that join or leave, and each key has one owner."""
    session = await _session(etcd)
    groups = [_group(etcd, session, f"node-{i}") for i in range(3)]
    told: list[tuple[str, ...]] = []
    groups[0].on_change(fail)
    groups[0].on_change(lambda: told.append(groups[0].nodes))
    await groups[0].startService()
    assert groups[0].nodes == ("node-0",) and groups[0].is_owner("any")
    await groups[1].startService()
    await groups[2].startService()
    everybody = ("node-0", "node-1", "node-2")
    await until(lambda: all(group.nodes == everybody for group in groups))
    await until(lambda: told)
    assert told == [everybody], "changes close together are reported once"
    for key in KEYS[:200]:
        assert sum(group.is_owner(key) for group in groups) == 1
    await groups[2].stopService()
    await until(lambda: groups[0].nodes == groups[1].nodes == everybody[:2])
    await until(lambda: len(told) == 2)
    await groups[1].stopService()
    await groups[0].stopService()
    await deferLater(reactor, 0.15)
    assert len(told) == 2, "a group that has stopped reports nothing"
    assert (await etcd.range("runtime/distribution/")).count == 0
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_a_node_without_lease(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose lease has ended owns nothing and the others take over; a new lease
    restores it.
    """
    sessions = [await _session(etcd), await _session(etcd)]
    groups = [_group(etcd, session, f"node-{i}") for i, session in enumerate(sessions)]
    for group in groups:
        await group.startService()
    await until(lambda: len(groups[0].nodes) == 2)
    mine = next(key for key in KEYS if groups[1].is_owner(key))
    lost: list[bool] = []
    sessions[1].on_lost.append(lambda: lost.append(groups[1].is_owner(mine)))
    is_seen: Deferred[None] = Deferred()
    grant = sessions[1]._grant

    async def grant_later() -> None:
        await is_seen
        await grant()

    monkeypatch.setattr(sessions[1], "_grant", grant_later)
    await etcd.call("lease/revoke", {"ID": sessions[1].lease_id})
    await until(lambda: groups[0].is_owner(mine))
    is_seen.callback(None)
    await until(lambda: groups[1].is_owner(mine) and not groups[0].is_owner(mine))
    assert lost == [False]
    for group, session in zip(groups, sessions, strict=True):
        await group.stopService()
        await session.stopService()


@pytest_twisted.ensureDeferred
async def test_self_discovery(etcd: EtcdClient, monkeypatch: Any) -> None:
    """A node that doesn't find itself in its group doesn't start."""
    session = await _session(etcd)
    monkeypatch.setattr(session, "lease_id", None)
    monkeypatch.setattr("stream.etcd.distribution.JOIN_SECONDS", 0.1)
    with pytest.raises(RuntimeError, match='self-discovery failed: missing "node-0"'):
        await _group(etcd, session, "node-0").startService()
    monkeypatch.undo()
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_a_node_whose_lease_ends_while_it_joins(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node joins with its next lease."""
    session = await _session(etcd)
    group = _group(etcd, session, "node-0")
    start = group._mirror.startService

    async def without_lease() -> None:
        await etcd.call("lease/revoke", {"ID": session.lease_id})
        await start()
        assert group.nodes == ()

    monkeypatch.setattr(group._mirror, "startService", without_lease)
    await group.startService()
    assert group.nodes == ("node-0",)
    await group.stopService()
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_a_key_that_a_second_process_deleted_is_put_again(etcd: EtcdClient) -> None:
    """When one of two processes with the same name ends, the other stays in the group."""
    first, second = await _session(etcd), await _session(etcd)
    group, same = _group(etcd, first, "node-1"), _group(etcd, second, "node-1")
    await group.startService()
    await same.startService()
    await same.stopService()
    key = f"{group._prefix}node-1"

    async def is_ours() -> bool:
        kv = await etcd.get(key)
        return kv is not None and kv.lease == first.lease_id

    await until(is_ours)
    await until(lambda: group.nodes == ("node-1",))
    await group.stopService()
    for session in (first, second):
        await session.stopService()
