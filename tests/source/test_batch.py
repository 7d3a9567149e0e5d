"""The boundaries of records in a batch, and the result of each record."""

from __future__ import annotations

import gzip
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import native
from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
)
from stream.mapping.effort import Effort
from stream.mapping.render import Renderer, compile_renderer
from stream.record import elements as elements_module
from stream.record.charset import BOM
from stream.record.context import RecordContext
from stream.record.elements import (
    LINE_BYTES_AT_ONCE,
    MAX_ITEM_BYTES,
    array_elements,
    array_steps,
    line_elements,
    line_steps,
    read_records,
)
from stream.record.errors import BatchTooLarge, InvalidJson
from stream.record.headers import RecordHeaders
from stream.record.lookup import Paths
from stream.source.batch import (
    BYTES_AT_ONCE,
    MAX_ROWS_BYTES,
    RECORDS_AT_ONCE,
    RowBlock,
    render_batch,
)
from tests.templates.inprocess import evaluate

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class FakeSink:
    def __init__(self, *columns: Column) -> None:
        self._render = compile_renderer(Mapping(columns), 2_000_000)

    def renderer(self) -> Renderer:
        return self._render


class ClosedSink:
    def renderer(self) -> Renderer:
        raise UserError("no pipeline is ready", status=503, name="noPipelineReady")


def record(content_type: str = "application/x-ndjson") -> RecordContext:
    headers = RecordHeaders([(b"Content-Type", content_type.encode())])
    return RecordContext(1714557600123, "203.0.113.7", headers, b"")


def test_lines_keep_their_numbers() -> None:
    """Blank lines are counted but skipped; a carriage return belongs to the line end."""
    elements = line_elements(b'{"a":1}\n\n  \r\n{"a":2}\r\n[3]', 10)
    assert [(place, body) for place, body, _ in elements] == [
        (1, b'{"a":1}'),
        (4, b'{"a":2}'),
        (5, b"[3]"),
    ]


@given(items=st.lists(JSON, max_size=8), indent=st.sampled_from([None, 1]))
def test_an_array_is_split_into_items(items: list[object], indent: int | None) -> None:
    """The text of an item parses to the item."""
    body = json.dumps(items, indent=indent).encode()
    elements = array_elements(body, 10)
    assert [place for place, _, _ in elements] == list(range(len(items)))
    for (_, text, parsed), item in zip(elements, items, strict=True):
        assert json.loads(text) == item
        assert parsed == item


def test_items_keep_their_spelling() -> None:
    """Numbers are copied without conversion."""
    assert [text for _, text, _ in array_elements(b'[ 1.0 ,{"a" : 1e5}, "]" ]', 10)] == [
        b"1.0",
        b'{"a" : 1e5}',
        b'"]"',
    ]


@pytest.mark.parametrize("body", [b"", b"{}", b"[1,]", b"[1", b"null", b"1"])
def test_a_body_that_is_not_an_array_is_refused(body: bytes) -> None:
    """The boundaries of its records are unknown."""
    with pytest.raises(InvalidJson):
        array_elements(body, 10)


def test_the_number_of_records_is_limited() -> None:
    """One more than allowed refuses the batch."""
    assert len(line_elements(b"1\n2\n3", 3)) == 3
    with pytest.raises(BatchTooLarge, match="has 4 records, the maximum is 3"):
        line_elements(b"1\n2\n3\n4", 3)
    with pytest.raises(BatchTooLarge):
        array_elements(b"[1,2,3,4]", 3)


def test_records_are_counted_before_they_are_parsed() -> None:
    """Millions of items or lines in a small body cost no more than the allowed number."""
    with pytest.raises(BatchTooLarge, match="more records than the maximum of 3"):
        array_elements(b"[" + b"1," * 3 + b"broken", 3)
    assert len(line_elements(b"1" + b"\n" * 30, 3)) == 1
    with pytest.raises(BatchTooLarge, match="more than 30 lines, the maximum of records is 3"):
        line_elements(b"1" + b"\n" * 31, 3)


def test_byte_order_marks_of_lines() -> None:
    """Concatenated files contain some between lines."""
    assert [text for _, text, _ in line_elements(BOM + b"1\n" + BOM + b"2\n" + BOM, 9)] == [
        b"1",
        b"2",
    ]


_LINES = st.lists(st.sampled_from([b"1", b"", b" ", b"\r", b"\n", b"\r\n", BOM])).map(b"".join)


