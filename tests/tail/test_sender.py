"""Delivery of samples to API nodes, with a real etcd and a real port."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import attrs
import orjson
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.logger import capturedLogs
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from stream.etcd import EtcdClient
from stream.tail.sampler import TailSampler
from stream.tail.sender import Outlet, TailSender
from stream.tail.subscription import TailSubscription
from stream.values.codec import encode
from stream.values.utctime import from_timestamp
from tests.tail.test_sampler import OTHER, SOURCE, record, subscription
from tests.waiting import until


def test_sources_take_turns() -> None:
    """A message contains a record of each source before the second record of any."""
    taps = TailSampler()
    outlet = Outlet("127.0.0.1:1")
    for number in range(10):
        name = f"flood{number}" if number < 9 else "mine"
        source = SOURCE if number < 9 else OTHER
        tap = taps.add(subscription(id=name, source=source, rate=100), 0.0)
        assert tap is not None
        outlet.taps[name] = tap
    for _ in range(20):
        taps.offer([SOURCE, OTHER], record(b"x" * 16_000))
    sent = [tap.subscription.id for tap, _ in outlet.take()]
    assert sent == ["flood0", "mine"]
    assert outlet.take()[0][0].subscription.id == "flood1"


class Receiver(Resource):
    """Emulates the API node that subscribed."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.ended: list[str] = []
        self.samples: list[dict[str, Any]] = []
        self.address = ""

    def render_POST(self, request: Any) -> bytes | int:
        self.samples += orjson.loads(request.content.read())
        if not self.status:
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        return orjson.dumps(self.ended)


@pytest_twisted.async_yield_fixture()
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(Site(receiver))
    receiver.address = f"127.0.0.1:{port.getHost().port}"
    yield receiver
    await port.stopListening()


@attrs.define
class Node:
    """The part of a source node that serves tails."""

    taps: TailSampler
    etcd: EtcdClient
    receiver: Receiver

    async def ask(self, **changes: Any) -> TailSubscription:
        """Subscribe, and wait until the node has the subscription."""
        asked = subscription(
            **{
                "address": self.receiver.address,
                "expires_at": from_timestamp(time.time()) + timedelta(minutes=1),
                **changes,
            }
        )
        await self.etcd.put(asked.key, encode(asked))
        await until(lambda: bool(self.taps))
        return asked


@pytest_twisted.async_yield_fixture()
async def node(etcd: EtcdClient, receiver: Receiver) -> AsyncIterator[Node]:
    taps = TailSampler()
    sender = TailSender(reactor, etcd, taps, host="localhost")
    await sender.startService()
    yield Node(taps, etcd, receiver)
    await sender.stopService()
    assert not taps


@pytest_twisted.ensureDeferred
async def test_records_are_sent_during_a_subscription(node: Node) -> None:
    """Records are sent with the caller's token until the subscription ends."""
    asked = await node.ask()
    node.taps.offer([SOURCE], record(b"hello"))
    await until(lambda: bool(node.receiver.samples))
    assert node.receiver.samples[0]["records"][0]["body"] == "hello"
    assert node.receiver.samples[0]["token"] == "t"
    await node.etcd.delete(asked.key)
    await until(lambda: not node.taps)


@pytest_twisted.ensureDeferred
async def test_the_receiver_ends_a_tap(node: Node) -> None:
    """An answer of the receiver ends the tap, even if its key remains."""
    await node.ask()
    node.receiver.ended = ["unknown", "one"]
    node.taps.offer([SOURCE], record())
    await until(lambda: not node.taps)


@pytest_twisted.ensureDeferred
async def test_an_expired_subscription(node: Node) -> None:
    """An expired subscription is removed."""
    await node.ask(expires_at=from_timestamp(1000.0))
    await until(lambda: not node.taps)
    assert not node.receiver.samples


@pytest_twisted.ensureDeferred
async def test_omitted_samples_are_counted(node: Node) -> None:
    """A receiver that failed gets the number of samples it has missed."""
    await node.ask()
    node.receiver.status = 500
    with capturedLogs() as log:
        node.taps.offer([SOURCE], record())
        await until(lambda: any("cannot send" in str(e.get("log_format")) for e in log))
    assert "the response status is 500" in [str(event.get("error")) for event in log]
    node.receiver.status = 200
    await until(lambda: len(node.receiver.samples) > 1)
    told = {"id": "one", "token": "t", "overRate": 0, "overflow": 1, "records": []}
    assert node.receiver.samples[-1] == told


@pytest_twisted.ensureDeferred
async def test_stop_during_delivery(etcd: EtcdClient, receiver: Receiver) -> None:
    """A receiver that doesn't respond doesn't delay the stop."""
    taps = TailSampler()
    sender = TailSender(reactor, etcd, taps, host="localhost")
    await sender.startService()
    node = Node(taps, etcd, receiver)
    await node.ask()
    receiver.status = 0
    taps.offer([SOURCE], record())
    await until(lambda: bool(receiver.samples))
    await Deferred.fromCoroutine(sender.stopService()).addTimeout(2, reactor)


@pytest_twisted.ensureDeferred
async def test_a_loopback_address_of_another_machine(node: Node) -> None:
    """Nothing is sent to it, since the address belongs to another process on this machine."""
    asked = subscription(address=node.receiver.address, host="another", id="two")
    await node.etcd.put(asked.key, encode(asked))
    await node.ask()
    assert [tap.subscription.id for tap in node.taps[SOURCE].taps] == ["one"]
