"""Rendering of many records in one request as rows for each sink. Pure.

Nothing of a batch is passed on until all of it is rendered. The rows of a sink form one block, so
they are stored together or not at all. A record that can't be rendered is reported by its position,
never by a partial answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import attrs

from stream.errors import UserError, record_error_name, record_message, sentence, without_frames
from stream.mapping.plan import Evaluated
from stream.mapping.render import Renderer
from stream.record.block import RecordBlock
from stream.record.context import RecordContext
from stream.record.elements import Element
from stream.record.errors import BatchTooLarge

__all__ = [
    "MAX_ROWS_BYTES",
    "Evaluation",
    "Reason",
    "Rejection",
    "RowBlock",
    "render_batch",
]

MAX_TEMPLATE_SECONDS = 10.0
"""Limit of CPU time for the templates of one sink, for all records of one batch."""

MAX_ROWS_BYTES = 4_000_000
"""Maximum size of a block, which fits into one append to a slice file even if uncompressed."""

RECORDS_AT_ONCE = 64
BYTES_AT_ONCE = 128 * 1024
"""Bytes rendered for all sinks before rendering continues, so that each body is parsed once.

There are fewer if the mapping of a sink takes long; see `stream.mapping.effort`.
"""


class Reason(NamedTuple):
    """Why a record is rejected, as shown in the answer, which groups records with equal reasons.

    :ivar status: HTTP status.
    :ivar hint: the producer's probable intention; empty if unknown.
    """

    status: int
    name: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: UserError) -> Reason:
        """Return the reason for *error*."""
        hint = sentence(error.hint) if error.hint else ""
        return cls(error.status, record_error_name(error.name), record_message(error), hint)


@attrs.frozen
class Rejection:
    """A record that one sink rejects permanently.

    :ivar reason: reason of the *error*. It is computed with the record, because the answer about
        ten thousand rejections is composed in one step.
    """

    place: int
    error: UserError
    record: RecordContext
    reason: Reason


class Evaluation:
    """Records whose templates must be evaluated before rendering continues.

    :ivar block: block of the records' rows.
    :ivar records: the records to evaluate.

    :param places: positions of the records in the batch.
    """

    def __init__(
        self, block: RowBlock, places: Sequence[int], records: Sequence[RecordContext]
    ) -> None:
        self.block = block
        self.records = records
        self._places = places

    def done(self, results: Sequence[Evaluated]) -> None:
        """Continue with the engine's result for each record."""
        self.block.take_evaluated(self._places, self.records, results)

    def failed(self, error: Exception) -> None:
        """Continue without results, because the engine has failed."""
        self.block.fail(error)


