from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import pytest_twisted

from tests.api.conftest import SOURCE, TOKEN, Api

ensure = pytest_twisted.ensureDeferred
JSON = {"Content-Type": "application/json"}


def path_column(path: str, **rest: Any) -> dict[str, Any]:
    return {"type": "path", "name": path, "path": path} | rest


async def create(api: Api, type: str, *columns: dict[str, Any], **rest: Any) -> None:
    await api.create_source(type=type)
    table = {"type": "keboola", "tableId": "in.c-b.t", "mapping": {"columns": list(columns)}}
    await api.create_sink(table=table, **rest)


async def values(api: Api, data: bytes, query: str = "", **options: Any) -> Any:
    reply = await api.call("POST", f"{SOURCE}/test{query}", data=data, **options)
    assert reply.status == 200, reply
    assert list(reply.json) == ["projectId", "branchId", "sourceId", "tables"]
    return [
        [cell["value"] for cell in table["rows"][0]["columns"]] for table in reply.json["tables"]
    ]


@ensure
async def test_a_preview_of_http_takes_body_and_headers_without_the_token(api: Api) -> None:
    """The body and the headers form the record, without the caller's token."""
    await create(
        api,
        "http",
        {"type": "body", "name": "body"},
        {"type": "headers", "name": "headers"},
        path_column("a"),
        path_column("b", defaultValue="none"),
        path_column("s", rawString=True),
    )
    data = b'{"a": 1.50, "s": "text"}'
    [[body, headers, a, b, s]] = await values(
        api, data, "?signal=metrics", headers=JSON | {"X-Own": "1"}
    )
    assert (body, a, b, s) == (data.decode(), "1.50", '"none"', "text")
    assert '"X-Own":"1"' in headers
    assert '"Content-Type":"application/json"' in headers
    assert "Storage" not in headers
    assert '"Host"' not in headers
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    [[_, headers, *_]] = await values(api, data, token=None, headers=JSON | bearer)
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "127.0.0.1"),
        ({"X-Forwarded-For": "203.0.113.7, 10.0.0.1"}, "203.0.113.7"),
        ({"X-Forwarded-For": "203.0.113.7:4711"}, "203.0.113.7"),
        ({"X-Forwarded-For": "unknown,,[2001:db8::1]:80"}, "2001:db8::1"),
        ({"X-Real-Ip": "203.0.113.8", "X-Forwarded-For": "203.0.113.7"}, "203.0.113.8"),
        ({"X-Real-Ip": "no address", "X-Forwarded-For": "203.0.113.7"}, "203.0.113.7"),
        ({"X-Real-Ip": 'fe80::1%"x', "X-Forwarded-For": ""}, "fe80::1"),
        ({"X-Forwarded-For": 'x"y'}, "127.0.0.1"),
    ],
)
@ensure
async def test_the_address_behind_a_proxy(api: Api, headers: dict[str, str], expected: str) -> None:
    """A preview has the address that a proxy of the API reports: the peer is the proxy."""
    template = {"language": "jsonnet", "content": "Ip()"}
    await create(
        api,
        "http",
        {"type": "ip", "name": "ip"},
        {"type": "template", "name": "t", "template": template, "rawString": True},
    )
    assert await values(api, b"{}", headers=JSON | headers) == [[expected, expected]]


@ensure
async def test_the_address_of_an_export_is_the_peer(api: Api) -> None:
    """A preview of an OTLP source has the peer's address."""
    await create(api, "otlp", {"type": "ip", "name": "ip"})
    forwarded = {"X-Real-Ip": "203.0.113.8"}
    assert await values(api, b"{}", headers=JSON | forwarded) == [["127.0.0.1"]]


@ensure
async def test_a_form_is_a_record_too(api: Api) -> None:
    """A form in the body is a record, not a set of parameters of the request."""
    await create(api, "http", path_column("signal", rawString=True))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert await values(api, b"signal=smoke", headers=form) == [["smoke"]]


@ensure
async def test_a_column_that_can_not_be_rendered(api: Api) -> None:
    """The first failing column is reported with the reason."""
    await create(api, "http", path_column("key"))
    reply = await api.call("POST", f"{SOURCE}/test", data=b"{}", headers=JSON)
    assert (reply.status, reply.json) == (
        422,
        {
            "statusCode": 422,
            "error": "stream.api.unprocessableContent",
            "message": 'Invalid value for column "key": path "key" not found in the body.',
        },
    )


