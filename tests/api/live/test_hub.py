"""Events of live streams, with a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from stream.api.live import hub as hub_module
from stream.api.live.counters import Known
from stream.api.live.hub import LiveHub
from stream.api.live.pipeline_watch import PipelineWatch
from stream.definition.key import BranchKey
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, EtcdUnavailable, atomic
from stream.ops.metrics.registry import Metrics
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState, Level
from stream.storage.model.statistics import Statistics
from stream.values.bytesize import ByteSize
from stream.values.codec import encode, from_plain
from stream.values.utctime import format_time, parse_time
from tests.waiting import until

ensure = pytest_twisted.ensureDeferred
reactor: Any = _reactor

BRANCH = BranchKey(1, 2)
SINK = BRANCH.source("s").sink("k")
AT = parse_time("2026-01-01T00:00:00.000Z")
FILE_KEY = FileKey.of(SINK, AT)
FILE: File = from_plain(
    File,
    {
        "projectId": 1,
        "branchId": 2,
        "sourceId": "s",
        "sinkId": "k",
        "fileOpenedAt": format_time(AT),
        "state": "writing",
        "mapping": {"columns": [{"type": "uuid", "name": "id"}]},
    },
)


class Caller:
    """A client that follows the branch."""

    def __init__(
        self,
        hub: LiveHub,
        last_id: int | None = None,
        branch: BranchKey = BRANCH,
        verify: Any = None,
    ) -> None:
        self.events: list[tuple[int | None, str, Any]] = []
        self.following = Deferred.fromCoroutine(self._follow(hub, last_id, branch, verify))

    async def _follow(
        self, hub: LiveHub, last_id: int | None, branch: BranchKey, verify: Any
    ) -> None:
        async def good() -> None:
            pass

        await hub.prepare(branch)
        await hub.follow(branch, self._take, last_id=last_id, verify=verify or good)

    async def _take(self, data: bytes) -> None:
        for block in data.decode().split("\n\n")[:-1]:
            if block.startswith(":"):
                continue
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            id = int(fields["id"]) if "id" in fields else None
            self.events.append((id, fields["event"], orjson.loads(fields["data"])))

    def named(self, *names: str) -> list[Any]:
        """Return the data of the events with these names."""
        return [data for _, name, data in self.events if name in names]

    @property
    def last_id(self) -> int:
        return [id for id, _, _ in self.events if id is not None][-1]

    async def leave(self) -> None:
        self.following.addErrback(lambda failure: failure.trap(CancelledError))
        self.following.cancel()
        await self.following


@attrs.define
class World:
    """A hub of live streams with a real etcd.

    :ivar known: the sources and sinks that exist.
    :ivar is_certain: whether the node has current data about them.
    """

    etcd: EtcdClient
    hub: LiveHub
    known: dict[str, list[str]]
    is_certain: bool = True

    async def count(self, records: int) -> None:
        value = Statistics(1, AT, AT, records, ByteSize(records * 10))
        below = f"{FILE_KEY}/v/{format_time(AT)}/n"
        await self.etcd.put(f"storage/stats/local/{below}", encode(value))

    async def put(self, file: File, *, gone_from: Level | None = None) -> None:
        """Put both copies of a file in one transaction."""

        async def body(txn: AtomicTxn) -> None:
            txn.put(f"storage/file/all/{file.key}", encode(file))
            txn.put(f"storage/file/level/{file.level.value}/{file.key}", encode(file))
            if gone_from is not None:
                txn.delete(f"storage/file/level/{gone_from.value}/{file.key}")

        await atomic(self.etcd, body)


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient) -> AsyncIterator[World]:
    known = {"s": ["k"]}

    def of(branch: BranchKey) -> Known | None:
        if not world.is_certain:
            return None
        return dict(known) if branch == BRANCH else {}

    hub = LiveHub(
        reactor, etcd, of, lambda: AT + timedelta(hours=1), max_concurrent=8, metrics=Metrics()
    )
    world = World(etcd, hub, known)
    hub.startService()
    yield world
    if hub.running:
        await hub.stopService()
    assert not etcd.mirrors


CLOSING = FILE.advance(FileState.WRITING, FileState.CLOSING, AT + timedelta(seconds=1))
IMPORTING = CLOSING.advance(FileState.CLOSING, FileState.IMPORTING, AT + timedelta(seconds=2))
IMPORTED = IMPORTING.advance(FileState.IMPORTING, FileState.IMPORTED, AT + timedelta(seconds=4))


async def the_way_of_a_file(world: World) -> None:
    await world.put(FILE)
    await world.put(CLOSING)
    await world.put(IMPORTING, gone_from=Level.LOCAL)
    await world.put(IMPORTED, gone_from=Level.STAGING)


@ensure
async def test_counters(world: World) -> None:
    """The first event has all counters; later ones have the changes, once a second."""
    await world.count(3)
    caller = Caller(world.hub)
    await until(lambda: caller.events)
    [first] = caller.named("counters")
    assert first["full"]
    assert first["time"] == "2026-01-01T01:00:00.000Z"
    [sink] = first["sources"][0]["sinks"]
    assert (sink["records"], sink["bytes"]) == (3, 30)
    await world.count(5)
    await until(lambda: len(caller.named("counters")) >= 3)
    later = [each for each in caller.named("counters")[1:] if each["sources"]]
    assert [each["sources"][0]["sinks"][0]["records"] for each in later] == [5]
    assert not any("full" in each for each in later)
    await caller.leave()
    assert len(world.hub) == 0


@ensure
async def test_an_outage_of_etcd(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events contain the duration of the outage, and the last known state."""
    caller = Caller(world.hub)
    await until(lambda: caller.events)
    assert "behindSeconds" not in caller.named("counters")[0]
    monkeypatch.setattr(PipelineWatch, "behind_seconds", 7.4)
    await until(lambda: len(caller.named("counters")) >= 2)
    assert caller.named("counters")[-1]["behindSeconds"] == 7
    monkeypatch.undo()
    monkeypatch.setattr(hub_module, "BEHIND_SECONDS", 0.0)
    world.is_certain = False
    seen = len(caller.named("counters"))
    await until(lambda: len(caller.named("counters")) > seen + 1)
    assert caller.named("counters")[-1]["behindSeconds"] >= 1
    assert "full" not in caller.named("counters")[-1]
    await caller.leave()


