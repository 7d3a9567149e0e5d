from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.logger import capturedLogs

from stream.sandbox import SandboxService
from stream.sandbox.body import MAX_BODY_BYTES
from tests.sandbox.api import BUCKET, TABLE, Api, csv_rows, sleep


class Raw(Protocol):
    """A connection on which a test can write any bytes."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)


async def connect(api: Api) -> Raw:
    port = int(api.url.rsplit(":", 1)[1])
    endpoint = HostnameEndpoint(reactor, "127.0.0.1", port)
    connected: Raw = await connectProtocol(endpoint, Raw())
    return connected


@pytest_twisted.ensureDeferred
async def test_the_health_check_needs_no_token(api: Api) -> None:
    """The health check works without a token."""
    answer = await Api(api.url, "").call("GET", "/health-check")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/storage/nothing", 404),
        ("PUT", "/v2/storage/events", 405),
        ("GET", "/v2/storage/branch/456/buckets/%FF", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_unknown_paths(api: Api, method: str, path: str, status: int) -> None:
    """An unknown path or method is answered with its status."""
    answer = await api.call(method, path)
    assert answer.status == status
    if status != 400:
        assert answer.json["code"] == "notFound" and answer.json["exceptionId"]


@pytest.mark.parametrize("line", ["GET /health-check", "GET /none", "TEST /health-check"])
@pytest_twisted.ensureDeferred
async def test_browsers_may_not_guess_the_content_type(api: Api, line: str) -> None:
    """Pages and errors have a content type, and say that it is certain."""
    raw = await connect(api)
    raw.transport.write(f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    await raw.closed
    head = raw.received.partition(b"\r\n\r\n")[0].lower()
    assert b"\r\nx-content-type-options: nosniff" in head
    assert b"\r\ncontent-type: application/json" in head


@pytest_twisted.ensureDeferred
async def test_an_absurd_length(api: Api) -> None:
    """A length that Python can't convert is refused, and nothing is logged."""
    raw = await connect(api)
    with capturedLogs() as events:
        raw.transport.write(
            b"GET /health-check HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n"
            % (b"9" * 5000)
        )
        await raw.closed
    assert raw.received.startswith(b"HTTP/1.1 400 ")
    assert not events


@pytest_twisted.ensureDeferred
async def test_the_limit_of_a_body(api: Api) -> None:
    """A body of the limit is accepted, and one byte more is a 413."""
    head, tail = b'{"component":"a","message":"b","x":"', b'"}'
    body = head + b"x" * (MAX_BODY_BYTES - len(head) - len(tail)) + tail
    assert (await api.storage("POST", "events", data=body)).status == 201
    answer = await api.storage("POST", "events", data=body + b" ")
    assert (answer.status, answer.json["code"]) == (413, "storage.bodyTooLarge")


@pytest_twisted.ensureDeferred
async def test_a_large_chunked_body(api: Api) -> None:
    """A body without a length is limited too."""
    raw = await connect(api)
    raw.transport.write(
        b"POST /v2/storage/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"X-StorageApi-Token: " + api.token.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(40):
        raw.transport.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    raw.transport.write(b"0\r\n\r\n")
    await raw.closed
    assert raw.received.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b'"a"', b"\xff", b"[" * 5000, b'{"a":NaN}'])
@pytest_twisted.ensureDeferred
async def test_bodies_that_are_not_json_objects(api: Api, body: bytes) -> None:
    """Other bodies get a 400 in the form of an API error."""
    for path in ("events", "tokens", "branch/456/files/prepare", "branch/456/buckets"):
        answer = await api.storage("POST", path, data=body)
        assert (answer.status, answer.json["code"]) == (400, "storage.validation")


