"""One process at a time holds a name, whatever happens to the others; with a real etcd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.utils import getProcessOutput
from twisted.logger import capturedLogs, formatEvent

from stream.etcd import EtcdClient, EtcdUnavailable, NameHeld, Session, claims
from stream.etcd.claims import Holder
from stream.etcd.life import Life
from stream.values.codec import decode, encode
from tests.etcd.servers import reactor
from tests.waiting import until

TTL = 2  # the shortest that etcd grants
KEY = "runtime/life/source/node/node-1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_MARGIN_SECONDS", 1.5)
    monkeypatch.setattr(claims, "_POLL_SECONDS", 0.05)


@pytest_twisted.async_yield_fixture()
async def session(etcd: EtcdClient) -> AsyncIterator[Session]:
    started = Session(etcd, ttl=TTL, reactor=reactor)
    await started.startService()
    yield started
    await started.stopService()


@pytest_twisted.async_yield_fixture()
async def other(etcd_url: str, etcd: EtcdClient) -> AsyncIterator[Session]:
    """The session of another process."""
    client = EtcdClient(reactor, [etcd_url], etcd.namespace)
    await client.startService()
    started = Session(client, ttl=TTL, reactor=reactor)
    await started.startService()
    yield started
    await started.stopService()
    await client.stopService()


async def _bear(session: Session) -> Life:
    life = Life(session, KEY, "source node")
    await life.startService()
    return life


async def _stop_living(session: Session) -> None:
    """The process is gone, its lease isn't."""
    assert session._living is not None
    session._living.cancel()
    await session._living


async def _renewed(session: Session) -> None:
    """Its lease ends, and it gets another one."""
    renewed: Deferred[None] = Deferred()
    session.on_renewed.append(lambda: renewed.callback(None))
    await session._client.call("lease/revoke", {"ID": session.lease_id})
    await renewed


@pytest_twisted.ensureDeferred
async def test_the_number_is_the_create_revision(etcd: EtcdClient, session: Session) -> None:
    """The key names the holder, and lives under the lease."""
    life = await _bear(session)
    kv = await etcd.get(KEY)
    assert kv is not None
    assert (kv.create_revision, kv.lease) == (life.number, session.lease_id)
    holder = decode(Holder, kv.value)
    assert (holder.pid, holder.ttl) == (os.getpid(), TTL)
    assert holder.host
    assert holder.since.endswith("Z")


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_borne_is_refused(session: Session, other: Session) -> None:
    """The message names the holder and what to do; the holder isn't disturbed."""
    life = await _bear(session)
    number = life.number
    with pytest.raises(NameHeld) as refused, capturedLogs() as events:
        await _bear(other)
    message = str(refused.value)
    for part in ('"node-1"', "source node", f"process {os.getpid()}", "nodeID", "STREAM_NODE_ID"):
        assert part in message
    assert any("waiting up to" in str(formatEvent(event)) for event in events)
    assert life.number == number


@pytest_twisted.ensureDeferred
async def test_after_a_clean_stop_nobody_waits(etcd: EtcdClient, other: Session) -> None:
    """The lease is revoked, and the name is free at once."""
    former = Session(etcd, ttl=TTL, reactor=reactor)
    await former.startService()
    number = (await _bear(former)).number
    await former.stopService()
    with capturedLogs() as events:
        life = await _bear(other)
    assert life.number > number
    assert not any("waiting up to" in str(formatEvent(event)) for event in events)


@pytest_twisted.ensureDeferred
async def test_after_a_crash_the_end_of_the_lease_is_waited_for(
    session: Session, other: Session
) -> None:
    """Then the name is taken, with a higher number."""
    number = (await _bear(session)).number
    await _stop_living(session)
    life = await _bear(other)
    assert life.number > number


@pytest_twisted.ensureDeferred
async def test_a_process_that_is_certainly_dead_is_not_waited_for(
    etcd: EtcdClient, other: Session
) -> None:
    """It ran on this machine and has ended: its lease is revoked at once."""
    granted = await etcd.call("lease/grant", {"TTL": 600})
    code = (
        "from stream.etcd.claims import Holder; from stream.values.codec import encode;"
        "import sys; sys.stdout.buffer.write(encode(Holder.this_process(600)))"
    )
    told = await getProcessOutput(sys.executable, ["-c", code], os.environ)
    number = await etcd.put(KEY, told, lease=int(granted["ID"]))
    life = await _bear(other)
    assert life.number > number


@pytest_twisted.ensureDeferred
async def test_a_name_is_claimed_again_with_the_next_lease(session: Session) -> None:
    """It is another life then; in between there is none."""
    life = await _bear(session)
    first = life.number
    seen: list[int] = []
    session.on_lost.append(lambda: seen.append(life.number))
    session.on_renewed.append(lambda: seen.append(life.number))
    await _renewed(session)
    assert seen == [0, life.number]
    assert life.number > first


