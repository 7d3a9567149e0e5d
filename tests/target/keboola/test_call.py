"""Calls over real HTTP to a scripted server."""

from __future__ import annotations

import gzip
import traceback
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import TimeoutError as DialTimeout
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.target.keboola import JobDeadlineExceeded, JobFailed, StorageApi, StorageApiError
from stream.target.keboola.call import base_url
from stream.values.token import Token
from tests.target.keboola.conftest import Serve
from tests.target.keboola.scripted import Say, refuse

reactor: Any = _reactor
SECRET = "123-456-verySecretTokenText"
OTHER_SECRET = "another-secret-of-a-sink"
BRANCH = {"id": 456, "name": "Main", "isDefault": True}
JOB = {"id": 321, "status": "waiting"}


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("connection.keboola.com", "https://connection.keboola.com/v2/storage"),
        ("localhost:8001", "https://localhost:8001/v2/storage"),
        ("http://127.0.0.1:8001/", "http://127.0.0.1:8001/v2/storage"),
    ],
)
def test_a_host_without_a_scheme_gets_https(given: str, root: str) -> None:
    """A host without a scheme gets https, and a URL is unchanged."""
    assert base_url(given).to_text() == root


@pytest.mark.parametrize("given", ["ftp://host", "https://", ""])
def test_invalid_addresses(given: str) -> None:
    """An address with another scheme or without a host is refused."""
    with pytest.raises(ValueError, match="invalid Storage API address"):
        base_url(given)


@pytest_twisted.ensureDeferred
async def test_retries_after_503(serve: Serve) -> None:
    """Two temporary failures are hidden from the caller."""
    api, server = serve(refuse(503), refuse(503), Say(json=BRANCH))
    assert (await api.branch(SECRET, 456)).is_default
    assert [asked.uri for asked in server.asked] == ["/v2/storage/dev-branches/456"] * 3


@pytest_twisted.ensureDeferred
async def test_the_limit_of_retries(serve: Serve) -> None:
    """A permanent failure is reported after five retries, or before the budget is exceeded."""
    api, server = serve(refuse(503, "storage.maintenance", "down"), budget=1.0)
    with pytest.raises(StorageApiError) as caught:
        await api.branch(SECRET, 456)
    assert (caught.value.status, caught.value.name) == (503, "storage.maintenance")
    assert caught.value.retried
    assert len(server.asked) == 4  # at 0, 100, 300 and 700 ms; the next would be at 1.5 s


@pytest_twisted.ensureDeferred
async def test_no_retry_of_an_import_after_500(serve: Serve) -> None:
    """An import answered with 500 may be running, so it isn't started again."""
    api, server = serve(refuse(500), Say(202, JOB))
    with pytest.raises(StorageApiError) as caught:
        await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
    assert len(server.asked) == 1
    assert caught.value.maybe_applied
    assert not caught.value.retried


@pytest_twisted.ensureDeferred
async def test_no_retry_of_an_import_whose_answer_is_lost(serve: Serve) -> None:
    """An import whose connection broke after the body was sent isn't started again."""
    api, server = serve(Say(drop=True), Say(202, JOB))
    with pytest.raises(StorageApiError) as caught:
        await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
    assert len(server.asked) == 1
    assert caught.value.maybe_applied
    assert (caught.value.status, caught.value.answered) == (502, False)


@pytest_twisted.ensureDeferred
async def test_retry_of_an_import_after_429(serve: Serve) -> None:
    """An import refused by a rate limit had no effect and is retried."""
    api, server = serve(refuse(429), Say(202, JOB))
    job = await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
    assert job.id == 321
    assert len(server.asked) == 2


@pytest_twisted.ensureDeferred
async def test_unsafe_calls_do_not_use_kept_connections(serve: Serve) -> None:
    """A call that can't be retried uses a new connection."""
    api, server = serve(Say(json=BRANCH), Say(202, JOB))
    await api.branch(SECRET, 456)
    await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
    assert [asked.headers.get("connection") for asked in server.asked] == [None, "close"]


@pytest_twisted.ensureDeferred
async def test_idempotent_calls_are_retried(serve: Serve) -> None:
    """A lost answer is hidden from a caller that only reads."""
    api, server = serve(Say(drop=True), Say(json=BRANCH))
    assert (await api.branch(SECRET, 456)).id == 456
    assert len(server.asked) == 2