@ensure
async def test_rows_that_are_too_large(api: Api) -> None:
    """Rows that are too large to show are refused with 413, also those of a small
    compressed body.
    """
    columns = [{"type": "body", "name": f"b{number}"} for number in range(10)]
    await create(api, "http", *columns)
    body = gzip.compress(b'"%b"' % (b"x" * 4_000_000))
    headers = JSON | {"Content-Encoding": "gzip"}
    reply = await api.call("POST", f"{SOURCE}/test", data=body, headers=headers)
    assert (reply.status, reply.json["error"]) == (413, "stream.api.payloadTooLarge")
    record = {"body": "x" * 500_000, "headers": [{"name": "Content-Type", "value": "text/plain"}]}
    mapping = {"columns": [{"type": "body", "name": f"b{number}"} for number in range(70)]}
    body = json.dumps({"table": {"mapping": mapping}, "record": record}).encode()
    reply = await api.call("POST", f"{SOURCE}/test/mapping", data=body, headers=JSON)
    assert (reply.status, reply.json["error"]) == (413, "stream.api.payloadTooLarge")


@ensure
async def test_a_preview_of_otlp_leaves_out_sinks_of_other_signals(api: Api) -> None:
    """The body is one flat record, and sinks of other signals are left out."""
    await create(
        api,
        "otlp",
        path_column("severity_text", rawString=True),
        {"type": "body", "name": "body"},
        allowedSignals=["logs"],
    )
    record = b'{"severity_text": "INFO",  "n": 1}'
    assert await values(api, record) == [["INFO", '{"severity_text":"INFO","n":1}']]
    assert await values(api, record, "?signal=traces") == []
    unsafe = b'{"severity_text": "<&>"}'
    assert await values(api, unsafe, headers=JSON) == [
        ["<&>", '{"severity_text":"\\u003c\\u0026\\u003e"}']
    ]
    reply = await api.call("POST", f"{SOURCE}/test", data=b"[]")
    assert (reply.status, reply.json["message"]) == (
        400,
        "Request body must be a JSON object representing a flat OTLP record:\n"
        "- Expected an object.",
    )
    reply = await api.call("POST", f"{SOURCE}/test")
    assert reply.status == 422


@ensure
async def test_bodies_are_read_as_the_source_reads_them(api: Api) -> None:
    """Compressed bodies, batches and byte order marks are read or refused as by the source."""
    await create(api, "http", path_column("a"))

    async def rows(data: bytes, query: str = "", **headers: str) -> Any:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await api.call("POST", f"{SOURCE}/test{query}", data=data, headers=headers)
        if reply.status != 200:
            return reply.status, reply.json["error"]
        [table] = reply.json["tables"]
        return [row["columns"][0]["value"] for row in table["rows"]]

    json_type, lines = "application/json", "application/x-ndjson"
    body = gzip.compress(b'{"a":1e400}')
    assert await rows(body, Content_Type=json_type, Content_Encoding="gzip") == ["1e400"]
    data = "\ufeff".encode() + b'{"a":1}\n{"a":"\\ud83d"}\n'
    assert await rows(data, Content_Type=lines) == ["1", '"\\ud83d"']
    assert await rows(b'[{"a":1.0}]', "?batch=1", Content_Type=json_type) == ["1.0"]
    refused = [
        (b"x", "", {"Content_Type": json_type, "Content_Encoding": "gzip"}, 400, "badRequest"),
        (
            b"x",
            "",
            {"Content_Type": json_type, "Content_Encoding": "br"},
            415,
            "unsupportedMediaType",
        ),
        (b"[]", "?batch=maybe", {"Content_Type": json_type}, 400, "badRequest"),
        (b"{}\n" * 101, "", {"Content_Type": lines}, 413, "batchTooLarge"),
        (b"{}", "", {"Content_Type": json_type}, 422, "unprocessableContent"),
    ]
    for data, query, headers, status, error in refused:
        assert await rows(data, query, **headers) == (status, f"stream.api.{error}")


@ensure
async def test_text_that_the_source_reads_as_json(api: Api) -> None:
    """Whether text is parsed as JSON depends on a setting of the source."""
    await create(api, "http", path_column("a"))
    text = {"Content-Type": "text/plain; charset=UTF-8"}
    reply = await api.call("POST", f"{SOURCE}/test", data=b'{"a":1}', headers=text)
    assert reply.status == 422
    setting = {"key": "source.http.readTextAsJson", "value": True}
    await api.run("PATCH", f"{SOURCE}/settings", {"settings": [setting]})
    assert await values(api, b'{"a":1}', headers=text) == [["1"]]


