"""The interfaces between the listeners and the rest of a source node.

Per record there is no Deferred, closure or timer: the request itself is the completion that a sink
calls, so a sink that commits records in groups keeps a list of requests and answers them in a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.mapping.plan import Evaluated
from stream.mapping.render import Renderer
from stream.record.context import RecordContext
from stream.sink.outcome import Completion

if TYPE_CHECKING:
    from stream.native import RowPlan

__all__ = ["DirectWriter", "RowWriter", "SinkLookup", "SinkWriter", "SourceLookup"]


class RowWriter(Protocol):
    """An opened sink, for those who render rows on their own: batches."""

    def renderer(self) -> Renderer:
        """What renders rows for `write_rows`.

        Raises UserError: the sink takes no records.
        """

    def evaluate(
        self, renderer: Renderer, records: Sequence[RecordContext], /
    ) -> Deferred[list[Evaluated]]:
        """What the engine says of *records*, for a renderer with a plan.

        Fails with UserError: not now.
        """

    def room(self, record: RecordContext | None = None, /) -> Deferred[None] | None:
        """``None`` if a record may come now; else fires when it may.

        It is asked by those who have many or large ones, which are held anyway; small single ones
        are refused if there is no room.

        :param record: the one that is to come; by default a small one.
        """

    def write_rows(
        self,
        rows: bytes,
        count: int,
        received_at: int,
        renderer: Renderer,
        completion: Completion,
        /,
    ) -> None:
        """Take *count* rendered rows, to be stored together or not at all.

        Raises UserError: not taken; *completion* won't be called.

        :param received_at: receive time of the records, milliseconds since the epoch.
        :param renderer: what rendered them.
        """

    def rejected(self, record: RecordContext, error: UserError, /) -> None:
        """*record* of a batch couldn't be rendered, and the others were taken."""


class DirectWriter(Protocol):
    """An open slice of a sink whose rows are rendered by compiled code, for the present turn."""

    @property
    def plan(self) -> RowPlan:
        """The compiled renderer of the rows."""

    @property
    def room(self) -> int:
        """Bytes of rows that may be written."""

    def write(self, rows: bytes, count: int, received_at: int, completion: Completion, /) -> None:
        """Take *count* rendered rows, to be stored together or not at all.

        Raises UserError: not taken; *completion* won't be called.

        :param received_at: receive time of the records, milliseconds since the epoch.
        """


class SinkWriter(Protocol):
    """One sink: where its records go, whether it is open or not.

    :ivar opened: what was opened last; ``None`` before the first record.
    """

    @property
    def opened(self) -> RowWriter | None:
        """The writer of rows if a slice is open now; ``None`` if it must be waited for."""

    def write(self, record: RecordContext, completion: Completion, /) -> None:
        """Render and take *record*; *completion* is called, at once or later. Raises nothing."""

    def direct(self) -> DirectWriter | None:
        """Return what takes rows without a wait now, ``None`` if `write` has to be called."""

    def open(self, now_ms: int, /) -> RowWriter:
        """The opened sink, to be asked for again after each wait: another one may have replaced it.

        Raises UserError: the sink takes no records.

        :param now_ms: milliseconds since the epoch.
        """


class SourceLookup(Protocol):
    """Knows the sources of all projects."""

    def lookup(self, project_id: int, source_id: str, secret: str) -> tuple[SourceKey, ...]:
        """The enabled sources in all branches, sorted by branch id as text; at least one.

        Raises UserError: 404 ``noSourceFound`` or ``disabledSource``, 503 ``shutdown``.
        """

    def reads_text_as_json(self, sources: Sequence[SourceKey]) -> bool:
        """Whether one of *sources* takes bodies of plain text for JSON."""


class SinkLookup(Protocol):
    """Knows the sinks of all sources."""

    def eligible(self, source: SourceKey, signal: str) -> Sequence[tuple[str, SinkWriter]]:
        """Ids and writers of the enabled sinks that take records of *signal*, sorted by id.

        :param signal: of an OTLP record; empty for HTTP records.
        """
