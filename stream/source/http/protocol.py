"""Connections of the HTTP listener. Answers are sent in the order of the requests.

Note [One request at a time]: a connection handles its next request only when the previous request
is answered. So answers keep their order without bookkeeping, and a client holds at most one record
and the bytes of one read, however many requests it pipelines. When bytes arrive while a request
waits, reading pauses. Reading doesn't pause earlier, because most clients wait for their answer
anyway.

Note [Sent ahead]: requests that are refused or need no disk access are answered immediately, and
one read can contain thousands of them. Therefore a connection answers them for at most a
millisecond. For the rest, it waits for its turn among all such connections, which share a few
milliseconds of each turn of the reactor. Until then nothing more is read from the connection.

Note [Coarse time]: one timer of the factory checks timeouts, and also keeps the time for
connections. A request needs no timer of its own, but a timeout fires up to two ticks late.

Note [Direct send]: an answer nearly always fits into the socket's buffer. Sending it immediately
saves two changes of the poll set and a turn of the reactor. The first time that an answer doesn't
fit, or the socket fails, the transport takes over for the rest of the connection. So data never
overtakes data in the transport's buffer.

Note [Deadline of a request]: a request must arrive within `Limits.request_timeout`, counted from
its first byte. Each `Limits.min_upload_rate` bytes of its body extend this by a second. So a slow
line has enough time, but a client that sends single bytes to occupy a connection doesn't.

Note [Refusal by the head]: if a request doesn't arrive whole, its head is checked first. A request
with an unknown route or a wrong secret is refused without reading the body.

Note [Held bytes]: bytes of large or incomplete requests, unread answers and pipelined requests
count against a limit over all connections; see `stream.source.http.intake`. Small requests that
arrive whole, which are nearly all, aren't counted. Connections whose source is unknown have a
separate limit, so unknown clients displace no producer.

Note [Connection limit]: when the limit of connections is reached, some connections of the client
with the most connections are closed: first those that have been idle longest, then those with the
slowest requests. A client is an IPv4 address or an IPv6 network, because it can choose any address
of its network. A request is slow even if single bytes of it keep arriving.

Note [Received into place]: the rest of a large body is received directly into the body's memory;
until it is complete, the transport's `doRead` is replaced. Otherwise it would be copied several
times, which costs more than parsing its records. The transport handles all other events of the
connection.

Note [Lingering close]: if a socket with unread bytes is closed, the kernel resets the connection,
and the client may lose the answer. Therefore after a refusal only the sending side is closed, and
further data is discarded for a while.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_network
from typing import Any
from typing import Protocol as Interface

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from stream.concurrency.waiters import Waiters
from stream.errors import UserError
from stream.source.http import responses
from stream.source.http.completions import Connection
from stream.source.http.errors import Overloaded, RequestTimeout, UnfinishedRequest
from stream.source.http.fast_path import FastPath
from stream.source.http.head import Head, HeadReader, find_origin
from stream.source.http.intake import Intake, Owner
from stream.source.http.parser import MAX_SMALL_BODY, Request, RequestParser
from stream.values.ip import without_scope

__all__ = ["IngestFactory", "IngestProtocol", "Limits", "RequestHandler"]

FIRST_READ_BYTES = 4 * 1024
MAX_READ_BYTES = 256 * 1024
"""Size of the first read, which fits most requests.

