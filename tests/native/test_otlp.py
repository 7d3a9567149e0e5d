"""Compiled code parses, prints and renders exports like the Python code, or leaves them to it."""

from __future__ import annotations

from random import Random

import attrs
import orjson
import pytest
from google.protobuf.descriptor import Descriptor
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from stream import native
from stream.errors import UserError
from stream.mapping.columns import BodyColumn, Mapping, PathColumn
from stream.mapping.render import Renderer, compile_renderer
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.source.otlp.decode import Encoding, Signal, decode_request
from stream.source.otlp.flatten import Printer, Record, check_repeated_steps, flatten
from stream.source.otlp.wire import length_delimited
from tests.effort import examples
from tests.native.exports import columns, damaged, export
from tests.templates.inprocess import row

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")

HEADERS = RecordHeaders(((b"Content-Type", b"application/x-protobuf"), (b"X-Quote", b'a"b')))
AT = 1_700_000_000_123
IP = '1.2.3.4"'
LIMIT = 2000


@attrs.frozen
class Expected:
    """The result of the Python code for a record."""

    flat: Record
    body: bytes


def _expected(body: bytes) -> list[Expected] | None:
    """Return the records of the Python code; ``None`` if it refuses the export."""
    try:
        decoded = decode_request(Signal.LOGS, Encoding.PROTOBUF, body)
        for _ in check_repeated_steps(decoded):
            pass
    except UserError:
        return None
    printer = Printer()
    return [Expected(flat, printer.print(flat)) for flat in flatten(decoded)]


def _record(flat: Record, body: bytes) -> RecordContext:
    return RecordContext(AT, IP, HEADERS, body, "logs", flat)


def _row(renderer: Renderer, flat: Record, body: bytes) -> bytes | None:
    """Return the row of the Python code, ``None`` if it refuses the record."""
    try:
        return row(renderer, _record(flat, body))
    except UserError:
        return None


@attrs.define
class Taken:
    """Counts of the exports and records that compiled code handles."""

    exports: int = 0
    records: int = 0
    rows: int = 0
    left: int = 0

    def add(self, other: Taken) -> None:
        """Add the counts of *other*."""
        self.exports += other.exports
        self.records += other.records
        self.rows += other.rows
        self.left += other.left


