"""Definitions with any content: the task succeeds, or the answer names the error."""

from __future__ import annotations

import copy
import gzip
import json
import random
from typing import Any

import pytest
import pytest_twisted

from tests.api.conftest import SINK, SINKS, SOURCE, SOURCES, Api, sink_body

ensure = pytest_twisted.ensureDeferred

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**63, 10**30, 1.5, 1e300, "", " ", "\0", "a\u0000b", "\ud800"),
    *("ß", "日本", "🎉", "x" * 50, "y" * 5000, "a" * 200_000, "../..", "%2F", "a/b", "a\nb"),
    *(
        [],
        {},
        [[]],
        [None],
        [{}],
        {"a": 1},
        [1] * 1000,
        {"type": "x"},
        "path",
        "template",
        "in.c-a.b",
    ),
    *("$.a", "a[", "Body('a')", "import 'x'", "[" * 30, "{", "5s", "1KB", "-5s", "9" * 30),
)
COLUMNS: list[dict[str, Any]] = [
    {"type": "uuid", "name": "id", "primaryKey": True},
    {"type": "path", "name": "p", "path": "a.b[0]", "defaultValue": "x", "rawString": True},
    {"type": "template", "name": "t", "template": {"language": "jsonnet", "content": "Ip()"}},
]
TABLE = {"type": "keboola", "tableId": "in.c-b.t", "mapping": {"columns": COLUMNS}}
SETTINGS = [
    {"key": "storage.level.staging.upload.trigger.interval", "value": "10s"},
    {"key": "storage.level.staging.upload.trigger.size", "value": "10MB"},
    {"key": "storage.level.staging.upload.trigger.count", "value": 1000},
]
BODIES: list[tuple[str, str, Any]] = [
    ("POST", SOURCES, {"type": "http", "name": "n", "sourceId": "s", "description": "d"}),
    ("PATCH", SOURCE, {"type": "http", "name": "n", "changeDescription": "c"}),
    (
        "POST",
        SINKS,
        sink_body(name="Another", sinkId="another", allowedSignals=["logs"], table=TABLE),
    ),
    ("PATCH", SINK, {"name": "n", "table": TABLE, "allowedSignals": []}),
    ("PATCH", f"{SOURCE}/settings", {"settings": SETTINGS, "changeDescription": "c"}),
    ("PATCH", f"{SINK}/settings", {"settings": SETTINGS}),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return all members and items in *value*, each as its container and key."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


def changed(body: Any, chance: random.Random) -> Any:
    """Return *body* with some parts replaced, removed, renamed or added."""
    body = copy.deepcopy(body)
    for _ in range(chance.choice([1, 1, 2, 4])):
        there = places(body)
        if not there:
            return chance.choice(ODD)
        container, key = chance.choice(there)
        what, odd = chance.random(), copy.deepcopy(chance.choice(ODD))
        if what < 0.7:
            container[key] = odd
        elif what < 0.8:
            del container[key]
        elif isinstance(container, dict):
            name = chance.choice(["tabelId", "x" * 10_000, "", "\ud800", str(key).upper()])
            container[name] = odd
        else:
            container.extend(container[:10] * 60)
    return body


@pytest.mark.parametrize("seed", range(4))
@ensure
async def test_any_definition(api: Api, seed: int) -> None:
    """No answer is a 500 or too large, and no task fails for an unknown reason."""
    chance = random.Random(seed)
    await api.create_source()
    await api.create_sink()
    for _ in range(30):
        method, path, body = chance.choice(BODIES)
        data = json.dumps(changed(body, chance)).encode()
        reply = await api.call(
            method, path, data=data, headers={"Content-Type": "application/json"}
        )
        assert reply.status == 202 or 400 <= reply.status < 500, (data[:500], reply)
        assert len(reply.body) < 20_000, (data[:500], len(reply.body))
        if reply.status == 202:
            task = await api.finish(reply)
            assert task.get("error") != "Unknown error", (data[:500], task)
        else:
            assert reply.json["message"], data[:500]
            shown = json.dumps(reply.json)
            for word in ("server.", "Traceback", "Go struct", "object at 0x", "int string"):
                assert word not in shown, (data[:500], shown)


RECORDS: tuple[bytes, ...] = (
    *(b"", b"{}", b"[]", b"null", b"1e400", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"a":1e999}', b"{"),
    *(b"[" * 5000, b'{"a":' * 400 + b"1" + b"}" * 400, b'{"a":"\\ud800"}', b'{"\\ud800":1}'),
    *(
        b'{"a":' + b"9" * 5000 + b"}",
        b"a=%&b=%u1234&=x;y",
        b"\x1f\x8b",
        b"\x00\x01\x02",
        b"a" * 9000,
    ),
    *(b'[{"a":1},{"a":2}]', b'{"a":{"b":[1]}}\n{"a":2}', b'{"resourceLogs":[]}', b"-0", b'"x"'),
)
TYPES = (
    *(
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "x",
        "",
        "a/b; charset=x",
    ),
    *(
        "application/x-ndjson",
        "application/cloudevents-batch+json",
        "multipart/form-data; boundary=x",
    ),
    *("application/x-protobuf", "application/x-www-form-urlencoded; charset=nowhere"),
)
ENCODINGS = ("", "gzip", "identity", "zstd", "br", "deflate", "gzip, gzip", "x")


@pytest.mark.parametrize("type", ["http", "otlp"])
@ensure
async def test_any_record(api: Api, type: str) -> None:
    """The preview of any record shows rows or the error in the record."""
    chance = random.Random(type)
    await api.create_source(type=type)
    headers: dict[str, Any] = {"type": "headers", "name": "h"}
    for number, column in enumerate((*COLUMNS, {"type": "body", "name": "b"}, headers)):
        table = TABLE | {"tableId": f"in.c-b.t{number}", "mapping": {"columns": [column]}}
        await api.create_sink(name=f"Sink {number}", table=table)
    for _ in range(60):
        data = chance.choice(RECORDS)
        if chance.random() < 0.2:
            data = gzip.compress(data)
        sent = {
            "Content-Type": chance.choice(TYPES),
            "Content-Encoding": chance.choice(ENCODINGS),
            "X-Odd": chance.choice(["", "\u00e9", "x" * 5000]),
        }
        query = chance.choice(["", "?batch=1", "?batch=x", "?signal=logs", "?signal=x", "?%ff=%ff"])
        reply = await api.call("POST", f"{SOURCE}/test{query}", data=data, headers=sent)
        assert reply.status == 200 or 400 <= reply.status < 500, (data[:100], sent, query, reply)
        assert len(reply.body) < 100_000
        assert reply.status == 200 or reply.json["message"]
