from __future__ import annotations

from typing import Any

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
async def test_http(api: Api) -> None:
    """The body and the headers are the record, without the caller's token."""
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


@ensure
async def test_a_form_is_a_record_too(api: Api) -> None:
    """A form in the body is a record, not parameters of the call."""
    await create(api, "http", path_column("signal", rawString=True))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert await values(api, b"signal=smoke", headers=form) == [["smoke"]]


@ensure
async def test_a_column_that_can_not_be_rendered(api: Api) -> None:
    """The first column that fails is told, with the reason."""
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
async def test_otlp(api: Api) -> None:
    """The body is one flat record; sinks that don't take its signal are left out."""
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
async def test_without_sinks(api: Api) -> None:
    """A source without sinks makes no tables of a record."""
    await api.create_source()
    assert await values(api, b"") == []