@ensure
async def test_sources_are_created_and_deleted(world: World) -> None:
    """All sources are sent again, so that callers need not remember the previous state."""
    caller = Caller(world.hub)
    await until(lambda: caller.events)
    world.known["t"] = []
    await until(lambda: len(caller.named("counters")) >= 2)
    last = caller.named("counters")[-1]
    assert last["full"]
    assert [source["sourceId"] for source in last["sources"]] == ["s", "t"]
    await caller.leave()


@ensure
async def test_the_states_of_a_file(world: World) -> None:
    """Each step of a file is one event with the records; only the last event of a round
    has an id.
    """
    await world.count(3)
    caller = Caller(world.hub)
    other = Caller(world.hub, branch=BranchKey(1, 3))
    await until(lambda: caller.events and other.events)
    await the_way_of_a_file(world)
    await until(lambda: len(caller.named("file")) == 4)
    steps = caller.named("file")
    assert [step["state"] for step in steps] == ["writing", "closing", "importing", "imported"]
    assert [step["previousState"] for step in steps] == [None, "writing", "closing", "importing"]
    assert [step["records"] for step in steps] == [3] * 4
    assert steps[-1]["seconds"] == 2
    assert other.named("file") == []
    await caller.leave()
    await other.leave()


@ensure
async def test_a_file_that_is_deleted(world: World) -> None:
    """A deleted file and the files of a deleted sink produce the same event."""
    await world.put(FILE)
    caller = Caller(world.hub)
    await until(lambda: caller.events)
    await world.etcd.delete_prefix("storage/file/")
    await until(lambda: caller.named("file"))
    [event] = caller.named("file")
    assert (event["state"], event["previousState"]) == ("deleted", "writing")
    await caller.leave()


@ensure
async def test_reconnecting(world: World) -> None:
    """A reconnecting caller gets the missed events, or an event that says they are lost."""
    staying = Caller(world.hub)
    caller = Caller(world.hub)
    await until(lambda: caller.events and staying.events)
    begun = caller.last_id
    await caller.leave()
    await world.put(FILE)
    await until(lambda: staying.named("file"))
    seen = staying.last_id
    await world.put(CLOSING)
    await until(lambda: len(staying.named("file")) == 2)

    for last_id, states in ((begun, ["writing", "closing"]), (seen, ["closing"])):
        again = Caller(world.hub, last_id)
        await until(lambda again=again, states=states: len(again.named("file")) == len(states))
        assert [each["state"] for each in again.named("file")] == states
        assert again.named("reset") == []
        await again.leave()
    stranger = Caller(world.hub, 1)
    await until(lambda: stranger.named("counters"))
    assert [name for _, name, _ in stranger.events[:2]] == ["reset", "counters"]
    await stranger.leave()
    await staying.leave()


