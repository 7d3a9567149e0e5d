"""What the listeners need of the rest of a source node.

Per record there is no Deferred, closure or timer: the request itself is told what became of it, so
a sink that commits records in groups keeps a list of requests and answers them in one loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.mapping.plan import Evaluated
from stream.mapping.render import Renderer
from stream.record.context import RecordContext

__all__ = ["IAnswer", "IDispatcher", "IRouter", "ISinkWriter"]


class IAnswer(Protocol):
    """One sink's answer to one request. Exactly one of the methods is called, once."""

    def stored(self) -> None:
        """The row is as durable as the sink's settings ask."""

    def accepted(self, status: int) -> None:
        """The sink doesn't wait, and says so with *status*."""

    def failed(self, error: Exception) -> None:
        """The row isn't acknowledged."""


class ISinkWriter(Protocol):
    """Where the records of one sink go."""

    def write(self, record: RecordContext, answer: IAnswer, /) -> int | None:
        """Render and take *record*.

        :returns: a status (202) if nothing is to be waited for and *answer* won't be called;
            ``None`` if *answer* will be.
        :raises UserError: not taken; *answer* won't be called.
        """

    def renderer(self, now_ms: int, /) -> Renderer:
        """What renders rows for `write_rows`.

        :param now_ms: milliseconds since the epoch.
        :raises UserError: the sink takes no records.
        """

    def evaluate(
        self, renderer: Renderer, records: Sequence[RecordContext], /
    ) -> Deferred[list[Evaluated]]:
        """What the engine says of *records*, for a renderer with a plan.

        Fails with UserError: not now.
        """

    def room(self) -> Deferred[None] | None:
        """``None`` if a record may come now; else fires when it may.

        It is asked by those who have many; single ones are refused if there is no room.
        """

    def write_rows(
        self, rows: bytes, count: int, received_at: int, renderer: Renderer, answer: IAnswer, /
    ) -> int | None:
        """Take *count* rendered rows, to be stored together or not at all.

        :param received_at: receive time of the records, milliseconds since the epoch.
        :param renderer: what rendered them.
        :returns: see `write`.
        :raises UserError: not taken; *answer* won't be called.
        """

    def rejected(self, record: RecordContext, error: UserError, /) -> None:
        """*record* of a batch couldn't be rendered, and the others were taken."""


class IDispatcher(Protocol):
    """Knows the sources of all projects."""

    def lookup(self, project_id: int, source_id: str, secret: str) -> tuple[SourceKey, ...]:
        """The enabled sources in all branches, sorted by branch id as text; at least one.

        :raises UserError: 404 ``noSourceFound`` or ``disabledSource``, 503 ``shutdown``.
        """

    def reads_text_as_json(self, sources: Sequence[SourceKey]) -> bool:
        """Whether one of *sources* takes bodies of plain text for JSON."""


class IRouter(Protocol):
    """Knows the sinks of all sources."""

    def eligible(self, source: SourceKey, signal: str) -> Sequence[tuple[str, ISinkWriter]]:
        """Ids and writers of the enabled sinks that take records of *signal* (empty for HTTP
        records), sorted by id.
        """
