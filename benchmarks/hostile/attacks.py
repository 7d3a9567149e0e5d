"""The table of attacks. To add one, write a function of a `Target` and name it.

An attack lasts until `Target.goes_on` is false, and returns its outcome.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence

import attrs

from benchmarks.hostile import payloads
from benchmarks.hostile.target import Target, request

__all__ = ["ATTACKS", "Attack"]

JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"
LINES = "Content-Type: application/x-ndjson"
PROTOBUF = "Content-Type: application/x-protobuf"
GZIP = "Content-Encoding: gzip"
ZSTD = "Content-Encoding: zstd"
CHUNKED = "Transfer-Encoding: chunked"
MIB = 1024 * 1024
_RECORD = b'{"user":{"name":"hostile"}}'

Run = Callable[[Target], Awaitable[str]]


@attrs.frozen
class Attack:
    """One attack.

    :ivar bodies: names of its `payloads`, made before the measurement.
    :ivar max_mib: memory limit of the service with its children, without etcd.
    """

    name: str
    run: Run
    bodies: Sequence[str] = ()
    max_mib: int = 1024

    def prepare(self) -> None:
        """Make its bodies."""
        for name in self.bodies:
            payloads.body(name)


ATTACKS: list[Attack] = []


def attack(name: str, *bodies: str, max_mib: int = 1024) -> Callable[[Run], Run]:
    """Add a function to the table."""

    def put(run: Run) -> Run:
        ATTACKS.append(Attack(name, run, bodies, max_mib))
        return run

    return put


def _body(name: str, body: str, *headers: str, query: str = "", connections: int = 8) -> None:
    """Push a body repeatedly to the source of records."""

    async def run(target: Target) -> str:
        data = request(target.path + query, *headers, body=payloads.body(body))
        return await target.flood(target.source, connections, data)

    ATTACKS.append(Attack(name, run, (body,)))


def _export(name: str, body: str, *headers: str, signal: str = "logs") -> None:
    """Push a body repeatedly to the OpenTelemetry source."""

    async def run(target: Target) -> str:
        data = request(f"{target.otlp}/v1/{signal}", *headers, body=payloads.body(body))
        return await target.flood(target.source, 8, data)

    ATTACKS.append(Attack(name, run, (body,)))


# endless connections, heads and bodies


@attack("idle connections, 10,000")
async def _idle(target: Target) -> str:
    return await target.hold(target.source, 10_000, b"")


@attack("heads, a byte a second, 2,000 connections")
async def _slow_heads(target: Target) -> str:
    start = f"POST {target.path} HTTP/1.1\r\nHost: x\r\nX: ".encode()
    return await target.hold(target.source, 2000, start, b"x")


@attack("heads of 16 KB without an end, 2,000 connections")
async def _large_heads(target: Target) -> str:
    start = f"POST {target.path} HTTP/1.1\r\nHost: x\r\nX: {'x' * 15_800}".encode()
    return await target.hold(target.source, 2000, start, b"x")


@attack("empty lines, 1,000 connections")
async def _empty_lines(target: Target) -> str:
    return await target.hold(target.source, 1000, b"\r\n", b"\r\n" * 100, 0.1)


def _unfinished(target: Target, size: int) -> bytes:
    head = f"POST {target.path} HTTP/1.1\r\nHost: x\r\n{JSON}\r\nContent-Length: {MIB}\r\n\r\n"
    return head.encode() + b"x" * size


@attack("bodies, a byte a second, 2,000 connections")
async def _slow_bodies(target: Target) -> str:
    return await target.hold(target.source, 2000, _unfinished(target, 100), b"x")


@attack("bodies of 1 MB but for the last byte, 600 connections")
async def _unfinished_bodies(target: Target) -> str:
    return await target.hold(target.source, 600, _unfinished(target, MIB - 1000), b"x")


@attack("chunked bodies that go on slowly, 2,000 connections")
async def _slow_chunks(target: Target) -> str:
    head = f"POST {target.path} HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n\r\n".encode()
    return await target.hold(target.source, 2000, head + b"8000\r\n" + b"x" * 32_000, b"x")


@attack("Expect: 100-continue and no body, 2,000 connections")
async def _expecting(target: Target) -> str:
    head = f"POST {target.path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    return await target.hold(target.source, 2000, f"{head}Content-Length: 9\r\n\r\n".encode())


@attack("half-closed in the middle of a request, again and again")
async def _half_closed(target: Target) -> str:
    outcome = ""
    while target.goes_on:
        start = _unfinished(target, 50_000)
        outcome = await target.hold(target.source, 100, start, every=0.5, end=True)
    return outcome


@attack("connections opened and closed")
async def _open_and_close(target: Target) -> str:
    return await target.flood(target.source, 100, b"", reads=False)


@attack("requests sent ahead, answers read")
async def _pipelining(target: Target) -> str:
    data = request(target.path, JSON, body=_RECORD) * 1000
    return await target.flood(target.source, 16, data)


@attack("requests sent ahead, no answer read, 200 connections")
async def _never_reading(target: Target) -> str:
    data = request(target.path, JSON, body=_RECORD) * 100
    return await target.flood(target.source, 200, data, reads=False)


@attack("large answers that nobody reads, 200 connections", "lines that fail")
async def _large_answers(target: Target) -> str:
    data = request(target.path + "?verbose=true", LINES, body=payloads.body("lines that fail"))
    return await target.flood(target.source, 200, data, reads=False)


@attack("heads that never repeat")
async def _heads(target: Target) -> str:
    def make(number: int) -> bytes:
        return request(target.path, JSON, *(f"X-{n}-{number}: {n}" for n in range(100)), body=b"{}")

    return await target.flood(target.source, 16, make)


@attack("heads of 256 fields that never repeat, 200 connections")
async def _many_fields(target: Target) -> str:
    def make(number: int) -> bytes:
        return request(target.path, *(f"X-{n}-{number}: {n}" for n in range(250)), body=b"{}")

    return await target.flood(target.source, 200, make)


@attack("queries of 15 KB that never repeat")
async def _queries(target: Target) -> str:
    query = "&".join(f"%62atch{n}=%{n % 90 + 10}" for n in range(1000))
    return await target.flood(
        target.source,
        16,
        lambda number: request(f"{target.path}?{number}&{query}", JSON, body=_RECORD),
    )


@attack("a head of 16 KB with 3,000 fields")
async def _fields(target: Target) -> str:
    data = request(target.path, *("a:" for _ in range(3000)), body=b"{}")
    return await target.flood(target.source, 16, data)


@attack("URLs that lead nowhere and never repeat")
async def _urls(target: Target) -> str:
    return await target.flood(
        target.source, 16, lambda number: request(f"/stream/1/s{number}/k/../../{number}%41")
    )


@attack("preflight requests for thousands of headers")
async def _preflights(target: Target) -> str:
    names = "Access-Control-Request-Headers: " + ",".join(f"x{n}" for n in range(2500))
    data = request(target.path, "Origin: https://a.example", names, method="OPTIONS")
    return await target.flood(target.source, 16, data)


@attack("bytes that aren't HTTP")
async def _garbage(target: Target) -> str:
    chance = random.Random(1)
    return await target.flood(target.source, 50, lambda _: chance.randbytes(1000))


@attack("chunks of one byte")
async def _tiny_chunks(target: Target) -> str:
    data = request(target.path, JSON, CHUNKED, body=b"1\r\n \r\n" * 19_000 + b"0\r\n\r\n")
    return await target.flood(target.source, 16, data)


@attack("chunk extensions and trailers")
async def _extensions(target: Target) -> str:
    body = (b"1;" + b"e" * 200 + b"\r\n \r\n") * 78 + b"0\r\n" + b"T: r\r\n" * 10 + b"\r\n"
    return await target.flood(target.source, 16, request(target.path, JSON, CHUNKED, body=body))


@attack("a gigabyte in chunks")
async def _endless(target: Target) -> str:
    body = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    data = request(target.path, JSON, CHUNKED, body=body * 64)
    return await target.flood(target.source, 8, data)


# unauthenticated clients


@attack("wrong secrets with 16 MB")
async def _wrong_secrets(target: Target) -> str:
    data = request(target.path[:-1] + "x", JSON, body=b"x" * (16 * MIB))
    return await target.flood(target.source, 16, data)


@attack("wrong secrets, as fast as they go")
async def _guessing(target: Target) -> str:
    data = request(target.path[:-1] + "x", JSON, body=b"{}")
    return await target.flood(target.source, 64, data)


@attack("wrong secrets that never repeat, sent ahead")
async def _many_secrets(target: Target) -> str:
    def make(number: int) -> bytes:
        start = target.path[:-12]
        return b"".join(request(f"{start}{number:06}{n:06}", body=b"{}") for n in range(200))

    return await target.flood(target.source, 16, make)


@attack("API: wrong tokens with 16 MB, 60 connections")
async def _wrong_tokens(target: Target) -> str:
    data = request(target.sources, JSON, "X-StorageApi-Token: x", body=b"[" * (16 * MIB))
    return await target.flood(target.api, 60, data)


@attack("API: no token, 16 MB in chunks")
async def _no_token(target: Target) -> str:
    body = (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 256 + b"0\r\n\r\n"
    return await target.flood(target.api, 16, request(target.sources, JSON, CHUNKED, body=body))


@attack("API: 16 MB but for the last byte, 60 connections")
async def _api_bodies(target: Target) -> str:
    head = f"POST {target.sources} HTTP/1.1\r\nHost: x\r\nContent-Length: {16 * MIB}\r\n\r\n"
    return await target.hold(target.api, 60, head.encode() + b"x" * (15 * MIB), b"x")


@attack("API: heads, a byte a second, 1,000 connections")
async def _api_heads(target: Target) -> str:
    return await target.hold(target.api, 1000, b"GET / HTTP/1.1\r\nX: ", b"x")


@attack("API: idle connections, 3,000")
async def _api_idle(target: Target) -> str:
    return await target.hold(target.api, 3000, b"")


@attack("metrics: heads, a byte a second, 1,000 connections")
async def _metrics_heads(target: Target) -> str:
    return await target.hold(target.metrics, 1000, b"GET / HTTP/1.1\r\nX: ", b"x")


@attack("metrics: as fast as they go")
async def _metrics(target: Target) -> str:
    return await target.flood(target.metrics, 4, request("/metrics", method="GET"))


@attack("writer: connections without a greeting, 10,000")
async def _writer_idle(target: Target) -> str:
    return await target.hold(target.writer, 10_000, b"", b"\0\1x\0\1y")


@attack("writer: bytes that aren't calls")
async def _writer_garbage(target: Target) -> str:
    chance = random.Random(1)
    return await target.flood(
        target.writer, 50, lambda _: b"\0\0" + chance.randbytes(1000), reads=False
    )


# bodies

_body("gzip: a bomb of 512 MB", "gzip bomb", JSON, GZIP)
_body("gzip: 40,000 empty members", "gzip members", JSON, GZIP)
_body("gzip: 40,000 members of a byte", "gzip members with a byte", JSON, GZIP)
_body("zstd: a bomb of 512 MB", "zstd bomb", JSON, ZSTD)
_body("zstd: 60,000 frames", "zstd frames", JSON, ZSTD)
_body("gzip: a form of 5,000,000 fields", "gzip form", FORM, GZIP)
_body("gzip: a form of nested fields", "gzip nested form", FORM, GZIP)
_body("gzip: 5,000,000 lines", "gzip lines", LINES, GZIP)
_body("gzip: 15,000,000 blank lines", "gzip blank lines", LINES, GZIP)
_body("gzip: an array of 7,500,000 numbers", "gzip array", JSON, GZIP, query="?batch=true")
_body(
    "gzip: an array of arrays, as a batch", "gzip array of arrays", JSON, GZIP, query="?batch=true"
)
_body("gzip: an array of arrays, as a record", "gzip array of arrays", JSON, GZIP)
_body("gzip: 15,000,000 open brackets", "gzip deep", JSON, GZIP)
_body("gzip: 7,500,000 nested arrays", "gzip deep and closed", JSON, GZIP)
_body("gzip: an object of 1,200,000 members", "gzip keys", JSON, GZIP)
_body("gzip: a string of escapes", "gzip escapes", JSON, GZIP)
_body("gzip: a number of 15,000,000 digits", "gzip digits", JSON, GZIP)
_body("1 MB of open brackets", "deep", JSON, connections=32)
_body("a number of 1 MB", "digits", JSON, connections=32)
_body("numbers of 4,000 digits", "long numbers", JSON, connections=32)
_body("an exponent of 1 MB", "exponent", JSON, connections=32)
_body("a form of 350,000 fields", "form", FORM, connections=32)
_body("a form of percent signs", "form of percents", FORM, connections=32)
_body("a batch of 9,900 lines that all fail", "lines that fail", LINES, query="?verbose=true")
_body("records of 1 MB", "big cell", JSON, connections=32)
_body("gzip: undefined bytes of a charset", "gzip undefined", f"{JSON}; charset=cp1252", GZIP)
_body("gzip: undefined bytes of a wide charset", "gzip undefined", f"{LINES}; charset=big5", GZIP)
_body("a form of undefined bytes", "undefined form", f"{FORM}; charset=cp1252", connections=32)
_body("gzip: nested arrays, as a batch", "gzip deep and closed", JSON, GZIP, query="?batch=true")
_body("gzip: blanks, as a batch", "gzip blank array", JSON, GZIP, query="?batch=true")
_body("gzip: an item of 15 MB, as a batch", "gzip item", JSON, GZIP, query="?batch=true")
_export("OTLP: a group of 7,500,000 fields", "otlp group", PROTOBUF, GZIP, signal="traces")
_export("OTLP: a metric of 2,000,000 fields", "otlp metric", PROTOBUF, GZIP, signal="metrics")
_export("OTLP: 12 records of 9,800 values as JSON", "otlp json values", JSON)
_export("OTLP: 20,000 records with 40 KB of attributes each", "otlp wide", PROTOBUF, GZIP)
_export("OTLP: 500,000 empty records", "otlp many", PROTOBUF, GZIP)
_export("OTLP: values 5,000 deep", "otlp deep", JSON)
_export("OTLP: 5,000,000 resources as JSON", "otlp json keys", JSON, GZIP)
_export("OTLP: 240,000 unknown members as JSON", "otlp json members", JSON, GZIP)


def _columns(name: str, body: str) -> None:
    """Push a body repeatedly to the source whose sink has as many columns as permitted."""

    async def run(target: Target) -> str:
        data = request(target.columns, JSON, body=payloads.body(body))
        return await target.flood(target.source, 8, data)

    ATTACKS.append(Attack(name, run, (body,)))


_columns("100 columns: 23,000 keys that are lone surrogates", "keys with escapes")
_columns("100 columns: a key that is repeated 10,000 times", "repeated keys")
_columns("100 columns: values of 240 KB in one another", "nested values")


# templates


def _templates(body: bytes, target: Target) -> bytes:
    return request(target.templates, JSON, body=body)


@attack("template: records that take a second each")
async def _slow_templates(target: Target) -> str:
    return await target.flood(target.source, 14, _templates(b'{"n":22}', target))


@attack("template: records that never end")
async def _endless_templates(target: Target) -> str:
    return await target.flood(target.source, 4, _templates(b'{"n":60}', target))


@attack("template: a batch of 14 that never end")
async def _batch_of_templates(target: Target) -> str:
    data = request(target.templates, LINES, body=b'{"n":60}\n' * 14)
    return await target.flood(target.source, 2, data)


@attack("template: records that need gigabytes", max_mib=1024 + 4 * 256)  # the engines' limit
async def _memory_templates(target: Target) -> str:
    return await target.flood(target.source, 4, _templates(b'{"size":500000000}', target))


def _sink(columns: Sequence[object]) -> bytes:
    table = {
        "type": "keboola",
        "tableId": "in.c-hostile.refused",
        "mapping": {"columns": columns},
    }
    return json.dumps({"type": "table", "name": "Hostile", "table": table}).encode()


def _template_column(content: str) -> dict[str, object]:
    return {
        "type": "template",
        "name": "t",
        "template": {"language": "jsonnet", "content": content},
    }


def _api(name: str, make: Callable[[], bytes], *bodies: str, path: str = "/hostile/sinks") -> None:
    """Send a body to the API with a valid token."""

    async def run(target: Target) -> str:
        token = f"X-StorageApi-Token: {target.token}"
        data = request(target.sources + path, JSON, token, body=make())
        return await target.flood(target.api, 8, data)

    ATTACKS.append(Attack(name, run, bodies))


_api("API: a template of 24 brackets", lambda: _sink([_template_column("[" * 24)]))
_api("API: a template of 4,000 brackets", lambda: _sink([_template_column("[" * 4000)]))
_api("API: a template of 2,000 calls", lambda: _sink([_template_column("(" * 1990 + "f")]))
_api(
    "API: 50 templates of functions in functions",
    lambda: _sink([_template_column("function(x) " * 330 + "x") for _ in range(50)]),
)
_api("API: 1 MB of nested objects", lambda: payloads.body("api deep"), "api deep")
_api("API: an array of 330,000 objects", lambda: payloads.body("api array"), "api array")
_api("API: 25,000 columns", lambda: payloads.body("api columns"), "api columns")
_api(
    "API: a test of a template that never ends",
    lambda: b'{"n":60}',
    path="/hostile-templates/test",
)


# state kept for producers


@attack("idempotency keys that never repeat")
async def _keys(target: Target) -> str:
    def make(number: int) -> bytes:
        return request(target.path, JSON, f"Idempotency-Key: {number:0200d}", body=_RECORD)

    return await target.flood(target.source, 32, make)


@attack("one idempotency key, 500 connections at once")
async def _one_key(target: Target) -> str:
    data = request(target.path, JSON, "Idempotency-Key: one", body=_RECORD)
    return await target.flood(target.source, 500, data)


def _tail(target: Target) -> bytes:
    return request(
        f"{target.sources}/hostile/tail?rate=100&duration=60",
        f"X-StorageApi-Token: {target.token}",
        method="GET",
    )


@attack("tails that nobody reads, beside large records", "big cell")
async def _tails(target: Target) -> str:
    data = request(target.path, JSON, body=payloads.body("big cell"))
    watching, pushing = await asyncio.gather(
        target.flood(target.api, 100, _tail(target), reads=False),
        target.flood(target.source, 8, data),
    )
    return f"tails: {watching}; records: {pushing}"


@attack("tails opened and closed")
async def _opened_tails(target: Target) -> str:
    return await target.flood(target.api, 20, _tail(target))


def _called(target: Target, path: str, body: bytes = b"", method: str = "GET") -> bytes:
    token = f"X-StorageApi-Token: {target.token}"
    return request(path, token, *([JSON] if body else []), body=body, method=method)


@attack("live streams that nobody reads, beside records")
async def _live(target: Target) -> str:
    path = f"{target.sources.removesuffix('/sources')}/live"
    watching, pushing = await asyncio.gather(
        target.hold(target.api, 200, _called(target, path)),
        target.flood(target.source, 8, request(target.path, JSON, body=_RECORD)),
    )
    return f"streams: {watching}; records: {pushing}"


@attack("API: bodies but for the last byte with a valid token, 100 connections")
async def _held_bodies(target: Target) -> str:
    body = b'"' + b"x" * (MIB - 1)
    head = _called(target, target.sources, body)
    return await target.hold(target.api, 100, head[:-1])


@attack("changes that are waited for, 100 connections")
async def _waited(target: Target) -> str:
    path = f"{target.sources}/hostile?wait=10s"

    def make(number: int) -> bytes:
        body = json.dumps({"description": f"{number}"}).encode()
        return _called(target, path, body, "PATCH")

    return await target.flood(target.api, 100, make)


@attack("pages of rejected records that nobody reads, beside records that are rejected")
async def _rejected(target: Target) -> str:
    sinks = f"{target.sources}/hostile-templates/sinks/sink/rejected?limit=100"
    record = request(target.templates, JSON, body=b'{"n":' + b"[" * 50 + b"]" * 50 + b"}")
    reading, pushing = await asyncio.gather(
        target.flood(target.api, 50, _called(target, sinks), reads=False),
        target.flood(target.source, 8, record),
    )
    return f"pages: {reading}; records: {pushing}"
