"""The protocol between the API and source nodes: one question and its answer per TCP connection.

```
API                                   source node
                                      -> nonce                 32 bytes
-> nonce, proof, question                                      32 + 32 bytes, JSON
                                      -> proof, answer         32 bytes, JSON
```

Each message is preceded by its length in four bytes. Each proof is an HMAC over both nonces and the
data after it, with a secret that the node has put into etcd under its lease. So only processes that
can read etcd may ask, and an answer is known to come from the right node. If certificates are set
for the writers' ports (``storage.level.local.writer.network.tls``), both sides use them here, too.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.ops.logging.throttle import LogThrottle
from stream.settings.local import WriterTlsSettings

if TYPE_CHECKING:
    from stream.storage.network.tls import Credentials

__all__ = ["Asking", "NodeFactory", "NodeUnavailable", "tls_credentials"]

_log = Logger(namespace="stream.rejected")

MAX_QUESTION_BYTES = 4 * 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_CONNECTIONS = 32
"""Maximum number of connections.

For another one, the oldest connection without a valid question is closed.
"""
QUESTION_SECONDS = 10.0
"""Time limit for the nonce and the question, in seconds."""
SILENCE_SECONDS = 60.0
"""Time limit for the answer and for reading it, in seconds."""

_LENGTH_BYTES = 4
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_LOG_SECONDS = 60.0

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class NodeUnavailable(Exception):
    """The node is unavailable or doesn't answer."""


def tls_credentials(settings: WriterTlsSettings) -> Credentials | None:
    """Return the certificates of this node, if it has any. Blocks. Raises UserError."""
    if not (settings.certificate or settings.key or settings.ca):
        return None
    from stream.storage.network.tls import credentials  # the import is slow

    return credentials(settings)


def _proof(end: bytes, secret: str, challenge: bytes, nonce: bytes, body: bytes) -> bytes:
    """Return a proof; it includes the sending side, so that neither can replay the other's."""
    return hmac.digest(secret.encode(), b"%b,%b%b%b" % (end, challenge, nonce, body), "sha256")


class _Messages(Protocol):
    """A connection that transports messages.

    Unlike Twisted's protocol, it doesn't copy the received part of a message at each read, and
    reads nothing after a message that closes the connection.

    :ivar limit: maximum size of a message in bytes.
    """

    transport: Any
    limit = 0

    def __init__(self) -> None:
        self._received = bytearray()
        self._has_ended = False

    def send(self, message: bytes) -> None:
        """Send a message."""
        self.transport.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)

    def dataReceived(self, data: bytes) -> None:
        received = self._received
        received += data
        while not self._has_ended and len(received) >= _LENGTH_BYTES:
            length = int.from_bytes(received[:_LENGTH_BYTES], "big")
            if length > self.limit:
                self.too_long(length)
                break
            end = _LENGTH_BYTES + length
            if len(received) < end:
                return
            message = bytes(received[_LENGTH_BYTES:end])
            del received[:end]
            self.take(message)
        if self._has_ended:
            received.clear()

    def take(self, message: bytes) -> None:
        """Handle a complete message."""
        raise NotImplementedError

    def too_long(self, length: int) -> None:
        """Handle a message whose announced *length* is too long."""
        self.cut()

    def cut(self) -> None:
        """Close the connection immediately; nothing more is read."""
        self._has_ended = True
        if self.transport is not None:
            self.transport.abortConnection()


class NodeConnection(_Messages):
    """The source node's side of a connection."""

    factory: NodeFactory
    limit = MAX_QUESTION_BYTES

    def connectionMade(self) -> None:
        self._challenge = secrets.token_bytes(_NONCE_BYTES)
        self._answering: Deferred[None] | None = None
        self._impatience = self.factory.reactor.callLater(QUESTION_SECONDS, self.cut)
        if self.factory.has_room():
            self.factory.connections[self] = None
            self.send(self._challenge)
        else:
            self.cut()

    @property
    def has_asked(self) -> bool:
        """Whether a question with a valid proof has arrived."""
        return self._answering is not None

    def take(self, message: bytes) -> None:
        nonce, proof = message[:_NONCE_BYTES], message[_NONCE_BYTES : _NONCE_BYTES + _PROOF_BYTES]
        question = message[_NONCE_BYTES + _PROOF_BYTES :]
        expected = _proof(b"api", self.factory.secret, self._challenge, nonce, question)
        if self.has_asked or not hmac.compare_digest(proof, expected):
            self.factory.tell_of_refused(getattr(self.transport.getPeer(), "host", "?"))
            self.cut()
            return
        self._impatience.reset(SILENCE_SECONDS)
        self._answering = Deferred.fromCoroutine(self._answer(nonce, question))
        self._answering.addErrback(self._failed)

    async def _answer(self, nonce: bytes, question: bytes) -> None:
        try:
            body = orjson.dumps({"answer": await self.factory.answer(orjson.loads(question))})
        except (OSError, UserError) as error:
            body = orjson.dumps({"problem": str(error)})
        except (ValueError, KeyError, TypeError) as error:
            body = orjson.dumps({"problem": f"the request can't be read: {error}"})
        proof = _proof(b"node", self.factory.secret, self._challenge, nonce, body)
        self.send(proof + body)
        self.transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("cannot answer a request for rejected records", failure)
        self.cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.pop(self, None)
        if self._impatience.active():
            self._impatience.cancel()
        if self._answering is not None:
            self._answering.cancel()