@pytest_twisted.ensureDeferred
async def test_refused_connections_are_retried() -> None:
    """Every call is retried, since no request was sent; the error says so."""
    closed = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    port = closed.getHost().port
    await closed.stopListening()
    api = StorageApi(reactor, f"http://127.0.0.1:{port}", budget=1.2)
    with pytest.raises(StorageApiError) as caught:
        await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
    error = caught.value
    assert (error.status, error.name) == (502, "storageApiUnreachable")
    assert error.retried
    assert not error.maybe_applied
    await api.close()


@pytest_twisted.ensureDeferred
async def test_the_connect_timeout() -> None:
    """The attempt fails at the connect timeout if the host doesn't accept the connection."""

    class NeverConnecting:
        """The reactor with TCP connections that time out at once."""

        def __init__(self) -> None:
            self.timeouts: list[float] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(reactor, name)

        def connectTCP(
            self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
        ) -> None:
            self.timeouts.append(timeout)
            failure = Failure(DialTimeout("dial"))
            reactor.callLater(0, factory.clientConnectionFailed, None, failure)

    slow = NeverConnecting()
    api = StorageApi(slow, "http://127.0.0.1:9", budget=1.0)
    with pytest.raises(StorageApiError) as caught:
        await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
    assert set(slow.timeouts) == {3.0}
    assert len(slow.timeouts) > 1
    assert not caught.value.maybe_applied


@pytest_twisted.ensureDeferred
async def test_a_silent_server(serve: Serve) -> None:
    """A server that accepts and never answers takes no longer than the budget."""
    api, server = serve(Say(hang=True), budget=0.2)
    started = reactor.seconds()
    with pytest.raises(StorageApiError, match="no answer within"):
        await api.branch(SECRET, 456)
    assert reactor.seconds() - started < 2.0
    assert len(server.asked) == 1


@pytest_twisted.ensureDeferred
async def test_cancelled_calls_are_not_retried(serve: Serve) -> None:
    """A caller that gives up ends the call at once."""
    api, server = serve(Say(hang=True))
    arrived: Deferred[None] = Deferred()
    server.on_request = lambda: arrived.callback(None)
    call = Deferred.fromCoroutine(api.branch(SECRET, 456))
    await arrived
    call.cancel()
    with pytest.raises(CancelledError):
        await call
    assert len(server.asked) == 1


@pytest_twisted.ensureDeferred
async def test_the_error_of_the_api(serve: Serve) -> None:
    """The error has the status, code, text and exception id of the API."""
    api, _ = serve(refuse(404, "storage.buckets.notFound", "Bucket not found", "exc-7"))
    with pytest.raises(StorageApiError) as caught:
        await api.get_bucket(SECRET, 456, "in.c-b")
    error = caught.value
    assert isinstance(error, UserError)
    assert (error.status, error.name, error.message, error.exception_id) == (
        404,
        "storage.buckets.notFound",
        "Bucket not found",
        "exc-7",
    )
    assert error.is_not_found
    assert str(error) == (
        f'Bucket not found, method: "GET", url: "{error.url}", httpCode: "404", '
        'errCode: "storage.buckets.notFound", exceptionId: "exc-7"'
    )
    assert error.url.endswith("/v2/storage/branch/456/buckets/in.c-b")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "say",
    [
        Say(403, raw=b"<html>", content_type="text/html"),
        Say(403, raw=b""),
        Say(403, raw=b"{broken"),
        Say(403, json=["no object"]),
    ],
)
async def test_errors_without_a_body_get_a_derived_name(serve: Serve, say: Say) -> None:
    """An error without the API's JSON is named after its status."""
    api, _ = serve(say)
    with pytest.raises(StorageApiError) as caught:
        await api.branch(SECRET, 456)
    assert (caught.value.status, caught.value.name) == (403, "forbidden")
    assert caught.value.message.endswith("failed: 403 Forbidden")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "say",
    [
        Say(200, raw=b"hello", content_type="text/plain"),
        Say(200, raw=b"{broken"),
        Say(200, json={"name": "no id"}),
        Say(200, json=[]),
        Say(204),
    ],
)
async def test_an_invalid_success(serve: Serve, say: Say) -> None:
    """A success without the expected content is an error instead of an empty value."""
    api, server = serve(say)
    with pytest.raises(StorageApiError) as caught:
        await api.branch(SECRET, 456)
    assert (caught.value.status, caught.value.name) == (502, "storageApiUnexpectedReply")
    assert len(server.asked) == 1


