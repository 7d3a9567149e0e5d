"""The interfaces between the listeners and the rest of a source node.

A record needs no Deferred, closure or timer. The request itself is the completion that a sink
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
from stream.storage.model.marks import Mark

if TYPE_CHECKING:
    from stream.native import RowPlan

__all__ = ["DirectWriter", "RowWriter", "SinkLookup", "SinkWriter", "SourceLookup"]


class RowWriter(Protocol):
    """An opened sink, for callers that render rows themselves, such as batches."""

    def renderer(self) -> Renderer:
        """Return the renderer for `write_rows`.

        Raises UserError: the sink accepts no records.
        """

    def evaluate(
        self, renderer: Renderer, records: Sequence[RecordContext], /
    ) -> Deferred[list[Evaluated]]:
        """Return the engine's results for *records*, for a renderer that has a plan.

        The Deferred fails with UserError if the engine is unavailable.
        """

    def room(self, record: RecordContext | None = None, /) -> Deferred[None] | None:
        """Return ``None`` if a record is accepted now; otherwise a Deferred that fires when it is.

        Callers with many or large records, which are in memory anyway, use it. Small single records
        are refused if there is no room.

        :param record: the next record; by default a small one.
        """

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
        """Write *count* rendered rows, to be stored together or not at all.

        Raises UserError: the rows aren't accepted; *completion* isn't called.

        :param received_at: receive time of the records, milliseconds since the epoch.
        :param renderer: renderer that has rendered the rows.
        :param mark: mark of the request, if it has an idempotency key.
        """

    def rejected(self, record: RecordContext, error: UserError, /) -> None:
        """Handle a *record* of an accepted batch that couldn't be rendered."""


class DirectWriter(Protocol):
    """An open slice of a sink, in the current turn, whose rows compiled code renders."""

    @property
    def plan(self) -> RowPlan:
        """The compiled renderer of the rows."""

    @property
    def room(self) -> int:
        """The number of bytes that may still be written."""

    @property
    def slice_id(self) -> int:
        """The ID of the slice in this turn; writers of the same slice share its room."""

    def write(self, rows: bytes, count: int, received_at: int, completion: Completion, /) -> None:
        """Write *count* rendered rows, to be stored together or not at all.

        Raises UserError: the rows aren't accepted; *completion* isn't called.

        :param received_at: receive time of the records, milliseconds since the epoch.
        """


class SinkWriter(Protocol):
    """One sink as the destination of records, open or not.

    :ivar opened: the writer that was last opened; ``None`` before the first record.
    """

    @property
    def opened(self) -> RowWriter | None:
        """The writer of rows; ``None`` if no slice is open now."""

    def write(
        self, record: RecordContext, completion: Completion, mark: Mark | None = None, /
    ) -> None:
        """Render and write *record*; call *completion*, immediately or later. Never raises."""

    def direct(self) -> DirectWriter | None:
        """Return a writer that accepts rows without waiting; ``None`` if there is none."""

    def open(self, now_ms: int, /) -> RowWriter:
        """Return the opened sink. Call this again after each wait, because it may be replaced.

        Raises UserError: the sink accepts no records.

        :param now_ms: milliseconds since the epoch.
        """


class SourceLookup(Protocol):
    """The lookup of the sources of all projects."""

    def lookup(self, project_id: int, source_id: str, secret: str) -> tuple[SourceKey, ...]:
        """Return the enabled sources in all branches, at least one, sorted by branch ID as text.

        Raises UserError: 404 ``noSourceFound`` or ``disabledSource``, 503 ``shutdown``.
        """

    def reads_text_as_json(self, sources: Sequence[SourceKey]) -> bool:
        """Return whether one of *sources* parses bodies of plain text as JSON."""


class SinkLookup(Protocol):
    """The lookup of the sinks of all sources."""

    def eligible(self, source: SourceKey, signal: str) -> Sequence[tuple[str, SinkWriter]]:
        """Return IDs and writers of the enabled sinks for *signal*, sorted by ID.

        :param signal: signal of an OTLP record; empty for HTTP records.
        """