Memory for a read is allocated each time, so it shouldn't be larger. A connection that fills it gets
four times as much for the next read.
"""

AT_ONCE_SECONDS = 0.001
"""Time for requests of a connection that are answered immediately; the last may exceed it."""

AHEAD_SECONDS = 0.005
"""Time per turn of the reactor for the rest of all connections; the last may exceed it."""

LINGER_SECONDS = 5.0
LINGER_BYTES = 16 * 1024 * 1024

MAX_REFUSED_CONNECTIONS = 1000
"""Maximum number of connections over the limit that get an answer; others are only closed."""

IDLE_BEFORE_LEAVING = 1.0
"""Minimum idle time in seconds before a connection may be closed for another one."""

_ROOM = 100
"""Share of all connections that are closed at once (1/n), because the search takes milliseconds."""

_STRANGERS = 4
"""Share of the held bytes for connections whose source is unknown (1/n)."""

_SUBNET_BITS = 64
"""Number of bits of an IPv6 address that identify a client; it can choose the others itself."""

_log = Logger(namespace="http-source")


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of the listener; times are in seconds, sizes in bytes.

    :ivar request_timeout: time in which a request must arrive, and in which it must then be
        answered.
    :ivar idle_timeout: time without a byte from a client whose requests are answered.
    :ivar min_upload_rate: number of body bytes that give a request another second to arrive.
    :ivar max_head: maximum size of request line and headers.
    :ivar max_body: maximum size of a received body.
    :ivar max_held: maximum bytes of the unanswered requests of all connections; a quarter of it is
        for connections whose source is unknown.
    :ivar shutdown_timeout: time in which requests may finish after `IngestFactory.stop`.
    :ivar leave_seconds: time in which idle connections can learn from an answer that the node
        stops.
    """

    request_timeout: float = 30.0
    idle_timeout: float = 30.0
    min_upload_rate: int = 4096
    max_connections: int = 20_000
    max_head: int = 16 * 1024
    max_body: int = 1024 * 1024
    max_held: int = 128 * 1024 * 1024
    shutdown_timeout: float = 30.0
    leave_seconds: float = 0.0