@ensure
async def test_events_are_kept_up_to_a_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that needs older events than the kept ones starts from scratch."""
    caller = Caller(world.hub)
    await until(lambda: caller.events)
    begun = caller.last_id
    monkeypatch.setattr(hub_module, "MAX_KEPT_BYTES", 10)
    await world.put(FILE)
    await until(lambda: caller.named("file"))
    again = Caller(world.hub, begun)
    await until(lambda: again.named("counters"))
    assert again.named("reset")
    current = Caller(world.hub, caller.last_id)
    await until(lambda: current.named("counters"))
    assert not current.named("reset")
    for each in (caller, again, current):
        await each.leave()


@ensure
async def test_many_callers_at_once(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of callers wait for the same watch; those that leave don't affect the others."""
    hub = LiveHub(reactor, etcd, lambda _: {}, lambda: AT, max_concurrent=1000, metrics=Metrics())
    hub.startService()
    callers = [Caller(hub) for _ in range(400)]
    for caller in callers[::2]:
        caller.following.addErrback(lambda failure: failure.trap(CancelledError))
        caller.following.cancel()
    staying = callers[1::2]
    await until(lambda: all(caller.events for caller in staying))
    assert len(hub) == len(staying)
    assert len(etcd.mirrors) == 6
    hub.end_all()
    for caller in staying:
        await caller.following
    await hub.stopService()


@ensure
async def test_too_many_callers_at_once(etcd: EtcdClient) -> None:
    """Callers that wait for the same watch count towards the limit."""
    metrics = Metrics()
    hub = LiveHub(reactor, etcd, lambda _: {}, lambda: AT, max_concurrent=10, metrics=metrics)
    hub.startService()
    refused: list[Failure] = []
    callers = [Caller(hub) for _ in range(40)]
    for caller in callers:
        caller.following.addErrback(refused.append)
    await until(lambda: len(refused) == 35)
    assert {failure.value.name for failure in refused} == {"tooManyStreams"}  # type: ignore[union-attr]
    assert len(hub) == 5
    page = metrics.page().decode()
    assert "\nstream_api_live_streams 5.0\n" in page
    assert "\nstream_api_live_refused_streams_total 35.0\n" in page
    hub.end_all()
    for caller in callers:
        await caller.following
    await hub.stopService()
    page = metrics.page().decode()
    assert "\nstream_api_live_streams 0.0\n" in page
    assert '\nstream_api_live_ended_streams_total{reason="stopping"} 5.0\n' in page
    assert '\nstream_api_live_ended_streams_total{reason="slow"} 0.0\n' in page


@ensure
async def test_the_watch_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All waiting callers get the error, and the next caller starts another watch."""

    async def unavailable(*_: object, **__: object) -> None:
        raise EtcdUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(world.etcd, "range", unavailable)
        for caller in [Caller(world.hub) for _ in range(3)]:
            with pytest.raises(EtcdUnavailable):
                await caller.following
    caller = Caller(world.hub)
    await until(lambda: caller.events)
    await caller.leave()


@ensure
async def test_the_limit_of_a_project(world: World) -> None:
    """A project can have as many streams as are free, so there is room for the next project."""
    callers = [Caller(world.hub) for _ in range(4)]
    await until(lambda: all(caller.events for caller in callers))
    with pytest.raises(UserError, match="of this project") as raised:
        await world.hub.prepare(BRANCH)
    assert (raised.value.status, raised.value.name) == (503, "tooManyStreams")
    others = [Caller(world.hub, branch=BranchKey(9, 9)) for _ in range(2)]
    await until(lambda: all(caller.events for caller in others))
    with pytest.raises(UserError, match="of this project"):
        await world.hub.prepare(BranchKey(9, 9))
    third = [Caller(world.hub, branch=BranchKey(5, 5)), Caller(world.hub, branch=BranchKey(6, 6))]
    await until(lambda: all(caller.events for caller in third))
    with pytest.raises(UserError, match="too many live streams at the moment"):
        await world.hub.prepare(BranchKey(7, 7))
    for caller in (*callers, *others, *third):
        await caller.leave()


@ensure
async def test_the_token_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream ends when its token expires, but not while the authority is unavailable."""
    monkeypatch.setattr(hub_module, "VERIFY_SECONDS", 0.01)
    answers = [UserError("away", status=503), UserError("no", status=401)]

    async def verify() -> None:
        raise answers.pop(0)

    caller = Caller(world.hub, verify=verify)
    await caller.following
    assert caller.named("end") == [{"reason": "token"}]
    assert not answers


@ensure
async def test_without_callers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd isn't watched without callers; the next caller starts the watch again."""
    monkeypatch.setattr(hub_module, "LINGER_SECONDS", 0.01)
    for _ in range(2):
        caller = Caller(world.hub)
        await until(lambda caller=caller: caller.events)
        assert world.etcd.mirrors
        await caller.leave()
        await until(lambda: not world.etcd.mirrors)


@ensure
async def test_the_node_stops(world: World) -> None:
    """All callers are notified, and new ones are refused."""
    caller = Caller(world.hub)
    await until(lambda: caller.events)
    world.hub.end_all()
    await caller.following
    assert caller.named("end") == [{"reason": "stopping"}]
    with pytest.raises(UserError, match="too many live streams"):
        await world.hub.prepare(BRANCH)
    await world.hub.stopService()