@pytest_twisted.ensureDeferred
async def test_too_many_calls_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls above the limit get a 503 at once, and earlier ones are answered later."""
    monkeypatch.setattr("stream.sandbox.http.MAX_CALLS_IN_FLIGHT", 3)
    await api.fault("verifyToken", times=3, delay=5)
    calls = [ensureDeferred(api.storage("GET", "tokens/verify")) for _ in range(5)]
    statuses = [(await call).status for call in calls]
    assert sorted(statuses) == [200] * 3 + [503] * 2


@pytest_twisted.ensureDeferred
async def test_a_client_that_disconnects_does_not_interrupt_its_call(api: Api) -> None:
    """The bucket is created although the client has disconnected."""
    await api.fault("createBucket", delay=0.2)
    raw = await connect(api)
    body = b'{"stage":"in","name":"events"}'
    raw.transport.write(
        b"POST /v2/storage/branch/456/buckets HTTP/1.1\r\nHost: localhost\r\nX-StorageApi-Token: "
        + api.token.encode()
        + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await sleep(0.1)
    raw.transport.abortConnection()
    await raw.closed
    for _ in range(100):
        if (await api.branch("GET", f"buckets/{BUCKET}")).status == 200:
            break
        await sleep(0.05)
    else:
        raise AssertionError("the bucket was not made")


@pytest_twisted.ensureDeferred
async def test_unexpected_exceptions(
    api: Api, service: SandboxService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is a 500 with an id; its text is only in the log."""

    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("stream.sandbox.jobs.find", broken)
    answer = await api.storage("GET", "jobs/1")
    assert (answer.status, answer.json["code"]) == (500, "storage.internalError")
    assert "secret detail" not in answer.text and answer.json["exceptionId"]


@pytest_twisted.ensureDeferred
async def test_events_are_listed_newest_first(api: Api) -> None:
    """Events are decoded, and can be filtered by component."""
    await api.bucket()
    sink = await api.sink_token()
    for component in ("keboola.stream.sliceUpload", "keboola.stream.fileImport"):
        body = {
            "component": component,
            "message": "Done.",
            "type": "info",
            "duration": 3,
            "runId": "",
            "params": '{"sinkId":"my-sink"}',
            "results": "null",
        }
        answer = await sink.storage("POST", "events", body)
        assert answer.status == 201 and answer.json["uuid"]
    events = (await api.storage("GET", "events")).json
    assert [event["component"][15:] for event in events] == ["fileImport", "sliceUpload"]
    assert events[0]["params"] == {"sinkId": "my-sink"} and events[0]["results"] is None
    assert events[0]["duration"] == 3 and events[0]["token"] == {"id": "1001"}
    assert len((await api.storage("GET", "events?component=keboola.stream.fileImport")).json) == 1
    assert len((await api.storage("GET", "events?limit=1")).json) == 1
    other = await api.sink_token()
    assert (await other.storage("GET", "events")).json == []
    assert (await api.storage("POST", "events", {"message": "x"})).status == 400


@pytest_twisted.ensureDeferred
async def test_the_overview_page(api: Api, service: SandboxService) -> None:
    """The page lists tables with their rows and files, and the path of the rows."""
    page = await api.call("GET", "/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    assert "None yet" in page.text and str(service.data_path) in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    await api.bucket()
    await api.table()
    file_id = await api.stage({"a": csv_rows(["1", "<b>&"], ["2", "y" * 300])})
    await api.done(await api.load(file_id))
    page = await api.call("GET", "/")
    assert f'<a href="/tables/{TABLE}">{TABLE}</a>' in page.text
    assert '<td class="number">2</td>' in page.text and "source_sink_20260102030405" in page.text


@pytest_twisted.ensureDeferred
async def test_the_page_of_a_table(api: Api) -> None:
    """The page shows the newest rows, escaped and truncated."""
    await api.bucket()
    await api.table(columns=["id", "<script>"])
    rows = csv_rows(["1", "<b>&\"'"], ["2", "y" * 300])
    await api.done(await api.load(await api.stage({"a": rows}), ["id", "<script>"]))
    page = await api.call("GET", f"/tables/{TABLE}")
    assert page.status == 200
    assert "<script>" not in page.text and "&lt;script&gt;" in page.text
    assert "&lt;b&gt;&amp;&quot;&#x27;" in page.text
    assert "y" * 200 + "…" in page.text and "y" * 201 not in page.text
    assert page.text.index("y" * 200) < page.text.index("&lt;b&gt;")
    assert (await api.call("GET", "/tables/in.c-x.y")).status == 404
