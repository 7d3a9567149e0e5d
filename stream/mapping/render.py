"""Rendering of records to CSV rows of a table.

A mapping is compiled once. A row is first rendered optimistically. If that fails, it is rendered
again column by column, to find the failing column.

Templates that need the engine are evaluated before the row is rendered (`stream.templates`): the
caller evaluates `Renderer.plan` and passes the answer to the renderer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import attrs
import orjson
import uuid_utils

from stream.errors import NestedError, UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    Mapping,
    PathColumn,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.effort import Effort, paths_of
from stream.mapping.jsonnet import check_language, direct_cell
from stream.mapping.native_plan import has_indexes, native_plan
from stream.mapping.path_cell import path_cell, path_value
from stream.mapping.plan import (
    NOTHING_FOUND,
    CellTooBig,
    Evaluated,
    PlannedPath,
    PlannedTemplate,
    TemplatePlan,
)
from stream.mapping.render_block import BlockRenderer, compile_block_renderer
from stream.mapping.typed import is_typed, typed_value
from stream.mapping.types import MAX_KEY_BYTES
from stream.record.block import RecordBlock
from stream.record.context import RecordContext, datetime_text
from stream.record.headers import BodyKind
from stream.record.hints import hint_for
from stream.record.jsontree import text_bytes
from stream.record.lookup import Paths
from stream.record.path import parse_path
from stream.record.quoting import Quoted, quoted
from stream.values.bytesize import ByteSize

if TYPE_CHECKING:
    from stream.native import RowPlan

__all__ = [
    "Renderer",
    "RowTooBig",
    "compile_renderer",
    "plan_for",
    "render_cells",
    "template_plan",
]

Cell = Callable[[RecordContext], bytes]
RowOf = Callable[[RecordContext, Evaluated], bytes]
QuotedCell = Callable[[RecordContext], Quoted]


@attrs.frozen(eq=False)
class Renderer:
    """A compiled mapping.

    :ivar row: renders a record to its row, with a line feed at the end; only for mappings without a
        plan. It raises UserError if the record can't be rendered or the row is too large.
    :ivar plan: the templates that need the engine; ``None`` if there are none.
    :ivar large_plan: the plan for records that take long. All their paths and templates need the
        engine, because rendering them would block the reactor for too long.
    :ivar effort: decides which records take long.
    :ivar native: the compiled renderer for most rows, including those with templates that only
        concatenate strings; ``None`` if it isn't built or doesn't support the mapping.
    :ivar native_of_maps: the compiled renderer for bodies that are maps, as in OTLP records.
    """

    row: Callable[[RecordContext], bytes]
    plan: TemplatePlan | None
    large_plan: TemplatePlan | None
    _row_of: RowOf
    _large_row_of: RowOf
    _row_size_limit: int
    _block: BlockRenderer
    _columns: int
    effort: Effort
    native: RowPlan | None = None
    native_of_maps: RowPlan | None = None

    def plan_for(self, record: RecordContext) -> TemplatePlan | None:
        """Return the plan to evaluate before *record* is rendered; ``None`` if there is none."""
        return self.large_plan if self.effort.takes_long(record) else self.plan

    def row_of(self, record: RecordContext, evaluated: Evaluated) -> bytes:
        """Return the row of *record*, given the engine's result."""
        is_long = self.effort.takes_long(record)
        return (self._large_row_of if is_long else self._row_of)(record, evaluated)

    def native_row(self, record: RecordContext) -> bytes | None:
        """Return the row of a record that has a plan, if compiled code can render it at once.

        ``None`` means that the engine has to render it; see `plan_for`.
        """
        native = self.native
        if native is None or len(record.body) > MAX_NATIVE_BYTES or not _reads(native, record):
            return None
        return native.row(record.body, *_context(native, record))

    def native_rows(self, block: RecordBlock) -> list[bytes] | None:
        """Return the rows of *block*, if compiled code renders each of them.

        ``None`` means that the engine has to render all of them; see `plan_for`.
        """
        native = self.native
        if native is None or not _reads(native, block.shared):
            return None
        if max(map(len, block.bodies)) > MAX_NATIVE_BYTES:
            return None
        rows = _compiled_rows(native, block)
        return None if None in rows else cast(list[bytes], rows)

    def lines(
        self, shared: RecordContext, body: bytes, max_records: int, max_ends: int, max_bytes: int
    ) -> tuple[bytes, int, int] | None:
        """Return the rows of all lines of *body*, the number of rows, and the number of line feeds.

        ``None`` means that `rows` has to render them, because compiled code can't render all of
        them or a limit is exceeded.

        :param shared: record with the data that all records share; its headers declare JSON.
        :param max_ends: maximum number of line feeds.
        :param max_bytes: maximum size of the rows.
        """
        native = self.native
        if native is None or not _reads(native, shared):
            return None
        return native.lines(body, *_context(native, shared), max_records, max_ends, max_bytes)

    def rows(self, block: RecordBlock) -> list[bytes]:
        """Return the row of each record of *block*. Raises UserError if a record can't be rendered.

        Only for mappings without a plan.
        """
        native = self.native
        if native is not None and _reads(native, block.shared):
            texts = _compiled_rows(native, block)
            return [
                self.row(block.records[place]) if row is None else row
                for place, row in enumerate(texts)
            ]
        size = sum(map(len, block.bodies)) * self._columns
        if size <= MAX_BLOCK_BYTES and block.documents is not None:
            rows = self._block(block)
            if max(map(len, rows)) - 1 <= self._row_size_limit:
                return rows
        return list(map(self.row, block.records))


