"""Live tails, from the source nodes to the caller."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import attrs
import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from stream.api.resources.tail import sample_site
from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.etcd import EtcdClient, Session
from stream.settings.tree import TailSettings
from stream.tail.hub import TailHub
from stream.tail.sampler import TailSampler
from stream.tail.sender import TailSender
from stream.tail.subscription import TAIL
from tests.api.conftest import SOURCE, TOKEN, Api
from tests.tail.test_sampler import SOURCE as KEY
from tests.tail.test_sampler import record
from tests.waiting import until


def events(body: bytes) -> list[tuple[str, Any]]:
    """Return names and data of server-sent events."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        if not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest_twisted.async_yield_fixture()
async def taps(etcd: EtcdClient) -> AsyncIterator[TailSampler]:
    """Return the taps of a running source node."""
    taps = TailSampler()
    sender = TailSender(reactor, etcd, taps, host="localhost")
    await sender.startService()
    yield taps
    await sender.stopService()


async def subscriptions(etcd: EtcdClient) -> int:
    return len((await etcd.range(TAIL)).kvs)


class Reader:
    """Collects the events that a caller receives."""

    def __init__(self, api: Api, query: str = "") -> None:
        self.body = b""
        self.response: Any = None
        reading = self._read(f"{api.url}{SOURCE}/tail{query}")
        self.done: Deferred[None] = Deferred.fromCoroutine(reading)

    async def _read(self, url: str) -> None:
        headers = Headers({"X-StorageApi-Token": [TOKEN]})
        self.response = await treq.get(url, headers=headers, agent=Agent(reactor), unbuffered=True)
        await treq.collect(self.response, self._add)

    def _add(self, data: bytes) -> None:
        self.body += data

    def hang_up(self) -> None:
        self.response.original._transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_records_reach_the_caller(api: Api, taps: TailSampler) -> None:
    """Records are shown as they arrive, up to the requested number."""
    await api.create_source()
    reader = Reader(api, "?limit=2&rate=5")
    await until(lambda: bool(taps))
    for text in (b"first", b"second", b"third"):
        taps.offer([KEY], record(text))
    await reader.done
    assert reader.response.headers.getRawHeaders("Content-Type") == ["text/event-stream"]
    found = events(reader.body)
    assert [name for name, _ in found] == ["start", "record", "record", "end"]
    assert [data["body"] for name, data in found if name == "record"] == ["first", "second"]
    assert found[-1][1] == {"reason": "limit", "records": 2}
    await until(lambda: not taps)
    assert await subscriptions(api.etcd) == 0


@pytest_twisted.ensureDeferred
async def test_the_tail_times_out(api: Api, taps: TailSampler) -> None:
    """The number of omitted records is shown before the end."""
    await api.create_source()
    reader = Reader(api, "?duration=3&rate=1")
    await until(lambda: bool(taps))
    later = time.time() + 1  # in another millisecond than the subscription
    for _ in range(3):
        taps.offer([KEY], record(at=later))
    await reader.done
    found = events(reader.body)
    assert [name for name, _ in found] == ["start", "record", "dropped", "end"]
    assert found[2][1] == {"overRate": 2, "overflow": 0}
    assert found[3][1] == {"reason": "duration", "records": 1}


@pytest_twisted.ensureDeferred
async def test_the_caller_disconnects(api: Api, taps: TailSampler) -> None:
    """No more records are sent, and the subscription is removed from etcd."""
    await api.create_source()
    reader = Reader(api)
    await until(lambda: b"start" in reader.body)
    await until(lambda: bool(taps))
    assert await subscriptions(api.etcd) == 1
    reader.hang_up()
    await until(lambda: not taps)
    assert await subscriptions(api.etcd) == 0
    with pytest.raises(Exception, match="onnection"):
        await reader.done


@pytest_twisted.ensureDeferred
async def test_a_head_request(api: Api) -> None:
    """HEAD subscribes to no records."""
    await api.create_source()
    reply = await api.call("HEAD", f"{SOURCE}/tail")
    assert (reply.status, reply.header("Content-Type")) == (200, "text/event-stream")


@pytest_twisted.ensureDeferred
async def test_invalid_tails(api: Api) -> None:
    """An unknown source, parameters out of range and an unknown token are refused."""
    reply = await api.call("GET", f"{SOURCE}/tail")
    assert (reply.status, reply.json["error"]) == (404, "stream.api.sourceNotFound")
    reply = await api.call("GET", f"{SOURCE}/tail?rate=101&duration=x")
    assert reply.status == 400
    assert "Rate must be lesser or equal than 100" in reply.json["message"]
    assert 'invalid value "x" for "duration"' in reply.json["message"]
    reply = await api.call("GET", f"{SOURCE}/tail", token=None)
    assert reply.json["error"] == "stream.api.missingField"


