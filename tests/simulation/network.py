"""Connections between hosts: bytes arrive in order or not at all, and each connection has its own
delay.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.python.failure import Failure

from tests.simulation.scheduler import Process, Scheduler

__all__ = ["Network"]

_USUAL_SECONDS = 0.002
_SLOW_SHARE = 0.02
_SLOW_SECONDS = 0.5
_BUFFER_BYTES = 64 * 1024
_LATE_SHARE = 0.5
_DISCOVERY_SECONDS = 3.0
"""The maximum time until an end notices that the connection is lost."""


class Network:
    """The simulated network.

    :ivar connections: open connections, in the order in which they were opened.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.connections: dict[_Connection, None] = {}
        self._scheduler = scheduler
        self._blocked: dict[frozenset[str], float] = {}
        self._ports: dict[tuple[str, int], _Port] = {}
        self._last_port = 6000

    def block(self, one: str, other: str, until: float) -> None:
        """Block all traffic between two hosts until a time."""
        self._blocked[frozenset((one, other))] = until

    def heal(self) -> None:
        """Restore all traffic."""
        self._blocked.clear()

    def late(self, one: str, other: str) -> float:
        """Return the delay between two hosts in seconds, even if they are disconnected."""
        random = self._scheduler.random
        mean = _SLOW_SECONDS if random.random() < _SLOW_SHARE else _USUAL_SECONDS
        blocked = self._blocked.get(frozenset((one, other)), 0.0) - self._scheduler.now
        return max(0.0, blocked) + random.expovariate(1 / mean)

    def delay(self, one: str, other: str) -> float | None:
        """Return the delay of a message that may be lost, ``None`` if it is."""
        is_blocked = self._blocked.get(frozenset((one, other)), 0.0) > self._scheduler.now
        if is_blocked and self._scheduler.random.random() > _LATE_SHARE:
            return None
        return self.late(one, other)

    # the interface of reactors

    def listen(self, process: Process, port: int, factory: Any) -> _Port:
        self._last_port += 1
        listening = _Port(self, process, port or self._last_port, factory)
        self._ports[process.host, listening.number] = listening
        factory.doStart()
        return listening

    def forget(self, port: _Port) -> None:
        if self._ports.get((port.process.host, port.number)) is port:
            del self._ports[port.process.host, port.number]

    def connect(
        self, process: Process, host: str, port: int, factory: Any, timeout: float
    ) -> _Connector:
        connector = _Connector(process, factory)
        factory.doStart()
        factory.startedConnecting(connector)
        delay = self.delay(process.host, host)
        if delay is None or delay > timeout:
            self._scheduler.after(timeout, connector.fail, "no connection", process)
            return connector

        def arrive() -> None:
            listening = self._ports.get((host, port))
            if listening is None or listening.process.is_dead or process.is_dead:
                self._scheduler.after(0.001, connector.fail, "connection refused", process)
            else:
                self._accept(connector, listening)

        self._scheduler.after(delay, arrive, f"{process.name} calls {host}")
        return connector

    def _accept(self, connector: _Connector, port: _Port) -> None:
        connection = _Connection(self._scheduler, self, connector.process, port.process)
        self.connections[connection] = None
        near, far = connection.ends
        delay = self.late(connector.process.host, port.process.host)

        def called() -> None:
            if connector.is_over:
                connection.cut()
                return
            if connection.is_cut:
                connector.fail()
                return
            connector.is_over = True
            near.protocol = connector.factory.buildProtocol(near.getPeer())
            near.protocol.makeConnection(near)
            near.pump()

        def accepted() -> None:
            if not connection.is_cut:
                far.protocol = port.factory.buildProtocol(far.getPeer())
                far.protocol.makeConnection(far)
                far.pump()

        self._scheduler.after(0.0, accepted, "a connection comes", port.process)
        self._scheduler.after(delay, called, "a connection is made", connector.process)


@attrs.define(eq=False)
class _Port:
    network: Network
    process: Process
    number: int
    factory: Any

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", self.number)

    def stopListening(self) -> None:
        self.network.forget(self)
        self.factory.doStop()


