"""A watch: a stream of lines, each a JSON document with changes.

A line may arrive in any number of pieces. The stream ends with the connection; the mirror opens the
next one from the revision after the last one seen.
"""

from __future__ import annotations

from base64 import b64decode
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import attrs
import orjson
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from stream.etcd.body import abort
from stream.etcd.errors import (
    Compacted,
    EtcdError,
    EtcdUnavailable,
    InvalidToken,
    TooManyChanges,
    error_from,
)
from stream.etcd.request import KeyValue, key_value

__all__ = ["Event", "LineSplitter", "WatchBatch", "WatchStream"]

MAX_LINE_BYTES = 64 * 1024 * 1024
_PAUSE_AT_BATCHES = 256
_PAUSE_AT_BYTES = 8 * 1024 * 1024


@attrs.frozen
class Event:
    """One event of a watch.

    :ivar kv: the new value, or ``None`` if the key was deleted.
    """

    key: str
    kv: KeyValue | None
    mod_revision: int


@attrs.frozen
class WatchBatch:
    """Changes that arrived together.

    After a batch, all changes up to `revision` are known. While a watch catches up, the revision in
    etcd's header is later than that of the changes. So the header's revision is used only in a
    message without changes (a progress notification).
    """

    revision: int
    events: tuple[Event, ...]


class LineTooLong(ValueError):
    """A line is longer than the limit."""


class LineSplitter:
    """Splits a stream of bytes into lines.

    Raises LineTooLong: a line is longer than the limit.
    """

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes, without their line endings."""
        head, separator, rest = data.partition(b"\n")
        if not separator:
            self._keep(data)
            return []
        lines = [b"".join([*self._pieces, head])]
        self._pieces, self._size = [], 0
        *complete, last = rest.split(b"\n")
        self._keep(last)
        return [line for line in [*lines, *complete] if line.strip()]

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > self._limit:
                raise LineTooLong(f"a line is longer than {self._limit} bytes")


class WatchStream(Protocol):
    """Receives the body of a watch; `next` returns the batches in order.

    :param seconds: returns the current time.

    :ivar heard_at: the time at which etcd last sent something.
    :ivar created: Deferred that fires when etcd has accepted the watch.
    """

    def __init__(self, namespace: str, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self.heard_at = seconds()
        self.created: Deferred[None] = Deferred()
        self._is_created = False
        self._namespace = namespace
        self._splitter = LineSplitter()
        self._batches: deque[tuple[WatchBatch, int]] = deque()
        self._waiting_bytes = 0
        self._waiting: Deferred[WatchBatch] | None = None
        self._problem: EtcdError | None = None
        self._paused = False

    def next(self) -> Deferred[WatchBatch]:
        """Return the next batch of events.

        When the stream has ended, the Deferred fails with `Compacted`, `EtcdUnavailable` or another
        error.
        """
        if self._batches:
            batch, size = self._batches.popleft()
            self._waiting_bytes -= size
            self._resume()
            return succeed(batch)
        self._waiting = Deferred(lambda _: self._forget())
        if self._problem is not None:
            waiting, self._waiting = self._waiting, None
            waiting.errback(self._problem)
            return waiting
        return self._waiting

    def _forget(self) -> None:
        self._waiting = None

    def cancel(self) -> None:
        """Cancel the watch; it ends at once, whether or not etcd can be reached."""
        if self.transport is not None:
            abort(self.transport)
        self._end(EtcdUnavailable("the watch was cancelled"))

    def dataReceived(self, data: bytes) -> None:
        self.heard_at = self._seconds()
        try:
            for line in self._splitter.feed(data):
                self._line(orjson.loads(line), len(line))
        except LineTooLong as error:
            # A new watch would return the same changes, but a full read is paged.
            self._end(TooManyChanges(str(error)))
            self.cancel()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._end(EtcdUnavailable(f"unreadable watch: {error}"))
            self.cancel()

    def _line(self, answer: dict[str, Any], size: int) -> None:
        if "error" in answer:
            problem = answer["error"]
            self._end(error_from(int(problem.get("grpc_code", 2)), str(problem.get("message"))))
            return
        result = answer["result"]
        if result.get("canceled"):
            self._canceled(result)
            return
        if result.get("created") and not self._is_created:
            self._is_created = True
            self.created.callback(None)
        revision = int(result["header"]["revision"])
        events = tuple(self._event(event) for event in result.get("events", ()))
        if events or not result.get("created"):
            reached = max((event.mod_revision for event in events), default=revision)
            self._deliver(WatchBatch(reached, events), size)

    def _canceled(self, result: dict[str, Any]) -> None:
        compacted = int(result.get("compact_revision", 0))
        reason = str(result.get("cancel_reason", "cancelled by etcd"))
        if compacted:
            self._end(Compacted(reason))
        elif not self._is_created and "permission denied" in reason:
            self._end(InvalidToken(reason))  # etcd's only indication of an unknown token.
        else:
            self._end(error_from(2, reason))

    def _event(self, event: dict[str, Any]) -> Event:
        kv = event["kv"]
        if event.get("type") == "DELETE":
            key = b64decode(kv["key"]).decode().removeprefix(self._namespace)
            return Event(key, None, int(kv["mod_revision"]))
        found = key_value(kv, self._namespace)
        return Event(found.key, found, found.mod_revision)

    def _deliver(self, batch: WatchBatch, size: int) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(batch)
            return
        self._batches.append((batch, size))
        self._waiting_bytes += size
        if not self._paused and (
            len(self._batches) >= _PAUSE_AT_BATCHES or self._waiting_bytes >= _PAUSE_AT_BYTES
        ):
            self._paused = True
            self._producer().pauseProducing()

    def _resume(self) -> None:
        if (
            self._paused
            and len(self._batches) <= _PAUSE_AT_BATCHES // 4
            and self._waiting_bytes <= _PAUSE_AT_BYTES // 4
        ):
            self._paused = False
            self._producer().resumeProducing()

    def _producer(self) -> IPushProducer:
        return cast(IPushProducer, self.transport)

    def _end(self, problem: EtcdError) -> None:
        self._problem = self._problem or problem
        if not self._is_created:
            self._is_created = True
            self.created.errback(self._problem)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.errback(self._problem)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(EtcdUnavailable(f"the watch was cut: {reason.getErrorMessage()}"))
