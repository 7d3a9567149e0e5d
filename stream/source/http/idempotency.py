"""Idempotency keys, by which a repeated request is answered again but not written again.

If a producer gets no answer, because of a broken connection or a timeout, it can't know whether its
records were stored. If all attempts have the same ``Idempotency-Key``, only the first one is
executed, and the others get its answer, even while the first one is in progress.

Each process has its own memory, which is limited in time, in the number of keys, and in the size of
the remembered answers. Attempts that reach another node, or this node after a restart, are
recognized by the marks that the writers have (`stream.source.http.earlier_attempts`). Only success
is remembered; a failed request may be tried again under the same key.

Note [Some of several sinks]: after a failed attempt, the sinks that nevertheless stored their rows
are remembered. The next attempt skips these sinks, so it writes only missing rows.

Each source has a share of the memory: see Note [Shares] of `stream.values.shared_keys`.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, cast

import attrs

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.mapping.render import Renderer
from stream.record.context import RecordContext
from stream.sink.outcome import PROCESSED, Completion
from stream.source.http import responses
from stream.source.http.batch_completion import BatchCompletion
from stream.source.http.completions import Connection, FanOutCompletion, Targets
from stream.source.interfaces import RowWriter, SinkWriter
from stream.storage.model.marks import (
    ATTEMPT_BYTES,
    Mark,
    content_digest,
    key_digest,
    source_digest,
)
from stream.storage.network.interface import Enquiry, StoredRows
from stream.values.shared_keys import SharedKeys

__all__ = ["Attempt", "IdempotencyWindow", "fingerprint_of"]

MAX_ANSWER_BYTES = 64 * 1024
"""Maximum size of a remembered answer; a larger one is replaced by a plain ``OK``."""

MAX_REMEMBERED_BYTES = 64 * 1024 * 1024

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")

_TAKEN_BYTES = 200
"""Size that is counted for a remembered sink."""

Scope = tuple[int, str, bytes]
"""A project, a source and an idempotency key."""

Place = tuple[SourceKey, str]
"""A source in one branch, and one of its sinks."""


def fingerprint_of(content_type: str, body: bytes) -> bytes:
    """Return the digest that distinguishes requests with different contents.

    :param body: decoded body, because a client may compress it differently for each attempt.
    """
    digest = blake2b(content_type.strip().lower().encode(), digest_size=16)
    digest.update(b"\n")
    digest.update(body)
    return digest.digest()


@attrs.frozen
class _Stored:
    """The remembered state of a request.

    :ivar answer: answer of the successful attempt; empty if there is none yet.
    :ivar until: time at which the state is removed.
    :ivar fingerprint: digest of the request's content.
    :ivar taken: sinks that have stored their rows; see `Attempt`.
    """

    answer: bytes
    until: float
    fingerprint: bytes
    taken: Mapping[Place, int] = attrs.field(factory=dict)

    @property
    def size(self) -> int:
        """The number of bytes that count against the limit."""
        return len(self.answer) + _TAKEN_BYTES * len(self.taken)


class _RepeatedSink:
    """A sink for a request that may be repeated; its rows get a mark, or are already stored.

    :param status: status with which the sink accepted the rows of an earlier attempt; ``None`` if
        it hasn't. See Note [Some of several sinks].
    """

    def __init__(self, sink: SinkWriter, mark: Mark | None, status: int | None) -> None:
        self._sink = sink
        self._mark = mark
        self._status = status

    @property
    def opened(self) -> RowWriter | None:
        """Return the writer of an open slice; see `SinkWriter`."""
        opened = self._sink.opened
        return None if opened is None else self._rows(opened)

    def open(self, now_ms: int, /) -> RowWriter:
        """Return the opened sink; see `SinkWriter`."""
        return self._rows(self._sink.open(now_ms))

    def _rows(self, opened: RowWriter) -> RowWriter:
        return cast(RowWriter, _RepeatedRows(opened, self._mark, self._status))

    def write(
        self, record: RecordContext, completion: Completion, mark: Mark | None = None, /
    ) -> None:
        """Write the row, or report again that it was stored."""
        if self._status is None:
            self._sink.write(record, completion, self._mark)
        else:
            completion.accepted(self._status)

    def direct(self) -> None:
        """Return ``None``, because such rows take the general path."""


class _RepeatedRows:
    """The writer of a batch's rows for a request that may be repeated."""

    def __init__(self, opened: RowWriter, mark: Mark | None, status: int | None) -> None:
        self._opened = opened
        self._mark = mark
        self._status = status

    def write_rows(
        self,
        rows: bytes,
        count: int,
        received_at: int,
        renderer: Renderer,
        completion: Completion,
        mark: Mark | None = None,
        /,
    ) -> None:
        """Write the rows, or report again that they were stored."""
        if self._status is None:
            self._opened.write_rows(rows, count, received_at, renderer, completion, self._mark)
        else:
            completion.accepted(self._status)

    def rejected(self, record: RecordContext, error: UserError, /) -> None:
        """Report a rejected record, unless an earlier attempt has already reported it."""
        if self._status is None:
            self._opened.rejected(record, error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)


