"""A writer's index of requests with idempotency keys whose rows are on its volumes.

Note [One attempt]: before a source node writes the rows of such a request, it asks every writer
whether they are stored. Each writer records which attempt was the last to ask, and from then on
accepts rows of the request only from this attempt. So an earlier attempt, on another node or in an
earlier life of the same node, writes nothing after the answer, however long it was paused and
however late its bytes arrive. The writer waits for appends of the request that are in progress, so
the answer is final.

Note [Cuts]: a source node that lost its file opens it again, has the unacknowledged data cut off,
and sends that data again. But in between, another attempt may have been answered that exactly these
rows are stored. In this case nothing is cut: the opening fails with `Superseded`, and the producers
must repeat their requests to learn the outcome. This applies even if the request has been forgotten
in the meantime.

Note [Restart]: the marks are in the files, so a writer that starts reads the marks of the latest
files again. It doesn't know which attempts have asked its previous life, so it accepts no marked
rows of a request before an attempt has asked. A source node that sends such rows again after the
restart is refused, and its producers retry.

Each source has a share of the remembered requests; see Note [Shares] of
`stream.values.shared_keys`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from stream.concurrency.waiters import Waiters
from stream.definition.key import SinkKey
from stream.storage.model.marks import Mark, source_digest
from stream.storage.network.interface import UNKNOWN_OWNER, Enquiry, StoredRows, Superseded
from stream.values.shared_keys import Owner, SharedKeys

__all__ = ["DEFAULT_KEYS", "DEFAULT_SECONDS", "Requests", "settled"]

DEFAULT_SECONDS = 600.0
DEFAULT_KEYS = 100_000

_MAX_FILES = 10_000
"""Maximum number of files whose rows of forgotten requests aren't cut off."""


@attrs.define(eq=False)
class _Rows:
    """Rows of a request in one file.

    :ivar end: file offset at which their group ends.
    :ivar appending: callers that wait until the append has ended; ``None`` once the rows are
        stored.
    """

    sink: SinkKey
    file: str
    end: int
    mark: Mark
    appending: Waiters[None] | None = None


@attrs.define(eq=False)
class _Request:
    """A remembered request.

    :ivar attempt: the attempt that was the last to ask, and which alone may write; empty if none
        has asked.
    :ivar until: when the request is forgotten.
    :ivar owner: the project, and the digest of the source.
    """

    until: float
    owner: Owner
    attempt: bytes = b""
    rows: list[_Rows] = attrs.Factory(list)