@pytest_twisted.ensureDeferred
async def test_who_was_replaced_puts_nothing_in_the_place_of_the_next(
    etcd: EtcdClient, session: Session, other: Session
) -> None:
    """A process resumes after its lease: its name is taken, so it registers nothing."""
    life = await _bear(session)
    await session.register("r/a", b"former")
    replaced: list[NameHeld] = []
    session.on_replaced.append(replaced.append)
    renewed: list[None] = []
    session.on_renewed.append(lambda: renewed.append(None))
    held = session._claims.retake

    async def retake() -> None:
        """Another process takes the name between the end of the lease and the next one."""
        if not other._registrations:
            await _bear(other)
            await other.register("r/a", b"present")
        await held()

    session._claims.retake = retake  # type: ignore[method-assign]
    await etcd.call("lease/revoke", {"ID": session.lease_id})
    await until(lambda: bool(replaced))
    assert "node-1" in str(replaced[0])
    assert renewed == []
    assert (life.number, session.lease_id) == (0, None)
    kv = await etcd.get("r/a")
    assert kv is not None and (kv.value, kv.lease) == (b"present", other.lease_id)


@pytest_twisted.ensureDeferred
async def test_a_claim_whose_answer_was_lost_is_known_again(
    etcd: EtcdClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is under our own lease."""
    commit = etcd.commit
    lost: list[int] = []

    async def lose_the_first_answer(*args: Any) -> Any:
        result = await commit(*args)
        if not lost:
            lost.append(result.revision)
            raise EtcdUnavailable("no answer")
        return result

    monkeypatch.setattr(etcd, "commit", lose_the_first_answer)
    assert (await _bear(session)).number == lost[0]


@pytest_twisted.ensureDeferred
async def test_a_claim_under_an_earlier_lease_of_the_same_process_is_no_stranger(
    etcd: EtcdClient, session: Session
) -> None:
    """A request that was given up arrived late: its lease is revoked, and the name claimed."""
    life = await _bear(session)
    late = await etcd.call("lease/grant", {"TTL": 600})
    [claim] = session._claims._claims
    held = session._claims.retake
    arrived: list[None] = []

    async def retake() -> None:
        if session._lost_lease is not None and not arrived:
            arrived.append(None)
            await etcd.put(KEY, encode(claim.holder), lease=int(late["ID"]))
        await held()

    session._claims.retake = retake  # type: ignore[method-assign]
    await _renewed(session)
    kv = await etcd.get(KEY)
    assert kv is not None and kv.lease == session.lease_id
    assert life.number == kv.create_revision


@pytest_twisted.ensureDeferred
async def test_a_registration_waits_for_the_name(etcd: EtcdClient, session: Session) -> None:
    """Under a new lease nothing is put before the name is held."""
    await _bear(session)
    registration = await session.register("r/a", b"1")
    session._claims.lost()
    await registration.update(b"2")
    kv = await etcd.get("r/a")
    assert kv is not None and kv.value == b"1"
    await session._catch_up()
    kv = await etcd.get("r/a")
    assert kv is not None and kv.value == b"2"


@pytest_twisted.ensureDeferred
async def test_only_one_of_many_gets_the_name(etcd: EtcdClient) -> None:
    """This holds in any order of arrival."""
    sessions = [Session(etcd, ttl=TTL, reactor=reactor) for _ in range(4)]
    for session in sessions:
        await session.startService()
    outcomes: list[str] = []
    bearing = [ensureDeferred(_bear(session)) for session in sessions]
    for each in bearing:
        each.addCallbacks(
            lambda _: outcomes.append("borne"), lambda f: outcomes.append(f.type.__name__)
        )
    await until(lambda: len(outcomes) == len(sessions), seconds=10)
    assert sorted(outcomes) == ["NameHeld"] * 3 + ["borne"]
    for session in sessions:
        await session.stopService()


def test_who_is_certainly_dead() -> None:
    """Only a process of this kernel and namespace that no longer exists."""
    me = Holder.this_process(15)
    assert not me.is_certainly_dead()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = claims._started(child.pid)
    assert started is not None
    living = attrs.evolve(me, pid=child.pid, started=started)
    assert not living.is_certainly_dead()
    assert attrs.evolve(living, started=started - 1).is_certainly_dead(), "the number came again"
    child.kill()
    child.wait()
    assert living.is_certainly_dead()
    for unknown in (
        {"machine": "elsewhere"},
        {"machine": ""},
        {"namespace": "pid:[1]"},
        {"namespace": ""},
        {"started": 0},
    ):
        assert not attrs.evolve(living, **unknown).is_certainly_dead()