MAX_NATIVE_BYTES = 1024 * 1024
"""Maximum size of a body for compiled code, which parses it in up to three milliseconds."""

MAX_BLOCK_BYTES = 1024 * 1024
"""Maximum size of records that are rendered column by column, counted once for each column.

A value can be printed for several columns, so larger ones are rendered record by record.
"""

MAX_SEARCHED_BYTES = 512 * 1024
"""Number of bytes that are searched for the keys of all paths, without compiled code.

A body that would have to be searched longer is read in one pass (`stream.record.lookup`).
"""

_JSON = BodyKind.JSON
"""Looking up a member of an enumeration takes 0.1 µs in Python 3.11, too long for each record."""

_OF_THE_BODY = (400, 415)
"""Statuses of errors that another body or content type might avoid."""


class RowTooBig(UserError):
    """The named column makes the row exceed the limit.

    :cvar verbatim: whether the message is shown unchanged, neither as a sentence nor after a
        context.
    """

    status = 413
    name = "payloadTooLarge"
    verbatim = True

    def __init__(self, column: str, limit: int) -> None:
        super().__init__(
            f'too big CSV row, column: "{column}", row limit: {ByteSize(limit).human()}'
        )
        self.column = column


def compile_renderer(mapping: Mapping, row_size_limit: int) -> Renderer:
    """Return the renderer of *mapping*; rows have quoted cells and end with a line feed.

    :param row_size_limit: maximum size of a row in bytes, without the line feed.
    """
    plan = template_plan(mapping, row_size_limit)
    native = native_plan(mapping, row_size_limit)
    native_of_maps = native
    if native is not None and has_indexes(mapping):
        native_of_maps = native_plan(mapping, row_size_limit, of_maps=True)
    paths = paths_of(mapping)
    effort = Effort(mapping, paths)
    if is_typed(mapping):
        return _typed_renderer(mapping, plan, row_size_limit, effort, native, native_of_maps)
    large_plan = template_plan(mapping, row_size_limit, _reads_or_evaluates)
    large_row_of = _row_of(mapping, row_size_limit, _reads_or_evaluates)
    if plan is not None:
        row_of = _row_of(mapping, row_size_limit)
        return Renderer(
            _not_evaluated,
            plan,
            large_plan,
            row_of,
            large_row_of,
            row_size_limit,
            _not_evaluated,
            len(mapping.columns),
            effort,
            native,
            native_of_maps,
        )
    columns = tuple((column.name, _quotable(column, paths)) for column in mapping.columns)
    cells = tuple(cell for _, cell in columns)
    join = b'","'.join
    is_large = _may_exceed(mapping, row_size_limit)

    def render(record: RecordContext) -> bytes:
        if is_large(record):
            return _render_carefully(columns, record, row_size_limit)
        try:
            row = b'"%b"\n' % join([cell(record) for cell in cells])
        except UserError:
            return _render_carefully(columns, record, row_size_limit)
        if len(row) - 1 > row_size_limit:
            return _render_carefully(columns, record, row_size_limit)
        return row

    block = compile_block_renderer(list(zip(mapping.columns, cells, strict=True)))
    row = render if native is None else _native_row(native, render)
    return Renderer(
        row,
        None,
        large_plan,
        lambda record, _: row(record),
        large_row_of,
        row_size_limit,
        block,
        len(mapping.columns),
        effort,
        native,
        native_of_maps,
    )


