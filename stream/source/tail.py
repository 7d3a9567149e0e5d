"""Sends records to those who watch a source.

Mirrors the subscriptions, keeps a tap for each of them, and hands on what the taps took, a few
times a second, to the API node that asked. What can't be sent is left out and counted.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

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
from twisted.web.iweb import IAgent, IResponse

from stream.definition.key import SourceKey
from stream.definition.tail import TAIL, TailSubscription
from stream.etcd import Batch, EtcdClient, Mirror, json_values
from stream.settings.address import is_loopback, split_address
from stream.source.taps import MAX_TAPS, Sample, Tap, Taps

__all__ = ["TailSender"]

_log = Logger(namespace="stream.tail")

SEND_INTERVAL = 0.1
"""Seconds between two rounds of sending."""
SEND_SECONDS = 5.0
"""For handing on one sample, with its answer."""
PAUSE_SECONDS = 2.0
"""Before the next attempt after one that failed."""
_CONNECT_SECONDS = 2.0
_IDLE_SECONDS = 5.0
"""Less than the API leaves a connection open."""


class TailSender(Service):
    """startService fires when the subscriptions are known.

    :param client: started.
    :param taps: filled here, read by the listeners.
    :param host: under which other machines reach this one.
    :param agent: makes the requests; by default one with kept connections.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        taps: Taps,
        *,
        host: str,
        agent: IAgent | None = None,
    ) -> None:
        self._reactor = reactor
        self._taps = taps
        self._host = host
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.cachedConnectionTimeout = _IDLE_SECONDS  # type: ignore[assignment]
        self._pool.retryAutomatically = False
        self._agent: IAgent = agent or Agent(
            reactor, connectTimeout=_CONNECT_SECONDS, pool=self._pool
        )
        self._outlets: dict[str, _Outlet] = {}
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
        outlets = list(self._outlets.values())
        self._outlets.clear()
        self._share()
        sending = [outlet.sending for outlet in outlets if outlet.sending is not None]
        for each in sending:
            each.cancel()
        await DeferredList(sending)
        await maybeDeferred(self._pool.closeCachedConnections)

    def changed(self, batch: Batch[TailSubscription]) -> None:
        """Open and close taps."""
        found = {change.key: change.value for change in batch.changes}
        if batch.reset:
            found = dict.fromkeys(self._outlets) | found
        for key, subscription in found.items():
            known = self._outlets.get(key)
            if subscription is None:
                self._outlets.pop(key, None)
            elif (known is None or known.tap.subscription != subscription) and (
                self._is_ours(subscription)
            ):
                self._outlets[key] = _Outlet(Tap(subscription, self._reactor.seconds()))
        self._share()

    def _is_ours(self, subscription: TailSubscription) -> bool:
        """Whether the address leads to who asked: on loopback, it may lead to somebody else."""
        if subscription.host == self._host or not is_loopback(
            split_address(subscription.address)[0]
        ):
            return True
        _log.warn(
            "a tail of {source} gets nothing from here: {host} asks for it at a local address",
            source=str(subscription.source),
            host=subscription.host,
        )
        return False

    def _share(self) -> None:
        """Let the listeners know which taps there are."""
        by_source: dict[SourceKey, tuple[Tap, ...]] = {}
        for outlet in self._outlets.values():
            source = outlet.tap.subscription.source
            taps = by_source.get(source, ())
            if len(taps) < MAX_TAPS:
                by_source[source] = (*taps, outlet.tap)
        self._taps.clear()
        self._taps.update(by_source)
        if self._outlets and not self._rounds.running:
            self._rounds.start(SEND_INTERVAL, now=False).addErrback(self._broke)
        elif not self._outlets and self._rounds.running:
            self._rounds.stop()

    def _broke(self, failure: Failure) -> None:
        _log.failure("tails get nothing any more", failure)

    def _round(self) -> None:
        now = self._reactor.seconds()
        for key, outlet in list(self._outlets.items()):
            tap = outlet.tap
            if tap.subscription.expires_at.timestamp() <= now:
                self._forget(key, outlet)
            elif outlet.sending is None and now >= outlet.not_before:
                sample = tap.take()
                if sample is not None:
                    self._start(key, outlet, sample)
            if tap.error is not None:
                _log.warn("cannot show a record: {error}", error=tap.error)
                tap.error = None

    def _forget(self, key: str, outlet: _Outlet) -> None:
        if self._outlets.get(key) is outlet:
            del self._outlets[key]
            self._share()

    def _start(self, key: str, outlet: _Outlet, sample: Sample) -> None:
        sending = Deferred.fromCoroutine(self._deliver(key, outlet, sample))
        sending.addErrback(lambda failure: _log.failure("cannot end sending", failure))
        if not sending.called:
            outlet.sending = sending

    async def _deliver(self, key: str, outlet: _Outlet, sample: Sample) -> None:
        """Send *sample*, or count it as left out. Never fails."""
        subscription = outlet.tap.subscription
        try:
            sending = Deferred.fromCoroutine(self._send(subscription, sample))
            if not await sending.addTimeout(SEND_SECONDS, self._reactor):
                self._forget(key, outlet)
        except CancelledError:
            return  # the service stops
        except Exception as error:
            outlet.tap.not_sent(sample)
            outlet.not_before = self._reactor.seconds() + PAUSE_SECONDS
            is_slow = isinstance(error, TimeoutError)
            _log.warn(
                "cannot send records of a live tail to {address}: {error}",
                address=subscription.address,
                error=f"no answer within {SEND_SECONDS:g} s" if is_slow else str(error),
            )
        finally:
            outlet.sending = None

    async def _send(self, subscription: TailSubscription, sample: Sample) -> bool:
        """Whether the receiver wants more. Fails if it doesn't answer as one."""
        response: IResponse = await self._agent.request(
            b"POST",
            f"http://{subscription.address}/tail/{subscription.id}".encode(),
            Headers({"Authorization": [f"Bearer {subscription.token}"]}),
            FileBodyProducer(BytesIO(sample.encode())),
        )
        response.deliverBody(_Unread())
        if response.code in (403, 404):
            return False
        if response.code != 204:
            raise ValueError(f"the answer is {response.code}")
        return True


class _Outlet:
    """A tap with what is being sent of it."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.sending: Deferred[None] | None = None
        self.not_before = 0.0


class _Unread(Protocol):
    """Ends the connection of an answer that has a body: there is nothing to be read in it."""

    def dataReceived(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
