"""Every type of column, from the API to the table, compared by cell."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.processes import ALL, Deployment, wait_for

JSON = "application/json"
FORM = "application/x-www-form-urlencoded; charset=UTF-8"
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
MILLISECONDS = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

Column = dict[str, Any]


def _path(path: str, **options: Any) -> Column:
    return {"type": "path", "path": path, **options}


def _template(content: str, **options: Any) -> Column:
    return {
        "type": "template",
        "template": {"language": "jsonnet", "content": content},
        **options,
    }


class Source:
    """A source with several sinks, whose tables are named like the sinks."""

    def __init__(self, deployed: Deployment, name: str, **sinks: list[Column]) -> None:
        self.deployed = deployed
        self.name = name
        sources = f"{deployed.api}/v1/branches/default/sources"
        self.path = deployed.task("POST", sources, {"type": "http", "name": name})["url"]
        for sink, columns in sinks.items():
            named = [{"name": f"c{i}", **column} for i, column in enumerate(columns)]
            table = {
                "type": "keboola",
                "tableId": f"in.c-map.{sink}",
                "mapping": {"columns": named},
            }
            body = {"type": "table", "name": sink, "table": table}
            deployed.task("POST", f"{self.path}/sinks", body)
        _, answer = deployed.call("GET", self.path)
        self.url: str = answer["http"]["url"]

    def send(
        self, body: bytes, content_type: str, *headers: tuple[str, str], query: str = ""
    ) -> tuple[int, str]:
        """Send one request with exactly these headers and its length."""
        parts = urlsplit(self.url)
        with closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as connection:
            connection.putrequest(
                "POST", parts.path + query, skip_host=True, skip_accept_encoding=True
            )
            for name, value in (
                ("Host", "in.example.com"),
                ("Content-Type", content_type),
                *headers,
                ("Content-Length", str(len(body))),
            ):
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def verbose(self, body: bytes, content_type: str, *headers: tuple[str, str]) -> Any:
        """Send a request and return its result document."""
        status, answer = self.send(body, content_type, *headers, query="?verbose=true")
        document = json.loads(answer)
        assert (status, answer) == (
            document["statusCode"],
            json.dumps(document, indent=2, ensure_ascii=False) + "\n",
        )
        document.pop("hint", None)
        for source in document["sources"]:
            for sink in source["sinks"]:
                sink.pop("hint", None)
        return document

    def document(self, status: int, *sinks: dict[str, Any]) -> dict[str, Any]:
        """Return the expected result."""
        stored = sum(1 for sink in sinks if sink["statusCode"] == 200)
        summary: dict[str, Any] = {"statusCode": status}
        if stored == len(sinks):
            summary["message"] = f"Successfully written to {stored}/{len(sinks)} sinks."
        else:
            summary["error"] = "stream.in.writeFailed"
            summary["message"] = f"Written to {stored}/{len(sinks)} sinks."
        source = {"projectId": 123, "sourceId": self.name, "branchId": 456}
        message = {"message": sinks[0]["message"]} if stored < len(sinks) == 1 else {}
        return {**summary, **message, "sources": [{**source, **summary, "sinks": list(sinks)}]}

    def rows(self, sink: str, count: int) -> list[list[str]]:
        """Wait until a table has *count* rows, and return them."""
        found: list[list[str]] = []

        def there() -> bool:
            found[:] = [list(row) for row in self.deployed.rows(f"in.c-map.{sink}")]
            return len(found) >= count

        wait_for(there, f"{count} rows of {sink}", 90)
        assert len(found) == count
        return found


def _processed(sink: str) -> dict[str, Any]:
    return {"sinkId": sink, "statusCode": 200, "message": "processed"}


def _failed(sink: str, status: int, error: str, message: str) -> dict[str, Any]:
    return {
        "sinkId": sink,
        "statusCode": status,
        "error": f"stream.in.{error}",
        "message": message,
    }


STATIC: list[Column] = [{"type": t} for t in ("uuid", "datetime", "ip", "body", "headers")]

NESTED = b'{"o":{"id":10.50,"i":[{"s":"A<1>"},{"s":"y\\n"}]},"big":12345678901234567890}'
NESTED_CELLS: list[tuple[Column, str]] = [
    (_path("o.id"), "10.50"),
    (_template("Body('o.id')"), "10.5"),
    (_path("big"), "12345678901234567890"),
    (_template("Body('big')"), "12345678901234567168"),
    (_path("o.i[0].s"), '"A<1>"'),
    (_path("o.i[0].s", rawString=True), "A<1>"),
    (_path("o.i"), '[{"s":"A<1>"},{"s":"y\\n"}]'),
    (_path("o.i[1].s", rawString=True), "y\n"),
    (_path("none", defaultValue="n/a"), '"n/a"'),
    (_path("none", defaultValue="n/a", rawString=True), "n/a"),
    (_path("none", defaultValue=""), '""'),
    (_path("none", defaultValue="", rawString=True), ""),
    (
        _template("{z: 1, a: Now('%Y') > '2000', h: Header('x-miss', null)}"),
        '{"a":true,"h":null,"z":1}',
    ),
]

FORM_BODY = b"user[name]=J%C3%A1n+%3Cb%3E&tags[]=a&tags[]=b&n=5"
FORM_CELLS: list[tuple[Column, str]] = [
    (_path("user.name", rawString=True), "Ján <b>"),
    (_path("user.name"), '"Ján \\u003cb\\u003e"'),
    (_path("tags"), '["a","b"]'),
    (_path("n"), '"5"'),
    (_template("Body()"), '{"n":"5","tags":["a","b"],"user":{"name":"Ján <b>"}}'),
]

ALL_BODY = '{"id":"r1","é":"ř\\u0041","n":1e5,"x":null,"l":[ 1.0, {"b":1,"a":"<"} ],"f":42.1}'
ALL_LENGTH = len(ALL_BODY.encode())
ALL_HEADERS = (
    f'{{"Content-Length":"{ALL_LENGTH}","Content-Type":"application/vnd.api+json; charset=utf-8",'
    '"Host":"in.example.com","X-Tag":"1 \\u003c 2"}'
)
ALL_CELLS: list[tuple[Column, str]] = [
    (_path("id", rawString=True, primaryKey=True), "r1"),
    ({"type": "ip"}, "127.0.0.1"),
    ({"type": "body"}, ALL_BODY),
    ({"type": "headers"}, ALL_HEADERS),
    (_path("é"), '"ř\\u0041"'),
    (_path("é", rawString=True), "řA"),
    (_path("n"), "1e5"),
    (_path("x", defaultValue="d"), "null"),
    (_path("l"), '[1.0,{"b":1,"a":"<"}]'),
    (_path("l", rawString=True), '[1.0,{"b":1,"a":"<"}]'),
    (_path("l[1].a", rawString=True), "<"),
    (_path("l.5", defaultValue="d", rawString=True), "d"),
    (_template("Ip()"), '"127.0.0.1"'),
    (_template("Ip()", rawString=True), "127.0.0.1"),
    (_template("std.length(Now())"), "24"),
    (_template("Now(format='%%%n')", rawString=True), "%\n"),
    (
        _template("HeaderStr()", rawString=True),
        f"Content-Length: {ALL_LENGTH}\n"
        "Content-Type: application/vnd.api+json; charset=utf-8\n"
        "Host: in.example.com\nX-Tag: 1 < 2\n",
    ),
    (_template("Header()"), ALL_HEADERS.replace("\\u003c", "<")),
    (_template("Header('x-tag')", rawString=True), "1 < 2"),
    (_template("Header(default=['d'], header='nope')"), '["d"]'),
    (_template("BodyStr()", rawString=True), ALL_BODY),
    (
        _template("Body()"),
        '{"f":42.100000000000001,"id":"r1","l":[1,{"a":"<","b":1}],"n":100000,"x":null,"é":"řA"}',
    ),
    (_template("Body('l[1].a') + '-' + Body('id')"), '"<-r1"'),
    (_template("Body('x', 'd')"), "null"),
    (_template("Body('nope', default={k:: 1, a: self.k})"), '{"a":1}'),
    (_template("std.md5(Body('id'))", rawString=True), "7c92cf1eee8d99cc85f8355a3d6e4b86"),
]
TYPE = "application/vnd.api+json; charset=utf-8"


def _columns(cells: list[tuple[Column, str]]) -> list[Column]:
    return [column for column, _ in cells]


def _compare(rows: list[list[str]], cells: list[tuple[Column, str]]) -> None:
    (row,) = rows
    assert len(row) == len(cells)
    for (column, expected), found in zip(cells, row, strict=True):
        assert found == expected, column


def test_every_column(deployed: Deployment) -> None:
    """The tables contain exactly the mapped values; answers list each sink's result."""
    kept = deployed.root / "rejected"
    deployed.start(*ALL, STREAM_SOURCE_QUARANTINE_PATH=str(kept))
    static = Source(deployed, "static", a=STATIC)
    nested = Source(deployed, "nested", b=_columns(NESTED_CELLS))
    form = Source(deployed, "form", c=_columns(FORM_CELLS))
    mixed = Source(deployed, "mixed", raw=[{"type": "body"}], t=[_path("a")])
    every = Source(deployed, "every", e=_columns(ALL_CELLS))

    body = b'{"a":"x \\"q\\""}'
    extra = (("accept", "*/*"), ("X-Forwarded-For", "9.9.9.9"))
    assert static.send(body, JSON, *extra) == (200, "OK")
    assert nested.verbose(NESTED, JSON) == nested.document(200, _processed("b"))
    assert form.verbose(FORM_BODY, FORM) == form.document(200, _processed("c"))
    assert every.send(ALL_BODY.encode(), TYPE, ("x-tag", "1 < 2")) == (200, "OK")
    assert every.send(ALL_BODY.encode(), TYPE, ("X-TAG", "1 < 2")) == (200, "OK")
    _mixed_sinks(mixed)
    _rejected_records(mixed, kept)

    ((identifier, at, *cells),) = static.rows("a", 1)
    assert re.fullmatch(UUID7, identifier) and re.fullmatch(MILLISECONDS, at)
    assert cells == [
        "127.0.0.1",
        body.decode(),
        '{"Accept":"*/*","Content-Length":"15","Content-Type":"application/json",'
        '"Host":"in.example.com","X-Forwarded-For":"9.9.9.9"}',
    ]
    _compare(nested.rows("b", 1), NESTED_CELLS)
    _compare(form.rows("c", 1), FORM_CELLS)
    _compare(every.rows("e", 1), ALL_CELLS)  # two records with the same primary key
    assert mixed.rows("t", 2) == [["1"], ["2"]]
    whole = ['{"a":1}', '{"a":1}', "{}", '{"a":', '{"a":2}', "broken"]
    bodies = [body for (body,) in mixed.rows("raw", len(whole) + 1)]
    assert sorted(body for body in bodies if body != "\ufffd") == sorted(whole)