def _native_row(
    native: RowPlan, render: Callable[[RecordContext], bytes]
) -> Callable[[RecordContext], bytes]:
    """Return *render* with a faster path for the records that *native* renders."""

    def row(record: RecordContext) -> bytes:
        if _reads(native, record):
            fast = native.row(record.body, *_context(native, record))
            if fast is not None:
                return fast
        return render(record)

    return row


def _compiled_rows(native: RowPlan, block: RecordBlock) -> list[bytes | None]:
    return native.rows(list(block.bodies), *_context(native, block.shared))


def _context(native: RowPlan, record: RecordContext) -> tuple[int, bytes, bytes]:
    """Return what compiled code needs in addition to the body: time, address and headers."""
    return (
        record.timestamp_ms,
        record.client_ip.encode() if native.has_ip else b"",
        record.headers.csv_cell if native.has_headers else b"",
    )


def _reads(native: RowPlan, record: RecordContext) -> bool:
    """Return whether the mapping reads the body of *record* as JSON."""
    return not native.reads_json or record.headers.kind is _JSON


def _typed_renderer(
    mapping: Mapping,
    plan: TemplatePlan | None,
    row_size_limit: int,
    effort: Effort,
    native: RowPlan | None,
    native_of_maps: RowPlan | None,
) -> Renderer:
    row_of = _typed_row_of(mapping, row_size_limit, _takes_engine)

    def render(record: RecordContext) -> bytes:
        return row_of(record, _NOTHING_EVALUATED)

    row = render if native is None else _native_row(native, render)
    return Renderer(
        row if plan is None else _not_evaluated,
        plan,
        template_plan(mapping, row_size_limit, _reads_or_evaluates),
        row_of,
        _typed_row_of(mapping, row_size_limit, _reads_or_evaluates),
        row_size_limit,
        lambda block: list(map(render, block.records)),
        len(mapping.columns),
        effort,
        native,
        native_of_maps,
    )


def _not_evaluated(_: object) -> Any:
    raise RuntimeError("the templates of the mapping aren't evaluated")


def _takes_engine(column: Column) -> bool:
    return (
        isinstance(column, TemplateColumn)
        and column.template.language == "jsonnet"
        and direct_cell(column.template.content, _renders_raw(column)) is None
    )


def _renders_raw(column: TemplateColumn) -> bool:
    """Return whether strings are rendered without quotes; values of typed columns are JSON."""
    return column.raw_string and not column.data_type


def _reads_or_evaluates(column: Column) -> bool:
    return isinstance(column, PathColumn) or (
        isinstance(column, TemplateColumn) and column.template.language == "jsonnet"
    )


def template_plan(
    mapping: Mapping, limit: int, takes_engine: Callable[[Column], bool] = _takes_engine
) -> TemplatePlan | None:
    """Return the columns of *mapping* that need the engine; ``None`` if there are none.

    :param limit: maximum total size of the results for one record, in bytes.
    :param takes_engine: returns whether a column needs the engine.
    """
    planned = tuple(_planned(column) for column in mapping.columns if takes_engine(column))
    return TemplatePlan(planned, limit) if planned else None


