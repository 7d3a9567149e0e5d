"""At most one process at a time holds a name; with a real etcd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutput
from twisted.logger import capturedLogs, formatEvent

from stream.etcd import EtcdClient, EtcdUnavailable, LeaseNotFound, NameHeld, Session, claims
from stream.etcd.claims import Claim, Claims, Holder
from stream.etcd.client import TxnResult
from stream.etcd.life import Life
from stream.etcd.request import KeyValue
from stream.values.codec import decode, encode
from tests.etcd.servers import reactor
from tests.waiting import until

TTL = 2  # the shortest TTL that etcd grants
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
    """Stop the process without its lease."""
    assert session._living is not None
    session._living.cancel()
    await session._living


async def _renewed(session: Session) -> None:
    """Expire the lease and wait for the next one."""
    renewed: Deferred[None] = Deferred()
    session.on_renewed.append(lambda: renewed.callback(None))
    await session._client.call("lease/revoke", {"ID": session.lease_id})
    await renewed


@pytest_twisted.ensureDeferred
async def test_the_number_is_the_create_revision(etcd: EtcdClient, session: Session) -> None:
    """The key contains the holder, and is attached to the lease."""
    life = await _bear(session)
    kv = await etcd.get(KEY)
    assert kv is not None
    assert (kv.create_revision, kv.lease) == (life.number, session.lease_id)
    holder = decode(Holder, kv.value)
    assert (holder.pid, holder.ttl) == (os.getpid(), TTL)
    assert holder.host
    assert holder.since.endswith("Z")


@pytest_twisted.ensureDeferred
async def test_a_held_name_is_refused(session: Session, other: Session) -> None:
    """The error names the holder and the solution; the holder isn't affected."""
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
async def test_a_clean_stop_releases_the_name(etcd: EtcdClient, other: Session) -> None:
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
async def test_after_a_crash_the_claim_waits_for_the_lease(
    session: Session, other: Session
) -> None:
    """The name is claimed with a higher number when the lease has ended."""
    number = (await _bear(session)).number
    await _stop_living(session)
    life = await _bear(other)
    assert life.number > number


@pytest_twisted.ensureDeferred
async def test_the_claim_does_not_wait_for_a_dead_process(etcd: EtcdClient, other: Session) -> None:
    """The lease of a process that ran on this machine and has ended is revoked immediately."""
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
async def test_a_lease_that_ends_before_the_first_claim(etcd: EtcdClient, session: Session) -> None:
    """The name is claimed with the next lease, and the process starts."""
    first = session.lease_id
    await etcd.call("lease/revoke", {"ID": first})
    life = await _bear(session)
    kv = await etcd.get(KEY)
    assert kv is not None and kv.lease == session.lease_id != first
    assert life.number == kv.create_revision


def test_a_pause_before_the_first_claim() -> None:
    """A host that pauses the start for longer than the lease doesn't make it fail."""
    clock, leases = Clock(), [1, 2]

    class Etcd:
        """The etcd, during whose first answer the host pauses."""

        namespace = ""

        async def commit(self, *_: object) -> TxnResult:
            if leases == [1, 2]:
                clock.advance(100 * TTL)
                raise LeaseNotFound("requested lease not found")
            return TxnResult(succeeded=True, revision=7, reads=(), deleted=())

    client = cast(EtcdClient, Etcd())
    taken = Claims(client, clock, lambda: leases[0], leases.remove)
    claim = Claim(KEY, "source node", Holder.this_process(TTL))
    taking = ensureDeferred(taken.take(claim))
    assert not taking.called
    clock.advance(1)
    assert taking.called
    assert (claim.number, claim.lease) == (7, 2)


