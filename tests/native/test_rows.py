"""The compiled renderer returns the rows of the Python code, or leaves the record to it."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pytest

from stream import native
from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.native_plan import native_plan
from stream.mapping.render import Renderer, compile_renderer
from stream.record.block import RecordBlock
from stream.record.context import UNPARSED, RecordContext
from stream.record.headers import RecordHeaders
from tests.effort import examples
from tests.native.documents import columns, document, typed_columns, typed_document

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")

HEADERS = RecordHeaders(((b"Content-Type", b"application/json"), (b"X-Quote", b'a"b')))
AT = 1_700_000_000_123
LIMIT = 400


def _record(body: bytes, at: int = AT) -> RecordContext:
    return RecordContext(at, '1.2.3.4"', HEADERS, body)


def _python_renderer(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> Renderer:
    with monkeypatch.context() as patched:
        patched.setattr(native, "is_built", False)
        renderer = compile_renderer(mapping, LIMIT)
    assert renderer.native is None
    return renderer


def _row(renderer: Renderer, body: bytes) -> bytes | str:
    try:
        return renderer.row(_record(body))
    except UserError as error:
        return f"{error.status} {error}"


def test_rows_of_random_documents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows equal those of the Python code for valid and invalid documents and any mapping."""
    taken = 0
    mappings = examples(200)
    for seed in range(mappings):
        random = Random(seed)
        mapping = Mapping(columns(random))
        plan = native_plan(mapping, LIMIT)
        assert plan is not None
        python = _python_renderer(mapping, monkeypatch)
        both = compile_renderer(mapping, LIMIT)
        for _ in range(50):
            body = document(random)
            row = plan.row(body, AT, b'1.2.3.4"', HEADERS.csv_cell)
            expected = _row(python, body)
            if row is not None:
                taken += 1
                assert row == expected, (body, mapping)
            assert _row(both, body) == expected, (body, mapping)
    # More than 10 of the 50 documents of a mapping. The others are invalid or above the limit.
    assert taken > 10 * mappings


def test_rows_of_typed_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of typed columns equal those of the Python code, for valid and invalid values."""
    taken = valid = 0
    for seed in range(examples(400)):
        random = Random(seed)
        mapping = Mapping(typed_columns(random))
        both = compile_renderer(mapping, LIMIT)
        python = _python_renderer(mapping, monkeypatch)
        plan = both.native
        if plan is None or python.plan is not None:
            continue
        for _ in range(100):
            body = typed_document(random)
            row = plan.row(body, AT, b'1.2.3.4"', HEADERS.csv_cell)
            expected = _row(python, body)
            valid += isinstance(expected, bytes)
            if row is not None:
                taken += 1
                assert row == expected, (body, mapping)
            assert _row(both, body) == expected, (body, mapping)
    assert taken > 0.7 * valid > 0


_PIECES = [
    *(b'"', b"\\", b'\\"', b"\\\\", b"\\u0041", b"\\ud800", b"\x00", b"\x1f", b"\n", b"\x7f", b" "),
    *("é".encode(), "€".encode(), "😀".encode()),
    *(b"\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\x80"),
]


def test_strings_with_special_bytes_at_each_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows are equal with each piece at each position: compiled code reads many bytes at a time."""
    mapping = Mapping((PathColumn("a", path="a", raw_string=True),))
    plan = native_plan(mapping, LIMIT)
    assert plan is not None
    python = _python_renderer(mapping, monkeypatch)
    taken = 0
    for place in range(150):
        for number, piece in enumerate(_PIECES):
            behind = b"x" * ((7 * place + number) % 80)
            body = b'{"a":"%b%b%b"}' % (b"x" * place, piece, behind)
            row = plan.row(body, AT, b"", b"")
            expected = _row(python, body)
            taken += row is not None
            assert row is None or row == expected, body
            assert row is not None or not isinstance(expected, bytes), body
    assert taken == 150 * 9


def test_rows_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are left to the Python code keep their position in the batch."""
    mapping = Mapping((PathColumn("a", path="a"), DatetimeColumn("at")))
    many = b'{"a":1,"b":[%b0]}' % (b"[]," * 60_000)
    bodies = [b'{"a":1}', many, b' {"a" : [ 1 ]}', b'{"a":1e999}']
    both = compile_renderer(mapping, LIMIT)
    plan = both.native
    assert plan is not None
    assert [row is None for row in plan.rows(bodies, AT, b"", b"")] == [False, True, False, False]
    block = RecordBlock(_record(b""), bodies, [UNPARSED] * len(bodies))
    python = _python_renderer(mapping, monkeypatch)
    assert both.rows(block) == [python.row(_record(body)) for body in bodies]


def test_times() -> None:
    """Leap days, ends of months and centuries, and times before the epoch are correct."""
    plan = native_plan(Mapping((DatetimeColumn("at"),)), LIMIT)
    assert plan is not None
    random = Random(1)
    seconds = [0, -1, 951_782_400, 951_868_799, 4_107_542_399, 253_402_300_799, -2_208_988_800]
    seconds += [random.randrange(-62_135_596_800, 253_402_300_800) for _ in range(examples(2000))]
    for second in seconds:
        expected = datetime.fromtimestamp(second, UTC)
        text = f'"{expected.year:04d}-{expected:%m-%dT%H:%M:%S}.007Z"\n'
        assert plan.row(b"", second * 1000 + 7, b"", b"") == text.encode()


def test_uuids_are_of_version_7_and_unique() -> None:
    """UUIDs contain the current time, so that they sort by it."""
    plan = native_plan(Mapping((UuidColumn("id"),)), LIMIT)
    assert plan is not None
    rows = [plan.row(b"", 0, b"", b"") or b"" for _ in range(1000)]
    assert len(set(rows)) == len(rows)
    assert rows == sorted(rows)
    assert {row[15:16] for row in rows} == {b"7"}


@pytest.mark.parametrize(
    "column",
    [
        TemplateColumn("t", template=Template("jsonnet", "Now()")),
        PathColumn("p", path="a", data_type="string"),
    ],
    ids=["template", "typed"],
)
def test_other_columns_are_left_to_the_python_code(column: Column) -> None:
    """A mapping with one of them isn't compiled."""
    assert native_plan(Mapping((UuidColumn("id"), column)), LIMIT) is None


