"""Large records: the engine parses them, and the row is the same as without it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    IpColumn,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
)
from stream.mapping.engine_protocol import (
    BatchItem,
    BatchReader,
    FrameBuffer,
    decode_plan,
    decode_results,
    encode_batch,
    encode_plan,
    encode_result,
    encode_results,
)
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.mapping.render import Renderer, compile_renderer, render_cells
from stream.record import large
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.record.large import LARGE_BYTES, takes_long
from tests.mapping.test_any_template import BODIES, TYPES
from tests.templates.inprocess import evaluate

JSON = b"application/json"
PATHS = st.sampled_from(["a", "b", "a.b", "a[0]", "a.0.b", "", "b.b.b"])
COLUMNS = st.one_of(
    st.just(BodyColumn("b")),
    st.just(IpColumn("i")),
    st.builds(
        lambda path, raw, default: PathColumn(
            "p", path=path, raw_string=raw, default_value=default
        ),
        PATHS,
        st.booleans(),
        st.none() | st.text(max_size=3),
    ),
    st.builds(
        lambda content, raw: TemplateColumn(
            "t", template=Template("jsonnet", content), raw_string=raw
        ),
        st.sampled_from(["Body('a')", "BodyStr()", "Ip()", "[Body('b', null)]"]),
        st.booleans(),
    ),
)


def _record(body: bytes, kind: bytes = JSON, signal: str = "") -> RecordContext:
    return RecordContext(1, "192.0.2.1", RecordHeaders([(b"Content-Type", kind)]), body, signal)


def _as_the_engine_says(plan: TemplatePlan, record: RecordContext) -> Evaluated:
    """Return the result of *record* after a round trip of the record and the plan to the engine."""
    [(_, plain)] = FrameBuffer().feed(encode_plan(1, plan))
    _, received_plan = decode_plan(plain)
    assert received_plan == plan
    item = BatchItem(1, plan.needs_body, plan.needs_headers, record)
    [(_, data)] = FrameBuffer().feed(b"".join(encode_batch(1, 1.0, [item])))
    [(_, received)] = BatchReader(data).records
    [result] = evaluate(received_plan, [received])
    _, results = decode_results(encode_results(1, [encode_result(0, result)]))
    [(_, answer)] = results
    return answer


def _outcome(renderer: Renderer, record: RecordContext) -> tuple[bytes, str, int]:
    """Return the row, or the error."""
    plan = renderer.plan_for(record)
    try:
        if plan is None:
            return renderer.row(record), "", 200
        return renderer.row_of(record, _as_the_engine_says(plan, record)), "", 200
    except UserError as error:
        return b"", str(error), error.status


def _check_no_difference(body: bytes, kind: bytes, columns: list[Column]) -> None:
    renderer = compile_renderer(Mapping(tuple(columns)), 1000)
    usual = _outcome(renderer, _record(body, kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE_BYTES", -1)
        assert _outcome(renderer, _record(body, kind)) == usual


def test_a_body_is_not_copied_for_the_engine() -> None:
    """It is a part of its own; `PipeWriter` copies a part of it at a time."""
    record = _record(b"x" * 1000)
    _, body = encode_batch(1, 1.0, [BatchItem(1, True, False, record)])
    assert body is record.body


def test_which_records_are_large() -> None:
    """A record is large if its body is large, unparsed and has to be parsed."""
    large = b" " * (LARGE_BYTES + 1)
    assert takes_long(_record(large))
    assert takes_long(_record(large, b"application/x-www-form-urlencoded"))
    assert not takes_long(_record(large[1:]))
    assert not takes_long(_record(large, b"text/plain"))
    assert not takes_long(_record(large, signal="logs"))


@pytest.mark.parametrize("columns", [(BodyColumn("b"), IpColumn("i")), ()])
def test_columns_that_need_no_parsing(columns: tuple[Column, ...]) -> None:
    """Records of any size are rendered without the engine."""
    renderer = compile_renderer(Mapping(columns), 10 * LARGE_BYTES)
    assert renderer.plan_for(_record(b" " * (LARGE_BYTES + 1))) is None


def test_a_large_record() -> None:
    """Paths and templates of a large record are evaluated by the engine, those of a small one at
    once.
    """
    columns = PathColumn("p", path="a"), BodyColumn("b")
    renderer = compile_renderer(Mapping(columns), 10 * LARGE_BYTES)
    body = b'{"a":1.50,"b":"%b"}' % (b"x" * LARGE_BYTES)
    assert renderer.plan_for(_record(b"{}")) is None
    row, message, status = _outcome(renderer, _record(body))
    assert (status, message) == (200, "")
    assert row == b'"1.50","%b"\n' % body.replace(b'"', b'""')


def test_a_large_record_with_typed_columns() -> None:
    """The engine evaluates its paths, and reports missing values."""
    columns = (
        PathColumn("n", path="n", data_type="integer"),
        PathColumn("m", path="m", data_type="string", nullable=True),
        PathColumn("d", path="m", data_type="string", default_value="none"),
        IpColumn("i", data_type="string"),
    )
    renderer = compile_renderer(Mapping(columns), 10 * LARGE_BYTES)
    record = _record(b'{"n":7,"b":"%b"}' % (b"x" * LARGE_BYTES))
    plan = renderer.plan_for(record)
    assert plan is not None
    assert len(plan.templates) == 3
    assert _outcome(renderer, record) == (b'"7",,"none","192.0.2.1"\n', "", 200)
    shown = render_cells(Mapping(columns), record, _as_the_engine_says(plan, record))
    assert shown == [("n", "7"), ("m", "NULL"), ("d", "none"), ("i", "192.0.2.1")]


TYPED_COLUMNS = st.one_of(
    st.just(BodyColumn("b", data_type="string")),
    st.builds(
        lambda path, raw, default, data_type, nullable: PathColumn(
            "p",
            path=path,
            raw_string=raw,
            default_value=default,
            data_type=data_type,
            nullable=nullable,
        ),
        PATHS,
        st.booleans(),
        st.sampled_from([None, "1"]),
        st.sampled_from(["string", "integer", "json"]),
        st.booleans(),
    ),
    st.builds(
        lambda content, raw: TemplateColumn(
            "t", template=Template("jsonnet", content), raw_string=raw, data_type="string"
        ),
        st.sampled_from(["Body('a')", "Body('a', null)", "BodyStr()", "Ip()"]),
        st.booleans(),
    ),
)


@settings(deadline=None)
@given(BODIES, TYPES, st.lists(TYPED_COLUMNS, min_size=1, max_size=4))
def test_typed_rows_of_the_engine_are_the_same(
    body: bytes, kind: bytes, columns: list[Column]
) -> None:
    _check_no_difference(body, kind, columns)


@settings(deadline=None)
@given(BODIES, TYPES, st.lists(COLUMNS, min_size=1, max_size=4))
def test_rows_of_the_engine_are_the_same(body: bytes, kind: bytes, columns: list[Column]) -> None:
    """Rows and messages are the same with and without the engine."""
    _check_no_difference(body, kind, columns)
