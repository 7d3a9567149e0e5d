"""Evaluation of templates for many records, used only in the engine's process.

Note [Compiled once]: for each evaluation, the engine parses the snippet and builds its standard
library. That takes ten times as long as most templates. So a snippet is made into a loop: an array
in which each item is the template's result for one record. The item is passed to a native function,
which returns when there is a next record. Until then the loop waits in its own thread. It is
restarted after some records, to free its memory, and after a failure. Only one thread runs at a
time.

Note [Column by column]: the first template is evaluated for all records of a group, then the
second, and so on. So the thread changes once per group and template rather than for each record.
The total time that all templates take for a record is limited, so the time is counted for each
record.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import rjsonnet

from stream.errors import UserError
from stream.mapping.jsonnet import cell_text
from stream.mapping.path_cell import path_cell, path_value
from stream.mapping.plan import (
    NOTHING_FOUND,
    CellTooBig,
    Evaluated,
    PlannedPath,
    TemplatePlan,
)
from stream.mapping.snippet import Snippet, prepare, reason, refuse_import
from stream.record.context import RecordContext
from stream.record.lookup import Paths

__all__ = ["GROUP_RECORDS", "MAX_LOOPS", "RECORDS_PER_LOOP", "Evaluator", "Group", "Watch"]

GROUP_RECORDS = 32
"""Number of records evaluated column by column; their cells are in memory at the same time."""

MAX_LOOPS = 32
"""Maximum number of cached templates; the least recently used one is evicted."""

RECORDS_PER_LOOP = 1000
BYTES_PER_LOOP = 4 * 1024 * 1024
"""Total size of bodies after which a new loop is started."""

MAX_STACK = 500
"""Maximum stack depth of a template."""

OWN_FRAMES = 10
"""Stack frames of the loop around the template."""

_PANIC = "the template uses a value where it can't be used"

_LOOP = """{definitions}
local template_{token}(record_{token}) =
{content}
;
local text_{token} = std.native('text_{token}');
local json_{token} = std.native('json_{token}');
local isString_{token} = std.isString, isFunction_{token} = std.isFunction;
local manifest_{token} = std.manifestJsonMinified;
local emit_{token}(value) =
  if isString_{token}(value) then text_{token}(value)
  else if isFunction_{token}(value) then json_{token}(manifest_{token}(value()))
  else json_{token}(manifest_{token}(value));
