"""Live tails: the newest records of a source, as server-sent events to whoever asks.

A subscription is put into etcd, where every source node finds it, and the nodes send what they
sampled to a port of this node. The caller gets it as fast as it takes it; what is too much is left
out and counted, here as well as on the source nodes, so that nobody who looks on slows anything
down.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from secrets import token_hex
from typing import Any

import orjson
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from stream.api.http.call import Answer, Call, Handler, Send, StreamingResponse, json_answer
from stream.api.http.server import put
from stream.api.http.site import ApiRequest, ApiSite
from stream.definition.key import SourceKey
from stream.definition.reads import DefinitionReads
from stream.definition.tail import TailSubscription
from stream.errors import UserError
from stream.etcd import Session
from stream.ops.clock import wall_clock
from stream.ops.endpoint import server_endpoint
from stream.record.tail import MAX_SHOWN_BODY_BYTES
from stream.settings.address import is_loopback, split_address
from stream.settings.tree import TailSettings
from stream.values.codec import encode
from stream.values.utctime import from_timestamp

__all__ = ["HEARTBEAT_SECONDS", "MAX_WAITING_BYTES", "TailHub", "Tails", "Watch"]

_log = Logger(namespace="stream.api.resources.tail")

HEARTBEAT_SECONDS = 15.0
"""Without a record for so long a comment is sent, so that no proxy hangs up."""
MAX_WAITING_BYTES = 1024 * 1024
"""Records that wait for one slow caller."""
MAX_ALL_WAITING_BYTES = 64 * 1024 * 1024
"""Records that wait for all callers; each has an equal share."""
_PROJECT_SHARE = 2
_SOURCE_SHARE = 5
"""The parts of all tails that a project and a source may have."""
_GRACE_SECONDS = 900
"""How much longer than its tail a subscription counts if nobody removes it: clocks differ."""
_TOKEN_BYTES = 16
_ID_BYTES = 8


class Watch:
    """One caller that watches a source. Left to itself, it never ends.

    :param limit: end after so many records; ``None`` for any number.
    :param max_waiting: how many bytes of records may wait.
    """

    def __init__(
        self,
        reactor: Any,
        source: SourceKey,
        limit: int | None,
        max_waiting: Callable[[], int] = lambda: MAX_WAITING_BYTES,
    ) -> None:
        self.source = source
        self.id = token_hex(_ID_BYTES)
        self.token = token_hex(_TOKEN_BYTES)
        self._reactor = reactor
        self._limit = limit
        self._max_waiting = max_waiting
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._over_rate = 0
        self._overflow = 0
        self._reason = ""
        self._awake: Deferred[None] | None = None

    def put(self, records: list[bytes], over_rate: int, overflow: int) -> None:
        """Take what a source node has sent: JSON objects, and how many it has left out."""
        most = self._max_waiting()
        for record in records:
            if self._bytes + len(record) > most:
                overflow += 1
            else:
                self._waiting.append(record)
                self._bytes += len(record)
        self._over_rate += over_rate
        self._overflow += overflow
        self._wake()

    def end(self, reason: str) -> None:
        """Let the caller know that nothing follows. The first reason counts."""
        self._reason = self._reason or reason
        self._wake()

    def _wake(self) -> None:
        awake, self._awake = self._awake, None
        if awake is not None and not awake.called:
            awake.callback(None)

    async def write(self, send: Send) -> None:
        """Write events until the end."""
        shown = 0
        while True:
            while self._waiting:
                record = self._waiting.popleft()
                self._bytes -= len(record)
                await send(_event("record", record))
                shown += 1
                if shown == self._limit:
                    self.end("limit")
                    self._waiting.clear()
            if self._over_rate or self._overflow:
                left_out = {"overRate": self._over_rate, "overflow": self._overflow}
                self._over_rate = self._overflow = 0
                await send(_event("dropped", orjson.dumps(left_out)))
            if self._reason:
                await send(_event("end", orjson.dumps({"reason": self._reason, "records": shown})))
                return
            if not self._waiting and not await self._woken():
                await send(b": nothing new\n\n")

    async def _woken(self) -> bool:
        """Wait for something to do; whether there is."""
        awake = self._awake = Deferred()
        heartbeat = self._reactor.callLater(HEARTBEAT_SECONDS, self._wake)
        try:
            await awake
        finally:
            self._awake = None
            if heartbeat.active():
                heartbeat.cancel()
        return bool(self._waiting or self._over_rate or self._overflow or self._reason)


def _event(name: str, data: bytes) -> bytes:
    """:param data: JSON on one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class TailHub(Service):
    """The watches of this node, and the port to which source nodes send records.

    startService fires when the port is open.

    :param session: under whose lease the subscriptions are.
    :param hostname: under which source nodes reach this one.
    """

    def __init__(
        self, reactor: Any, session: Session, settings: TailSettings, *, hostname: str
    ) -> None:
        self._reactor = reactor
        self._session = session
        self._settings = settings
        self._hostname = hostname
        self._watches: dict[str, Watch] = {}
        self._site = ApiSite(_Receiver(self._watches), reactor)
        self._port: IListeningPort | None = None
        self._stopping = False

    async def startService(self) -> None:
        super().startService()
        self._stopping = False
        endpoint = server_endpoint(self._reactor, self._settings.listen)
        self._port = await endpoint.listen(self._site)

    async def stopService(self) -> None:
        """Watches must have ended."""
        super().stopService()
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            self._site.hang_up()

    def end_all(self) -> None:
        """Let every caller know that the node stops; new ones are refused."""
        self._stopping = True
        for watch in list(self._watches.values()):
            watch.end("stopping")

    @property
    def address(self) -> str:
        """To which source nodes send records."""
        assert self._port is not None
        host, _ = split_address(self._settings.listen)
        port: int = self._port.getHost().port  # type: ignore[attr-defined]
        name = host if is_loopback(host) else self._hostname
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    async def watch(
        self, source: SourceKey, send: Send, *, rate: int, seconds: int, limit: int | None
    ) -> None:
        """Show *source* to one caller until one of the limits is reached.

        :param rate: records a second from each source node.
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
            await send(_event("start", orjson.dumps({"source": source.source_id})))
            await watch.write(send)
        finally:
            del self._watches[watch.id]
            if at_end.active():
                at_end.cancel()
            if registration is not None:
                removing = Deferred.fromCoroutine(registration.remove())
                removing.addErrback(lambda failure: _log.failure("cannot end a tail", failure))

    def _max_waiting(self) -> int:
        """Bytes of records that may wait for each caller."""
        return min(MAX_WAITING_BYTES, MAX_ALL_WAITING_BYTES // max(len(self._watches), 1))

    def check(self, source: SourceKey) -> None:
        """Whether one more caller may watch *source*.

        Raises UserError: the source, its project or all have as many as they may, or the node
        stops.
        """
        most = self._settings.max_concurrent
        sources = [watch.source for watch in self._watches.values()]
        of_project = sum(other.project_id == source.project_id for other in sources)
        if self._stopping or len(sources) >= most:
            whose = ""
        elif of_project >= -(-most // _PROJECT_SHARE):
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


class _Receiver(Resource):
    """Takes samples from source nodes, each for a watch; answers which watches have ended."""

    isLeaf = True

    def __init__(self, watches: dict[str, Watch]) -> None:
        super().__init__()
        self._watches = watches

    def render_POST(self, request: ApiRequest) -> int:
        answering = Deferred.fromCoroutine(self._answer(request))
        gone = request.notifyFinish()
        gone.addErrback(lambda _: answering.cancel())
        answering.addCallback(partial(_put, request))
        answering.addErrback(lambda failure: failure.trap(CancelledError))
        return NOT_DONE_YET

    async def _answer(self, request: ApiRequest) -> Answer:
        try:
            samples = orjson.loads(await request.body())
            return json_answer(orjson.dumps([s["id"] for s in samples if not self._take(s)]))
        except UserError as error:
            return json_answer(b"[]", error.status)
        except (ValueError, TypeError, KeyError, AttributeError):
            return json_answer(b"[]", 400)

    def _take(self, sample: Any) -> bool:
        """Whether somebody watches; raises what wrong types raise."""
        watch = self._watches.get(sample["id"])
        if watch is None or not hmac.compare_digest(sample["token"].encode(), watch.token.encode()):
            return False
        records = [orjson.dumps(record) for record in sample["records"]]
        watch.put(records, int(sample["overRate"]), int(sample["overflow"]))
        return True


def _put(request: ApiRequest, answer: Answer) -> None:
    request.write(put(request, answer))
    request.finish()


class Tails:
    """The operation."""

    def __init__(self, *, hub: TailHub, reads: DefinitionReads) -> None:
        self._hub = hub
        self._reads = reads

    def handlers(self) -> dict[str, Handler]:
        return {"TailSource": self._tail}

    async def _tail(self, call: Call) -> StreamingResponse:
        await self._reads.source(call.source_key)
        self._hub.check(call.source_key)

        async def write(send: Send) -> None:
            parameters = call.parameters
            await self._hub.watch(
                call.source_key,
                send,
                rate=parameters["rate"],
                seconds=parameters["duration"],
                limit=parameters["limit"],
            )

        return StreamingResponse(content_type="text/event-stream", write=write)