@pytest_twisted.ensureDeferred
async def test_redirects_are_not_followed(serve: Serve) -> None:
    """A redirect is an error, since it could send the token elsewhere."""
    api, server = serve(Say(302, json={}))
    with pytest.raises(StorageApiError) as caught:
        await api.branch(SECRET, 456)
    assert caught.value.status == 502
    assert len(server.asked) == 1


@pytest_twisted.ensureDeferred
async def test_headers_of_a_call(serve: Serve) -> None:
    """A call has the token, the product's name, and no other authorisation."""
    api, server = serve(Say(json=BRANCH))
    await api.branch(SECRET, 456)
    await api.branch("Bearer abc", 456)
    plain, bearer = (asked.headers for asked in server.asked)
    assert plain["x-storageapi-token"] == SECRET
    assert "authorization" not in plain
    assert plain["user-agent"] == "keboola-stream"
    assert plain["accept-encoding"] == "gzip"
    assert bearer["authorization"] == "Bearer abc"
    assert "x-storageapi-token" not in bearer


@pytest_twisted.ensureDeferred
async def test_compressed_answers_and_other_json_types() -> None:
    """A compressed answer with a vendor's JSON media type is decoded."""
    body = gzip.compress(b'{"id": 456, "isDefault": true}')

    class OneAnswer(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.kbc+json; charset=utf-8\r\n"
                b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )

    port = reactor.listenTCP(0, Factory.forProtocol(OneAnswer), interface="127.0.0.1")
    api = StorageApi(reactor, f"http://127.0.0.1:{port.getHost().port}")
    try:
        assert (await api.branch(SECRET, 456)).is_default
    finally:
        await api.close()
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_the_limit_of_an_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of the limit is accepted, and one byte more is refused."""
    raw = b'{"id": 456}'
    monkeypatch.setattr("stream.target.keboola.transport.MAX_REPLY_BYTES", len(raw))
    api, _ = serve(Say(raw=raw), Say(raw=raw + b" "))
    assert (await api.branch(SECRET, 456)).id == 456
    with pytest.raises(StorageApiError, match="is larger than 11 bytes"):
        await api.branch(SECRET, 456)


@pytest_twisted.ensureDeferred
async def test_the_token_is_not_shown(serve: Serve) -> None:
    """Errors, the values in their tracebacks and the log of a failing call don't contain
    the token.
    """
    api, _ = serve(refuse(503, "storage.down", f"token {SECRET} is down"), budget=0.5)
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        with pytest.raises(StorageApiError) as caught:
            await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
        with pytest.raises(StorageApiError):
            await api.branch(SECRET, 456)
    finally:
        globalLogPublisher.removeObserver(observer)
    error = caught.value
    assert "token *** is down" in error.message
    assert SECRET not in f"{error} {error!r} {error.__dict__} {events}"
    assert any("repeating" in str(event.get("log_format")) for event in events)


def test_a_wrapped_token_prints_as_stars() -> None:
    """The text and the repr of a token don't contain its value."""
    token = Token(SECRET)
    assert SECRET not in f"{token} {token!r} {[token]}"
    assert Token.of(token) is token


@pytest.mark.parametrize("text", ["", "a\nb", "a\r\nX: y", "žluť", " a"])
def test_an_invalid_token_is_refused(text: str) -> None:
    """A token with control characters or non-ASCII characters is refused as by the API."""
    with pytest.raises(UserError) as caught:
        Token(text)
    assert (caught.value.status, caught.value.name) == (401, "storage.tokenInvalid")


def echoing(token: str) -> list[Say]:
    """Return answers that quote *token* wherever an API can."""
    return [
        refuse(503, f"storage.{token}", f"token {token} is down", f"exc-{token}"),
        Say(200, {"id": 321, "status": "error", "error": {"message": f"{token} was refused"}}),
        Say(201, {"id": "7", "token": OTHER_SECRET, "description": f"{token} made {OTHER_SECRET}"}),
        Say(201, ["quoted", {token: token, "creatorToken": {"id": "1", "description": token}}]),
        Say(400, raw=f"<b>{token}</b>".encode(), content_type="text/html"),
    ]