def plan_for(mapping: Mapping, limit: int, record: RecordContext) -> TemplatePlan | None:
    """Return the plan of *mapping* for *record*; see `template_plan`."""
    return template_plan(mapping, limit, _takes_engine_of(mapping, paths_of(mapping), record))


def _takes_engine_of(
    mapping: Mapping, paths: Paths, record: RecordContext
) -> Callable[[Column], bool]:
    is_long = Effort(mapping, paths).takes_long(record)
    return _reads_or_evaluates if is_long else _takes_engine


def _planned(column: Column) -> PlannedTemplate | PlannedPath:
    if isinstance(column, PathColumn):
        if column.data_type:  # the column's type handles the default; see `stream.mapping.typed`
            return PlannedPath(column.name, column.path, False, None, may_be_absent=True)
        return PlannedPath(column.name, column.path, column.raw_string, column.default_value)
    assert isinstance(column, TemplateColumn)
    return PlannedTemplate(column.name, column.template.content, _renders_raw(column))


def _row_of(
    mapping: Mapping, row_size_limit: int, takes_engine: Callable[[Column], bool] = _takes_engine
) -> RowOf:
    """Return the renderer of rows of a mapping with a plan.

    The engine's answer contains the cells of the columns before the first one that failed. So the
    columns are processed in order, and the first failure is reported, whether it comes from the
    engine or from this process.
    """
    paths = paths_of(mapping)
    columns = tuple(
        (column.name, None if takes_engine(column) else _quotable(column, paths))
        for column in mapping.columns
    )
    cells = tuple(cell for _, cell in columns)
    join = b'","'.join
    is_large = _may_exceed(mapping, row_size_limit)

    def render(record: RecordContext, evaluated: Evaluated) -> bytes:
        answers = iter(evaluated.cells)
        if evaluated.error is None and not is_large(record):
            try:
                row = b'"%b"\n' % join(
                    [quoted(next(answers)) if cell is None else cell(record) for cell in cells]
                )
            except UserError:
                pass
            else:
                if len(row) - 1 <= row_size_limit:
                    return row
            answers = iter(evaluated.cells)
        from_engine = _answered(answers, evaluated.error)
        with_answers = tuple(
            (name, from_engine if cell is None else cell) for name, cell in columns
        )
        return _render_carefully(with_answers, record, row_size_limit)

    return render


def _answered(answers: Iterator[bytes], error: UserError | None) -> QuotedCell:
    """Return the next of *answers*; raise *error* if there is none."""

    def cell(_: RecordContext) -> Quoted:
        text = next(answers, None)
        if text is not None:
            return quoted(text)
        raise RuntimeError("the engine returned too few cells") if error is None else error

    return cell


def _may_exceed(mapping: Mapping, row_size_limit: int) -> Callable[[RecordContext], bool]:
    """Return a function that returns whether the cells of a record may be much larger than a row.

    They are then rendered one by one until the limit is reached.
    """
    large = row_size_limit // max(len(mapping.columns), 1)
    if not any(
        isinstance(column, TemplateColumn) and "Header" in column.template.content
        for column in mapping.columns
    ):
        return lambda record: len(record.body) > large
    return lambda record: len(record.body) + len(record.headers.csv_cell) > large


def _render_carefully(
    columns: tuple[tuple[str, QuotedCell], ...], record: RecordContext, row_size_limit: int
) -> bytes:
    texts: list[bytes] = []
    size = -1  # there is a comma between two cells
    for name, cell in columns:
        try:
            text = cell(record)
        except UserError as error:
            raise _blaming(name, error, record, row_size_limit) from error
        texts.append(text)
        size += len(text) + 3
        if size > row_size_limit:
            raise RowTooBig(name, row_size_limit)
    return b'"%b"\n' % b'","'.join(texts) if texts else b"\n"


def _blaming(
    column: str, error: UserError, record: RecordContext, row_size_limit: int
) -> UserError:
    """Return *error* with the name of the column that it came from."""
    if isinstance(error, CellTooBig):
        return RowTooBig(column, row_size_limit)
    hint = hint_for(record) if error.status in _OF_THE_BODY else ""
    if _says_it_all(error):
        error.hint = hint
        return error
    nested = NestedError(
        f'cannot convert column "{column}" to CSV value',
        [error],
        status=error.status,
        name=error.name,
    )
    nested.hint = hint
    nested.column = column
    return nested