class Attempt:
    """The attempt that is executed; to its completion it is the connection of the request.

    :ivar pending: see `stream.source.http.completions.Connection`.
    :ivar fingerprint: digest of the request's content.
    :ivar taken: sinks that have stored their rows, with the statuses of their answers.
    :ivar mark: mark that is stored with the rows; ``None`` if writers aren't asked.
    """

    def __init__(
        self,
        window: IdempotencyWindow,
        scope: Scope,
        fingerprint: bytes,
        taken: Mapping[Place, int],
    ) -> None:
        self.taken: dict[Place, int] = dict(taken)
        self.mark: Mark | None = None
        self.pending: object = None
        self.peer_ip = ""
        self.fingerprint = fingerprint
        self._window = window
        self._scope = scope
        self._waiting: list[Connection] = []

    def join(self, connection: Connection) -> None:
        """Register *connection* to get the same answer."""
        connection.pending = self
        self._waiting.append(connection)

    def missing(self, targets: Targets) -> Targets:
        """Return *targets*; sinks that have all rows are replaced by sinks that write nothing."""
        if not self.taken and self.mark is None:
            return targets
        return tuple(
            (source, [(sink_id, self._or_stored(source, sink_id, sink)) for sink_id, sink in sinks])
            for source, sinks in targets
        )

    def _or_stored(self, source: SourceKey, sink_id: str, sink: SinkWriter) -> SinkWriter:
        status = self.taken.get((source, sink_id))
        if status is None and self.mark is None:
            return sink
        return _RepeatedSink(sink, self.mark, status)

    def enquiry(self) -> Enquiry:
        """Return the enquiry about earlier attempts; from now on rows are stored with a mark."""
        self.mark = Mark(
            key_digest(*self._scope),
            content_digest(self.fingerprint),
            secrets.token_bytes(ATTEMPT_BYTES),
        )
        project_id, source_id, _ = self._scope
        return Enquiry(self.mark.key, self.mark.attempt, (project_id, source_digest(source_id)))

    def found(self, stored: Iterable[StoredRows]) -> None:
        """Record what earlier attempts have stored.

        Raises UserError: 422, because an earlier attempt had another content.
        """
        for rows in stored:
            if (rows.sink.project_id, rows.sink.source_id) != self._scope[:2]:
                continue  # the writer read this mark from a file, which may have marks of others
            if self.mark is not None and rows.content != self.mark.content:
                raise _key_reused()
            self.taken[(rows.sink.source_key, rows.sink.sink_id)] = PROCESSED

    def finish(self, answer: bytes) -> None:
        """Answer all waiting connections."""
        if isinstance(self.pending, FanOutCompletion | BatchCompletion):
            for source, completions in self.pending.sources:
                for sink in completions:
                    if sink.status and sink.error is None:
                        self.taken[(source, sink.sink_id)] = sink.status
        self.pending = None
        self._window.settle(self._scope, self, answer)
        waiting, self._waiting = self._waiting, []
        for position, connection in enumerate(waiting):
            if connection.pending is self:
                connection.finish(answer if position == 0 else responses.replayed(answer))


def _key_reused() -> UserError:
    return UserError(
        "the idempotency key was already used with a different body",
        status=422,
        name="idempotencyKeyReused",
    )


class IdempotencyWindow:
    """Remembers the requests of all sources.

    :param seconds: how long a key is remembered, in seconds.
    :param max_keys: maximum number of keys.
    """

    def __init__(self, seconds: float, max_keys: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._running: dict[Scope, Attempt] = {}
        self._stored: OrderedDict[Scope, _Stored] = OrderedDict()  # oldest first
        self._keys: SharedKeys[Scope] = SharedKeys(max_keys, MAX_REMEMBERED_BYTES)

    def __len__(self) -> int:
        return len(self._stored)

    def begin(
        self,
        project_id: int,
        source_id: str,
        key: bytes,
        fingerprint: bytes,
        connection: Connection,
    ) -> bytes | Attempt | None:
        """Decide how to answer a request.

        Raises UserError: 400 for an invalid key, 422 for a key that was used with another body.

        :param fingerprint: see `fingerprint_of`.
        :returns: the answer if there is already one; an `Attempt` if the request is to be executed;
            ``None`` if another attempt will answer it.
        """
        if _KEY.fullmatch(key) is None:
            raise UserError("an idempotency key must have 1 to 255 visible ASCII characters")
        scope = (project_id, source_id, key)
        self._forget_old()
        stored = self._stored.get(scope)
        running = self._running.get(scope)
        earlier = stored or running
        if earlier is not None and earlier.fingerprint != fingerprint:
            raise _key_reused()
        if stored is not None and stored.answer:
            return responses.replayed(stored.answer)
        if running is not None:
            running.join(connection)
            return None
        taken = stored.taken if stored is not None else {}
        attempt = self._running[scope] = Attempt(self, scope, fingerprint, taken)
        attempt.join(connection)
        attempt.peer_ip = connection.peer_ip
        return attempt

    def settle(self, scope: Scope, attempt: Attempt, answer: bytes) -> None:
        """Remember the answer of the attempt."""
        self._running.pop(scope, None)
        until = self._clock() + self._seconds
        if responses.is_success(answer):
            if len(answer) > MAX_ANSWER_BYTES:
                answer = responses.OK
            stored = _Stored(answer, until, attempt.fingerprint)
        elif attempt.taken:
            stored = _Stored(b"", until, attempt.fingerprint, attempt.taken)
        else:
            return
        if scope in self._stored:
            self._forget(scope)
        self._stored[scope] = stored
        self._keys.add(scope[:2], scope, stored.size)
        self._forget_old()
        while surplus := self._keys.surplus():
            for each in surplus:
                self._forget(each)

    def _forget_old(self) -> None:
        now = self._clock()
        while self._stored:
            scope, oldest = next(iter(self._stored.items()))
            if oldest.until > now:
                return
            self._forget(scope)

    def _forget(self, scope: Scope) -> None:
        del self._stored[scope]
        self._keys.remove(scope[:2], scope)