[emit_{token}(template_{token}(record_{token})) for record_{token} in std.range(1, {records})]"""


class Watch(Protocol):
    """Limits the time of each record."""

    def begin(self, record: int, column: int, spent: float) -> bool:
        """Start the evaluation of a record for one more column.

        :param record: index of the record.
        :param spent: CPU time that the record has used, in seconds.
        :returns: False if the time of the batch is over, and the record is postponed.
        """


class Group:
    """Records that are evaluated together.

    :ivar results: result of each record; ``None`` until it is done, or if it was postponed.

    :param first: index of the first record.
    :param done: called with the index and the result of each record when it is available.
    """

    def __init__(
        self,
        plan: TemplatePlan,
        records: Sequence[RecordContext],
        watch: Watch,
        first: int = 0,
        done: Callable[[int, Evaluated], None] | None = None,
    ) -> None:
        self.results: list[Evaluated | None] = [None] * len(records)
        self._plan = plan
        self._records = records
        self._watch = watch
        self._first = first
        self._done = done
        self._cells: list[list[bytes]] = [[] for _ in records]
        self._sizes = [0] * len(records)
        self._spent = [0.0] * len(records)
        self._column = -1
        self._place = -1
        self._left = len(records)
        self._began = 0.0

    def __len__(self) -> int:
        return len(self._records)

    def start_column(self, column: int) -> None:
        """Start the next column."""
        self._column, self._place = column, -1

    def next_record(self) -> RecordContext | None:
        """Return the next record of the column; ``None`` if there is none."""
        place = self._place + 1
        results = self.results
        while place < self._left and results[place] is not None:
            place += 1
        if place >= self._left:
            return None
        if not self._watch.begin(self._first + place, self._column, self._spent[place]):
            self._left = place  # the columns of earlier records are still evaluated
            return None
        self._place = place
        # The clock of the process isn't used, because it is coarse while the timer of the process
        # runs.
        self._began = time.thread_time()
        return self._records[place]

    def emit(self, value: Any) -> None:
        """Set the result of the current record."""
        template = self._plan.templates[self._column]
        try:
            cell = cell_text(value, template.raw_string)
        except UserError as error:
            self.fail(error)
            return
        except RecursionError:
            self.fail(UserError("max stack frames exceeded."))
            return
        self.put(cell)

    def put(self, cell: bytes) -> None:
        """Set the text of the current record's cell."""
        place = self._place
        self._sizes[place] += len(cell)
        if self._sizes[place] > self._plan.limit:
            self.fail(CellTooBig())
            return
        self._count(place)
        cells = self._cells[place]
        cells.append(cell)
        if len(cells) == len(self._plan.templates):
            self._finish(place, Evaluated(cells, None, self._spent[place]))

    def fail(self, error: UserError) -> None:
        """Record that the current record can't be rendered."""
        self._count(self._place)
        self._finish(
            self._place, Evaluated(self._cells[self._place], error, self._spent[self._place])
        )

    def _count(self, place: int) -> None:
        self._spent[place] += time.thread_time() - self._began

    def _finish(self, place: int, result: Evaluated) -> None:
        self.results[place] = result
        if self._done is not None:
            self._done(self._first + place, result)