_NOTHING_EVALUATED = Evaluated(())

RenderedCell = Callable[[RecordContext], bytes | None]


def _typed_row_of(
    mapping: Mapping, row_size_limit: int, takes_engine: Callable[[Column], bool]
) -> RowOf:
    """Return the renderer of rows of a typed mapping; see `stream.mapping.typed`.

    NULL is an empty cell without quotes.
    """
    paths = paths_of(mapping)
    columns = tuple(
        (
            column.name,
            None if takes_engine(column) else _rendered_cell(column, paths),
            typed_value(column),
            column.primary_key,
        )
        for column in mapping.columns
    )

    def render(record: RecordContext, evaluated: Evaluated) -> bytes:
        from_engine = _answered_texts(iter(evaluated.cells), evaluated.error)
        cells, key_bytes, size = [], 0, 0
        for name, cell, value, is_key in columns:
            try:
                text = value((from_engine if cell is None else cell)(record))
                if is_key and text is not None:
                    key_bytes += len(text)
                    if key_bytes > MAX_KEY_BYTES:
                        raise UserError(
                            f"with this value the primary key has more than {MAX_KEY_BYTES} bytes",
                            name="primaryKeyTooLong",
                        )
            except UserError as error:
                raise _blaming(name, error, record, row_size_limit) from error
            cells.append(b"" if text is None else b'"%b"' % quoted(text))
            size += len(cells[-1]) + 1
            if size - 1 > row_size_limit:
                raise RowTooBig(name, row_size_limit)
        return b",".join(cells) + b"\n"

    return render


def _answered_texts(answers: Iterator[bytes], error: UserError | None) -> RenderedCell:
    """Return the next of *answers*, ``None`` for `NOTHING_FOUND`; without one, raise *error*."""

    def cell(_: RecordContext) -> bytes | None:
        text = next(answers, None)
        if text is not None:
            return None if text == NOTHING_FOUND else text
        raise RuntimeError("the engine returned too few cells") if error is None else error

    return cell


def _rendered_cell(column: Column, paths: Paths) -> RenderedCell:
    """Return the renderer of a typed column, before conversion to a value of the type."""
    if isinstance(column, PathColumn):
        return path_value(column.path, paths, raw_string=False)
    return _cell(column, paths)


def _says_it_all(error: UserError) -> bool:
    """Return whether the message is complete without the name of the column."""
    return getattr(error, "verbatim", False) or getattr(error, "alone", False)


def render_cells(
    mapping: Mapping,
    record: RecordContext,
    evaluated: Evaluated | None = None,
    *,
    limit: int | None = None,
) -> list[tuple[str, str]]:
    """Return the columns' names and cells without CSV quoting, for tests by users.

    The cell of a typed column without a value is ``NULL``.

    :param evaluated: the engine's result for the record, if `plan_for` requires it.
    :param limit: maximum total size of the cells in bytes; ``None`` for no limit.

    Raises UserError (422): a column can't be rendered; the error names the first one and the
    reason. Raises RowTooBig: the row is too large.
    """
    answers = iter(evaluated.cells if evaluated is not None else ())
    paths = paths_of(mapping)
    takes_engine = _takes_engine_of(mapping, paths, record)
    cells = []
    size = 0
    for column in mapping.columns:
        try:
            text: bytes | None
            if not takes_engine(column):
                text = (_rendered_cell if column.data_type else _cell)(column, paths)(record)
            elif (answer := next(answers, None)) is not None:
                text = None if column.data_type and answer == NOTHING_FOUND else answer
            elif evaluated is not None and evaluated.error is not None:
                raise evaluated.error
            else:
                _not_evaluated(record)
            if column.data_type:
                text = typed_value(column)(text)
        except UserError as error:
            raise UserError(
                f'invalid value for column "{column.name}": {error}',
                status=422,
                name="unprocessableContent",
            ) from error
        size += len(text or b"")
        if limit is not None and size > limit:
            raise RowTooBig(column.name, limit)
        cells.append((column.name, "NULL" if text is None else text.decode("utf-8", "replace")))
    return cells