def _python_renderer(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> Renderer:
    with monkeypatch.context() as patched:
        patched.setattr(native, "is_built", False)
        return compile_renderer(mapping, LIMIT)


def _compare(random: Random, body: bytes, renderers: list[tuple[Renderer, Renderer]]) -> Taken:
    """Compare both for the export *body*; each sink has a compiled renderer and one in Python."""
    expected = _expected(body)
    taken = Taken()
    logs = native.LogExport.read(body)
    if logs is None:
        return taken
    assert expected is not None, body
    assert len(logs) == len(expected)
    taken.exports = 1
    plans = [compiled.native_of_maps for compiled, _ in renderers]
    done = 0
    while done < len(expected):
        wants_bodies = random.random() < 0.7
        most = random.choice([1, 2, 16, 100])
        size = random.choice([1, 300, 10_000])
        printed = logs.print(plans, AT, IP.encode(), HEADERS.csv_cell, wants_bodies, most, size)
        assert printed is not None, body
        count, all_bytes, rows, bodies = printed
        assert 0 < count <= most
        some = expected[done : done + count]
        done += count
        taken.records += count
        assert all_bytes == sum(len(each.body) for each in some)
        if wants_bodies or rows is None or None in plans:
            assert bodies is not None
        if bodies is not None:
            assert bodies == [each.body for each in some], body
            for each, text in zip(some, bodies, strict=True):
                again = orjson.loads(text)
                for _, python in renderers:
                    known = _row(python, each.flat, each.body)
                    assert _row(python, again, text) == known, body
        if rows is None:
            taken.left += 1
            continue
        for plan, block, (_, python) in zip(plans, rows, renderers, strict=True):
            assert (block is None) == (plan is None)
            if block is None:
                continue
            taken.rows += count
            known_rows = [_row(python, each.flat, each.body) for each in some]
            assert None not in known_rows, body
            assert block == b"".join(known or b"" for known in known_rows), body
    end = logs.print(plans, AT, b"", b"", False, 1, 1)
    assert end is not None
    assert end[:2] == (0, 0)
    return taken


def _renderers(
    random: Random, monkeypatch: pytest.MonkeyPatch, *, templates: bool
) -> list[tuple[Renderer, Renderer]]:
    mappings = [
        Mapping(columns(random, templates=templates)) for _ in range(random.choice([0, 1, 1, 2]))
    ]
    return [
        (compile_renderer(mapping, LIMIT), _python_renderer(mapping, monkeypatch))
        for mapping in mappings
    ]


@pytest.mark.parametrize("templates", [False, True], ids=["paths", "templates"])
def test_random_exports(monkeypatch: pytest.MonkeyPatch, templates: bool) -> None:
    """Bodies, rows and counts are those of the Python code, which accepts each handled export."""
    count = examples(40 if templates else 400)
    total = Taken()
    for seed in range(count):
        random = Random(seed)
        renderers = _renderers(random, monkeypatch, templates=templates)
        for _ in range(5):
            body = export(random)
            if random.random() < 0.3:
                body = damaged(random, body)
            taken = _compare(random, body, renderers)
            total.add(taken)
    assert total.exports > 2 * count  # more than 1 of 5 each: the others are unusual or damaged
    assert total.records > 4 * count
    assert total.rows > 2 * count


_KNOWN = {
    "ExportLogsServiceRequest": {"resource_logs": 1},
    "ResourceLogs": {"resource": 1, "scope_logs": 2, "schema_url": 3},
    "Resource": {"attributes": 1, "dropped_attributes_count": 2, "entity_refs": 3},
    "EntityRef": {"schema_url": 1, "type": 2, "id_keys": 3, "description_keys": 4},
    "ScopeLogs": {"scope": 1, "log_records": 2, "schema_url": 3},
    "InstrumentationScope": {
        "name": 1,
        "version": 2,
        "attributes": 3,
        "dropped_attributes_count": 4,
    },
    "LogRecord": {
        "time_unix_nano": 1,
        "observed_time_unix_nano": 11,
        "severity_number": 2,
        "severity_text": 3,
        "body": 5,
        "attributes": 6,
        "dropped_attributes_count": 7,
        "flags": 8,
        "trace_id": 9,
        "span_id": 10,
        "event_name": 12,
    },
    "KeyValue": {"key": 1, "value": 2, "key_strindex": 3},
    "AnyValue": {
        "string_value": 1,
        "bool_value": 2,
        "int_value": 3,
        "double_value": 4,
        "array_value": 5,
        "kvlist_value": 6,
        "bytes_value": 7,
        "string_value_strindex": 8,
    },
    "ArrayValue": {"values": 1},
    "KeyValueList": {"values": 1},
}


def test_each_field_of_the_messages_is_known() -> None:
    """A new field of the messages must be considered in the compiled code."""
    found: dict[str, dict[str, int]] = {}
    messages: list[Descriptor] = [ExportLogsServiceRequest.DESCRIPTOR]
    while messages:
        message = messages.pop()
        if message.name not in found:
            found[message.name] = {field.name: field.number for field in message.fields}
            messages += [
                field.message_type for field in message.fields if field.message_type is not None
            ]
    assert found == _KNOWN


def _logs(*records: bytes, resource: bytes = b"") -> bytes:
    scope = b"".join(length_delimited(2, record) for record in records)
    return length_delimited(1, length_delimited(1, resource) + length_delimited(2, scope))


def _nested(levels: int) -> bytes:
    value = b""
    for _ in range(levels):
        value = length_delimited(5, length_delimited(1, value))
    return value


@pytest.mark.parametrize(
    ("body", "is_taken"),
    [
        (_logs(b"\x00"), False),
        (_logs(b"\x18\x00"), False),
        (_logs(length_delimited(3, b"a") * 2), False),
        (_logs(length_delimited(3, b"\xff")), False),
        (_logs(length_delimited(12, b"\xff")), False),
        (_logs(b"\x7b\x7c"), False),
        (_logs(length_delimited(6, length_delimited(1, b"a")) * 2), False),
        (
            _logs(
                length_delimited(6, length_delimited(1, b"a"))
                + length_delimited(6, length_delimited(1, b"b"))
            ),
            True,
        ),
        (_logs(length_delimited(5, length_delimited(1, b"a") + b"\x10\x01")), False),
        (_logs(length_delimited(5, b"\x21" + bytes(7) + b"\x80")), False),
        (_logs(length_delimited(5, _nested(22))), True),
        (_logs(length_delimited(5, _nested(24))), False),
        (_logs(length_delimited(100, b"\xff")), True),
        (_logs(*[b""] * 49_000), True),
        (_logs(*[b""] * 50_000), False),
        (_logs(length_delimited(3, b"a" * 65_000)), True),
        (_logs(length_delimited(3, b"a" * 66_000)), False),
        (_logs(*[length_delimited(3, b"a" * 1000)] * 1000), True),
        (_logs(*[length_delimited(3, b"a" * 1000)] * 1060), False),
        (
            _logs(*[b""] * 1000, resource=length_delimited(1, length_delimited(1, b"k" * 33_000))),
            True,
        ),
        (
            _logs(*[b""] * 1100, resource=length_delimited(1, length_delimited(1, b"k" * 33_000))),
            False,
        ),
        (
            _logs(
                *[b""] * 300, resource=length_delimited(1, length_delimited(1, b"\x01" * 33_000))
            ),
            False,
        ),
    ],
)
def test_unusual_exports_are_left_to_the_python_code(body: bytes, is_taken: bool) -> None:
    """Exports above a limit are left to it before a record of them is created."""
    assert (native.LogExport.read(body) is not None) == is_taken
    if is_taken:
        assert _expected(body) is not None


def test_the_limits_of_a_step() -> None:
    """A step has a limit of records and of bytes, which a single record may exceed."""
    logs = native.LogExport.read(_logs(*[length_delimited(3, b"a" * 1000)] * 100))
    assert logs is not None
    plan = compile_renderer(Mapping((BodyColumn("b"),)), 10_000).native_of_maps
    counts = []
    for records, size in ((1, 10_000), (7, 10**6), (100, 1), (100, 5_000), (100, 10**6)):
        printed = logs.print([plan], AT, b"", b"", False, records, size)
        assert printed is not None
        counts.append(printed[0])
        assert printed[3] is None
    assert counts == [1, 7, 1, 3, 88]


def test_rows_above_the_limit_are_left_to_the_python_code() -> None:
    """The error of the Python code names the column. Earlier records are rendered."""
    logs = native.LogExport.read(_logs(b"", length_delimited(3, b"a" * 1000), b""))
    assert logs is not None
    column = PathColumn("t", path="severity_text", raw_string=True)
    plan = compile_renderer(Mapping((column,)), 100).native_of_maps
    first = logs.print([plan], AT, b"", b"", False, 100, 10**6)
    assert first is not None
    assert (first[0], first[2], first[3]) == (1, [b'""\n'], None)
    second = logs.print([plan], AT, b"", b"", False, 100, 10**6)
    assert second is not None
    assert second[0] == 2
    assert second[2] is None
    assert second[3] is not None