class _Loop(threading.Thread):
    """A template that waits for its next record; see Note [Compiled once]."""

    def __init__(self, snippet: Snippet) -> None:
        super().__init__(daemon=True)
        self._group: Group | None = None
        self._record: RecordContext | None = None
        self._failure: UserError | None = None
        self._bytes = 0
        self._is_full = False
        self._is_stopping = False
        # Locks serve as binary semaphores: one thread acquires them, the other one releases them. A
        # semaphore of `threading` would need a condition and a list of waiting threads, four times
        # for each group.
        self._work = threading.Lock()
        self._work.acquire()
        self._done = threading.Lock()
        self._done.acquire()
        self._error: BaseException | None = None
        token = secrets.token_hex(16)  # so that templates can't call internal functions
        self._snippet = _LOOP.format(
            definitions=snippet.definitions,
            content=snippet.content,
            token=token,
            records=RECORDS_PER_LOOP,
        )
        self._natives: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
            f"text_{token}": (("value",), self._text),
            f"json_{token}": (("value",), self._json),
        }
        for name, (parameters, function) in snippet.record_functions.items():
            self._natives[name] = parameters, self._of_record(function)
        for name, (parameters, function) in snippet.standard_functions.items():
            self._natives[name] = parameters, self._of_nothing(function)
        self.start()

    def evaluate(self, group: Group) -> None:
        """Evaluate the current column of *group*; return when it is done."""
        self._group = group
        self._work.release()
        self._done.acquire()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """End the thread."""
        self._is_stopping = True
        self._work.release()

    def run(self) -> None:
        try:
            self._next()
            while True:
                self._bytes = 0
                try:
                    rjsonnet.evaluate_snippet(
                        "template",
                        self._snippet,
                        max_stack=MAX_STACK + OWN_FRAMES,
                        import_callback=refuse_import,
                        native_callbacks=self._natives,
                    )
                except MemoryError:
                    raise
                except BaseException as error:
                    if self._is_stopping or self._group is None:
                        raise
                    if self._is_full:
                        self._is_full = False
                    else:
                        self._fail(error)
                        self._next()
        except BaseException as error:
            if not self._is_stopping:
                self._error = error
                self._done.release()

    def _next(self) -> None:
        """Wait for a record and make it the current one."""
        while True:
            group = self._group
            if group is not None:
                record = group.next_record()
                if record is not None:
                    self._record = record
                    self._bytes += len(record.body)
                    return
                self._group = self._record = None
                self._done.release()
            self._work.acquire()
            if self._is_stopping:
                raise SystemExit

    def _of_record(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(self._record, *arguments)
            except UserError as error:
                self._failure = error
                raise RuntimeError from None

        return call

    def _of_nothing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._of_record(lambda _, *arguments: function(*arguments))

    def _text(self, value: str) -> None:
        self._take(value)

    def _json(self, text: str) -> None:
        group = self._group
        assert group is not None
        try:
            value = json.loads(text, parse_int=float)
            if type(value) is float and not math.isfinite(value):
                raise ValueError
        except ValueError:
            group.fail(UserError("overflow"))  # a number that exceeds the range of a double
            self._after()
        except RecursionError:
            group.fail(UserError("max stack frames exceeded."))
            self._after()
        else:
            self._take(value)

    def _take(self, value: Any) -> None:
        group = self._group
        assert group is not None
        group.emit(value)
        self._after()

    def _after(self) -> None:
        """After a result, continue with the next record, in this loop or in a new one."""
        self._next()
        if self._bytes > BYTES_PER_LOOP:
            self._is_full = True
            raise RuntimeError

    def _fail(self, error: BaseException) -> None:
        group, failure = self._group, self._failure
        assert group is not None
        self._failure = None
        if failure is None:
            is_panic = type(error).__name__ == "PanicException"
            failure = UserError(_PANIC if is_panic else reason(str(error)))
        group.fail(failure)


@lru_cache(maxsize=MAX_LOOPS)
def _paths(plan: TemplatePlan) -> Paths:
    """Return the paths of *plan*, which are looked up together."""
    return Paths(each.path for each in plan.templates if isinstance(each, PlannedPath))


def _read(planned: PlannedPath, paths: Paths, group: Group) -> None:
    """Set the cells of a path column for the records of *group*."""
    cell: Callable[[RecordContext], bytes | None] = (
        path_value(planned.path, paths, raw_string=planned.raw_string)
        if planned.may_be_absent
        else path_cell(planned.path, planned.raw_string, planned.default, paths)
    )
    while (record := group.next_record()) is not None:
        try:
            text = cell(record)
        except UserError as error:
            group.fail(error)
        else:
            group.put(NOTHING_FOUND if text is None else text)


class Evaluator:
    """Caches the loops of the most recently used templates.

    :param starting: called before the thread of a loop is started, with the maximum number of
        threads that exist afterwards.
    """

    def __init__(self, starting: Callable[[int], None] = lambda _: None) -> None:
        self._starting = starting
        self._loops: OrderedDict[str, _Loop | UserError] = OrderedDict()

    def evaluate(self, plan: TemplatePlan, group: Group) -> None:
        """Evaluate all columns of *plan* for the records of *group*."""
        for column, template in enumerate(plan.templates):
            group.start_column(column)
            if isinstance(template, PlannedPath):
                _read(template, _paths(plan), group)
                continue
            loop = self._loop(template.content)
            if isinstance(loop, UserError):
                while group.next_record() is not None:
                    group.fail(loop)
            else:
                loop.evaluate(group)

    def close(self) -> None:
        """End all threads."""
        for loop in self._loops.values():
            if isinstance(loop, _Loop):
                loop.stop()
        self._loops.clear()

    def _loop(self, content: str) -> _Loop | UserError:
        loop = self._loops.get(content)
        if loop is None:
            try:
                snippet = prepare(content)
                self._starting(len(self._loops) + 1)
                loop = _Loop(snippet)
            except UserError as error:
                loop = error
            self._loops[content] = loop
            if len(self._loops) > MAX_LOOPS:
                _, oldest = self._loops.popitem(last=False)
                if isinstance(oldest, _Loop):
                    oldest.stop()
        else:
            self._loops.move_to_end(content)
        return loop