def _mixed_sinks(source: Source) -> None:
    """Check that one sink accepts a record that the other rejects, and that JSON may have
    parameters.
    """
    body, ok = b'{"a":1}', _processed("raw")
    assert source.verbose(body, f"{JSON}; charset=utf-8") == source.document(
        200, ok, _processed("t")
    )
    cases = [
        (
            body,
            "text/plain",
            _failed(
                "t",
                415,
                "unsupportedMediaType",
                'unsupported content type "text/plain", supported types: '
                "application/json and application/x-www-form-urlencoded",
            ),
        ),
        (
            b"{}",
            JSON,
            _failed(
                "t",
                400,
                "badRequest",
                'Cannot convert column "c0" to CSV value:\n- Path "a" not found in the body.',
            ),
        ),
        (
            b'{"a":',
            JSON,
            _failed(
                "t",
                400,
                "badRequest",
                'Cannot convert column "c0" to CSV value:\n- Cannot parse request json:\n'
                "  - Unexpected end of data: line 1 column 6 (char 5)",
            ),
        ),
    ]
    for data, content_type, failure in cases:
        document = source.verbose(data, content_type)
        assert document == source.document(failure["statusCode"], ok, failure)


def _rejected_records(source: Source, directory: Path) -> None:
    """Check that a rejected record is kept only for its sink, and shown by the API."""
    lines = b'{"a":2}\nbroken\n'
    status, answer = source.send(lines, "application/x-ndjson", ("authorization", "Bearer x"))
    assert (status, json.loads(answer)["rejected"]) == (207, 1)
    assert source.send(b"\xff", JSON)[0] == 400

    path = f"{source.path}/sinks/t/rejected"
    _, found = source.deployed.call("GET", path)
    assert (found["total"], found["dropped"]) == (5, 0)
    assert found["nodes"] == [{"nodeId": "node-1", "available": True}]
    assert {(each["reason"], each["column"]): each["count"] for each in found["reasons"]} == {
        ("stream.in.badRequest", "c0"): 4,
        ("stream.in.unsupportedMediaType", ""): 1,
    }
    binary, broken = (
        source.deployed.call("GET", f"{path}/{each['id']}")[1] for each in found["records"][:2]
    )
    assert (binary["bodyEncoding"], binary["body"]) == ("base64", "/w==")
    assert re.fullmatch(MILLISECONDS, broken["time"])
    assert broken["message"].startswith(
        'Cannot convert column "c0" to CSV value:\n- Cannot parse request '
    )
    assert (broken["body"], broken["ip"], broken["statusCode"]) == ("broken", "127.0.0.1", 400)
    assert broken["headers"] == {
        "Authorization": "***",
        "Content-Length": str(len(lines)),
        "Content-Type": "application/x-ndjson",
        "Host": "in.example.com",
    }
    (file,) = directory.rglob("*.ndjson")
    assert file.parent == directory / "node-1/123/456/mixed/t"
    assert file.stat().st_mode & 0o777 == 0o600
    assert source.deployed.call("GET", f"{source.path}/sinks/raw/rejected")[1]["total"] == 0