class Requests:
    """The requests with idempotency keys that this node has rows of or was asked about.

    :param seconds: how long a request is remembered.
    :param max_keys: maximum number of remembered requests.
    :param clock: the reactor's clock.
    """

    def __init__(self, seconds: float, max_keys: int, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self.max_keys = max_keys
        self._clock = clock
        self._requests: OrderedDict[bytes, _Request] = OrderedDict()
        self._keys: SharedKeys[bytes] = SharedKeys(max_keys)
        self._files: dict[str, dict[_Rows, None]] = {}
        self._uncut: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    async def enquire(self, enquiries: Sequence[Enquiry]) -> list[list[StoredRows]]:
        """Return the stored rows of the request of each enquiry; see Note [One attempt]."""
        asked = [self._latest(each) for each in enquiries]
        waiting = [
            rows.appending.wait()
            for request in asked
            for rows in request.rows
            if rows.appending is not None
        ]
        if waiting:
            await DeferredList(waiting)
        return [
            [
                StoredRows(rows.sink, rows.mark.content)
                for rows in request.rows
                if rows.appending is None
            ]
            for request in asked
        ]

    def _latest(self, enquiry: Enquiry) -> _Request:
        request = self._of(enquiry.key, enquiry.owner)
        request.attempt = enquiry.attempt
        return request

    def _of(self, key: bytes, owner: Owner) -> _Request:
        """Return the request with *key*, remembered for the full time from now on."""
        now = self._clock()
        while self._requests and next(iter(self._requests.values())).until <= now:
            self._forget(next(iter(self._requests)))
        request = self._requests.pop(key, None)
        if request is None:
            request = _Request(0.0, owner)
        else:
            self._keys.remove(request.owner, key)
            if owner != UNKNOWN_OWNER:
                request.owner = owner
        request.until = now + self.seconds
        self._requests[key] = request
        self._keys.add(request.owner, key)
        for surplus in self._keys.surplus():
            self._forget(surplus)
        return request

    def _forget(self, key: bytes) -> None:
        request = self._requests.pop(key)
        self._keys.remove(request.owner, key)
        for rows in request.rows:
            if rows.mark.attempt != request.attempt:
                self._keep(rows)
            self._remove(rows)

    def _keep(self, rows: _Rows) -> None:
        """Remember that *rows* must not be cut off, although their request is forgotten.

        See Note [Cuts].
        """
        self._uncut[rows.file] = max(self._uncut.get(rows.file, 0), rows.end)
        self._uncut.move_to_end(rows.file)
        if len(self._uncut) > _MAX_FILES:
            self._uncut.popitem(last=False)

    def _remove(self, rows: _Rows) -> None:
        of_file = self._files.get(rows.file, {})
        of_file.pop(rows, None)
        if not of_file:
            self._files.pop(rows.file, None)

    # Files.

    def appending(
        self, file: str, sink: SinkKey, end: int, marks: Iterable[Mark]
    ) -> Callable[[bool], None]:
        """Record rows that are being appended; the caller calls the result when the append ends.

        Raises Superseded: one of *marks* isn't from the attempt that was the last to ask.
        """
        marks = tuple(marks)
        superseded = frozenset(mark.key for mark in marks if not self._is_latest(mark))
        if superseded:
            raise Superseded(
                "another attempt of a request may have been made in the meantime", superseded
            )
        noted = [self._note(file, sink, end, mark, Waiters()) for mark in marks]

        def ended(is_stored: bool) -> None:
            for rows in noted:
                waiting, rows.appending = rows.appending, None
                if not is_stored:
                    self._drop(rows)
                if waiting is not None:
                    waiting.fire(None)

        return ended

    def _is_latest(self, mark: Mark) -> bool:
        request = self._requests.get(mark.key)
        return request is not None and request.attempt == mark.attempt

    def found(self, file: str, sink: SinkKey, end: int, marks: Iterable[Mark]) -> None:
        """Record rows that a file already contains; see Note [Restart]."""
        for mark in marks:
            self._note(file, sink, end, mark, None)

    def _note(
        self, file: str, sink: SinkKey, end: int, mark: Mark, appending: Waiters[None] | None
    ) -> _Rows:
        request = self._of(mark.key, (sink.project_id, source_digest(sink.source_id)))
        rows = _Rows(sink, file, end, mark, appending)
        request.rows.append(rows)
        self._files.setdefault(file, {})[rows] = None
        return rows

    def _drop(self, rows: _Rows) -> None:
        self._remove(rows)
        request = self._requests.get(rows.mark.key)
        if request is not None and rows in request.rows:
            request.rows.remove(rows)

    def cut(self, file: str, length: int) -> None:
        """Check and record that a file is about to be truncated to *length* bytes.

        Raises Superseded: it must not be truncated; see Note [Cuts].
        """
        lost = [rows for rows in self._files.get(file, ()) if rows.end > length]
        if self._uncut.get(file, 0) > length:
            raise Superseded("another attempt of a request may rely on rows in the file")
        for rows in lost:
            if not self._is_latest(rows.mark):
                raise Superseded("another attempt of a request may rely on rows in the file")
        for rows in lost:
            self._drop(rows)


def settled(appended: Deferred[int], ended: Callable[[bool], None]) -> Deferred[int]:
    """Notify *ended* when *appended* succeeds or fails."""

    def stored(end: int) -> int:
        ended(True)
        return end

    def failed(failure: Failure) -> Failure:
        ended(False)
        return failure

    return appended.addCallbacks(stored, failed)
