"""Calls of the API: tasks, pages, retries, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from stream.client.api import Api, is_private
from stream.client.errors import ClientError, ServiceError, TaskFailed, Unreachable, service_error

Answer = tuple[int, Any] | Exception


class Service:
    """An API that answers each call with the next of *answers*."""

    def __init__(self, *answers: Answer, **headers: str) -> None:
        self.calls: list[str] = []
        self.headers: list[httpx.Headers] = []
        self.pauses: list[float] = []
        self._answers: Iterator[Answer] = iter(answers)
        self._headers = headers
        self.api = Api(
            "https://stream.example/v1/",
            "secret-token",
            wait=self.pauses.append,
            transport=httpx.MockTransport(self._answer),
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(f"{request.method} {request.url.raw_path.decode()}")
        self.headers.append(request.headers)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in self._headers.items()}
        return httpx.Response(status, content=content, headers=headers)


_TASK = {"taskId": "api.create/1/a b", "url": "https://evil.example/x", "isFinished": False}
_DONE = {**_TASK, "isFinished": True, "status": "success", "outputs": {"sourceId": "a"}}


def test_waiting_for_a_change() -> None:
    """The client asks the service to wait, and gets the object."""
    service = Service((201, {"sourceId": "a"}))
    assert service.api.change("POST", "sources", body={}) == {"sourceId": "a"}
    assert service.headers[0]["Prefer"] == "wait=10"
    assert service.headers[0]["X-StorageApi-Token"] == "secret-token"


def test_polling_a_change() -> None:
    """The task is polled with growing pauses, only at the address that the token belongs to."""
    service = Service((202, _TASK), (200, _TASK), (200, _TASK), (200, _DONE))
    assert service.api.change("POST", "sources", body={}) == _DONE
    assert service.calls == [
        "POST /v1/branches/default/sources",
        *["GET /v1/tasks/api.create/1/a%20b"] * 3,
    ]
    assert service.pauses == [0.1, 0.2, 0.4]


def test_a_change_that_fails() -> None:
    """The reason is that of the task."""
    service = Service((202, _TASK), (200, {**_DONE, "status": "error", "error": "No table."}))
    with pytest.raises(TaskFailed, match="No table"):
        service.api.change("POST", "sources", body={})


def test_pages() -> None:
    """All pages are read."""
    first = {"sources": [{"sourceId": str(i)} for i in range(100)], "page": {"lastId": "99"}}
    service = Service(
        (200, first), (200, {"sources": [{"sourceId": "x"}], "page": {"lastId": "x"}})
    )
    assert len(list(service.api.pages("sources", "sources"))) == 101
    assert service.calls[1] == "GET /v1/branches/default/sources?limit=100&afterId=99"


@pytest.mark.parametrize("answer", [[1], None, {"sources": 1}], ids=str)
def test_pages_of_another_service(answer: object) -> None:
    """Pages of another service are not parsed as lists."""
    with pytest.raises(ClientError, match="but is not the API"):
        list(Service((200, answer)).api.pages("sources", "sources"))


def test_endless_pages() -> None:
    """Collecting them ends at a limit."""
    answers: list[Answer] = [
        (200, {"sources": [{}] * 100, "page": {"lastId": str(number)}}) for number in range(1001)
    ]
    with pytest.raises(ClientError, match="more than 1000 pages"):
        list(Service(*answers).api.pages("sources", "sources"))


def test_ids_in_urls() -> None:
    """An id in a URL can't lead to another path."""
    service = Service((200, {}))
    service.api.get("sources", "../a/b?c")
    assert service.calls == ["GET /v1/branches/default/sources/..%2Fa%2Fb%3Fc"]
    for id in ("", ".", ".."):  # the path of the sink ".." would be that of its source
        with pytest.raises(ClientError, match="is not a valid ID"):
            service.api.call("DELETE", "sources", "a", "sinks", id)
    assert len(service.calls) == 1


def test_temporary_failures() -> None:
    """Temporary failures are retried, with the delay that the service requests."""
    service = Service((503, {}), httpx.ConnectError("refused"), (200, {"a": 1}), retry_after="3")
    assert service.api.get("sources") == {"a": 1}
    assert service.pauses[0] == 3.0
    assert len(service.pauses) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_permanent_failures(status: int) -> None:
    """Permanent failures are reported at once."""
    service = Service((status, {"error": "stream.api.x", "message": "No."}))
    with pytest.raises(ServiceError) as raised:
        service.api.get("sources")
    assert (raised.value.status, raised.value.name) == (status, "stream.api.x")


def test_creations_are_sent_once() -> None:
    """A creation without an answer isn't retried, because its outcome is unknown."""
    service = Service(httpx.ReadError("reset"))
    with pytest.raises(Unreachable, match="reset"):
        service.api.change("POST", "sources", body={})
    assert len(service.calls) == 1


def test_redirects_are_not_followed() -> None:
    """A redirect would disclose the token."""
    service = Service((302, b""), location="https://evil.example/")
    with pytest.raises(ServiceError, match=r"evil\.example"):
        service.api.get("sources")
    assert len(service.calls) == 1


@pytest.mark.parametrize("body", [b"<html>", b"{", b"", b"[]", b"\xff"])
def test_invalid_answers(body: bytes) -> None:
    """Every answer that isn't the service's is an error with a message."""
    with pytest.raises(ServiceError) as raised:
        Service((404, body)).api.get("sources")
    assert raised.value.message


def test_events() -> None:
    """Events are read as they arrive; an answer without events is an error."""
    content = b"event: start\ndata: {}\n\nevent: end\ndata: {}\n\n"
    service = Service((200, content), (404, {"message": "No."}), httpx.ReadTimeout("slow"))
    assert [event.name for event in service.api.events("live", last_id="7")] == ["start", "end"]
    assert service.headers[0]["Last-Event-ID"] == "7"
    with pytest.raises(ServiceError):
        list(service.api.events("live"))
    with pytest.raises(Unreachable):
        list(service.api.events("live"))


def test_error_messages() -> None:
    """The message comes first, then each explanation once."""
    document = {
        "error": "stream.api.badRequest",
        "message": "Two things are wrong.",
        "detail": "Details.",
        "hint": "A hint.",
        "param": "body.name",
        "errors": [{"param": "body.a", "message": "no a", "detail": "one of x"}, "rubbish"],
        "exceptionId": "stream-1",
    }
    assert str(service_error(400, document)).split("\n") == [
        "Two things are wrong.",
        "The parameter is body.name.",
        "Details.",
        "A hint.",
        "body.a: no a one of x",
        "See the log of the service for details: stream-1",
    ]


@pytest.mark.parametrize("url", ["", "stream.example", "ftp://x", "http://"])
def test_invalid_urls(url: str) -> None:
    """Invalid URLs are refused before a token is sent."""
    with pytest.raises(ClientError):
        Api(url, "token")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://x", True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]", True),
        ("http://x", False),
    ],
)
def test_private_connections(url: str, expected: bool) -> None:
    """A connection is private with TLS or to the same machine."""
    assert is_private(url) is expected