@pytest_twisted.ensureDeferred
async def test_logged_calls_contain_no_token(serve: Serve) -> None:
    """With all requests and answers logged, no quoted token is in the log or in an error."""
    api, server = serve(*echoing(SECRET), budget=0.15, log_exchanges=True)
    told: list[str] = []

    def note(event: LogEvent) -> None:
        told.append(f"{event!r} {formatEvent(event)}")

    listen = cast(ILogObserver, note)
    globalLogPublisher.addObserver(listen)
    try:
        with pytest.raises(StorageApiError) as down:
            await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
        with pytest.raises(JobFailed) as failed:
            await api.wait_job(SECRET, 321, timeout=1.0)
        made = await api.create_token(SECRET, source_id="a", sink_id="b", bucket_id="in.c-b")
        with pytest.raises(StorageApiError) as senseless:
            await api.create_token(SECRET, source_id="a", sink_id="b", bucket_id="in.c-b")
        with pytest.raises(StorageApiError) as refused:
            await api.branch(f"Bearer {SECRET}", 456)
    finally:
        globalLogPublisher.removeObserver(listen)
    assert made.token == OTHER_SECRET
    assert len(server.asked) == 5
    errors = [down.value, failed.value, senseless.value, refused.value]
    text = "\n".join([*told, *(f"{each} {each!r} {each.__dict__}" for each in errors)])
    for secret in (SECRET, OTHER_SECRET):
        assert secret not in text
    for shown in (
        "token *** is down",
        '"dataFileId":1',
        '"X-StorageApi-Token":"***"',
        '"Authorization":"***"',
        '"message":"*** was refused"',
        '"token":"***","description":"*** made ***"',
        '"content-type":"text/html"',
    ):
        assert shown in text, shown


@pytest.mark.parametrize(
    "wire",
    ["{}\r\n\r\n", "HTTP/1.1 {} OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n"],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_not_http(serve: Serve, wire: str) -> None:
    """Tokens are removed from an answer that quotes the request."""
    api, _ = serve(Say(wire=wire.format(SECRET).encode()))
    with pytest.raises(StorageApiError) as caught:
        await api.import_async(SECRET, 456, "in.c-b.t", file_id=1, columns=["a"])
    assert SECRET not in f"{caught.value} {caught.value.__dict__}"
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "***" in caught.value.message


@pytest_twisted.ensureDeferred
async def test_ids_and_states_contain_no_token(serve: Serve) -> None:
    """A token that the API quotes in codes, ids and states is masked too."""
    error = {"message": "no", "code": f"storage.{SECRET}", "exceptionId": f"exc-{SECRET}"}
    api, _ = serve(
        Say(json={"id": 321, "status": "error", "error": error}),
        Say(json={"id": 321, "status": SECRET}),
        Say(201, [], headers={"X-Request-Id": f"req-{SECRET}"}),
    )
    with pytest.raises(JobFailed) as failed:
        await api.wait_job(SECRET, 321, timeout=1.0)
    with pytest.raises(JobDeadlineExceeded) as late:
        await api.wait_job(SECRET, 321, timeout=0.0)
    with pytest.raises(StorageApiError) as senseless:
        await api.create_token(SECRET, source_id="a", sink_id="b", bucket_id="in.c-b")
    for problem in (failed.value, late.value, senseless.value):
        assert SECRET not in f"{problem} {problem.__dict__}"
    assert (failed.value.code, failed.value.exception_id) == ("storage.***", "exc-***")
    assert senseless.value.request_id == "req-***"


@pytest_twisted.ensureDeferred
async def test_calls_are_logged_on_request(serve: Serve) -> None:
    """Without the setting, a successful call isn't logged."""
    api, _ = serve(Say(json=BRANCH))
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        await api.branch(SECRET, 456)
    finally:
        globalLogPublisher.removeObserver(observer)
    assert not [event for event in events if "keboola" in str(event.get("log_namespace"))]


@pytest_twisted.ensureDeferred
async def test_request_ids_of_failed_calls(serve: Serve) -> None:
    """Each failed attempt is logged with the ids of the API."""
    api, _ = serve(
        Say(503, {"error": "down", "exceptionId": "exc-1"}, headers={"X-Request-Id": "req-1"}),
        Say(403, {"error": "no", "exceptionId": "exc-2"}, headers={"X-Request-Id": "req-2"}),
    )
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        with pytest.raises(StorageApiError) as caught:
            await api.branch(SECRET, 456)
    finally:
        globalLogPublisher.removeObserver(observer)
    found = [(e["exception_id"], e["request_id"]) for e in events if "request_id" in e]
    assert found == [("exc-1", "req-1"), ("exc-2", "req-2")]
    assert str(caught.value).endswith('exceptionId: "exc-2", requestId: "req-2"')
