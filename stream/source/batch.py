"""Many records in one request: where one ends and the next begins, and their rows for each sink.

Nothing of a batch is handed on before all of it is rendered. The rows that a sink gets travel as
one block, so they are stored together or not at all; what can't be rendered is told apart by its
place, never by a half-done answer. Pure.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import count, islice, repeat
from typing import Any, Protocol

import attrs
import orjson

from stream.errors import UserError, let_go
from stream.mapping.plan import Evaluated
from stream.mapping.render import Renderer
from stream.record.block import RecordBlock
from stream.record.charset import BOM, without_bom
from stream.record.context import UNPARSED, RecordContext
from stream.record.jsontree import array_items, check_bounds, parse_json

__all__ = [
    "MAX_ROWS_BYTES",
    "BatchTooLarge",
    "Element",
    "Evaluation",
    "Rejection",
    "RowBlock",
    "array_elements",
    "array_steps",
    "line_elements",
    "render_batch",
]

MAX_TEMPLATE_SECONDS = 10.0
"""Processor time of the templates of one sink, for all records of one batch."""

MAX_ROWS_BYTES = 4_000_000
"""Of one block: compressed or not, it fits into one append to a slice file."""

RECORDS_AT_ONCE = 64
"""Rendered for one sink after the other, so that each body is parsed once."""


MAX_LINES_PER_RECORD = 10
"""Blank lines between records, which are left out."""

ITEMS_AT_ONCE = 64
BYTES_AT_ONCE = 128 * 1024
"""Of an array's items, found or parsed in one piece of work."""

KEPT_BYTES = 1024 * 1024
"""The values of a larger array aren't kept, but made once more when they are rendered: they can
take fifty times the room of their text."""


class BatchTooLarge(UserError):
    """More records, or more rows, than one request may hold."""

    status = 413
    name = "batchTooLarge"


Element = tuple[int, bytes, Any]
"""One record of a batch: the number of its line, from 1, or its index in the array, from 0; its
source text; the document in it, or `UNPARSED`."""


def line_elements(body: bytes, max_records: int) -> list[Element]:
    """The lines of *body* that aren't blank. Raises BatchTooLarge."""
    line_count = body.count(b"\n")
    if line_count > MAX_LINES_PER_RECORD * max_records:
        raise BatchTooLarge(
            f"the batch has {line_count} lines, the maximum of records is {max_records}, "
            "please split it"
        )
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if BOM in body:  # files that were put behind one another
        lines = [without_bom(line) for line in lines]
    elements: list[Element] = list(zip(count(1), lines, repeat(UNPARSED)))
    if not all(lines) or any(map(bytes.isspace, lines)):
        elements = [item for item in elements if item[1] and not item[1].isspace()]
    if len(elements) > max_records:
        raise BatchTooLarge(
            f"the batch has {len(elements)} records, the maximum is {max_records}, please split it"
        )
    return elements


def array_elements(body: bytes, max_records: int) -> list[Element]:
    """The items of the JSON array *body*. Raises InvalidJson, BatchTooLarge."""
    steps = array_steps(body, max_records)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            elements: list[Element] = end.value
            return elements


def array_steps(body: bytes, max_records: int) -> Generator[None, None, list[Element]]:
    """The same in small pieces of work.

    The items are counted before any of them is parsed, and are parsed a few at a time.
    """
    texts: list[bytes] = []
    for text in array_items(body):
        if len(texts) >= max_records:
            raise BatchTooLarge(
                f"the batch has more records than the maximum of {max_records}, please split it"
            )
        texts.append(text)
        if not len(texts) % ITEMS_AT_ONCE:
            yield
    keeps_values = len(body) <= KEPT_BYTES
    elements: list[Element] = []
    start = 0
    while start < len(texts):
        end, size = start, 0
        while end < len(texts) and end - start < ITEMS_AT_ONCE and size < BYTES_AT_ONCE:
            size += len(texts[end])
            end += 1
        values: Sequence[Any] = _parse_items(texts[start:end])
        elements += zip(
            range(start, end),
            texts[start:end],
            values if keeps_values else repeat(UNPARSED),
            strict=False,
        )
        start = end
        yield
    return elements