def _quotable(column: Column, paths: Paths) -> QuotedCell:
    """Return the function that renders the quoted cell; see `stream.record.quoting`.

    The columns that nearly every mapping has are inlined, so that each needs only one frame. They
    take half of the time of a row.
    """
    if isinstance(column, HeadersColumn):
        return lambda record: record.headers.csv_cell
    if isinstance(column, BodyColumn):
        return lambda record: quoted(record.body)
    if isinstance(column, UuidColumn):
        uuid7 = uuid_utils.uuid7
        return lambda _: quoted(str(uuid7()).encode())
    if isinstance(column, DatetimeColumn):
        return lambda record: _quoted_time(record.timestamp_ms)
    if isinstance(column, IpColumn):
        return lambda record: _quoted_address(record.client_ip)
    cell = _cell(column, paths)
    if isinstance(column, PathColumn) and not paths.is_fast:
        return _quotable_path(column, cell, MAX_SEARCHED_BYTES // max(paths.steps_in_total, 1))
    return lambda record: quoted(cell(record))


def _quotable_path(column: PathColumn, cell: Cell, max_bytes: int) -> QuotedCell:
    """Return *cell* with quoting, and with shortcuts for small bodies in the usual form.

    In a body without escapes, a string's text is the same as its JSON form, and contains no quote.

    :param max_bytes: maximum size of a body for the shortcuts.
    """
    keys = tuple(step.text for step in parse_path(column.path))
    spellings = tuple(b'"' + text_bytes(key) + b'"' for key in keys)
    raw_string = column.raw_string
    form: Any = b"%b" if raw_string else b'""%b""'

    def render(record: RecordContext) -> Quoted:
        if record.headers.kind is _JSON and len(record.body) <= max_bytes:
            value = record.document
            if type(value) is not dict:
                value = record.json
            for key in keys:
                if type(value) is not dict:
                    value = None
                    break
                value = value.get(key)
            if value is not None:
                if record.is_canonical:  # values in the body have the form that orjson writes
                    if raw_string and type(value) is str:
                        return quoted(value.encode())
                    return quoted(orjson.dumps(value))
                body, kind = record.body, type(value)
                is_plain = (kind is str or (kind is int and value)) and b"\\" not in body
                if is_plain and max(map(body.count, spellings), default=0) <= 1:
                    spelling: Any = form % value.encode() if kind is str else b"%d" % value
                    return cast(Quoted, spelling)
        return quoted(cell(record))

    return render


# Values that many records have in common are quoted only once.


@lru_cache(maxsize=16)
def _quoted_time(timestamp_ms: int) -> Quoted:
    return quoted(datetime_text(timestamp_ms))


@lru_cache(maxsize=1024)
def _quoted_address(client_ip: str) -> Quoted:
    return quoted(client_ip.encode())


def _cell(column: Column, paths: Paths) -> Cell:
    if isinstance(column, UuidColumn):
        return _uuid
    if isinstance(column, DatetimeColumn):
        return lambda record: datetime_text(record.timestamp_ms)
    if isinstance(column, IpColumn):
        return lambda record: record.client_ip.encode()
    if isinstance(column, BodyColumn):
        return lambda record: record.body
    if isinstance(column, HeadersColumn):
        return lambda record: record.headers.json.encode()
    if isinstance(column, PathColumn):
        return path_cell(column.path, column.raw_string, column.default_value, paths)
    return _template_cell(column)


def _uuid(_: RecordContext) -> bytes:
    return str(uuid_utils.uuid7()).encode()


def _template_cell(column: TemplateColumn) -> Cell:
    """Return the renderer of a template that doesn't need the engine."""
    template = column.template
    check_language(template.language)
    return direct_cell(template.content, _renders_raw(column)) or _not_evaluated