@ensure
async def test_any_flat_record_is_rendered_or_refused(api: Api) -> None:
    """Every flat record gets an answer, whatever it contains."""
    await create(api, "otlp", path_column("a", defaultValue=""), {"type": "body", "name": "b"})
    expected = {
        b'\xef\xbb\xbf{"a":1}': ["1", '{"a":1}'],
        b'{"a":"\\ud83d","k\\udc00":1}': ['"\ufffd"', '{"a":"\ufffd","k\ufffd":1}'],
        b'{"a":1e400}': ["null", '{"a":null}'],
    }
    for data, cells in expected.items():
        assert await values(api, data) == [cells]
    for data in (b'{"a":' * 290 + b"1" + b"}" * 290, b"\xff", b'{"a":NaN}', b'{"a":1}}'):
        reply = await api.call("POST", f"{SOURCE}/test", data=data)
        assert reply.status == 400
        assert "flat OTLP record" in reply.json["message"]


@ensure
async def test_without_sinks(api: Api) -> None:
    """The record of a source without sinks is shown in no tables."""
    await api.create_source()
    assert await values(api, b"") == []


async def tried(api: Api, columns: Any, body: str, **record: Any) -> Any:
    table = {"type": "keboola", "mapping": {"columns": columns}}
    return await api.call(
        "POST", f"{SOURCE}/test/mapping", {"table": table, "record": {"body": body} | record}
    )


@ensure
async def test_a_mapping_without_a_sink(api: Api) -> None:
    """A mapping that belongs to no sink is tried with a body, headers and an address."""
    await api.create_source()
    columns = [
        path_column("a", rawString=True),
        {"type": "ip", "name": "ip"},
        {"type": "headers", "name": "headers"},
    ]
    headers = [{"name": "X-Own", "value": "1"}]
    reply = await tried(api, columns, '{"a":"x"}', headers=headers, ip="10.1.2.3")
    [row] = reply.json["rows"]
    assert row["accepted"] is True
    a, ip, shown = (column["value"] for column in row["columns"])
    assert (a, ip) == ("x", "10.1.2.3")
    assert '"X-Own":"1"' in shown


@ensure
async def test_each_column_has_its_own_error(api: Api) -> None:
    """An error in one column doesn't affect the others, whatever they contain."""
    await api.create_source()
    columns = [
        path_column("nope"),
        path_column("a"),
        {
            "type": "template",
            "name": "t",
            "template": {"language": "jsonnet", "content": "Body('none') + 1"},
        },
    ]
    reply = await tried(api, columns, '{"a":1}')
    [row] = reply.json["rows"]
    assert row["accepted"] is False
    nope, a, t = row["columns"]
    assert nope == {"name": "nope", "error": 'Path "nope" not found in the body.'}
    assert a == {"name": "a", "value": "1"}
    assert "none" in t["error"]


@ensure
async def test_an_invalid_mapping(api: Api) -> None:
    """A mapping that a sink can't have is refused with the position of the error."""
    await api.create_source()
    reply = await tried(api, [path_column("a"), path_column("$.b")], "{}")
    assert (reply.status, reply.json["param"]) == (400, "body.table.mapping.columns[1]")
    reply = await tried(api, [path_column("a")], "{}", isBase64=True)
    assert reply.json["message"] == '"body" of the record is not base64.'
    reply = await tried(api, [path_column("a", dataType="integer")], "{}")
    assert reply.json["param"] == "body.table.mapping.columns[0].dataType"


@ensure
async def test_columns_with_types(api: Api) -> None:
    """The kind of table determines whether columns have types."""
    await api.create_source()
    columns = [path_column("a", dataType="integer"), path_column("b", dataType="date")]
    table = {"type": "postgres", "mapping": {"columns": columns}}
    body = {"table": table, "record": {"body": '{"a":"7","b":"tomorrow"}'}}
    [row] = (await api.call("POST", f"{SOURCE}/test/mapping", body)).json["rows"]
    a, b = row["columns"]
    assert a == {"name": "a", "value": "7"}
    assert "is not a date" in b["error"]


@ensure
async def test_a_batch_has_a_row_for_each_record(api: Api) -> None:
    """A batch of lines is split as the source splits it."""
    await api.create_source()
    headers = [{"name": "Content-Type", "value": "application/x-ndjson"}]
    reply = await tried(api, [path_column("a")], '{"a":1}\n{"a":2}\n', headers=headers)
    assert [row["columns"][0]["value"] for row in reply.json["rows"]] == ["1", "2"]
