"""Any record and any template result in a row or in an error message, here and in the engine."""

from __future__ import annotations

import json
import re

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.engine_protocol import (
    BatchItem,
    BatchReader,
    FrameBuffer,
    decode_results,
    encode_batch,
    encode_result,
    encode_results,
)
from stream.mapping.render import compile_renderer, render_cells, template_plan
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from tests.templates.inprocess import evaluate

SURROGATES = ["\ud83d", "\ude00", "a\ud83d"]
TEXT = st.text(max_size=6) | st.sampled_from([*SURROGATES, '"', "\\", "\x00", "\n"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**53 + 1, 1e308])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]) | TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)
BODIES = (
    st.dictionaries(st.sampled_from(["a", "b"]) | TEXT, VALUES, max_size=3).map(
        lambda value: json.dumps(value).encode()
    )
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [
            b'{"a":"\\ud83d","b":1%b}' % (b"0" * 400),
            b'{"a":1e400}',
            b'{"a":NaN}',
            b'{"a":1,"a":2}',
            b"a=1&b[]=2&b[]=%ff",
            b"\xef\xbb\xbf{}",
            b"",
        ]
    )
    | st.binary(max_size=20)
)
TYPES = st.sampled_from(
    [
        b"application/json",
        b"application/x-www-form-urlencoded",
        b"application/x-www-form-urlencoded; charset=windows-1252",
        b"text/plain",
        b"application/json; charset=\xff",
    ]
)
CALLS = st.sampled_from(
    [
        "Body()",
        "Body('a')",
        "Body('a.b')",
        "Body('b', null)",
        "Body('a', {x: [1]})",
        "Body(1)",
        "BodyStr()",
        "Header()",
        "Header('content-type')",
        "Header('x', 'none')",
        "HeaderStr()",
        "Ip()",
        "Now()",
        "Now('%Q')",
        "1e308",
        "'\\ud83d'",
        "null",
    ]
)
FORMS = st.sampled_from(
    [
        "{0}",
        "({0})",
        "[{0}]",
        "{{k: {0}, h:: 1}}",
        "{0} + ''",
        "{0} + {0}",
        "{0} * 10",
        "std.length({0})",
        "std.toString({0})",
        "std.manifestJson({0})",
        "std.parseJson({0})",
        "std.objectFields({0})",
        "std.base64({0})",
        "std.char({0})",
        "std.format('%s %d', [{0}, {0}])",
        "{0}.a",
        "{0}[0]",
        "function(x) x",
        "function(x={0}) x",
        "error {0}",
        "assert {0}; 1",
        "std.native('x')({0})",
        "Body(Header('x', function(y) y))",
        "if {0} then 1",
        "[",
        "local a = [{0}] + a; a[0]",
        "std.codepoint({0})",
        "std.sort([{0}, 1])",
        "std.slice({0}, 0, 1, 1)",
    ]
)
TEMPLATES = st.builds(lambda form, call: form.format(call), FORMS, CALLS)
OTHERS: tuple[Column, ...] = (
    UuidColumn("u"),
    DatetimeColumn("d"),
    IpColumn("i"),
    BodyColumn("b"),
    HeadersColumn("h"),
    PathColumn("p", path="a", default_value=""),
    PathColumn("r", path="a[0]", default_value="x", raw_string=True),
)
INTERNALS = re.compile(
    r"Traceback|PyErr|codec can|UnicodeEncode|<class|object at 0x"
    r"|TypeError|ValueError|KeyError|OverflowError|unwrap|panicked|src/"
)


def _through_the_protocol(record: RecordContext, column: TemplateColumn) -> RecordContext:
    """Return *record* as the engine gets it."""
    plan = template_plan(Mapping((column,)), 1000)
    needs = (True, True) if plan is None else (plan.needs_body, plan.needs_headers)
    data = b"".join(encode_batch(1, 1.0, [BatchItem(7, *needs, record)]))
    [(letter, rest)] = FrameBuffer().feed(data)
    assert letter == b"B"
    reader = BatchReader(rest)
    [(plan_number, received)] = reader.records
    assert (reader.serial, plan_number) == (1, 7)
    return received


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(BODIES, TYPES, TEMPLATES, st.booleans())
@example(b'{"a":"\\ud83d","b":1%b}' % (b"0" * 400), b"application/json", "[Body()]", False)
@example(b'{"a":{"k\\ud83d":1}}', b"application/json", "Body('a') + {}", False)
def test_any_record_and_template(body: bytes, kind: bytes, content: str, raw: bool) -> None:
    """The row is the same with all other kinds of columns, and in a test of the mapping."""
    headers = RecordHeaders([(b"Content-Type", kind), (b"X-Any", b"\xff")])
    record = RecordContext(1714557600123, "203.0.113.7", headers, body)
    column = TemplateColumn("t", template=Template("jsonnet", content), raw_string=raw)
    mapping = Mapping((*OTHERS, column))
    renderer = compile_renderer(mapping, 10_000)
    results = []
    if renderer.plan is not None:
        [result] = evaluate(renderer.plan, [_through_the_protocol(record, column)])
        _, decoded = decode_results(encode_results(1, [encode_result(0, result)]))
        [(_, received)] = decoded
        assert list(received.cells) == list(result.cells)
        assert str(received.error) == str(result.error)
        results = [received]
    try:
        row = renderer.row_of(record, results[0]) if results else renderer.row(record)
    except UserError as error:
        assert 400 <= error.status < 500
        assert INTERNALS.search(str(error)) is None, str(error)
        failed = True
    else:
        failed = False
        assert row.endswith(b'"\n')
    try:
        cells = render_cells(mapping, record, results[0] if results else None)
    except UserError as error:
        assert failed
        assert error.status == 422
        assert INTERNALS.search(str(error)) is None
    else:
        assert not failed
        assert len(cells) == len(mapping.columns)


@given(TYPES, BODIES)
def test_the_engine_gets_the_same_record(kind: bytes, body: bytes) -> None:
    """Each template function returns the same result in the engine."""
    headers = RecordHeaders([(b"Content-Type", kind), (b"x-b", b"\xe4"), (b"X-A", b"1")])
    record = RecordContext(1714557600123, "fe80::1\ud83d", headers, body)
    for each in (record, RecordContext(1, "", headers.of_json, body)):
        column = TemplateColumn("t", template=Template("jsonnet", "[Body()]"))
        received = _through_the_protocol(each, column)
        assert received.body == each.body
        assert received.timestamp_ms == each.timestamp_ms
        assert received.client_ip == each.client_ip
        assert received.headers.kind is each.headers.kind
        assert received.headers.map == each.headers.map
        assert received.headers.text == each.headers.text
        assert _map(received) == _map(each)


def test_an_otlp_record_in_the_engine() -> None:
    """The body of the record is sent as printed JSON, without the parsed form."""
    flat = {"body": {"a": [1, 2.5, None, "x"]}, "big": 2**63, "timestamp": "2024-05-01"}
    record = RecordContext(
        1, "", RecordHeaders(()), json.dumps(flat).encode(), "logs", body_map=flat
    )
    column = TemplateColumn("t", template=Template("jsonnet", "[Body()]"))
    assert _through_the_protocol(record, column).body_map == flat


def _map(record: RecordContext) -> str:
    try:
        return repr(record.body_map)
    except UserError as error:
        return str(error)
