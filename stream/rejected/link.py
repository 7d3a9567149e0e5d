"""How the API asks a source node: one question and its answer over a TCP connection.

```
API                                   source node
                                      -> nonce                 32 bytes
-> nonce, proof, question                                      32 + 32 bytes, JSON
                                      -> proof, answer         32 bytes, JSON
```

Each message has its length in front. Each proof is an HMAC over both nonces and what follows it, by
a secret that the node has put into etcd under its lease: who can read etcd may ask, nobody else,
and an answer comes from the node that was asked. With certificates for the writers' ports
(``storage.level.local.writer.network.tls``) both ends show them here, too.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.settings.local import WriterTlsSettings

if TYPE_CHECKING:
    from stream.storage.network.tls import Credentials

__all__ = ["Asking", "NodeFactory", "NodeUnavailable", "tls_credentials"]

_log = Logger(namespace="stream.rejected")

MAX_QUESTION_BYTES = 4 * 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_CONNECTIONS = 32
"""That wait for an answer at the same time."""
QUESTION_SECONDS = 10.0
"""For the greeting and the question."""
SILENCE_SECONDS = 60.0
"""For the answer, and for reading it."""

_NONCE_BYTES = 32
_PROOF_BYTES = 32

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class NodeUnavailable(Exception):
    """The node can't be asked, or doesn't answer."""


def tls_credentials(settings: WriterTlsSettings) -> Credentials | None:
    """The certificates of this node, if it has any. Blocks. Raises UserError."""
    if not (settings.certificate or settings.key or settings.ca):
        return None
    from stream.storage.network.tls import credentials  # it takes long to be imported

    return credentials(settings)


def _proof(end: bytes, secret: str, challenge: bytes, nonce: bytes, body: bytes) -> bytes:
    """The name of the end keeps one's proof from serving as the other's."""
    return hmac.digest(secret.encode(), b"%b,%b%b%b" % (end, challenge, nonce, body), "sha256")


class NodeConnection(Int32StringReceiver):
    """The source node's end."""

    factory: NodeFactory
    transport: Any
    MAX_LENGTH = MAX_QUESTION_BYTES

    def connectionMade(self) -> None:
        self._challenge = secrets.token_bytes(_NONCE_BYTES)
        self._answering: Deferred[None] | None = None
        self._impatience = self.factory.reactor.callLater(
            QUESTION_SECONDS, self.transport.abortConnection
        )
        if len(self.factory.connections) >= MAX_CONNECTIONS:
            self.transport.abortConnection()
            return
        self.factory.connections.add(self)
        self.sendString(self._challenge)

    def stringReceived(self, string: bytes) -> None:
        nonce, proof = string[:_NONCE_BYTES], string[_NONCE_BYTES : _NONCE_BYTES + _PROOF_BYTES]
        question = string[_NONCE_BYTES + _PROOF_BYTES :]
        expected = _proof(b"api", self.factory.secret, self._challenge, nonce, question)
        if self._answering is not None or not hmac.compare_digest(proof, expected):
            _log.warn(
                "refused a question about rejected records from {peer}",
                peer=getattr(self.transport.getPeer(), "host", "?"),
            )
            self.transport.abortConnection()
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
            body = orjson.dumps({"problem": f"the question can't be read: {error}"})
        proof = _proof(b"node", self.factory.secret, self._challenge, nonce, body)
        self.sendString(proof + body)
        self.transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("cannot answer for rejected records", failure)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.discard(self)
        if self._impatience.active():
            self._impatience.cancel()
        if self._answering is not None:
            self._answering.cancel()


class NodeFactory(Factory):
    """Makes the ends of a source node.

    :param secret: that callers know.
    :param answer: answers a question; may fail with UserError, OSError, ValueError or KeyError.
    """

    noisy = False

    def __init__(self, reactor: Any, secret: str, answer: Answer) -> None:
        self.reactor = reactor
        self.secret = secret
        self.answer = answer
        self.connections: set[NodeConnection] = set()

    def buildProtocol(self, addr: object) -> Any:
        connection = NodeConnection()
        connection.factory = self
        return connection

    def hang_up(self) -> None:
        """Cut the connections that are open."""
        for connection in tuple(self.connections):
            connection.transport.abortConnection()


class Asking(Int32StringReceiver):
    """The API's end: asks one question.

    :ivar done: fires with the answer; fails with `NodeUnavailable`.
    """

    transport: Any
    MAX_LENGTH = MAX_ANSWER_BYTES

    def __init__(self, secret: str, question: dict[str, Any]) -> None:
        self._secret = secret
        self._question = orjson.dumps(question)
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._challenge = b""
        self.done: Deferred[dict[str, Any]] = Deferred(lambda _: self._abort())

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()

    def stringReceived(self, string: bytes) -> None:
        if not self._challenge:
            self._challenge = string
            proof = _proof(b"api", self._secret, string, self._nonce, self._question)
            self.sendString(self._nonce + proof + self._question)
            return
        proof, body = string[:_PROOF_BYTES], string[_PROOF_BYTES:]
        expected = _proof(b"node", self._secret, self._challenge, self._nonce, body)
        if not hmac.compare_digest(proof, expected):
            self._end(NodeUnavailable("somebody else answers at its address"))
        else:
            plain = cast("dict[str, Any]", orjson.loads(body))
            if "answer" in plain:
                self._end(plain["answer"])
            else:
                self._end(NodeUnavailable(str(plain.get("problem"))))
        self.transport.loseConnection()

    def lengthLimitExceeded(self, length: int) -> None:
        self._end(NodeUnavailable(f"its answer has {length} bytes"))
        self.transport.abortConnection()

    def _end(self, result: Any) -> None:
        if self.done.called:
            return
        if isinstance(result, Exception):
            self.done.errback(result)
        else:
            self.done.callback(result)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(NodeUnavailable("the connection was closed"))