class RequestHandler(Interface):
    """The handler of requests; see `stream.source.http.handler.IngestHandler`."""

    def handle(self, request: Request, connection: Connection, /) -> None:
        """Handle a request; the answer is sent to the connection, immediately or later."""

    def check(self, head: Head, /) -> bytes | None: ...

    def owner(self, head: Head, /) -> Owner:
        """Return the owner of the request, for the limits of held bytes."""

    def refuse(self, error: UserError, head: Head | None, /) -> bytes:
        """Return the answer to a request that was refused before it was handled."""

    def crashed(self) -> bytes:
        """Return the answer to a request after an internal error."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class IngestProtocol(Protocol):
    """One connection of a client.

    :ivar pending: the completion of the current request; ``None`` if there is none.
    :ivar peer_ip: IP address of the peer.
    :ivar client: the network that counts as one client; see Note [Connection limit].
    :ivar since: factory time of the last step: request complete, answered, or closing begun; while
        a request arrives, the time of its last bytes.
    """

    transport: Any
    factory: IngestFactory

    def __init__(self, parser: RequestParser, handler: RequestHandler, peer_ip: str) -> None:
        self.pending: object = None
        self.peer_ip = peer_ip
        self.client, _ = _stranger(peer_ip)
        self.since = 0.0
        self._parser = parser
        self._handler = handler
        self._head: Head | None = None
        self._begun: float | None = None  # when the first byte of the arriving request was seen
        self._owner: Owner | None = None  # the last known owner of the held bytes
        self._intake: Intake | None = None  # the intake in which they count
        self._body_size = 0  # size of the unanswered request, if it is large
        self._unsent = 0  # approximate; 0 unless the output is full
        self._gave_way = False
        self._out: list[bytes] = []
        self._advancing = False
        self._reading_paused = False
        self._waits_for_turn = False  # see Note [Sent ahead]
        self._output_full = False
        self._input_ended = False
        self._closing = False
        self._discarded = 0
        self._read_size = 0
        self._send_now: Callable[[bytes], int] | None = None
        self._fast: FastPath | None = None
        self._descriptor = -1

    def connectionMade(self) -> None:
        transport = self.transport
        socket = getattr(transport, "socket", None)
        self._send_now = None if socket is None else socket.send
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        transport.bufferSize = self._read_size = FIRST_READ_BYTES
        self.factory.connected(self)
        fast = self.factory.fast
        if fast is not None and isinstance(transport, Server):
            self._fast = fast
            self._descriptor = transport.fileno()
            fast.connections.add(self._descriptor, self, self.peer_ip)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.pending = None
        self._closing = True
        if self._fast is not None:
            self._fast.connections.remove(self._descriptor)
            self._fast = None
            self._receive_data()
        self._release()
        self.factory.disconnected(self)

    # Input.

    def take_data(self, data: bytes) -> None:
        """Process data that the fast path has read but doesn't handle. Never raises."""
        try:
            self.dataReceived(data)
        except Exception:
            _log.failure("a connection failed")
            self.transport.abortConnection()

    def crashed(self, head: Head) -> None:
        """Answer a request of the fast path whose rows couldn't be written: an internal error."""
        self._head = head
        self._refuse(self._handler.crashed(), head)

    def _arm(self) -> None:
        """Let the next request use the fast path; see `stream.source.http.fast_path`."""
        fast, head = self._fast, self._head
        if (
            fast is not None
            and head is not None
            and self._send_now is not None
            and not (
                self._closing
                or self._reading_paused
                or self._output_full
                or self._input_ended
                or self._gave_way
                or self.factory.draining
            )
            and self.pending is None
            and self._parser.is_unused
            and fast.takes(head)
        ):
            fast.connections.arm(self._descriptor)

    def _disarm(self) -> None:
        """Let the next data use `dataReceived`, and the next answer `finish`."""
        if self._fast is not None:
            self._fast.connections.disarm(self._descriptor)

    def dataReceived(self, data: bytes) -> None:
        if self._fast is not None:
            self._fast.connections.disarm(self._descriptor)
        if len(data) == self._read_size < MAX_READ_BYTES:
            self.transport.bufferSize = self._read_size = 4 * self._read_size
        if self._closing:
            self._discard(data)
            return
        self._parser.feed(data)
        if self.pending is None and not self._output_full and not self._waits_for_turn:
            self._advance()
            return
        self._pause_reading()
        if self._gave_way:
            self._parser.drop()
        elif len(self._parser.rest) > MAX_SMALL_BODY:
            self._hold_rest()

    def _receive_body(self) -> Any:
        """Receive more of the body; see Note [Received into place]."""
        parser = self._parser
        size = -1
        if parser.receives and not (
            self._closing or self._output_full or self._waits_for_turn or self.pending is not None
        ):
            size = parser.receive(self._descriptor, MAX_READ_BYTES)
        if size < 0 or not parser.receives:
            self._receive_data()
        if size < 0:
            return self.transport.doRead()
        if size:
            self._advance()
        return None

    def _receive_data(self) -> None:
        """Let the transport receive the next data."""
        vars(self.transport).pop("doRead", None)

    def readConnectionLost(self) -> None:
        """Called when the client has closed its side; it may still be waiting for an answer."""
        self._disarm()
        self._input_ended = True
        if self._closing:
            self.transport.loseConnection()
        elif self.pending is None and not self._waits_for_turn:
            if self._parser.is_empty:
                self._close()
            else:
                self._refuse_error(UnfinishedRequest(), self._parser.head)

    def writeConnectionLost(self) -> None:
        """Do nothing, because this side closed its half."""

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES:
            self.transport.abortConnection()

    def _advance(self) -> None:
        """Handle requests until one has to wait, or no whole request remains."""
        parser, handler = self._parser, self._handler
        end = 0.0  # unknown before the first answer
        self._advancing = True
        try:
            while self.pending is None and not self._closing and not self._output_full:
                request = parser.next_request()
                if request is None:
                    self._wait_for_more()
                    break
                if type(request) is Head:
                    self._head = request
                    refusal = handler.check(request)
                    if refusal is not None:
                        self._refuse(refusal, request)
                    else:
                        self._owner = handler.owner(request)
                    continue
                if self._begun is not None:
                    self._begun = None
                    self._release()
                if len(request.body) > MAX_SMALL_BODY and not self._hand_on(request):
                    break
                self._head = request.head
                self.since = self.factory.now
                handler.handle(request, self)
                if self.pending is None and parser.rest and not self._closing:
                    now = self.factory.seconds()
                    end = end or now + AT_ONCE_SECONDS
                    if now >= end:
                        self._waits_for_turn = True
                        self.factory.go_on_later(self)
                        break
        except UserError as error:
            self._refuse_error(error, parser.head)
        except Exception:
            self._refuse(handler.crashed(), self._head)
        finally:
            self._advancing = False
        if self._out:
            self._flush()
        if len(parser.rest) > MAX_SMALL_BODY and not self._closing:
            self._hold_rest()
        if self._waits_for_turn:
            self._pause_reading()
            return
        self._choose_reading()
        if self.pending is None:
            self._arm()

    def go_on(self) -> None:
        """Take the connection's turn; see Note [Sent ahead]."""
        self._waits_for_turn = False
        if self.pending is None and not self._closing and not self._output_full:
            self._advance()
            if self._input_ended and self._begun is not None and not self._closing:
                self._refuse_error(UnfinishedRequest(), self._parser.head)

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pauseProducing()

    def _wait_for_more(self) -> None:
        """Wait for the rest of a request.

        Record when the request began, and send ``100 Continue`` if the client expects it.
        """
        if self._parser.is_empty:
            return
        self.since = self.factory.now
        if self._begun is None:
            self._begun = self.since
        if self._parser.wants_continue:
            self._parser.wants_continue = False
            self._out.append(responses.CONTINUE)
        self._hold()
        if self._fast is not None and self._parser.receives:
            self.transport.doRead = self._receive_body

    def _hand_on(self, request: Request) -> bool:
        """Count the body as held until the answer, or refuse it and return False."""
        self._body_size = len(request.body)
        self._hold()
        if self._closing:
            return False
        assert self._intake is not None
        if self._intake.fix(self):
            return True
        self.factory.gave_way += 1
        self._refuse_error(Overloaded(), request.head)
        return False

    def _hold_rest(self) -> None:
        """Count pipelined data that waits for an answer."""
        if self.pending is not None and self._head is not None:
            self._owner = self._handler.owner(self._head)
        self._hold()

    def _hold(self) -> None:
        """Count held bytes, after which this connection may be shed; see Note [Held bytes]."""
        size = self._parser.held + self._body_size + self._unsent
        owner, factory = self._owner, self.factory
        intake = factory.strangers if owner is None else factory.producers
        if self._intake is not None and intake is not self._intake:
            self._intake.release(self)
        self._intake = intake
        intake.hold(self, owner or _stranger(self.peer_ip), size)

    def _release(self) -> None:
        """Record that no bytes are held any more."""
        if self._intake is not None:
            self._intake.release(self)
            self._intake = None
        self._body_size = 0

    def give_way(self) -> None:
        """Drop all data that isn't being processed; see `stream.source.http.intake`."""
        self.factory.gave_way += 1
        self._disarm()
        if self._output_full:
            self.transport.abortConnection()
        elif self.pending is None:
            self._refuse_error(Overloaded(), self._parser.head)
        else:
            self._parser.drop()
            self._gave_way = self._input_ended = True

    def _choose_reading(self) -> None:
        """Pause or resume reading; see Note [One request at a time]."""
        if not self._reading_paused or self.pending is not None or self._output_full:
            return
        if not self._input_ended:
            self._reading_paused = False
            self.transport.resumeProducing()

    # Output.

    def finish(self, answer: bytes) -> None:
        """Send the answer to the current request, and continue."""
        self.pending = None
        if self._intake is not None:
            self._release()
        head = self._head
        assert head is not None
        if not head.plain or self.factory.draining or self._input_ended:
            answer = self._adapt(head, answer)
        factory = self.factory
        if answer is responses.OK:
            answer = factory.dated_ok  # this is nearly every answer
        elif answer is responses.ACCEPTED:
            answer = factory.dated_accepted
        else:
            answer = responses.dated(answer, factory.date_line)
        if self._advancing:
            self._out.append(answer)
            return
        self.since = self.factory.now
        self._write(answer)
        if self._closing:
            self._close()
        elif self._reading_paused or not self._parser.is_empty:
            self._advance()
        else:
            self._arm()

    def send_rest(self, data: bytes) -> None:
        """Send the rest of an answer that the socket didn't accept; see Note [Direct send]."""
        self._hand_to_transport(data)

    def _adapt(self, head: Head, answer: bytes) -> bytes:
        """Adapt *answer* to this client, and decide whether it is the last answer."""
        answer = _for_client(head, answer)
        last_read = self.factory.draining or self._input_ended
        if not head.keep_alive or (last_read and self._parser.is_empty):
            self._closing = True
            return responses.closing(answer)
        return answer if head.version else responses.keeping_alive(answer)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._write(out[0] if len(out) == 1 else b"".join(out))
        if self._closing:
            self._close()

    def _write(self, data: bytes) -> None:
        """Send *data*; see Note [Direct send]."""
        send = self._send_now
        if send is not None:
            try:
                sent = send(data)
            except OSError:
                sent = 0  # the transport gets and handles the same error
            if sent == len(data):
                return
            data = data[sent:]
        self._hand_to_transport(data)

    def _hand_to_transport(self, data: bytes) -> None:
        if self._send_now is not None:
            self._send_now = None
            self.transport.bufferSize = self._read_size = FIRST_READ_BYTES
        self._unsent = len(data) + (self._unsent if self._output_full else self._read_size)
        self.transport.write(data)
        if self._output_full:
            self._hold()

    def _refuse_error(self, error: UserError, head: Head | None) -> None:
        self._refuse(self._handler.refuse(error, head), head)

    def _refuse(self, answer: bytes, head: Head | None) -> None:
        """Send the last answer; see Note [Lingering close].

        :param head: head of the refused request, if it was readable.
        """
        self._disarm()
        self.pending = None
        self._closing = True
        if head is not None:
            answer = _for_client(head, answer)
        else:
            origin = find_origin(self._parser.rest)
            if origin is not None:
                answer = responses.for_origin(answer, origin)
        self._out.append(responses.dated(responses.closing(answer), self.factory.date_line))
        self._parser.drop()
        self._release()
        out, self._out = self._out, []
        self._write(b"".join(out))
        self._linger()

    def _linger(self) -> None:
        self.since = self.factory.now
        self.transport.unregisterProducer()
        if self._input_ended and not self._gave_way:
            self.transport.loseConnection()
            return
        self.transport.loseWriteConnection()
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resumeProducing()

    def _close(self) -> None:
        """Close when everything is written; a paused producer would prevent that."""
        self._disarm()
        self._closing = True
        self._release()
        if self._gave_way:
            self._linger()
            return
        self.since = self.factory.now
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def pauseProducing(self) -> None:
        """Stop reading requests, because the client doesn't read its answers."""
        self._disarm()
        self._output_full = True

    def resumeProducing(self) -> None:
        self._output_full = False
        self._unsent = 0
        if self._intake is not None:
            self._hold()
        if self.pending is None and not self._closing and not self._waits_for_turn:
            self._advance()

    def stopProducing(self) -> None:
        """Do nothing; the connection is lost, and `connectionLost` will be called."""

    # Time.

    def drain(self) -> None:
        """Close the connection unless a request must be answered first."""
        if self.pending is None and not self._closing and self._parser.is_empty:
            self._close()

    def check_timeouts(self, now: float, limits: Limits, tick: float) -> None:
        """Check the timeouts; called at every tick of the factory."""
        waited = now - self.since - tick
        if self._closing:
            if waited > LINGER_SECONDS:
                self.transport.abortConnection()
        elif self.pending is not None:
            if waited > limits.request_timeout:
                self._refuse(responses.REQUEST_TIMEOUT, self._head)
        elif self._output_full:
            if waited > limits.idle_timeout:
                self.transport.abortConnection()
        elif self._begun is None:
            if waited > limits.idle_timeout:
                self._close()
        elif waited > limits.idle_timeout or now - tick > self._deadline(limits):
            self._refuse_error(RequestTimeout(), self._parser.head)

    @property
    def may_leave(self) -> bool:
        """Whether no request is being processed."""
        return self.pending is None and not self._closing

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress."""
        return self.may_leave and self._begun is None and not self._output_full

    @property
    def waits_since(self) -> float:
        """Return the factory time at which the present request began, or the last one ended."""
        return self.since if self._begun is None else self._begun

    def leave(self) -> None:
        """Close to make room for another connection, if `may_leave`; Note [Connection limit]."""
        if self.is_idle:
            self.factory.gave_way += 1
            self._close()
        else:
            self.give_way()

    def _deadline(self, limits: Limits) -> float:
        """Return the deadline of the request; see Note [Deadline of a request]."""
        assert self._begun is not None
        extra = self._parser.held / limits.min_upload_rate if self._parser.head is not None else 0
        return self._begun + limits.request_timeout + extra


@lru_cache(maxsize=4096)
def _stranger(address: str) -> tuple[str, str]:
    """Return the owner of bytes whose source is unknown: network and address of the client.

    The network of an IPv4 address is the address.
    """
    if ":" not in address:  # an IPv4 address, or none; the network of IPv6 takes 20 µs
        return address, address
    try:
        return str(ip_network((address, _SUBNET_BITS), strict=False)), address
    except ValueError:
        return address, address


def _for_client(head: Head, answer: bytes) -> bytes:
    """Return *answer* adapted to the method and the origin of the request."""
    if head.origin is not None:
        answer = responses.for_origin(answer, head.origin)
    return responses.without_body(answer) if head.method == b"HEAD" else answer


class _RefusedProtocol(Protocol):
    """A connection over the limit, which gets an answer and is closed."""

    transport: Any
    factory: IngestFactory

    def __init__(self) -> None:
        self.since = 0.0

    def connectionMade(self) -> None:
        self.since = self.factory.now
        self.factory.refused.add(self)
        refusal = responses.TOO_MANY_CONNECTIONS
        self.transport.write(responses.dated(refusal, self.factory.date_line))
        self.transport.loseWriteConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.refused.discard(self)


class IngestFactory(Factory):
    """Creates, counts, times and closes connections.

    :param reactor: source of the time.
    :param clock: returns seconds since the epoch, for dates.

    :ivar seconds: returns the reactor's time.
    :ivar now: the reactor's time at the last tick.
    :ivar date_line: the ``Date`` header at the last tick; see `stream.source.http.responses.dated`.
    :ivar dated_ok: `stream.source.http.responses.OK` with that header.
    :ivar dated_accepted: `stream.source.http.responses.ACCEPTED` with that header.
    :ivar draining: whether answers are the last ones of their connections.
    :ivar refused: connections over the limit that are being answered.
    :ivar strangers: bytes held by connections that haven't sent a valid source URL yet.
    :ivar producers: bytes held by all other connections.
    :ivar gave_way: number of connections closed or shed since the last tick to make room for
        others.
    :ivar fast: the fast path of small records for new connections; ``None`` if there is none.
    :ivar heads: the reader of heads that all connections share.
    """

    noisy = False

    def __init__(
        self,
        handler: RequestHandler,
        limits: Limits,
        reactor: IReactorTime,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.seconds = reactor.seconds
        self.now = reactor.seconds()
        self._clock = clock
        self._set_date()
        self.draining = False
        self.refused: set[_RefusedProtocol] = set()
        self.strangers = Intake(limits.max_held // _STRANGERS)
        self.producers = Intake(limits.max_held - limits.max_held // _STRANGERS)
        self.gave_way = 0
        self._handler = handler
        self._limits = limits
        self._reactor = reactor
        self.heads = HeadReader()
        self.fast: FastPath | None = None
        self._connections: set[IngestProtocol] = set()
        # Connections being closed for others, which no longer count.
        self._leaving: set[IngestProtocol] = set()
        self._ahead: deque[IngestProtocol] = deque()
        self._no_room_at: float | None = None
        self._tick = min(1.0, limits.request_timeout / 4, limits.idle_timeout / 4)
        self._ticking = LoopingCall(self._on_tick)
        self._ticking.clock = reactor
        self._stopped = Waiters[None]()
        self._stop_timeout: IDelayedCall | None = None
        self._closing_idle: IDelayedCall | None = None

    def _set_date(self) -> None:
        self.date_line = responses.date_line(self._clock())
        self.dated_ok = responses.dated(responses.OK, self.date_line)
        self.dated_accepted = responses.dated(responses.ACCEPTED, self.date_line)

    @property
    def connection_count(self) -> int:
        """The number of open connections, except those being refused."""
        return len(self._connections)

    @property
    def held_bytes(self) -> int:
        """The number of bytes that count against the limit; see Note [Held bytes]."""
        return self.strangers.size + self.producers.size

    def startFactory(self) -> None:
        if not self._ticking.running:
            self._ticking.start(self._tick, now=False).addErrback(
                lambda failure: _log.failure("the timeout check stopped", failure)
            )

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if len(self._connections) >= self._limits.max_connections and not self._make_room():
            if len(self.refused) >= MAX_REFUSED_CONNECTIONS:
                return None
            refusal = _RefusedProtocol()
            refusal.factory = self
            return refusal
        parser = RequestParser(self.heads, self._limits.max_head, self._limits.max_body)
        connection = IngestProtocol(parser, self._handler, without_scope(getattr(addr, "host", "")))
        connection.factory = self
        return connection

    def connected(self, connection: IngestProtocol) -> None:
        """Count a connection that is ready."""
        connection.since = self.now
        self._connections.add(connection)

    def go_on_later(self, connection: IngestProtocol) -> None:
        """Call `IngestProtocol.go_on` in a later turn; see Note [Sent ahead]."""
        if not self._ahead:
            self._reactor.callLater(0, self._go_on)
        self._ahead.append(connection)

    def _go_on(self) -> None:
        end = self.seconds() + AHEAD_SECONDS
        ahead, self._ahead = self._ahead, deque()
        while ahead:
            ahead.popleft().go_on()
            if self.seconds() >= end:
                break
        if ahead:
            if not self._ahead:
                self._reactor.callLater(0, self._go_on)
            self._ahead.extendleft(reversed(ahead))

    def disconnected(self, connection: IngestProtocol) -> None:
        """Remove a closed connection."""
        self._connections.discard(connection)
        self._leaving.discard(connection)
        if self.draining and not self._open:
            self._all_gone()

    @property
    def _open(self) -> set[IngestProtocol]:
        return self._connections | self._leaving

    def _make_room(self) -> bool:
        """Close connections to make room; see Note [Connection limit].

        Return whether there is room. After a failure, the next attempt is made only later.
        """
        if self._no_room_at == self.now:
            return False
        counts = Counter(connection.client for connection in self._connections)
        client, _ = counts.most_common(1)[0]
        candidates = sorted(
            (
                connection
                for connection in self._connections
                if connection.client == client
                and connection.may_leave
                and connection.waits_since + IDLE_BEFORE_LEAVING <= self.now
            ),
            key=lambda connection: (not connection.is_idle, connection.waits_since),
        )
        if not candidates:
            self._no_room_at = self.now
            return False
        for connection in candidates[: max(1, self._limits.max_connections // _ROOM)]:
            self._connections.discard(connection)
            self._leaving.add(connection)
            connection.leave()
        return True

    def _on_tick(self) -> None:
        """Update the time and check timeouts; see Note [Coarse time]."""
        self.now = now = self._reactor.seconds()
        self._set_date()
        limits, tick = self._limits, self._tick
        for connection in tuple(self._open):
            try:
                connection.check_timeouts(now, limits, tick)
            except Exception:
                _log.failure("cannot check the timeouts of a connection")
        if self.gave_way:
            _log.warn(
                "{connections} connections were shed: they held {size} bytes of requests, "
                "or there were too many of them",
                connections=self.gave_way,
                size=self.held_bytes,
            )
            self.gave_way = 0
        for refusal in tuple(self.refused):
            if now - refusal.since > LINGER_SECONDS:
                refusal.transport.abortConnection()

    def stop(self) -> Deferred[None]:
        """Answer with ``Connection: close`` from now on, and close idle connections after a while.

        If a client's connection is closed just when the client sends its next request, the client
        doesn't know the outcome. Therefore clients get time to learn from an answer that the node
        stops.

        The port must be closed before. The Deferred fires when no connection is left; after the
        shutdown timeout the remaining connections are aborted.
        """
        self.draining = True
        if self.fast is not None:
            self.fast.connections.disarm_all()
        if not self._open:
            self._all_gone()
            return succeed(None)
        if self._limits.leave_seconds:
            self._closing_idle = self._reactor.callLater(
                self._limits.leave_seconds, self._close_idle
            )
        else:
            self._close_idle()
            if not self._open:
                return succeed(None)
        if self._stop_timeout is None:
            self._stop_timeout = self._reactor.callLater(
                self._limits.shutdown_timeout, self._cut_off
            )
        return self._stopped.wait()

    def _close_idle(self) -> None:
        self._closing_idle = None
        for connection in tuple(self._connections):
            connection.drain()

    def _cut_off(self) -> None:
        self._stop_timeout = None
        _log.warn(
            "{connections} connections did not finish in time, closing them",
            connections=len(self._open),
        )
        for connection in tuple(self._open):
            connection.transport.abortConnection()

    def _all_gone(self) -> None:
        if self._stop_timeout is not None:
            self._stop_timeout.cancel()
            self._stop_timeout = None
        if self._closing_idle is not None:
            self._closing_idle.cancel()
            self._closing_idle = None
        if self._ticking.running:
            self._ticking.stop()
        self._stopped.fire(None)