def test_a_pause_between_two_attempts_to_claim() -> None:
    """A host that pauses while the name is held by a dead process doesn't make the start fail.

    Afterwards there is no lease for a while, and then the name is free.
    """
    clock, leases = Clock(), [1]
    dead = Holder(token="dead", ttl=TTL)

    class Etcd:
        """The etcd, in which the name is held under the first lease."""

        namespace = ""

        async def commit(self, *_: object) -> TxnResult:
            if leases == [1]:
                kv = KeyValue(KEY, encode(dead), 3, 3, 1, 99)
                return TxnResult(succeeded=False, revision=3, reads=((kv,),), deleted=())
            return TxnResult(succeeded=True, revision=7, reads=(), deleted=())

    client = cast(EtcdClient, Etcd())
    taken = Claims(client, clock, lambda: leases[0] if leases else None, leases.remove)
    claim = Claim(KEY, "source node", Holder.this_process(TTL))
    taking = ensureDeferred(taken.take(claim))
    leases.clear()
    clock.advance(100 * TTL)
    assert not taking.called
    leases.append(2)
    clock.advance(1)
    assert taking.called
    assert (claim.number, claim.lease) == (7, 2)


def test_the_claim_decides_by_an_attempt_after_the_pause() -> None:
    """The answer that the name is held is older than a pause of the host, and the name is free."""
    clock = Clock()
    dead = Holder(token="dead", ttl=TTL)
    answers: list[Deferred[TxnResult]] = [Deferred(), Deferred()]
    waiting = iter(answers)

    class Etcd:
        """The etcd, whose answers the test gives."""

        namespace = ""

        async def commit(self, *_: object) -> TxnResult:
            return await next(waiting)

    kv = KeyValue(KEY, encode(dead), 3, 3, 1, 99)
    held = TxnResult(succeeded=False, revision=3, reads=((kv,),), deleted=())
    taken = Claims(cast(EtcdClient, Etcd()), clock, lambda: 1, lambda _: None)
    claim = Claim(KEY, "source node", Holder.this_process(TTL))
    taking = ensureDeferred(taken.take(claim))
    answers[0].callback(held)
    clock.advance(1)
    clock.advance(100 * TTL)
    answers[1].callback(held)
    assert not taking.called
    answers.append(succeed(TxnResult(succeeded=True, revision=7, reads=(), deleted=())))
    clock.advance(1)
    assert (claim.number, claim.lease) == (7, 1)
    assert taking.called


@pytest_twisted.ensureDeferred
async def test_a_name_is_claimed_again_with_a_new_lease(session: Session) -> None:
    """The claim with the new lease is another life; meanwhile there is none."""
    life = await _bear(session)
    first = life.number
    seen: list[int] = []
    session.on_lost.append(lambda: seen.append(life.number))
    session.on_renewed.append(lambda: seen.append(life.number))
    await _renewed(session)
    assert seen == [0, life.number]
    assert life.number > first


@pytest_twisted.ensureDeferred
async def test_a_replaced_process_registers_nothing(
    etcd: EtcdClient, session: Session, other: Session
) -> None:
    """A process that resumes after its lease finds its name claimed and registers nothing.

    This includes an update between its next lease and the claim.
    """
    life = await _bear(session)
    registration = await session.register("r/a", b"former")
    replaced: list[NameHeld] = []
    session.on_replaced.append(replaced.append)
    renewed: list[None] = []
    session.on_renewed.append(lambda: renewed.append(None))
    held = session._claims.retake

    async def retake() -> None:
        """Claim the name as another process between two leases of the first one."""
        if not other._registrations:
            await _bear(other)
            await other.register("r/a", b"present")
        await registration.update(b"late")
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
async def test_a_claim_whose_answer_was_lost(
    etcd: EtcdClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is recognised by the lease of the process."""
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
async def test_a_claim_with_an_earlier_lease_of_the_same_process(
    etcd: EtcdClient, session: Session
) -> None:
    """An abandoned request arrived late: its lease is revoked, and the name is claimed."""
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
    """With a new lease nothing is registered before the name is held."""
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
async def test_only_one_of_many_processes_gets_the_name(etcd: EtcdClient) -> None:
    """One process gets the name in any order of arrival."""
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


def test_which_processes_are_certainly_dead() -> None:
    """A process is certainly dead if it ran in this kernel and namespace and no longer exists."""
    me = Holder.this_process(15)
    assert not me.is_certainly_dead()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = claims._started(child.pid)
    assert started is not None
    living = attrs.evolve(me, pid=child.pid, started=started)
    assert not living.is_certainly_dead()
    assert attrs.evolve(living, started=started - 1).is_certainly_dead(), (
        "the process id was reused"
    )
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