@pytest.mark.parametrize("count", [8, 9, 65, 1000])
def test_any_number_of_paths(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths are looked up in one pass, however many there are; the first equal key counts."""
    mapping = Mapping(
        tuple(PathColumn(f"c{i}", path=f"k{i}", default_value="") for i in range(count))
    )
    plan = native_plan(mapping, 100_000)
    assert plan is not None
    members = [b'"k%d":%d' % (i, i) for i in range(0, count, 2)]
    body = b"{%b,%b}" % (b",".join(members), b",".join(members[::-1]).replace(b":", b":1"))
    expected = [b'"%d"' % i if i % 2 == 0 else b'""""""' for i in range(count)]
    assert plan.row(body, AT, b"", b"") == b",".join(expected) + b"\n"


@pytest.mark.parametrize("depth", [64, 300, 301, 1000, 100_000])
def test_deep_documents_are_left_to_the_python_code(depth: int) -> None:
    """The compiled parser accepts as many levels as the Python code, and no more."""
    plan = native_plan(Mapping((PathColumn("a", path="a", default_value=""),)), LIMIT)
    assert plan is not None
    row = plan.row(b"[" * depth + b"]" * depth, AT, b"", b"")
    assert (row is None) == (depth > 300)


def test_documents_with_too_many_values_are_left_to_the_python_code() -> None:
    """The Python code refuses them; the compiled code may count an object or array twice."""
    plan = native_plan(Mapping((PathColumn("a", path="a", default_value=""),)), LIMIT)
    assert plan is not None
    for values, is_taken in ((99_000, True), (100_000, False)):
        body = b"[" + b",".join([b"1"] * values) + b"]"
        assert (plan.row(body, AT, b"", b"") is not None) == is_taken
    assert plan.row(b"[" + b",".join([b"[]"] * 60_000) + b"]", AT, b"", b"") is None


@pytest.mark.parametrize("count", [4, 5])
def test_values_that_are_written_many_times_are_left_to_the_python_code(count: int) -> None:
    """The values of a row, or of all rows of a call, may have four times the size of the bodies."""
    body = b'{"a":"%b"}' % (b"x" * 64 * 1024)
    paths = tuple(PathColumn(f"c{i}", path="a", raw_string=True) for i in range(count))
    text = Template("jsonnet", " + ".join(["Body('a')"] * count))
    for mapping in (Mapping(paths), Mapping((TemplateColumn("t", template=text),))):
        plan = native_plan(mapping, 10**6)
        assert plan is not None
        is_written = count <= 4
        assert (plan.row(body, AT, b"", b"") is not None) == is_written
        rows = plan.rows([body, body], AT, b"", b"")
        assert [row is not None for row in rows] == [True, is_written]
        lines = plan.lines(b"%b\n%b" % (body, body), AT, b"", b"", 10, 10, 10**7)
        assert (lines is not None) == is_written


def test_a_row_above_the_limit_is_not_completed() -> None:
    """The error names the column that exceeds the limit, before a column without a value."""
    columns = [PathColumn(f"c{i}", path="a") for i in range(3)]
    renderer = compile_renderer(Mapping((*columns, PathColumn("d", path="missing"))), LIMIT)
    body = b'{"a":"%b"}' % (b"x" * (LIMIT // 2))
    assert str(_row(renderer, body)).startswith('413 too big CSV row, column: "c1"')


def test_the_limits_of_lines() -> None:
    """A batch above a limit is left to the Python code as a whole; blank lines count."""
    plan = native_plan(Mapping((PathColumn("a", path="a"),)), LIMIT)
    assert plan is not None
    body = b'{"a":1}\n' * 3
    rows = b'"1"\n' * 3
    assert plan.lines(body, AT, b"", b"", 3, 3, len(rows)) == (rows, 3, 3)
    assert plan.lines(body, AT, b"", b"", 3, 3, len(rows) - 1) is None
    assert plan.lines(body, AT, b"", b"", 3, 2, len(rows)) is None
    assert plan.lines(body, AT, b"", b"", 2, 3, len(rows)) is None
    assert plan.lines(b"\n \r\n" + body[:-1], AT, b"", b"", 3, 4, len(rows)) == (rows, 3, 4)


def test_quotes_are_doubled_wherever_they_are() -> None:
    """Eight bytes are compared together: quotes are at each place of them, beside similar bytes."""
    plan = native_plan(Mapping((BodyColumn("b"),)), 1000)
    assert plan is not None
    random = Random(3)
    for _ in range(examples(2000)):
        body = bytes(random.choices(b'""a!#\xa2\xa1\x00\xff', k=random.randrange(40)))
        assert plan.row(body, AT, b"", b"") == b'"%b"\n' % body.replace(b'"', b'""')