@given(body=_LINES, size=st.integers(1, 5))
def test_lines_are_found_in_steps(body: bytes, size: int) -> None:
    """The lines are those of a body that is split at once."""
    lines = [line.removeprefix(BOM) for line in body.replace(b"\r\n", b"\n").split(b"\n")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(elements_module, "LINE_BYTES_AT_ONCE", size)
        found = [(place, line) for place, line, _ in line_elements(body, 1000)]
    assert found == [(place, line) for place, line in enumerate(lines, 1) if line.strip()]


def test_a_step_splits_few_lines() -> None:
    """A body of line ends takes a step for each of its parts."""
    steps = line_steps(b"\r\n" * (5 * LINE_BYTES_AT_ONCE // 2), LINE_BYTES_AT_ONCE)
    assert len(list(steps)) == 5


@pytest.mark.parametrize("blanks", ["before", "within", "after"])
def test_blanks_of_an_array_are_skipped_in_steps(blanks: str) -> None:
    """Megabytes of blanks take many steps."""
    space = b" \n" * (MAX_ITEM_BYTES // 2)
    body = {"before": b"%b[1]", "within": b"[1,%b2]", "after": b"[1]%b"}[blanks] % space
    assert len(list(array_steps(body, 10))) > 10


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (b"[" * 2000, "nested deeper"),
        (b'{"a":' * 2000, "nested deeper"),
        (b"[" + b"{}," * 150_000 + b"1]", "more than 100000 values"),
        (b'["' + b"x" * 2 * MAX_ITEM_BYTES + b'"]', "item 1 of the batch has more than"),
        (b'"' + b"\\n" * MAX_ITEM_BYTES, "item 1 of the batch has more than"),
        (b"9" * 2 * MAX_ITEM_BYTES, "item 1 of the batch has more than"),
    ],
    ids=["arrays", "objects", "containers", "container", "string", "number"],
)
def test_the_search_for_an_item_is_limited(item: bytes, message: str) -> None:
    """An item that is refused anyway isn't searched to its end: what follows isn't read."""
    with pytest.raises(UserError, match=message):
        array_elements(b"[1,%b%b" % (item, b" broken" * MAX_ITEM_BYTES), 10)


def test_brackets_are_counted_in_steps() -> None:
    """An item of many containers takes many steps."""
    body = b"[[" + b"[]," * 50_000 + b"1]]"
    assert len(list(array_steps(body, 10))) > 50


def test_an_item_that_the_usual_parser_refuses() -> None:
    """A huge number or a lone surrogate is accepted, and doesn't affect other records."""
    items = [b'{"a":1e400}', b'{"a":"\\ud83d"}', b'{"a":1}']
    elements = array_elements(b"[%b]" % b",".join(items), 10)
    assert [text for _, text, _ in elements] == items
    assert [item["a"] for _, _, item in elements] == [math.inf, "\ufffd", 1]


def test_rejected_records_are_reported_and_the_others_rendered() -> None:
    """Each sink decides separately, and the order is kept across parts."""
    path = FakeSink(PathColumn("a", path="a"))
    body = FakeSink(BodyColumn("b"))
    lines = [b'{"a":%d}' % i for i in range(2 * RECORDS_AT_ONCE)]
    lines[3] = b'{"b":1}'
    lines[RECORDS_AT_ONCE] = b"broken"
    blocks = [RowBlock(path.renderer), RowBlock(body.renderer), RowBlock(ClosedSink().renderer)]
    elements = line_elements(b"\n".join(lines), 1000)
    assert len(list(render_batch(elements, record(), blocks))) == 2 * len(blocks)
    by_path, by_body, closed = blocks
    assert [r.place for r in by_path.rejected] == [4, RECORDS_AT_ONCE + 1]
    assert [r.error.status for r in by_path.rejected] == [400, 400]
    expected = [i for i in range(len(lines)) if i not in (3, RECORDS_AT_ONCE)]
    assert by_path.rows == [b'"%d"\n' % i for i in expected]
    assert by_body.rows == [b'"%b"\n' % line.replace(b'"', b'""') for line in lines]
    assert isinstance(closed.error, UserError) and not closed.rows


def test_rows_of_a_batch_have_a_limit() -> None:
    """A small body can have large rows; the sink then gets none of them."""
    column = FakeSink(PathColumn("a", path="a", default_value="x" * 1_000_000, raw_string=True))
    blocks = [RowBlock(column.renderer)]
    elements = line_elements(b"{}\n" * (MAX_ROWS_BYTES // 1_000_000), 1000)
    list(render_batch(elements, record(), blocks))
    assert isinstance(blocks[0].error, BatchTooLarge)
    assert (blocks[0].rows, blocks[0].rejected) == ([], [])


def test_large_records_of_a_batch_are_parsed_by_the_engine() -> None:
    """Each is parsed separately and keeps its position; small ones don't need the engine."""
    large = b'{"a":1.0,"b":"%b","c":"\\ud800"}' % (b"x" * 300_000)
    lines = [b'{"a":0}', large, b'{"b":0}', b'{"a":3}', large + b"}"]
    sink = FakeSink(PathColumn("a", path="a"))
    block = RowBlock(sink.renderer)
    asked = 0
    for evaluation in render_batch(line_elements(b"\n".join(lines), 10), record(), [block]):
        if evaluation is not None:
            asked += 1
            [one] = evaluation.records
            plan = sink.renderer().plan_for(one)
            assert plan is not None
            evaluation.done(evaluate(plan, [one]))
    assert asked == 2
    assert block.rows == [b'"0"\n', b'"1.0"\n', b'"3"\n']
    assert [rejection.place for rejection in block.rejected] == [3, 5]


@pytest.mark.skipif(not native.is_built, reason="parts are smaller without the compiled code")
def test_records_are_rendered_in_parts() -> None:
    """A part has few large records or many small ones, in order."""
    body = b'"%b"' % (b"x" * (BYTES_AT_ONCE // 3))
    block = RowBlock(FakeSink(PathColumn("a", path="")).renderer)
    steps = list(render_batch(line_elements(b"\n".join([body] * 9), 10), record(), [block]))
    assert (len(steps), len(block.rows)) == (5, 9)


def test_parts_are_smaller_if_a_mapping_takes_long() -> None:
    """A step renders as many bytes as one record may have that the engine doesn't render."""
    column = TemplateColumn("t", template=Template("jsonnet", "Body('n', null)"))
    slow, fast = FakeSink(*[column] * 10), FakeSink(PathColumn("n", path="n"))
    size = slow.renderer().effort.free_bytes // 2
    body = b'{"n":1,"b":"%b"}' % (b"x" * (size - 14))
    assert len(body) == size
    blocks = [RowBlock(slow.renderer), RowBlock(fast.renderer)]
    steps = list(render_batch(line_elements(b"\n".join([body] * 6), 10), record(), blocks))
    assert len(steps) == 3 * len(blocks)
    assert [block.count for block in blocks] == [6, 6]


def test_the_size_of_items_is_limited() -> None:
    """An item is parsed in one step."""
    text = b'"%b"' % (b"x" * (MAX_ITEM_BYTES - 2))
    assert len(array_elements(b"[1,%b]" % text, 10)) == 2
    with pytest.raises(BatchTooLarge, match=f"item 1 of the batch has more than {MAX_ITEM_BYTES}"):
        array_elements(b'[1,"x%b]' % text[1:], 10)


def test_an_unexpected_error_fails_the_batch_of_the_sink() -> None:
    """The record isn't the cause, so no record is skipped silently."""

    class Broken:
        def renderer(self) -> Renderer:
            def render(_: RecordContext) -> bytes:
                raise ZeroDivisionError

            def row_of(*_: object) -> bytes:
                return b""

            effort = Effort(Mapping(()), Paths(()))
            return Renderer(
                render, None, None, row_of, row_of, 0, lambda _: [b"over the limit"], 1, effort
            )

    blocks = [RowBlock(Broken().renderer)]
    list(render_batch(line_elements(b"1\n2", 10), record(), blocks))
    assert isinstance(blocks[0].error, ZeroDivisionError)


def test_records_of_a_request() -> None:
    """Records are split as the listener does it: decoded, one or many."""
    body = gzip.compress("\ufeff".encode() + b'{"a":1}\n{"a":2}')

    def read(content_type: str, body: bytes, option: bool | str | None = None) -> list[bytes]:
        headers = RecordHeaders([(b"Content-Type", content_type.encode())])
        request = RecordContext(1, "203.0.113.7", headers, body)
        records = read_records(request, b"gzip", option, max_bytes=100, max_records=2)
        return [record.body for record in records]

    assert read("application/x-ndjson", body) == [b'{"a":1}', b'{"a":2}']
    assert read("application/x-ndjson", body, False) == [b'{"a":1}\n{"a":2}']
    assert read("application/json", gzip.compress(b"[1,2]"), True) == [b"1", b"2"]
    assert read("application/json", gzip.compress(b"[1,2]")) == [b"[1,2]"]
    for content_type, option, status in (
        ("application/json", "maybe", 400),
        ("text/plain", True, 415),
        ("application/json", True, 400),
    ):
        with pytest.raises(UserError) as caught:
            read(content_type, body, option)
        assert caught.value.status == status
