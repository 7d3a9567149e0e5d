"""The source node's side of a connection to a writer; see `commands` for the protocol.

Note [Credit]: a pipeline may call `append` at any time; this module limits the data in flight. It
sends only a few appends of one file, and only a limited number of bytes of all files together,
before their answers arrive. It sends nothing while the transport's buffer is full. Files take
turns.

Note [Unanswered openings]: a writer whose disk hangs doesn't answer an opening, and the caller
tries again after some time. The first call is still pending in the writer, so it still counts, but
only for its volume. Another attempt to open the same slice waits here until the first one is
answered. Otherwise the attempts would fill the limit, and the memory of the writer.
"""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, TimeoutError, ensureDeferred, fail, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from stream.concurrency.deadline import within
from stream.concurrency.paced import begin_in_turns
from stream.concurrency.waiters import Waiters
from stream.settings.local import WriterNetworkSettings
from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.network import commands
from stream.storage.network.interface import (
    Enquiry,
    SliceFile,
    SliceFileListener,
    SourceLife,
    StoredRows,
    SyncLevel,
    WriterError,
    WriterUnavailable,
)
from stream.storage.network.states import (
    CONNECTION_TRANSITIONS,
    REMOTE_FILE_TRANSITIONS,
    ConnectionEvent,
    ConnectionState,
    RemoteFileEvent,
    RemoteFileState,
)

__all__ = ["APPENDS_IN_FLIGHT", "Connection", "ConnectionFactory", "translated"]

_log = Logger()

APPENDS_IN_FLIGHT = 4
"""Maximum number of appends of one file in flight: while some wait for the disk, the next are sent.
"""

_NONCE_BYTES = 32


@attrs.frozen(eq=False)
class Append:
    """Bytes to append to a file, and the Deferred of the caller."""

    offset: int
    data: bytes
    level: SyncLevel
    done: Deferred[int]


class RemoteFile:
    """A `stream.storage.network.interface.SliceFile` behind a connection.

    :ivar waiting: unsent appends.
    :ivar in_flight: appends that were sent but not answered yet.
    """

    def __init__(
        self, connection: Connection, handle: bytes, length: int, listener: SliceFileListener
    ) -> None:
        self.length = length
        self.handle = handle
        self.listener = listener
        self.waiting: deque[Append] = deque()
        self.in_flight = 0
        self._connection = connection
        self._state = RemoteFileState.OPEN
        self._refusal: WriterError = WriterUnavailable("the file is closed")
        self._when_closed = Waiters[None]()

    def _follow(self, event: RemoteFileEvent) -> bool:
        """Move to the state after *event*; return False if the current state ignores it."""
        following = REMOTE_FILE_TRANSITIONS[self._state].get(event)
        if following is None:
            return False
        self._state = following
        return True

    def append(self, offset: int, data: bytes, *, level: SyncLevel) -> Deferred[int]:
        if self._state is not RemoteFileState.OPEN:
            return fail(self._refusal)
        if len(data) > commands.MAX_APPEND_BYTES:
            return fail(ValueError(f"cannot append {len(data)} bytes at once"))
        done: Deferred[int] = Deferred()
        self.waiting.append(Append(offset, data, level, done))
        self._connection.pump(self)
        return done

    def close(self) -> Deferred[None]:
        if self._state is RemoteFileState.GONE:
            return succeed(None)
        closed = self._when_closed.wait()
        if self._follow(RemoteFileEvent.CLOSE):
            self.sent()
        return closed

    def sent(self) -> None:
        """Close the file once its last append is sent; the writer keeps the order."""
        if self._state is RemoteFileState.CLOSING and not self.waiting:
            self._connection.close_file(self)

    def closed(self) -> None:
        """Handle the writer's answer that the file is closed, or its timeout."""
        if self._follow(RemoteFileEvent.CLOSED):
            self._when_closed.fire(None)

    def lose(self, reason: WriterError) -> None:
        """Mark the file as lost; appends in flight are still answered individually."""
        was_open = self._state is RemoteFileState.OPEN
        if not self._follow(RemoteFileEvent.LOST):
            return
        self._refusal = reason
        waiting, self.waiting = self.waiting, deque()
        for append in waiting:
            append.done.errback(reason)
        self._when_closed.fire(None)
        if was_open:
            self.listener.lost(reason)