class RowBlock:
    """The rows of one batch for one sink.

    :ivar rows: the rendered rows; each item contains one or more.
    :ivar count: number of rows.
    :ivar rejected: records that couldn't be rendered.
    :ivar error: why the sink gets no rows of the batch.
    :ivar renderer: renderer of the rows.

    :param renderer: returns the renderer, or ``None`` if the rows are rendered elsewhere; raises
        UserError if the sink accepts no records.
    """

    def __init__(self, renderer: Callable[[], Renderer | None] = lambda: None) -> None:
        self.rows: list[bytes] = []
        self.count = 0
        self.rejected: list[Rejection] = []
        self.error: Exception | None = None
        self.renderer: Renderer | None = None
        self._size = 0
        self._template_seconds = 0.0
        self._reasons: dict[Reason, Reason] = {}
        try:
            self.renderer = renderer()
        except UserError as error:
            self.error = without_frames(error)

    def take(self, places: Sequence[int], block: RecordBlock) -> Evaluation | None:
        """Render the records of *block*, unless the sink already gets no rows.

        :returns: records that must be evaluated first; they are rendered afterwards.
        """
        renderer = self.renderer
        if renderer is None or self.error is not None:
            return None
        if renderer.plan is not None or _may_take_long(renderer, block):
            rows = renderer.native_rows(block)
            if rows is not None:
                self.take_rendered(rows, len(rows))
                return None
            if renderer.plan_for(block.records[0]) is not None:
                return Evaluation(self, places, block.records)
        before = len(self.rows)
        try:
            try:
                self.rows += renderer.rows(block)
            except UserError:
                self._take_one_by_one(renderer, places, block)
        except Exception as error:
            self.fail(error)
            return None
        self._count(before)
        return None

    def take_evaluated(
        self,
        places: Sequence[int],
        records: Sequence[RecordContext],
        results: Sequence[Evaluated],
    ) -> None:
        """Render *records* with the engine's *results*."""
        renderer = self.renderer
        if renderer is None or self.error is not None:
            return
        before = len(self.rows)
        try:
            for place, record, result in zip(places, records, results, strict=True):
                self._template_seconds += result.seconds
                try:
                    self.rows.append(renderer.row_of(record, result))
                except UserError as error:
                    self._reject(place, error, record)
        except Exception as error:
            self.fail(error)
            return
        self._count(before)
        if self._template_seconds > MAX_TEMPLATE_SECONDS:
            self.fail(
                BatchTooLarge(
                    f"the templates take more than {MAX_TEMPLATE_SECONDS:g} s of CPU time for the "
                    "records of the batch, please split it"
                )
            )

    def take_rendered(self, rows: Sequence[bytes], count: int) -> None:
        """Add *count* rows that other code has rendered with the renderer of this block."""
        before = len(self.rows)
        self.rows += rows
        self._count(before, count)

    def _count(self, before: int, count: int | None = None) -> None:
        self.count += len(self.rows) - before if count is None else count
        self._size += sum(map(len, islice(self.rows, before, None)))
        if self._size > MAX_ROWS_BYTES:
            self.fail(
                BatchTooLarge(
                    f"the rows of the batch have more than {MAX_ROWS_BYTES} bytes, please split it"
                )
            )

    def _take_one_by_one(
        self, renderer: Renderer, places: Sequence[int], block: RecordBlock
    ) -> None:
        for place, record in zip(places, block.records, strict=True):
            try:
                self.rows.append(renderer.row(record))
            except UserError as error:
                self._reject(place, error, record)

    def _reject(self, place: int, error: UserError, record: RecordContext) -> None:
        reason = Reason.of(error)
        reason = self._reasons.setdefault(reason, reason)  # equal texts are stored once
        self.rejected.append(Rejection(place, without_frames(error), record, reason))

    def fail(self, error: Exception) -> None:
        """Record that the sink gets no rows of the batch."""
        self.error = without_frames(error)
        self.rows = []
        self.count = 0
        self.rejected = []


def render_batch(
    elements: Sequence[Element], first: RecordContext, blocks: Sequence[RowBlock]
) -> Iterator[Evaluation | None]:
    """Fill *blocks*; each step of the iterator is a small part of the work.

    If a step is an evaluation, it must be done or failed before the next step.

    :param first: a record with the data that all records share; its body is ignored.
    """
    shared = RecordContext(first.timestamp_ms, first.client_ip, first.headers.of_json, first.body)
    at_once = min([BYTES_AT_ONCE, *(_free_bytes(rows) for rows in blocks)])
    for part in _parts(elements, at_once):
        places, bodies, parsed = zip(*part, strict=True)
        block = RecordBlock(shared, list(bodies), parsed)
        for rows in blocks:
            yield rows.take(places, block)


def _free_bytes(rows: RowBlock) -> int:
    """Return the number of bytes that are rendered in one step for a sink."""
    renderer = rows.renderer
    return BYTES_AT_ONCE if renderer is None else renderer.effort.free_bytes


def _parts(elements: Sequence[Element], at_once: int) -> Iterator[Sequence[Element]]:
    """Iterate over groups of elements that are rendered together; a large element is alone.

    :param at_once: maximum total size of several elements in bytes.
    """
    start = 0
    while start < len(elements):
        end, size = start + 1, len(elements[start][1])
        for _, body, _ in elements[end : start + RECORDS_AT_ONCE]:
            size += len(body)
            if size > at_once:
                break
            end += 1
        yield elements[start:end]
        start = end


def _may_take_long(renderer: Renderer, block: RecordBlock) -> bool:
    """Return whether *block* may need the engine although there is no template for it.

    Such a record is alone; see `_parts`.
    """
    return len(block.bodies) == 1 and len(block.bodies[0]) > renderer.effort.free_bytes