def _parse_items(texts: Sequence[bytes]) -> Sequence[Any]:
    """The documents in *texts*. Raises InvalidJson."""
    for text in texts:
        check_bounds(text)
    try:
        values: list[Any] = orjson.loads(b"[%b]" % b",".join(texts))
        if len(values) == len(texts):
            return values
    except orjson.JSONDecodeError:
        pass
    return [parse_json(text) for text in texts]


@attrs.frozen
class Rejection:
    """A record that one sink can't take, whatever is tried again."""

    place: int
    error: UserError
    record: RecordContext


class Sink(Protocol):
    """What a block needs of the sink that it is for."""

    def renderer(self, now_ms: int, /) -> Renderer:
        """Raises UserError: the sink takes no records."""


class Evaluation:
    """Records whose templates are to be evaluated before the rendering goes on.

    :ivar block: where their rows go.
    :ivar records: the records.

    :param places: where they are in the batch.
    """

    def __init__(
        self, block: RowBlock, places: Sequence[int], records: Sequence[RecordContext]
    ) -> None:
        self.block = block
        self.records = records
        self._places = places

    def done(self, results: Sequence[Evaluated]) -> None:
        """What the engine says of each record."""
        self.block.take_evaluated(self._places, self.records, results)

    def failed(self, error: Exception) -> None:
        """The engine says nothing."""
        self.block.fail(error)


class RowBlock:
    """The rows of one batch for one sink.

    :ivar rows: the rendered rows.
    :ivar rejected: what couldn't be rendered.
    :ivar error: why the sink gets nothing of the batch.
    :ivar renderer: what rendered the rows.
    """

    def __init__(self, sink: Sink, now_ms: int) -> None:
        self.rows: list[bytes] = []
        self.rejected: list[Rejection] = []
        self.error: Exception | None = None
        self.renderer: Renderer | None = None
        self._size = 0
        self._template_seconds = 0.0
        try:
            self.renderer = sink.renderer(now_ms)
        except UserError as error:
            self.error = let_go(error)

    def take(self, places: Sequence[int], block: RecordBlock) -> Evaluation | None:
        """Render the records of *block*, unless the sink gets nothing anyway.

        :returns: what is to be evaluated first; they are rendered when that is done.
        """
        renderer = self.renderer
        if renderer is None or self.error is not None:
            return None
        if renderer.plan is not None:
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
        """Render *records*, of which the engine says *results*."""
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
                    self.rejected.append(Rejection(place, let_go(error), record))
        except Exception as error:
            self.fail(error)
            return
        self._count(before)
        if self._template_seconds > MAX_TEMPLATE_SECONDS:
            self.fail(
                BatchTooLarge(
                    f"the templates take more than {MAX_TEMPLATE_SECONDS:g} s of processor time "
                    "for the records of the batch, please split it"
                )
            )

    def _count(self, before: int) -> None:
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
                self.rejected.append(Rejection(place, let_go(error), record))

    def fail(self, error: Exception) -> None:
        """The sink gets nothing of the batch."""
        self.error = let_go(error)
        self.rows = []
        self.rejected = []


def render_batch(
    elements: Sequence[Element], first: RecordContext, blocks: Sequence[RowBlock]
) -> Iterator[Evaluation | None]:
    """Fill *blocks*; a step of the iterator is a small piece of the work.

    A step that is an evaluation has to be done, or failed, before the next one.

    :param first: has what all records share; what its body is doesn't matter.
    """
    shared = RecordContext(
        first.timestamp_ms, first.client_ip, first.headers.of_element, first.body
    )
    for start in range(0, len(elements), RECORDS_AT_ONCE):
        places, bodies, parsed = zip(*elements[start : start + RECORDS_AT_ONCE], strict=True)
        block = RecordBlock(shared, list(bodies), parsed)
        for rows in blocks:
            evaluation = rows.take(places, block)
            if evaluation is not None:
                yield evaluation
        yield None