@implementer(IPushProducer)
class Connection(amp.AMP):
    """The connection to one writer.

    :ivar files: open files of the connection.
    """

    factory: ConnectionFactory
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[bytes, RemoteFile] = {}
        self._state = ConnectionState.GREETING
        self._accepting = Waiters[None]()
        self._unanswered: dict[str, dict[SliceKey, Waiters[None]]] = {}
        self._turns: dict[RemoteFile, None] = {}
        self._bytes_in_flight = 0
        self._is_paused = False
        self._refusal: WriterError | None = None
        self._pinging: LoopingCall | None = None
        self._heard = True
        self._silent_since = 0.0

    # Lifecycle.

    def _follow(self, event: ConnectionEvent) -> bool:
        """Move to the state after *event*; return False if the current state ignores it."""
        following = CONNECTION_TRANSITIONS[self._state].get(event)
        if following is None:
            return False
        self._state = following
        return True

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        self.factory.connections[self] = None
        greeted = ensureDeferred(self._greet())
        within(
            greeted,
            self.factory.settings.stream_open_timeout.seconds,
            self.factory.reactor,
            "the greeting of a writer",
        )
        greeted.addCallbacks(self._greeted, self._refused)

    async def _greet(self) -> None:
        challenge = (await self.callRemote(commands.Challenge))["nonce"]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        shared = (self.factory.settings.secret, challenge, nonce, self.factory.source)
        answer = await self.callRemote(
            commands.Hello,
            version=commands.PROTOCOL_VERSION,
            node=self.factory.source.node_id,
            life=self.factory.source.number,
            nonce=nonce,
            proof=commands.source_proof(*shared),
        )
        if not hmac.compare_digest(answer["proof"], commands.writer_proof(*shared)):
            raise commands.Unauthorized("the writer has a different secret")

    def _greeted(self, _: None) -> None:
        if not self._follow(ConnectionEvent.GREETED):
            return
        self._pinging = LoopingCall(self._keep_alive)
        self._pinging.clock = self.factory.reactor
        self._pinging.start(self.factory.settings.keep_alive_interval.seconds, now=False)
        self.factory.refusals = 0
        self.factory.on_accepted()
        self._accepting.fire(None)

    def accepted(self) -> Deferred[None]:
        """Return a Deferred that fires when the writer has accepted the connection.

        Raises WriterUnavailable or Fenced: the writer refused it.
        """
        if self._state is ConnectionState.LOST:
            return fail(_lost())
        if self._state is ConnectionState.ACCEPTED:
            return succeed(None)
        return self._accepting.wait()

    def _refused(self, failure: Failure) -> None:
        if failure.check(TimeoutError) is None:
            self.factory.refusals += 1
        if self._follow(ConnectionEvent.REFUSED):
            self._refusal = commands.from_wire(cast(BaseException, failure.value))
            _log.error("the writer refused the connection: {error}", error=failure.value)
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        super().dataReceived(data)

    def _keep_alive(self) -> None:
        """Check that the writer is alive; any received data proves it.

        Silence is judged only at the next check: if this process was busy, it first reads the data
        that has arrived since.
        """
        now = self.factory.reactor.seconds()
        if self._heard:
            self._heard = False
            self._silent_since = now
        elif now - self._silent_since >= self.factory.settings.stream_write_timeout.seconds:
            _log.warn("the writer does not respond, closing the connection")
            self.transport.abortConnection()
            return
        self.callRemote(commands.Ping).addErrback(lambda _: None)

    def leave(self) -> None:
        """Close the transport; TLS would wait for more data as long as a producer is registered."""
        self.transport.unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._follow(ConnectionEvent.LOST)
        self.factory.connections.pop(self, None)
        self._turns.clear()
        super().connectionLost(reason)
        if self._pinging is not None and self._pinging.running:
            self._pinging.stop()
        self._accepting.fail(self._refusal or _lost())
        files, self.files = self.files, {}
        begin_in_turns(
            list(files.values()),
            lambda file: file.lose(_lost()),
            self.factory.reactor,
            "cannot handle the loss of a slice file",
        )

    # Flow control; Note [Credit].

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        if self.transport.disconnecting:
            self.transport.unregisterProducer()  # otherwise it would wait for the producer
        self._send_more()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` handles a lost connection."""

    def pump(self, file: RemoteFile) -> None:
        """Send as many appends of *file* as the limits allow."""
        if file.waiting and file.in_flight < APPENDS_IN_FLIGHT:
            self._turns.setdefault(file)
        self._send_more()

    def _send_more(self) -> None:
        window = self.factory.settings.stream_max_window
        while self._turns and not self._is_paused and self._state is not ConnectionState.LOST:
            file = next(iter(self._turns))
            del self._turns[file]
            if not file.waiting:
                continue
            size = len(file.waiting[0].data)
            if self._bytes_in_flight and self._bytes_in_flight + size > window:
                self._turns = {file: None, **self._turns}
                return
            self._send(file, file.waiting.popleft())
            if file.waiting and file.in_flight < APPENDS_IN_FLIGHT:
                self._turns[file] = None
            file.sent()

    def _send(self, file: RemoteFile, append: Append) -> None:
        file.in_flight += 1
        self._bytes_in_flight += len(append.data)
        appended = self.callRemote(
            commands.Append,
            handle=file.handle,
            offset=append.offset,
            level=int(append.level),
            crc=commands.checksum(append.data),
            data=append.data,
        )
        appended.addBoth(self._answered, file, append)

    def _answered(self, result: Any, file: RemoteFile, append: Append) -> None:
        file.in_flight -= 1
        self._bytes_in_flight -= len(append.data)
        if isinstance(result, Failure):
            append.done.errback(translated(result))
        else:
            append.done.callback(result["end"])
        if self._state is not ConnectionState.LOST:
            self.pump(file)

    # Files.

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, resume: int
    ) -> Deferred[SliceFile]:
        """Open a file, as `stream.storage.network.interface.SliceOpener` says; may be cancelled.

        See Note [Unanswered openings].
        """
        key = slice_.key
        unanswered = self._unanswered.setdefault(key.volume_id, {})
        earlier = unanswered.get(key)
        if earlier is not None:
            return earlier.wait().addCallback(lambda _: self.open(slice_, source, listener, resume))
        if len(unanswered) >= self.factory.settings.max_waiting_streams_per_conn:
            return fail(WriterUnavailable("too many files are waiting to be opened"))
        unanswered[key] = Waiters()
        waiting: Deferred[SliceFile] = Deferred()

        def opened(answer: dict[str, Any]) -> None:
            file = RemoteFile(self, answer["handle"], answer["length"], listener)
            if waiting.called:  # no caller waits for it any longer
                file.close()
            else:
                self.files[file.handle] = file
                waiting.callback(file)

        def failed(failure: Failure) -> None:
            if not waiting.called:
                waiting.errback(translated(failure))

        def next_attempt(_: object) -> None:
            unanswered.pop(key).fire(None)

        answered = self.callRemote(
            commands.Open,
            slice=str(slice_.key),
            node=source.node_id,
            life=source.number,
            resume=resume,
        )
        answered.addCallbacks(opened, failed)
        answered.addBoth(next_attempt)
        return waiting

    async def enquire(self, enquiries: Sequence[Enquiry]) -> list[list[StoredRows]]:
        """Return the rows of requests that the writer has stored.

        A writer that doesn't support marks has none.

        Raises WriterError.
        """
        try:
            answer = await self.callRemote(
                commands.Enquire,
                enquiries=commands.encode_enquiries(enquiries),
                owners=commands.encode_owners(enquiries),
            )
            return commands.decode_stored(answer["stored"])
        except amp.UnhandledCommand:
            return [[] for _ in enquiries]
        except Exception as error:
            raise commands.from_wire(error) from error

    def close_file(self, file: RemoteFile) -> None:
        """Ask the writer to close *file*; afterwards the file is gone, whatever the answer is."""

        def closed(_: object) -> None:
            self.files.pop(file.handle, None)
            file.closed()

        answered = self.callRemote(commands.Close, handle=file.handle)
        answered.addTimeout(
            self.factory.settings.stream_close_timeout.seconds, self.factory.reactor
        )
        answered.addBoth(closed)

    @commands.Draining.responder
    def draining(self) -> dict[str, object]:
        def tell(file: RemoteFile) -> None:
            if file.handle in self.files:  # otherwise the pipeline may already use another file
                file.listener.draining()

        begin_in_turns(
            list(self.files.values()), tell, self.factory.reactor, "cannot leave a slice file"
        )
        return {}

    @commands.Lost.responder
    def lost(self, handle: bytes, kind: bytes, reason: str) -> dict[str, object]:
        file = self.files.pop(handle, None)
        if file is not None:
            file.lose(commands.error_of(kind, reason))
        return {}


def _lost() -> WriterUnavailable:
    return WriterUnavailable("the connection to the writer was lost")


def translated(failure: Failure) -> Failure:
    """Return the pipeline's error for a failed call."""
    return Failure(commands.from_wire(cast(BaseException, failure.value)))


class ConnectionFactory(Factory):
    """Creates the connections to one writer.

    :param source: this source node in the life for which the connections are made.

    :param on_accepted: called each time the writer accepts a connection.

    :ivar refusals: number of consecutive connections that the writer has refused; timeouts don't
        count.
    :ivar connections: all open connections, accepted or not, the oldest first.
    """

    protocol: Any = Connection
    noisy = False

    def __init__(
        self,
        source: SourceLife,
        settings: WriterNetworkSettings,
        reactor: Any,
        on_accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_accepted = on_accepted
        self.source = source
        self.settings = settings
        self.reactor = reactor
        self.refusals = 0
        self.connections: dict[Connection, None] = {}
