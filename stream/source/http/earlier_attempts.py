"""Search for rows that earlier attempts of a request have stored on any node.

This process remembers the requests that it has answered itself. Any other request may repeat one
whose rows another source node, or an earlier life of this node, has stored. Therefore the writers
are asked, because they have the rows (`stream.storage.writer.requests`). One enquiry covers all
requests that arrive in one turn of the reactor.

Note [Number of the attempt]: a writer that doesn't answer may have rows of the request, so the
request is refused until the writer answers or its registration ends. The header
``Idempotency-Attempt`` may contain the number of the attempt. A first attempt doesn't wait for
unavailable writers, because no writer has any of its rows. A later attempt also waits for writers
whose registration has ended, as long as they may have rows from the time in which keys are
remembered. Without the header, requests don't wait for these writers: a lost writer must not stop
all clients that send keys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.python.failure import Failure

from stream.definition.key import SourceKey
from stream.source.turns import SHARES, overloaded
from stream.storage.network.interface import Enquiry, StoredRows, WriterUnavailable

__all__ = ["Away", "EarlierAttempts", "Enquirer"]

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Maximum total size of the bodies that wait for writers; each source has a share of it."""

_AT_ONCE = 1_000
_AWAY_SECONDS = 1.0


class Enquirer(Protocol):
    """Asks the writers of the cluster."""

    def __call__(
        self, enquiries: Sequence[Enquiry], /, *, are_first: bool
    ) -> Awaitable[list[list[StoredRows]]]:
        """Return the stored rows of each request, in the same order.

        :param are_first: whether all are first attempts; a writer that doesn't answer is then
            ignored.

        Raises WriterError if a writer doesn't answer, except for first attempts.
        """


Away = Callable[[Sequence[SourceKey]], Collection[str]]
"""Returns the volumes that may have rows of the sources, but whose writer is unavailable."""


@attrs.define(eq=False)
class _Asked:
    enquiry: Enquiry
    answer: Deferred[Sequence[StoredRows]]


class EarlierAttempts:
    """Asks the writers about the requests of one turn together.

    :param away: called only for later attempts, at most once a second for the same sources.
    """

    def __init__(self, reactor: Any, enquire: Enquirer, away: Away = lambda _: ()) -> None:
        self._reactor = reactor
        self._enquire = enquire
        self._away = away
        self._known_away: dict[tuple[SourceKey, ...], Collection[str]] = {}
        self._known_until = 0.0
        self._waiting: dict[bool, list[_Asked]] = {True: [], False: []}
        self._held: dict[tuple[int, str], int] = {}
        self._held_bytes = 0

    def ask(
        self, enquiry: Enquiry, sources: Sequence[SourceKey], attempt: int, size: int = 0
    ) -> Deferred[Sequence[StoredRows]]:
        """Return a Deferred of the stored rows of a request.

        It fails with WriterError if it is unknown which rows are stored, and with UserError (503)
        if too many bytes are waiting for writers.

        :param size: number of bytes that the request holds until the Deferred fires.
        :param attempt: number of the attempt, starting at 1; 0 if it is unknown.
        """
        away = self._volumes_away(tuple(sources)) if attempt > 1 else ()
        if away:
            return fail(
                WriterUnavailable(
                    f'the writer of the volume "{min(away)}", which may have rows of an earlier '
                    "attempt, is unavailable"
                )
            )
        owner = sources[0].project_id, sources[0].source_id
        own = self._held.get(owner, 0)
        if (own and own + size > MAX_WAITING_BYTES // SHARES) or (
            self._held_bytes and self._held_bytes + size > MAX_WAITING_BYTES
        ):
            return fail(overloaded("too many requests are waiting for writers"))
        is_first = attempt == 1
        waiting = self._waiting[is_first]
        if not waiting:
            self._reactor.callLater(0, self._ask_all, is_first)
        asked = _Asked(enquiry, Deferred())
        waiting.append(asked)
        self._held[owner] = own + size
        self._held_bytes += size

        def free(result: Any) -> Any:
            self._held_bytes -= size
            self._held[owner] -= size
            if not self._held[owner]:
                del self._held[owner]
            return result

        return asked.answer.addBoth(free)

    def _volumes_away(self, sources: tuple[SourceKey, ...]) -> Collection[str]:
        now = self._reactor.seconds()
        if now >= self._known_until:
            self._known_away.clear()
            self._known_until = now + _AWAY_SECONDS
        if sources not in self._known_away:
            self._known_away[sources] = self._away(sources)
        return self._known_away[sources]

    def _ask_all(self, are_first: bool) -> None:
        waiting, self._waiting[are_first] = self._waiting[are_first], []
        for start in range(0, len(waiting), _AT_ONCE):
            some = waiting[start : start + _AT_ONCE]
            asking = ensureDeferred(self._ask_some(some, are_first))
            asking.addErrback(_tell, some)

    async def _ask_some(self, asked: Sequence[_Asked], are_first: bool) -> None:
        found = await self._enquire([each.enquiry for each in asked], are_first=are_first)
        for each, stored in zip(asked, found, strict=True):
            each.answer.callback(stored)


def _tell(failure: Failure, asked: Sequence[_Asked]) -> None:
    for each in asked:
        each.answer.errback(failure)