class NodeFactory(Factory):
    """Creates the source node's sides of connections.

    :param secret: secret that authorized callers know.
    :param answer: answers a question; may fail with UserError, OSError, ValueError or KeyError.
    """

    noisy = False

    def __init__(self, reactor: Any, secret: str, answer: Answer) -> None:
        self.reactor = reactor
        self.secret = secret
        self.answer = answer
        self.connections: dict[NodeConnection, None] = {}
        self._refused = LogThrottle(_LOG_SECONDS, reactor.seconds)

    def buildProtocol(self, addr: object) -> Any:
        connection = NodeConnection()
        connection.factory = self
        return connection

    def has_room(self) -> bool:
        """Make room for one more connection, if necessary by closing an old one; return success.

        Callers without the secret can't exclude callers with the secret.
        """
        if len(self.connections) < MAX_CONNECTIONS:
            return True
        stranger = next((each for each in self.connections if not each.has_asked), None)
        if stranger is None:
            return False
        del self.connections[stranger]
        stranger.cut()
        return True

    def tell_of_refused(self, peer: str) -> None:
        """Log that a caller at the address *peer* was refused."""
        suppressed = self._refused.due("")
        if suppressed is not None:
            _log.warn(
                "refused a request for rejected records from {peer}",
                peer=peer,
                suppressed=suppressed,
            )

    def hang_up(self) -> None:
        """Close the open connections."""
        for connection in tuple(self.connections):
            connection.cut()


class Asking(_Messages):
    """The API's side of a connection, which asks one question.

    :ivar done: Deferred that fires with the answer, or fails with `NodeUnavailable`.
    """

    limit = MAX_ANSWER_BYTES

    def __init__(self, secret: str, question: dict[str, Any]) -> None:
        super().__init__()
        self._secret = secret
        self._question = orjson.dumps(question)
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._challenge = b""
        self.done: Deferred[dict[str, Any]] = Deferred(lambda _: self.cut())

    def take(self, message: bytes) -> None:
        if not self._challenge:
            self._prove(message)
            return
        proof, body = message[:_PROOF_BYTES], message[_PROOF_BYTES:]
        expected = _proof(b"node", self._secret, self._challenge, self._nonce, body)
        if not hmac.compare_digest(proof, expected):
            self._end(_somebody_else())
        else:
            plain = cast("dict[str, Any]", orjson.loads(body))
            if "answer" in plain:
                self._end(plain["answer"])
            else:
                self._end(NodeUnavailable(str(plain.get("problem"))))
        self._has_ended = True
        self.transport.loseConnection()

    def _prove(self, challenge: bytes) -> None:
        # With another length, it could contain a nonce and the beginning of another question.
        if len(challenge) != _NONCE_BYTES:
            self._end(_somebody_else())
            self.cut()
            return
        self._challenge = challenge
        proof = _proof(b"api", self._secret, challenge, self._nonce, self._question)
        self.send(self._nonce + proof + self._question)

    def too_long(self, length: int) -> None:
        self._end(NodeUnavailable(f"its answer is {length} bytes long"))
        self.cut()

    def _end(self, result: Any) -> None:
        if self.done.called:
            return
        if isinstance(result, Exception):
            self.done.errback(result)
        else:
            self.done.callback(result)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(NodeUnavailable("the connection was closed"))


def _somebody_else() -> NodeUnavailable:
    return NodeUnavailable("another process answers at its address")
