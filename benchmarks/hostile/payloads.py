"""Bodies that cost the receiver more than the sender.

Each is created once, before the measurement.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache

import zstandard
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

__all__ = ["body"]

MIB = 1024 * 1024
DECODED = 15 * MIB
"""Just below the size limit of a decoded body."""


def _json_lines(line: bytes) -> bytes:
    return (line + b"\n") * (DECODED // (len(line) + 1))


def _otlp_wide() -> bytes:
    """Many records that share large attributes: each is printed with them."""
    export = ExportLogsServiceRequest()
    resource = export.resource_logs.add()
    for number in range(200):
        attribute = resource.resource.attributes.add()
        attribute.key = f"key{number}"
        attribute.value.string_value = "x" * 200
    records = resource.scope_logs.add().log_records
    for _ in range(20_000):
        records.add()
    return export.SerializeToString()


def _otlp_many() -> bytes:
    export = ExportLogsServiceRequest()
    records = export.resource_logs.add().scope_logs.add().log_records
    for _ in range(500_000):
        records.add()
    return export.SerializeToString()


def _otlp_deep() -> bytes:
    value = b'{"stringValue":"x"}'
    for _ in range(5000):
        value = b'{"arrayValue":{"values":[' + value + b"]}}"
    return b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":' + value + b"}]}]}]}"


def _otlp_values() -> bytes:
    record = b'{"body":{"arrayValue":{"values":[' + b"{}," * 9799 + b"{}]}}}"
    records = b",".join([record] * 12)
    return b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + records + b"]}]}]}"


def _field(number: int, value: bytes) -> bytes:
    """Return an encoded field of protobuf with a length of four bytes."""
    size = len(value)
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    return bytes([number << 3 | 2]) + length + value


_MAKERS: dict[str, Callable[[], bytes]] = {
    "gzip bomb": lambda: gzip.compress(bytes(512 * MIB), 9),
    "gzip members": lambda: gzip.compress(b"") * 40_000,
    "gzip members with a byte": lambda: gzip.compress(b"1") * 40_000,
    "zstd bomb": lambda: zstandard.compress(bytes(512 * MIB)),
    "zstd frames": lambda: zstandard.compress(b"") * 60_000,
    "gzip form": lambda: gzip.compress(b"a=&" * (DECODED // 3)),
    "gzip nested form": lambda: gzip.compress(
        b"a" + b"[b]" * 200_000 + b"=1&" + b"c[d][]=1&" * 500_000
    ),
    "gzip lines": lambda: gzip.compress(_json_lines(b"{}")),
    "gzip blank lines": lambda: gzip.compress(b"\n" * DECODED),
    "gzip array": lambda: gzip.compress(b"[" + b"1," * (DECODED // 2) + b"1]"),
    "gzip array of arrays": lambda: gzip.compress(b"[" + b"[]," * (DECODED // 3) + b"1]"),
    "gzip deep": lambda: gzip.compress(b"[" * DECODED),
    "gzip deep and closed": lambda: gzip.compress(b"[" * (DECODED // 2) + b"]" * (DECODED // 2)),
    "gzip keys": lambda: gzip.compress(
        b"{" + b",".join(b'"%d":0' % number for number in range(1_200_000)) + b"}"
    ),
    "gzip escapes": lambda: gzip.compress(b'{"user":"' + b"\\u0000" * (DECODED // 6) + b'"}'),
    "gzip undefined": lambda: gzip.compress(b"\x81" * DECODED),
    "gzip blank array": lambda: gzip.compress(b"[" + b" " * DECODED + b"]"),
    "gzip item": lambda: gzip.compress(b'[{"a":"' + b"\\n" * (DECODED // 2) + b'"}]'),
    "gzip digits": lambda: gzip.compress(b'{"user":' + b"9" * DECODED + b"}"),
    "keys with escapes": lambda: b"{" + b'"\\ud800":1,' * 23_000 + b'"a":1}',
    "repeated keys": lambda: b'{"b":"\\ud800",' + b'"a":1,' * 10_000 + b'"a":1}',
    "nested values": lambda: b'{"a":' * 200 + b"[%b1]" % (b"1, " * 80_000) + b"}" * 200,
    "deep": lambda: b"[" * (MIB - 10),
    "digits": lambda: b'{"user":' + b"9" * (MIB - 100) + b"}",
    "long numbers": lambda: b'{"user":[' + b",".join([b"9" * 4000] * 15) + b"]}",
    "exponent": lambda: b'{"user":1e' + b"9" * (MIB - 100) + b"}",
    "form": lambda: b"a=&" * (MIB // 3 - 10),
    "undefined form": lambda: b"a=" + b"\x81" * (250 * 1024),
    "form of percents": lambda: b"a=" + b"%" * (MIB - 100),
    "lines that fail": lambda: b"".join(b'{"%d":\n' % number for number in range(9_900)),
    "big cell": lambda: b'{"user":{"name":"' + b"x" * (MIB - 100) + b'"}}',
    "otlp wide": lambda: gzip.compress(_otlp_wide()),
    "otlp many": lambda: gzip.compress(_otlp_many()),
    "otlp deep": _otlp_deep,
    "otlp json keys": lambda: gzip.compress(b'{"resourceLogs":[' + b"{}," * 5_000_000 + b"{}]}"),
    "otlp json members": lambda: gzip.compress(
        b"{" + b",".join(b'"%06d":1' % number for number in range(240_000)) + b"}"
    ),
    "otlp group": lambda: gzip.compress(b"\x0b" + b"\x08\x01" * (DECODED // 2) + b"\x0c"),
    "otlp metric": lambda: gzip.compress(
        _field(1, _field(2, _field(2, b"\x78\x01" * 2_000_000 + _field(5, b""))))
    ),
    "otlp json values": _otlp_values,
    "api deep": lambda: b'{"type":' * 120_000,
    "api array": lambda: b"[" + b"{}," * 330_000 + b"{}]",
    "api columns": lambda: json.dumps(
        {
            "type": "table",
            "name": "Hostile",
            "table": {
                "type": "keboola",
                "tableId": "in.c-hostile.columns",
                "mapping": {"columns": [{"type": "body", "name": "b"}] * 25_000},
            },
        }
    ).encode(),
}


@cache
def body(name: str) -> bytes:
    """Return the body of this name."""
    return _MAKERS[name]()
