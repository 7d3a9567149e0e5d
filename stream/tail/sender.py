"""Sending of samples to the API nodes that serve tails.

The sender mirrors the subscriptions, keeps a tap for each of them, and sends the samples a few
times a second to the API node of the subscription. Records that can't be sent are omitted and
counted.
"""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from typing import Any

import orjson
import treq
from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    TimeoutError,
    maybeDeferred,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from stream.concurrency.deadline import within
from stream.definition.key import SourceKey
from stream.etcd import Batch, EtcdClient, Mirror, json_values
from stream.ops.clock import wall_clock
from stream.settings.address import is_loopback, split_address
from stream.tail.sampler import MAX_SENT_BYTES, Sample, TailSampler, Tap
from stream.tail.subscription import TAIL, TailSubscription

__all__ = ["Outlet", "TailSender"]

_log = Logger(namespace="stream.tail")

SEND_INTERVAL = 0.2
"""Interval between two rounds of sending, in seconds."""
SEND_SECONDS = 5.0
"""Time limit for sending samples and receiving the answer, in seconds."""
PAUSE_SECONDS = 2.0
"""Delay after a failed attempt, in seconds."""
_CONNECT_SECONDS = 2.0
_IDLE_SECONDS = 5.0
"""Time after which idle connections are closed; shorter than the API's idle timeout."""
_MAX_ANSWER_BYTES = 64 * 1024

Samples = list[tuple[Tap, Sample]]