@attrs.define
class Hub:
    hub: TailHub
    etcd: EtcdClient
    sent: bytes = b""

    async def send(self, data: bytes) -> None:
        self.sent += data

    def watch(self) -> Deferred[None]:
        watching = self.hub.watch(KEY, self.send, rate=10, seconds=60, limit=None)
        return Deferred.fromCoroutine(watching)

    async def key(self) -> Any:
        found = (await self.etcd.range(TAIL)).kvs
        return json.loads(found[0].value)

    async def post(self, body: bytes) -> tuple[int, Any]:
        """Post to the port for source nodes and return the answer."""
        response = await treq.post(f"http://{self.hub.address}/tail", data=body, persistent=False)
        return response.code, json.loads(await response.content())


@pytest_twisted.async_yield_fixture()
async def hub(etcd: EtcdClient) -> AsyncIterator[Hub]:
    session = Session(etcd, ttl=15, reactor=reactor)
    await session.startService()
    hub = TailHub(
        reactor,
        session,
        TailSettings(max_concurrent=1),
        hostname="localhost",
        site=partial(sample_site, reactor),
    )
    await hub.startService()
    yield Hub(hub, etcd)
    await hub.stopService()
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_what_source_nodes_send(hub: Hub) -> None:
    """Samples need the token of a running tail, and must be valid."""
    watching = hub.watch()
    await until(lambda: b"start" in hub.sent)
    key = await hub.key()
    sample = {"id": key["id"], "token": key["token"], "overRate": 0, "overflow": 1}
    known = {**sample, "records": [{"body": "x"}]}
    others = [{**known, "token": "wrong"}, {**known, "id": "unknown"}]
    assert await hub.post(json.dumps([known, *others]).encode()) == (200, [key["id"], "unknown"])
    strange = {**known, "token": 7}
    for body in (
        b"{",
        b"[1]",
        b"{}}",
        json.dumps([sample]).encode(),
        json.dumps([strange]).encode(),
    ):
        assert await hub.post(body) == (400, [])
    assert (await hub.post(b"x" * 17_000_000))[0] == 413
    hub.hub.end_all()
    await watching
    assert [name for name, _ in events(hub.sent)] == ["start", "record", "dropped", "end"]
    assert await hub.post(json.dumps([known]).encode()) == (200, [key["id"]])


@pytest_twisted.ensureDeferred
async def test_too_many_tails(hub: Hub) -> None:
    """Above the limit, callers get 503; so do all callers when the node stops."""
    hub.hub.check(KEY)
    watching = hub.watch()
    await until(lambda: b"start" in hub.sent)
    with pytest.raises(UserError, match="too many live tails") as caught:
        hub.hub.check(KEY)
    assert (caught.value.status, caught.value.name) == (503, "tooManyTails")
    hub.hub.end_all()
    await watching
    assert events(hub.sent)[-1] == ("end", {"reason": "stopping", "records": 0})
    with pytest.raises(UserError):
        hub.hub.check(KEY)


@pytest_twisted.ensureDeferred
async def test_the_limits_of_a_source_and_a_project(etcd: EtcdClient) -> None:
    """A source may have a fifth and a project half of all tails; others still get theirs."""
    session = Session(etcd, ttl=15, reactor=reactor)
    await session.startService()
    hub = TailHub(
        reactor,
        session,
        TailSettings(max_concurrent=10),
        hostname="localhost",
        site=partial(sample_site, reactor),
    )
    await hub.startService()

    async def send(_data: bytes) -> None:
        pass

    watching = []
    for project, name, refused in (
        (1, "a", ""),
        (1, "a", ""),
        (1, "a", " of this source"),
        (1, "b", ""),
        (1, "b", ""),
        (1, "c", ""),
        (1, "d", " of this project"),
        (2, "a", ""),
    ):
        source = SourceKey(project, 456, name)
        if refused:
            with pytest.raises(UserError, match=f"too many live tails{refused} at"):
                hub.check(source)
        else:
            hub.check(source)
            watch = hub.watch(source, send, rate=1, seconds=60, limit=None)
            watching.append(Deferred.fromCoroutine(watch))
    hub.end_all()
    await gatherResults(watching)
    await hub.stopService()
    await session.stopService()