@attrs.define(eq=False)
class _Connector:
    process: Process
    factory: Any
    is_over: bool = False

    def fail(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.factory.clientConnectionFailed(self, Failure(ConnectionRefusedError()))

    def getDestination(self) -> IPv4Address:
        return IPv4Address("TCP", self.process.host, 0)

    def disconnect(self) -> None:
        self.fail()

    stopConnecting = disconnect


class _Connection:
    """A connection between two processes.

    :ivar ends: the end of the caller and that of the listener.
    :ivar is_cut: whether no more data is delivered.
    """

    def __init__(
        self, scheduler: Scheduler, network: Network, caller: Process, listener: Process
    ) -> None:
        self.is_cut = False
        self.scheduler = scheduler
        self.network = network
        near, far = _End(self, caller), _End(self, listener)
        near.other, far.other = far, near
        self.ends = (near, far)
        for end in self.ends:
            end.process.on_death.append(self.cut)

    def cut(self) -> None:
        """Break the connection: both ends notice it after a delay and a part of the
        pending data.
        """
        if self.is_cut:
            return
        self.is_cut = True
        self.network.connections.pop(self, None)
        for end in self.ends:
            if self.cut in end.process.on_death:
                end.process.on_death.remove(self.cut)
            end.lose_some()
            delay = self.scheduler.random.uniform(0.0, _DISCOVERY_SECONDS)
            end.lost_in(delay, ConnectionLost())


class _End:
    """The transport of a protocol at one end of a connection."""

    other: _End

    def __init__(self, connection: _Connection, process: Process) -> None:
        self.process = process
        self.protocol: Any = None
        self.disconnecting = False
        self._connection = connection
        self._scheduler = connection.scheduler
        self._arriving: deque[bytes] = deque()
        self._last = 0.0
        self._is_lost = False
        self._is_paused = False
        self._is_finished = False
        self._waiting_bytes = 0
        self._producer: Any = None
        self._is_producer_paused = False

    # sending

    def write(self, data: bytes) -> None:
        if self._is_lost or self.disconnecting or self.process.is_dead or not data:
            return
        if self._connection.is_cut:
            return
        self._waiting_bytes += len(data)
        if self._producer is not None and self._waiting_bytes > _BUFFER_BYTES:
            self._is_producer_paused = True
            self._producer.pauseProducing()
        self.other.arrives(data)

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def arrives(self, data: bytes) -> None:
        """Deliver the data that the other end has sent."""
        random = self._scheduler.random
        if len(data) > 1 and random.random() < 0.1:
            cut = random.randrange(1, len(data))
            self._arriving.extend((data[:cut], data[cut:]))
            self._come()
        else:
            self._arriving.append(data)
        self._come()

    def _come(self) -> None:
        delay = self._connection.network.late(self.other.process.host, self.process.host)
        self._last = max(self._last, self._scheduler.now + delay)
        self._scheduler.at(self._last, self.pump, "data", self.process)

    def pump(self) -> None:
        """Deliver the next piece that has arrived."""
        if self._is_lost or self._is_paused or self.protocol is None:
            return
        if not self._arriving:
            if self._is_finished:
                self._lose(ConnectionDone())
            return
        data = self._arriving.popleft()
        self.other.was_taken(len(data))
        self._scheduler.note(f"bytes {len(data)}")
        self.protocol.dataReceived(data)

    def was_taken(self, size: int) -> None:
        self._waiting_bytes -= size
        if self._is_producer_paused and self._waiting_bytes <= _BUFFER_BYTES // 2:
            self._scheduler.after(0.0, self._resume_producer, "the buffer is empty", self.process)

    def _resume_producer(self) -> None:
        if self._is_producer_paused and self._producer is not None and not self._is_lost:
            self._is_producer_paused = False
            self._producer.resumeProducing()

    # closing

    def lose_some(self) -> None:
        """Deliver only a part of the data in flight."""
        if self._arriving:
            for _ in range(self._scheduler.random.randrange(len(self._arriving) + 1)):
                self._arriving.pop()

    def lost_in(self, seconds: float, reason: Exception) -> None:
        self._scheduler.after(seconds, lambda: self._lose(reason), "connection lost", self.process)

    def _lose(self, reason: Exception) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._arriving.clear()
        if self.protocol is not None:
            self.protocol.connectionLost(Failure(reason))

    def loseConnection(self) -> None:
        if self.disconnecting or self._is_lost or self.process.is_dead:
            return
        self.disconnecting = True
        self._connection.network.connections.pop(self._connection, None)
        self.other.finish()
        self.lost_in(0.0, ConnectionDone())

    def finish(self) -> None:
        """Close the sending side of the other end."""
        self._is_finished = True
        self._come()

    def abortConnection(self) -> None:
        if self._is_lost or self.process.is_dead:
            return
        self._connection.cut()
        self.lost_in(0.0, ConnectionLost())

    # flow control and other methods of a transport

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        if self._is_paused:
            self._is_paused = False
            for _ in range(len(self._arriving) + 1):
                self._come()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: there is no Nagle delay here."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing: the service checks connections itself."""

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", self.other.process.host, 0)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.process.host, 0)
