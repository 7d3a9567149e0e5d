"""The live tails that this node serves.

A subscription is put into etcd, where every source node finds it. The source nodes send samples to
a port of this node.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.etcd import Session
from stream.ops.clock import wall_clock
from stream.ops.endpoint import server_endpoint
from stream.settings.address import is_loopback, split_address
from stream.settings.tree import TailSettings
from stream.tail.shown_record import MAX_SHOWN_BODY_BYTES
from stream.tail.subscription import TailSubscription
from stream.tail.watch import MAX_WAITING_BYTES, Send, Watch, event
from stream.values.codec import encode
from stream.values.fair_share import may_take
from stream.values.utctime import from_timestamp

__all__ = ["TailHub", "Take"]

_log = Logger(namespace="stream.tail")

MAX_ALL_WAITING_BYTES = 64 * 1024 * 1024
"""Maximum size of the records queued for all callers; each has an equal share."""
_SOURCE_SHARE = 5
"""One source may use at most 1 / `_SOURCE_SHARE` of all tails.

For the share of a project, see Note [Shares] of `stream.values.fair_share`.
"""
_GRACE_SECONDS = 900
"""Seconds by which a subscription may outlive its tail if it isn't removed; clocks differ."""

Take = Callable[[Any], list[str]]
"""Accepts samples as plain values; returns the IDs of tails that no client watches any more."""


class TailHub(Service):
    """The tails of this node, and the port to which source nodes send records.

    The Deferred returned by startService fires when the port is open.

    :param session: session whose lease holds the subscriptions.
    :param hostname: name at which source nodes reach this node.
    :param site: returns the port's site, given the function that accepts samples.
    """

    def __init__(
        self,
        reactor: Any,
        session: Session,
        settings: TailSettings,
        *,
        hostname: str,
        site: Callable[[Take], Any],
    ) -> None:
        self._reactor = reactor
        self._session = session
        self._settings = settings
        self._hostname = hostname
        self._watches: dict[str, Watch] = {}
        self._site = site(self.take)
        self._port: IListeningPort | None = None
        self._stopping = False

    async def startService(self) -> None:
        super().startService()
        self._stopping = False
        endpoint = server_endpoint(self._reactor, self._settings.listen)
        self._port = await endpoint.listen(self._site)

    async def stopService(self) -> None:
        """Stop the hub; all tails must have ended."""
        super().stopService()
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            self._site.hang_up()

    def end_all(self) -> None:
        """End all tails because the node stops; new tails are refused."""
        self._stopping = True
        for watch in list(self._watches.values()):
            watch.end("stopping")

    @property
    def address(self) -> str:
        """The address to which source nodes send records."""
        assert self._port is not None
        host, _ = split_address(self._settings.listen)
        port: int = self._port.getHost().port  # type: ignore[attr-defined]
        name = host if is_loopback(host) else self._hostname
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    async def watch(
        self, source: SourceKey, send: Send, *, rate: int, seconds: int, limit: int | None
    ) -> None:
        """Stream records of *source* to one caller until one of the limits is reached.

        :param rate: maximum number of records per second from each source node.
        """
        watch = Watch(self._reactor, source, limit, self._max_waiting)
        subscription = TailSubscription(
            source=source,
            id=watch.id,
            address=self.address,
            host=self._hostname,
            token=watch.token,
            rate=rate,
            max_body_bytes=MAX_SHOWN_BODY_BYTES,
            expires_at=from_timestamp(wall_clock(self._reactor)())
            + timedelta(seconds=seconds + _GRACE_SECONDS),
        )
        self._watches[watch.id] = watch
        at_end = self._reactor.callLater(seconds, watch.end, "duration")
        registration = None
        try:
            registration = await self._session.register(subscription.key, encode(subscription))
            await send(event("start", orjson.dumps({"source": source.source_id})))
            await watch.write(send)
        finally:
            del self._watches[watch.id]
            if at_end.active():
                at_end.cancel()
            if registration is not None:
                removing = Deferred.fromCoroutine(registration.remove())
                removing.addErrback(lambda failure: _log.failure("cannot end a tail", failure))

    def _max_waiting(self) -> int:
        """The maximum size of the records queued for each caller."""
        return min(MAX_WAITING_BYTES, MAX_ALL_WAITING_BYTES // max(len(self._watches), 1))

    def check(self, source: SourceKey) -> None:
        """Check that one more caller may watch *source*.

        Raises UserError: the source, its project or the node has too many tails, or the node stops.
        """
        most = self._settings.max_concurrent
        sources = [watch.source for watch in self._watches.values()]
        of_project = sum(other.project_id == source.project_id for other in sources)
        if self._stopping or len(sources) >= most:
            whose = ""
        elif not may_take(of_project, len(sources), most):
            whose = " of this project"
        elif sources.count(source) >= -(-most // _SOURCE_SHARE):
            whose = " of this source"
        else:
            return
        raise UserError(
            f"too many live tails{whose} at the moment, please try again later",
            status=503,
            name="tooManyTails",
        )

    def take(self, samples: Any) -> list[str]:
        """Accept a source node's samples; return the IDs of tails that no client watches any more.

        Raises ValueError or TypeError: a value has a wrong type.

        :param samples: samples as plain values.
        """
        return [sample["id"] for sample in samples if not self._take(sample)]

    def _take(self, sample: Any) -> bool:
        """Accept a sample; return whether the tail is watched."""
        watch = self._watches.get(sample["id"])
        if watch is None or not hmac.compare_digest(sample["token"].encode(), watch.token.encode()):
            return False
        records = [orjson.dumps(record) for record in sample["records"]]
        watch.put(records, int(sample["overRate"]), int(sample["overflow"]))
        return True
