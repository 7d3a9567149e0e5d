"""Decompression of bodies; large bodies are decompressed in separate threads.

Small bodies are decoded immediately. Of the large bodies, only a few are decoded concurrently,
alternating between sources; the others are queued compressed. So a source with expensive bodies
delays only itself, and a decoded body is in memory only while it is processed
(`stream.source.turns`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.errors import UserError, without_frames
from stream.record.encoding import Abandoned, content_codings, decode_body
from stream.record.errors import BodyTooLarge
from stream.source.http.completions import Waited
from stream.source.turns import SHARES, Turns, overloaded

__all__ = ["INLINE_BYTES", "MAX_WAITING_BYTES", "THREADS", "Decoder"]

_log = Logger(namespace="http-source")

INLINE_BYTES = 8 * 1024
"""A compressed body up to this size is decoded immediately, because a thread would cost more."""

INLINE_DECODED_BYTES = 256 * 1024
"""Decoded size above which decoding continues in a thread."""

THREADS = 2
"""Number of decoding threads."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Maximum total size of queued compressed bodies; requests beyond it get 503."""


_Decoded = bytes | UserError | Abandoned


@attrs.frozen(eq=False)
class _Body:
    key: Hashable
    encoding: bytes
    data: bytes
    is_wanted: Callable[[], bool]
    decoded: Deferred[bytes] = attrs.field(factory=Deferred)


class Decoder:
    """The decompression of request bodies, in threads if they are large.

    :param pool: thread pool with `THREADS` threads.
    :param turns: queue for the work on decoded bodies.

    :ivar limit: maximum size of a decoded body in bytes.
    """

    def __init__(self, limit: int, reactor: Any, pool: ThreadPool, turns: Turns) -> None:
        self.limit = limit
        self._reactor = reactor
        self._pool = pool
        self._turns = turns
        self._queues: OrderedDict[Hashable, deque[_Body]] = OrderedDict()
        self._waiting: dict[Hashable, int] = {}
        self._waiting_bytes = 0
        self._running = 0
        turns.ended = self._start

    def decode(
        self,
        key: Hashable,
        encoding: bytes,
        body: bytes,
        waited: Waited,
        take: Callable[[bytes], None],
        failed: Callable[[Failure], bytes],
    ) -> None:
        """Decode *body* and pass it on, immediately or later.

        Raises UserError: the body can't be decoded, and this is known immediately; 503 if the queue
        is full.

        :param key: the source, for fair scheduling.
        :param waited: the pending answer; if the client has disconnected, the body isn't decoded.
        :param take: called with the decoded body.
        :param failed: returns the answer if decoding or *take* fails later.
        """
        content_codings(encoding)
        if len(body) <= INLINE_BYTES:
            small = self._decode_small(encoding, body)
            if small is not None:
                take(small)
                return
        self._check_room(key, len(body))

        def decoded(data: bytes) -> None:
            if waited.is_pending:
                take(data)

        def fail(failure: Failure) -> None:
            if failure.check(Abandoned) is None:
                waited.finish(failed(failure))

        decoding = _Body(key, encoding, body, lambda: waited.is_pending)
        decoding.decoded.addCallback(decoded).addErrback(fail).addErrback(
            lambda failure: _log.failure("cannot answer a request", failure)
        )
        self._queues.setdefault(key, deque()).append(decoding)
        self._waiting[key] = self._waiting.get(key, 0) + len(body)
        self._waiting_bytes += len(body)
        self._start()

    def _decode_small(self, encoding: bytes, body: bytes) -> bytes | None:
        """Return the decoded body; ``None`` if it isn't small. Raises UserError."""
        try:
            return decode_body(encoding, body, min(self.limit, INLINE_DECODED_BYTES))
        except BodyTooLarge:
            if self.limit <= INLINE_DECODED_BYTES:
                raise
            return None

    def _check_room(self, key: Hashable, size: int) -> None:
        """Check that the queue has room; a single body is always accepted. Raises UserError."""
        own = self._waiting.get(key, 0)
        if (own and own + size > MAX_WAITING_BYTES // SHARES) or (
            self._waiting_bytes and self._waiting_bytes + size > MAX_WAITING_BYTES
        ):
            raise overloaded("too many compressed bodies at once")

    def _start(self) -> None:
        """Start decoding as many bodies as allowed."""
        while self._queues and self._running < THREADS and not self._turns.is_full:
            key = next(iter(self._queues))
            self._queues.move_to_end(key)
            body = self._queues[key].popleft()
            if not self._queues[key]:
                del self._queues[key]
            self._waiting_bytes -= len(body.data)
            self._waiting[key] -= len(body.data)
            if not self._waiting[key]:
                del self._waiting[key]
            if body.is_wanted():
                self._running += 1
                running: Deferred[_Decoded] = deferToThreadPool(
                    self._reactor,
                    self._pool,
                    _decode,
                    body.encoding,
                    body.data,
                    self.limit,
                    body.is_wanted,
                )
                running.addBoth(self._decoded, body)

    def _decoded(self, result: _Decoded | Failure, body: _Body) -> None:
        self._running -= 1
        if isinstance(result, bytes):
            body.decoded.callback(result)
        else:
            body.decoded.errback(result)
        self._start()


def _decode(encoding: bytes, body: bytes, limit: int, is_wanted: Callable[[], bool]) -> _Decoded:
    """Return the result or the exception of `decode_body`.

    An exception raised in a thread would be kept, with its frames, until the next garbage
    collection. For each refused body, that would keep a megabyte of a zstd decoder.
    """
    try:
        return decode_body(encoding, body, limit, is_wanted)
    except (UserError, Abandoned) as error:
        return without_frames(error)
