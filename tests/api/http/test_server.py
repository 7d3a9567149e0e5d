from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
import pytest_twisted
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher

from stream.api.http.app import REQUEST_SECONDS, build_app
from stream.api.http.call import Answer, Call, StartedTask, json_answer, json_body
from stream.api.http.guard import Guard
from stream.api.http.server import Front
from stream.api.http.site import ApiSite
from stream.api.spec.operation import Operation, Parameter
from stream.api.spec.schema import DurationText
from stream.errors import UserError
from stream.task.entity import Task
from tests.api.conftest import SOURCES, TOKEN, Api

ensure = pytest_twisted.ensureDeferred
WAIT = Operation(id="Wait", method="GET", path="/wait", summary="Waits.", public=True)
TASK = Operation(
    id="Task",
    method="PUT",
    path="/task",
    summary="Starts a task.",
    public=True,
    status=202,
    parameters=(Parameter(name="wait", place="query", schema=DurationText(maximum=50)),),
)


class Server:
    """One connection to a site with an operation and a task, which both wait for `gate`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gate: Deferred[None] = Deferred()
        self.cancelled = False

        async def wait(call: Call) -> Any:
            try:
                await self.gate
            except BaseException:
                self.cancelled = True
                raise
            return {"waited": True}

        async def start(call: Call) -> Any:
            return StartedTask(Task(project_id=1, task_id="t"), {"started": True})

        async def awaited(call: Call, started: StartedTask) -> Answer:
            return json_answer(json_body(await wait(call)))

        guard = Guard(None, None, None)  # type: ignore[arg-type]
        operations = {"Wait": WAIT, "Task": TASK}
        handlers = {"Wait": wait, "Task": start}
        app: Klein = build_app(self.clock, guard, operations, handlers, awaited=awaited)
        self.front = Front(self.clock, app.resource())
        self.site = ApiSite(self.front, self.clock)
        self.transport = StringTransport()
        self.channel = self.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)


@pytest.fixture
def server() -> Server:
    return Server()


def test_an_answer_that_takes_too_long(server: Server) -> None:
    """After the time limit the client gets an error and the work is cancelled."""
    server.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(server.front.in_flight) == 1
    server.clock.advance(REQUEST_SECONDS)
    assert server.transport.value().startswith(b"HTTP/1.1 408 ")
    assert b"stream.api.requestTimeout" in server.transport.value()
    assert server.cancelled
    assert server.front.in_flight == []


def test_a_client_that_disconnects(server: Server) -> None:
    """The work for a disconnected client is cancelled."""
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    server.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    server.channel.connectionLost(Failure(ConnectionDone()))
    assert server.cancelled
    assert server.front.in_flight == []


def test_waiting_for_a_task(server: Server) -> None:
    """A wait for a task may take longer than a request, and ends when the client disconnects."""
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    server.send(b"PUT /task HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert server.transport.value().endswith(b'{"started":true}\n')
    server.send(b"PUT /task?wait=40s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    server.clock.advance(REQUEST_SECONDS + 1)
    assert not server.cancelled
    server.channel.connectionLost(Failure(ConnectionDone()))
    assert server.cancelled
    assert server.front.in_flight == []


def test_hanging_up(server: Server) -> None:
    """Idle connections are closed, and no timer remains."""
    server.gate.callback(None)
    server.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    assert server.transport.value().endswith(b'{"waited":true}\n')
    server.site.hang_up()
    assert server.transport.disconnecting


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """Return the logged events."""
    logged: list[dict[str, Any]] = []
    observer = cast(ILogObserver, logged.append)
    globalLogPublisher.addObserver(observer)
    yield logged
    globalLogPublisher.removeObserver(observer)


@ensure
async def test_the_access_log(api: Api, events: list[dict[str, Any]]) -> None:
    """A request is logged with its project and without its token; health checks aren't logged."""
    reply = await api.call("GET", f"{SOURCES}?limit=1", headers={"User-Agent": "me"})
    await api.call("GET", "/health-check")
    logged = [event for event in events if event.get("log_namespace") == "stream.api.http.server"]
    [event] = [event for event in logged if "url" in event]
    assert event["url"] == f"{SOURCES}?limit=1"
    assert event["http_status"] == 200
    assert event["http_bytes"] == len(reply.body)
    assert event["request_id"] == reply.header("X-Request-Id")
    assert event["user_agent"] == "me"
    assert event["client_ip"] == "127.0.0.1"
    assert event["stream.projectId"] == 123
    assert event["stream.branch.id"] == 456
    assert re.fullmatch(r"0s|[0-9.]+(µs|ms|s)", event["http_time"])
    assert not any(TOKEN in str(event) for event in events)


@ensure
async def test_secrets_in_urls_are_not_logged(api: Api, events: list[dict[str, Any]]) -> None:
    """The token in a query and the secret of a source in a path are masked in the log."""
    await api.call("GET", f"{SOURCES}?token=hunter2&limit=1")
    await api.call("POST", "/stream/123/my-source/hunter2")
    urls = [event["url"] for event in events if "url" in event]
    assert urls == [f"{SOURCES}?token=***&limit=1", "/stream/123/my-source/***"]
    assert not any("hunter2" in str(event) for event in events)


@ensure
async def test_refused_requests_are_logged(api: Api, events: list[dict[str, Any]]) -> None:
    """A caller's mistake isn't logged as an error; the event has the name of the error."""
    reply = await api.call("GET", f"{SOURCES}/missing")
    assert reply.status == 404
    [event] = [event for event in events if event.get("log_format") == "request failed: {error}"]
    assert event["log_level"] is LogLevel.info
    assert event["error_name"] == "stream.api.sourceNotFound"
    assert event["request_id"] == reply.header("X-Request-Id")
    assert event["stream.projectId"] == 123


def test_failed_requests_are_logged_as_errors(server: Server, events: list[dict[str, Any]]) -> None:
    """Answers from 500 on are logged as errors, with the id in the answer."""
    server.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    server.gate.errback(UserError("no", status=503, name="away"))
    [event] = [event for event in events if event.get("log_format") == "request failed: {error}"]
    assert event["log_level"] is LogLevel.error
    assert event["exception_id"].startswith("keboola-stream-api-")
    assert event["exception_id"].encode() in server.transport.value()