class TailSender(Service):
    """Sends samples to API nodes.

    The Deferred returned by startService fires when the subscriptions are known.

    :param client: etcd client, already started.
    :param taps: the taps, which the sender adds and the listeners use.
    :param host: name at which other machines reach this machine.
    """

    def __init__(self, reactor: Any, client: EtcdClient, taps: TailSampler, *, host: str) -> None:
        self._reactor = reactor
        self._taps = taps
        self._host = host
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.cachedConnectionTimeout = _IDLE_SECONDS  # type: ignore[assignment]
        self._pool.retryAutomatically = False
        self._agent = Agent(reactor, connectTimeout=_CONNECT_SECONDS, pool=self._pool)
        self._wall_clock = wall_clock(reactor)
        self._open: dict[str, Tap] = {}
        self._ends: dict[str, float] = {}
        self._outlets: dict[str, Outlet] = {}
        self._mirror: Mirror[TailSubscription] = Mirror(
            client, TAIL, json_values(TailSubscription), on_change=self.changed
        )
        self._rounds = LoopingCall(self._round)
        self._rounds.clock = reactor

    async def startService(self) -> None:
        super().startService()
        await self._mirror.startService()

    async def stopService(self) -> None:
        super().stopService()
        await self._mirror.stopService()
        sending = [each.sending for each in self._outlets.values() if each.sending is not None]
        for key in list(self._open):
            self._close(key)
        for each in sending:
            each.cancel()
        await DeferredList(sending)
        await maybeDeferred(self._pool.closeCachedConnections)

    def changed(self, batch: Batch[TailSubscription]) -> None:
        """Open and close taps. The value of a subscription's key never changes."""
        found = {change.key: change.value for change in batch.changes}
        if batch.reset:
            found = dict.fromkeys(self._open) | found
        for key, subscription in found.items():
            if subscription is None:
                self._close(key)
            elif key not in self._open and self._is_ours(subscription):
                self._start(key, subscription)

    def _is_ours(self, subscription: TailSubscription) -> bool:
        """Return whether the address leads to the subscriber.

        A loopback address may lead to another process.
        """
        host, _ = split_address(subscription.address)
        if subscription.host == self._host or not is_loopback(host):
            return True
        _log.warn(
            "cannot send records to a live tail of {source}: the API node {host} listens only on "
            "loopback, set its api.tail.listen",
            source=str(subscription.source),
            host=subscription.host,
        )
        return False

    def _start(self, key: str, subscription: TailSubscription) -> None:
        now = self._wall_clock()
        tap = self._taps.add(subscription, now)
        if tap is None:
            _log.warn("too many tails of {source}", source=str(subscription.source))
            return
        self._open[key] = tap
        self._ends[key] = self._reactor.seconds() + subscription.expires_at.timestamp() - now
        outlet = self._outlets.setdefault(subscription.address, Outlet(subscription.address))
        outlet.taps[subscription.id] = tap
        if not self._rounds.running:
            self._rounds.start(SEND_INTERVAL, now=False).addErrback(self._broke)

    def _close(self, key: str) -> None:
        tap = self._open.pop(key, None)
        if tap is None:
            return
        del self._ends[key]
        self._taps.remove(tap)
        outlet = self._outlets[tap.subscription.address]
        del outlet.taps[tap.subscription.id]
        if not outlet.taps:
            del self._outlets[outlet.address]
        if not self._outlets and self._rounds.running:
            self._rounds.stop()

    def _broke(self, failure: Failure) -> None:
        _log.failure("the sender of live tails stopped", failure)

    def _round(self) -> None:
        now = self._reactor.seconds()
        for key, tap in list(self._open.items()):
            if self._ends[key] <= now:
                self._close(key)
            if tap.error is not None:
                _log.warn("cannot add a record to a live tail: {error}", error=tap.error)
                tap.error = None
        for outlet in self._outlets.values():
            if outlet.sending is None and now >= outlet.not_before:
                samples = outlet.take()
                if samples:
                    self._send(outlet, samples)

    def _send(self, outlet: Outlet, samples: Samples) -> None:
        sending = Deferred.fromCoroutine(self._deliver(outlet, samples))
        sending.addErrback(lambda failure: _log.failure("cannot stop sending samples", failure))
        if not sending.called:
            outlet.sending = sending

    async def _deliver(self, outlet: Outlet, samples: Samples) -> None:
        """Send *samples*, or count them as omitted. Never fails."""
        try:
            posting = Deferred.fromCoroutine(self._post(outlet.address, samples))
            for ended in await within(posting, SEND_SECONDS, self._reactor, "sending"):
                tap = outlet.taps.get(ended)
                if tap is not None:
                    self._close(tap.subscription.key)
        except CancelledError:
            return  # the service is stopping
        except Exception as error:
            for tap, sample in samples:
                tap.not_sent(sample)
            outlet.not_before = self._reactor.seconds() + PAUSE_SECONDS
            is_slow = isinstance(error, TimeoutError)
            _log.warn(
                "cannot send records of live tails to {address}: {error}",
                address=outlet.address,
                error=f"no answer within {SEND_SECONDS:g} s" if is_slow else str(error),
            )
        finally:
            outlet.sending = None

    async def _post(self, address: str, samples: Samples) -> list[str]:
        """Send samples; return the IDs of tails that no client watches any more.

        Fails if the answer doesn't come from a receiver of samples.
        """
        encoded = [sample.encode(tap.subscription) for tap, sample in samples]
        response: IResponse = await self._agent.request(
            b"POST",
            f"http://{address}/tail".encode(),
            Headers({"Content-Type": ["application/json"]}),
            FileBodyProducer(BytesIO(b"[" + b",".join(encoded) + b"]")),
        )
        length = response.length  # text if it is unknown
        if response.code != 200 or not isinstance(length, int) or length > _MAX_ANSWER_BYTES:
            response.deliverBody(_Unread())
            raise ValueError(f"the response status is {response.code}")
        return [str(ended) for ended in orjson.loads(await treq.content(response))]


class Outlet:
    """The samples for one address.

    :ivar taps: taps by ID of the subscription.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.taps: dict[str, Tap] = {}
        self.sending: Deferred[None] | None = None
        self.not_before = 0.0

    def take(self) -> Samples:
        """Return the next samples: sources take turns, and so do the taps of each source."""
        samples = []
        size = 0
        for id, tap in self._in_turn():
            if size > MAX_SENT_BYTES:
                break
            sample = tap.take()
            if sample is not None:
                samples.append((tap, sample))
                size += sum(map(len, sample.records))
                self.taps[id] = self.taps.pop(id)  # next time the others come first
        return samples

    def _in_turn(self) -> list[tuple[str, Tap]]:
        """Return all taps: the first of each source, then the second of each, and so on."""
        seen: Counter[SourceKey] = Counter()
        turns = []
        for id, tap in self.taps.items():
            source = tap.subscription.source
            turns.append((seen[source], (id, tap)))
            seen[source] += 1
        turns.sort(key=lambda turn: turn[0])
        return [tap for _, tap in turns]


class _Unread(Protocol):
    """Closes the connection of a response whose body isn't needed."""

    def dataReceived(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
