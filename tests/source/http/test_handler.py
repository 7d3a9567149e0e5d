"""Routes, errors and result documents of the HTTP listener."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.definition.key import SourceKey
from stream.errors import NestedError, UserError, without_frames
from stream.mapping.columns import BodyColumn, Column, Mapping, PathColumn
from stream.mapping.plan import Evaluated
from stream.mapping.render import Renderer, compile_renderer
from stream.ops.metrics.registry import Metrics
from stream.record.context import RecordContext
from stream.sink.outcome import Completion
from stream.source.dispatcher import Dispatcher, SourceEntry
from stream.source.http.client import ClientAddress
from stream.source.http.content_decoding import Decoder
from stream.source.http.earlier_attempts import Away, EarlierAttempts, Enquirer
from stream.source.http.handler import IngestHandler
from stream.source.http.head import HeadReader
from stream.source.http.idempotency import IdempotencyWindow
from stream.source.http.parser import RequestParser
from stream.source.http.responses import MAX_REQUESTED_HEADERS
from stream.source.http.route import Ingest, NotFound, find_route
from stream.source.interfaces import RowWriter, SinkWriter
from stream.source.meters import SourceMeters
from stream.source.turns import Turns
from stream.source.without_sink import WithoutSink
from stream.storage.model.marks import Mark
from stream.tail.sampler import TailSampler
from tests.source.http.test_parser import next_whole
from tests.templates.inprocess import InProcessTemplates

KEY = SourceKey(123, 111, "my-source")
OTLP_KEY = SourceKey(123, 111, "otel")
SECRET = "K" * 48
PATH = f"/stream/123/my-source/{SECRET}"


class FakeSink:
    """A sink that renders at once and answers as configured.

    :ivar blocks: received blocks, with their numbers of rows.
    :ivar dead: bodies of rejected records of batches, and the names of their errors.
    """

    def __init__(self, outcome: Any = 200, columns: Sequence[Column] = (BodyColumn("b"),)) -> None:
        self._render = compile_renderer(Mapping(tuple(columns)), 1000)
        self.templates = InProcessTemplates()
        self.outcome = outcome
        self.rows: list[bytes] = []
        self.records: list[RecordContext] = []
        self.waiting: list[Completion] = []
        self.marks: list[Mark | None] = []
        self.blocks: list[tuple[bytes, int]] = []
        self.dead: list[tuple[bytes, str]] = []

    def evaluate(
        self, renderer: Renderer, records: Sequence[RecordContext], /
    ) -> Deferred[list[Evaluated]]:
        assert renderer is self._render and renderer.plan is not None
        return self.templates.evaluate(1, renderer.plan, records)

    def room(self, record: RecordContext | None = None, /) -> Deferred[None] | None:
        return self.templates.room(1)

    @property
    def opened(self) -> RowWriter:
        return self

    def direct(self) -> None:
        """Return nothing: only the general path is tested here."""

    def open(self, now_ms: int, /) -> RowWriter:
        return self

    def write(
        self, record: RecordContext, completion: Completion, mark: Mark | None = None, /
    ) -> None:
        self.marks.append(mark)
        try:
            self.take(record, completion)
        except Exception as error:
            completion.failed(without_frames(error))

    def take(self, record: RecordContext, completion: Completion) -> None:
        """Render *record*, and answer as configured, or raise the configured error."""
        self.records.append(record)
        self.rows.append(self._render.row(record))
        self._answer(completion)

    def renderer(self) -> Renderer:
        return self._render

    def write_rows(
        self,
        rows: bytes,
        count: int,
        received_at: int,
        renderer: Renderer,
        completion: Completion,
        mark: Mark | None = None,
        /,
    ) -> None:
        assert renderer is self._render
        self.marks.append(mark)
        self.blocks.append((rows, count))
        self._answer(completion)

    def rejected(self, record: RecordContext, error: UserError, /) -> None:
        self.dead.append((record.body, error.name))

    def _answer(self, completion: Completion) -> None:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome == 202:
            completion.accepted(202)
        elif self.outcome == "wait":
            self.waiting.append(completion)
        else:
            completion.stored()


class FakeRouter:
    def __init__(self) -> None:
        self.sinks: dict[SourceKey, list[tuple[str, SinkWriter]]] = {}
        self.signals: list[str] = []

    def eligible(self, source: SourceKey, signal: str) -> Sequence[tuple[str, SinkWriter]]:
        self.signals.append(signal)
        return self.sinks.get(source, [])


class InlinePool(ThreadPool):
    """A pool that runs its jobs in the current thread.

    :ivar is_held: whether jobs wait for `release`.
    """

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.is_held = False
        self._held: list[Callable[[], None]] = []

    def callInThreadWithCallback(self, onResult: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        def work() -> None:
            try:
                onResult(True, func(*args, **kwargs))
            except Exception:
                onResult(False, Failure())

        if self.is_held:
            self._held.append(work)
        else:
            work()

    def release(self) -> None:
        for work in self._held:
            work()


class InlineClock(Clock):
    """A clock that accepts calls from threads."""

    def callFromThread(self, func: Any, *args: Any, **kwargs: Any) -> None:
        func(*args, **kwargs)


class FakeConnection:
    def __init__(self) -> None:
        self.pending: object = None
        self.peer_ip = "203.0.113.7"
        self.answers: list[bytes] = []

    def finish(self, answer: bytes, /) -> None:
        self.pending = None
        self.answers.append(answer)


class Listener:
    def __init__(
        self,
        proxies: Sequence[str] = (),
        clock: Callable[[], float] | None = None,
        enquire: Enquirer | None = None,
        away: Away = lambda _: (),
    ) -> None:
        self.dispatcher = Dispatcher("http")
        self.otlp_dispatcher = Dispatcher("otlp")
        self.dispatcher.put(SourceEntry(KEY, "http", True, SECRET))
        self.router = FakeRouter()
        self.clock = InlineClock()
        self.pool = InlinePool()
        self.taps = TailSampler()
        self.now = clock or (lambda: 1714557600.1239)
        self.metrics = Metrics()
        turns = Turns(self.clock)
        self.handler = IngestHandler(
            self.dispatcher,
            self.otlp_dispatcher,
            self.router,
            clock=self.now,
            window=IdempotencyWindow(60, 3, self.now),
            earlier=None if enquire is None else EarlierAttempts(self.clock, enquire, away),
            decoder=Decoder(100_000, self.clock, self.pool, turns),
            max_batch_records=1000,
            reactor=self.clock,
            turns=turns,
            taps=self.taps,
            meters=SourceMeters(self.metrics, self.now),
            client_address=ClientAddress(proxies),
            without_sink=WithoutSink(self.metrics, self._refuses, self.clock.seconds),
            new_exception_id=lambda: "keboola-stream-0123456789abcde",
        )
        self.connection = FakeConnection()

    def _refuses(self, sources: Sequence[SourceKey]) -> bool:
        return any(
            each.refuses_without_sink(sources) for each in (self.dispatcher, self.otlp_dispatcher)
        )

    def send(
        self,
        target: str = PATH,
        body: bytes = b"",
        method: str = "POST",
        headers: str = "",
    ) -> bytes | None:
        """Return the answer, or ``None`` if there is none yet."""
        parser = RequestParser(HeadReader(), 10_000, 200_000)
        parser.feed(
            f"{method} {target} HTTP/1.1\r\nHost: in.example.com\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        request = next_whole(parser)
        assert request is not None
        self.handler.handle(request, self.connection)
        return self.connection.answers.pop() if self.connection.answers else None

    def get(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, str], bytes]:
        return _split(self.send(*args, **kwargs))

    def document(self, *args: Any, **kwargs: Any) -> Any:
        _, headers, body = self.get(*args, **kwargs)
        assert headers["Content-Type"] == "application/json"
        return json.loads(body)


def _split(answer: bytes | None) -> tuple[int, dict[str, str], bytes]:
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return int(first.split()[1]), headers, body


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_health_check(listener: Listener) -> None:
    """The health check answers OK without checking anything."""
    status, headers, body = listener.get("/health-check", method="GET")
    assert (status, body, headers["Content-Type"]) == (200, b"OK\n", "text/plain")
    assert headers["Server"] == "Keboola/Stream/HTTPSource"


def test_a_stored_record_is_answered_with_ok(listener: Listener) -> None:
    """The answer of a sink that stored the record is 200 with two letters."""
    sink = FakeSink()
    listener.router.sinks[KEY] = [("k", sink)]
    status, headers, body = listener.get(body=b'{"a":1}')
    assert (status, body, headers["Content-Type"]) == (200, b"OK", "text/plain")
    record = sink.records[0]
    assert record.client_ip == "203.0.113.7"
    assert record.timestamp_ms == 1714557600123
    assert record.headers.map["Host"] == "in.example.com"
    assert sink.rows == [b'"{""a"":1}"\n']


def test_an_accepted_record_is_answered_with_202(listener: Listener) -> None:
    """The answer of a sink that doesn't wait for the disk is 202."""
    listener.router.sinks[KEY] = [("k", FakeSink(202))]
    assert listener.get()[::2] == (202, b"OK")
    listener.router.sinks[KEY].append(("l", FakeSink()))
    assert listener.get()[::2] == (202, b"OK")
    document = listener.document(PATH + "?verbose=true")
    assert [sink["message"] for sink in document["sources"][0]["sinks"]] == [
        "accepted",
        "processed",
    ]


def test_the_answer_waits_for_the_sink(listener: Listener) -> None:
    """A second or late answer is dropped."""
    sink = FakeSink("wait")
    listener.router.sinks[KEY] = [("k", sink)]
    assert listener.send() is None
    sink.waiting[0].stored()
    sink.waiting[0].stored()
    assert len(listener.connection.answers) == 1


def test_the_answer_waits_for_all_sinks(listener: Listener) -> None:
    """The answer is sent when the last sink has answered."""
    first, second = FakeSink("wait"), FakeSink("wait")
    listener.router.sinks[KEY] = [("a", first), ("b", second)]
    assert listener.send() is None
    second.waiting[0].failed(UserError("no pipeline is ready", status=503, name="noPipelineReady"))
    assert listener.connection.answers == []
    first.waiting[0].stored()
    status, headers, body = _split(listener.connection.answers[0])
    assert status == 503 and headers["Retry-After"] == "1"
    assert headers["Stream-Stored"] == "1/2"
    assert json.loads(body)["sources"][0]["sinks"][1] == {
        "sinkId": "b",
        "statusCode": 503,
        "error": "stream.in.noPipelineReady",
        "message": "No pipeline is ready.",
    }


def test_partial_failures(listener: Listener) -> None:
    """The highest status counts; members have a fixed order and an indentation of two blanks."""
    path = FakeSink(columns=[PathColumn("p", path="a")])
    listener.router.sinks[KEY] = [("raw", FakeSink()), ("t", path)]
    status, _, body = listener.get(body=b"<a>", headers="Content-Type: text/plain\r\n")
    assert status == 415
    assert (
        body.decode()
        == """{
  "statusCode": 415,
  "error": "stream.in.writeFailed",
  "message": "Written to 1/2 sinks.",
  "sources": [
    {
      "projectId": 123,
      "sourceId": "my-source",
      "branchId": 111,
      "statusCode": 415,
      "error": "stream.in.writeFailed",
      "message": "Written to 1/2 sinks.",
      "sinks": [
        {
          "sinkId": "raw",
          "statusCode": 200,
          "message": "processed"
        },
        {
          "sinkId": "t",
          "statusCode": 415,
          "error": "stream.in.unsupportedMediaType",
          "message": "unsupported content type \\"text/plain\\", supported types: \
application/json and application/x-www-form-urlencoded"
        }
      ]
    }
  ]
}
"""
    )


OUTCOMES = (None, 202, 400, 500, 503, 507)


@pytest.mark.parametrize("errors", [*itertools.combinations_with_replacement(OUTCOMES, 3)])
def test_failures_contain_the_number_of_stored_records(
    listener: Listener, errors: tuple[int | None, ...]
) -> None:
    """The header has the number of sinks that stored the record, for all combinations of answers.

    It is set if a sink hasn't stored the record; unknown outcomes are counted separately.
    """
    outcomes: list[Any] = [
        200 if e is None else e if e == 202 else UserError("no", status=e) for e in errors
    ]
    listener.router.sinks[KEY] = [(str(i), FakeSink(o)) for i, o in enumerate(outcomes)]
    status, headers, body = listener.get()
    stored = sum(e in (None, 202) for e in errors)
    unknown = errors.count(500)
    assert status == max(e or 200 for e in errors)
    if stored == 3:
        assert "Stream-Stored" not in headers
        return
    assert headers["Stream-Stored"] == f"{stored}/3" + (f"; unknown={unknown}" if unknown else "")
    sinks = json.loads(body)["sources"][0]["sinks"]
    assert [sink["statusCode"] for sink in sinks] == [e or 200 for e in errors]


@pytest.mark.parametrize(("outcome", "said"), [(503, "0/1"), (500, "0/1; unknown=1"), (400, "0/1")])
def test_the_failure_of_a_single_sink(listener: Listener, outcome: int, said: str) -> None:
    """The reason of the sink is the message of the whole answer."""
    listener.router.sinks[KEY] = [("k", FakeSink(UserError("the reason", status=outcome)))]
    status, headers, body = listener.get()
    assert (status, headers["Stream-Stored"]) == (outcome, said)
    assert json.loads(body)["message"] == "The reason."


def test_several_branches_are_counted_together(listener: Listener) -> None:
    """Each sink of each branch counts."""
    other = attrs.evolve(KEY, branch_id=112)
    listener.dispatcher.put(SourceEntry(other, "http", True, SECRET))
    listener.router.sinks[KEY] = [("k", FakeSink())]
    listener.router.sinks[other] = [
        ("k", FakeSink(UserError("full", status=507))),
        ("l", FakeSink()),
    ]
    assert listener.get()[1]["Stream-Stored"] == "2/3"


@pytest.mark.parametrize(
    ("body", "content_type", "hint"),
    [
        (b' {"a":1}', "application/x-www-form-urlencoded", "The body looks like JSON"),
        (b'{"a":1}', "text/plain", "The body looks like JSON"),
        (b'[{"a":1}]', "application/json", "The body is a JSON array"),
        (b'[{"a":1}]', "application/x-www-form-urlencoded", "The body is a JSON array"),
        (b'{"a":1}\n{"a":2}\n', "application/json", "The body has a JSON document in each line"),
        (b"x=1&y=2", "application/json", "The body looks like a form"),
        (b'{"b":1}', "application/json", None),
        (b"b=1", "application/x-www-form-urlencoded", None),
        (b"text", "text/plain", None),
        (b"", "application/json", None),
        (b'{"a":', "application/json", None),
    ],
)
def test_hints_for_common_mistakes(
    listener: Listener, body: bytes, content_type: str, hint: str | None
) -> None:
    """The answer to a record that can't be rendered says how to fix the request."""
    listener.router.sinks[KEY] = [("k", FakeSink(columns=[PathColumn("p", path="a")]))]
    document = listener.document(body=body, headers=f"Content-Type: {content_type}\r\n")
    assert document["error"] == "stream.in.writeFailed"
    sink = document["sources"][0]["sinks"][0]
    assert document.get("hint") == sink.get("hint")
    assert (document.get("hint") or "").startswith(hint or "")
    assert ("hint" in document) is (hint is not None)


def test_json_with_a_charset_is_json(listener: Listener) -> None:
    """Parameters of the content type have no effect."""
    path = FakeSink(columns=[PathColumn("p", path="a")])
    listener.router.sinks[KEY] = [("raw", FakeSink()), ("t", path)]
    headers = "Content-Type: application/json; charset=utf-8\r\n"
    assert listener.get(body=b'{"a":1}', headers=headers)[0] == 200
    assert path.rows == [b'"1"\n']


@pytest.mark.parametrize(
    ("body", "content_type", "status", "name", "message"),
    [
        (
            b'{"a":1}',
            "application/json",
            400,
            "stream.in.badRequest",
            'Cannot convert column "p" to CSV value:\n- Path "x" not found in the body.',
        ),
        (
            b"a[b=1",
            "application/x-www-form-urlencoded",
            400,
            "stream.in.badRequest",
            'Invalid form data: Unable to parse key "a[b".',
        ),
        (
            b"a=1",
            "application/x-www-form-urlencoded; charset=klingon",
            415,
            "stream.in.unsupportedMediaType",
            'Unsupported charset "klingon" of the form, please send UTF-8.',
        ),
        (
            b'{"x":"' + b"y" * 2000 + b'"}',
            "application/json",
            413,
            "stream.in.payloadTooLarge",
            'too big CSV row, column: "p", row limit: 1000 B',
        ),
    ],
)
def test_records_that_can_not_be_rendered(
    listener: Listener, body: bytes, content_type: str, status: int, name: str, message: str
) -> None:
    """The error is the producer's, and the answer contains the reason."""
    listener.router.sinks[KEY] = [("k", FakeSink(columns=[PathColumn("p", path="x")]))]
    document = listener.document(body=body, headers=f"Content-Type: {content_type}\r\n")
    assert document["statusCode"] == status
    assert document["message"] == message
    source = document["sources"][0]
    assert source["message"] == "Written to 0/1 sinks."
    sink = source["sinks"][0]
    assert (sink["statusCode"], sink["error"], sink["message"]) == (status, name, message)


def test_an_unexpected_exception_of_a_sink(listener: Listener) -> None:
    """The answer is a 500 without internal details."""
    listener.router.sinks[KEY] = [("k", FakeSink(KeyError("internal detail")))]
    document = listener.document()
    sink = document["sources"][0]["sinks"][0]
    assert (sink["statusCode"], sink["error"]) == (500, "stream.in.genericError")
    assert "internal detail" not in json.dumps(document)


def test_nested_errors_are_sentences(listener: Listener) -> None:
    """Each part of a nested error has a capital letter and a full stop."""
    error = NestedError("cannot open sink pipeline", ["one", "two"], status=503, name="noPipeline")
    listener.router.sinks[KEY] = [("k", FakeSink(error))]
    sink = listener.document()["sources"][0]["sinks"][0]
    assert sink["message"] == "Cannot open sink pipeline:\n- One.\n- Two."


def test_a_source_without_sinks_drops_the_record(listener: Listener) -> None:
    """The record is not stored, which is no error."""
    assert listener.get()[::2] == (200, b"OK")
    document = listener.document(PATH + "?verbose=true")
    assert document["message"] == "No enabled sink found."
    assert "sinks" not in document["sources"][0] and "error" not in document


def test_all_branches_get_the_record(listener: Listener) -> None:
    """Sources are listed by the text of their branch id."""
    other = SourceKey(123, 22, "my-source")
    listener.dispatcher.put(SourceEntry(other, "http", True, SECRET))
    sinks = {KEY: FakeSink(), other: FakeSink()}
    for key, sink in sinks.items():
        listener.router.sinks[key] = [("k", sink)]
    document = listener.document(PATH + "?verbose=true")
    assert document["message"] == "Successfully written to 2/2 sinks."
    assert [source["branchId"] for source in document["sources"]] == [111, 22]
    assert all(len(sink.rows) == 1 for sink in sinks.values())


@pytest.mark.parametrize(
    "target", ["/", "/stream/1/s", PATH + "/", PATH + "/x", "/STREAM/1/s/k", "*"]
)
def test_unknown_routes(listener: Listener, target: str) -> None:
    """The document has a fixed layout and HTML-safe text."""
    status, headers, body = listener.get(target)
    assert status == 404 and headers["Content-Type"] == "application/json"
    assert body == (
        b'{\n  "statusCode": 404,\n  "error": "stream.in.routeNotFound",\n'
        b'  "message": "Not found, please send data using POST '
        b'/stream/\\u003cprojectID\\u003e/\\u003csourceID\\u003e/\\u003csecret\\u003e"\n}\n'
    )


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        (f"/stream/foo/my-source/{SECRET}", 400, 'Invalid project ID "foo".'),
        (f"/stream/{'9' * 19}/my-source/{SECRET}", 400, f'Invalid project ID "{"9" * 19}".'),
        (
            "/stream/123/my-source/",
            404,
            "The specified combination of projectID, sourceID and secret was not found.",
        ),
    ],
)
def test_refused_urls(listener: Listener, target: str, status: int, message: str) -> None:
    """Invalid ids and unknown sources have a specific document."""
    answer = listener.get(target)
    assert (answer[0], json.loads(answer[2])["message"]) == (status, message)


@pytest.mark.parametrize(
    "target",
    [
        f"/stream/0123/my-source/{SECRET}",
        f"/stream/%31%32%33/my-source/{SECRET}",
        f"//stream/./x/../+123//my-source/{SECRET}",
        f"http://in.example.com/stream/123/my-source/{SECRET}?x=y#z",
        PATH + "?",
    ],
)
def test_other_spellings_of_the_url(listener: Listener, target: str) -> None:
    """Escapes, dots, repeated slashes and absolute URLs are handled."""
    assert listener.get(target)[::2] == (200, b"OK")


@pytest.mark.parametrize(
    ("query", "verbose"),
    [
        ("verbose=true", True),
        ("verbose=tru%65&verbose=no", True),
        ("a=b&%76erbose=true", True),
        ("verbose=True", False),
        ("verbose=1", False),
        ("verbose", False),
        ("verbose=no&verbose=true", False),
        ("notverbose=true", False),
    ],
)
def test_only_the_first_verbose_counts(query: str, verbose: bool) -> None:
    """Only the exact value ``true`` is recognised."""
    route = find_route(f"/stream/1/s/k?{query}".encode())
    assert isinstance(route, Ingest) and route.verbose is verbose


def test_paths_with_dots() -> None:
    """Segments that leave the path aren't ids."""
    assert isinstance(find_route(b"/stream/1/../k"), NotFound)
    assert isinstance(find_route(b"/stream/../1/s/k"), NotFound)
    assert isinstance(find_route(b"/stream/./s/k"), NotFound)
    assert isinstance(find_route(b"/stream//s/k"), NotFound)


def test_other_methods(listener: Listener) -> None:
    """The header and the document of a 405 list the allowed methods."""
    for target, allow, methods in (
        (PATH, "OPTIONS, POST", ("GET", "HEAD", "PUT", "DELETE")),
        ("/health-check", "GET, OPTIONS", ("HEAD", "POST")),
    ):
        for method in methods:
            status, headers, body = listener.get(target, method=method)
            assert (status, headers["Allow"]) == (405, allow)
            assert headers["Content-Type"] == "application/json"
            assert json.loads(body) == {
                "statusCode": 405,
                "error": "stream.in.methodNotAllowed",
                "message": f"The method is not allowed here, the allowed methods are: {allow}.",
            }


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        (PATH, "OPTIONS, POST"),
        ("/stream/9/unknown/x", "OPTIONS, POST"),
        ("/otlp/123/my-source/v1/traces", "OPTIONS, POST"),
        ("/health-check", "GET, OPTIONS"),
    ],
)
def test_options_list_what_a_page_may_send(listener: Listener, target: str, allow: str) -> None:
    """The answer is the same whether or not the source exists."""
    status, headers, body = listener.get(target, method="OPTIONS")
    assert (status, body) == (200, b"")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Allow-Methods"] == headers["Allow"] == allow
    assert headers["Access-Control-Allow-Headers"] == (
        "Authorization, Content-Type, Content-Encoding, Idempotency-Key"
    )
    assert headers["Access-Control-Max-Age"] == "7200"


def test_options_of_the_listener(listener: Listener) -> None:
    """``*`` is a valid target of OPTIONS only."""
    status, headers, body = listener.get("*", method="OPTIONS")
    assert (status, headers["Allow"], body) == (200, "GET, OPTIONS, POST", b"")
    assert listener.get("*", method="GET")[0] == 404


@pytest.mark.parametrize(
    ("requested", "added"),
    [
        ("", ""),
        ("authorization,content-type", ""),
        ("x-request-id", ", x-request-id"),
        ("X-A, , x-a,x-b ", ", X-A, x-b"),
        ("x y, \xe9, *, x:y, traceparent", ", *, traceparent"),
        ("a" * 129, ""),
        (
            ",".join(f"x-{n}" for n in range(100)),
            "".join(f", x-{n}" for n in range(MAX_REQUESTED_HEADERS)),
        ),
    ],
)
def test_preflight_allows_requested_headers(listener: Listener, requested: str, added: str) -> None:
    """Valid names are allowed up to a maximum number."""
    _, headers, _ = listener.get(
        method="OPTIONS", headers=f"Access-Control-Request-Headers: {requested}\r\n"
    )
    assert headers["Access-Control-Allow-Headers"] == (
        f"Authorization, Content-Type, Content-Encoding, Idempotency-Key{added}"
    )


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (PATH, "", 0),
        (f"/otlp/123/otel/{SECRET}/v1/logs", "", 0),
        ("/otlp/123/otel/v1/logs", f"Authorization: Bearer {SECRET}\r\n", 0),
        (PATH[:-1], "", 404),
        ("/stream/123/other/" + SECRET, "", 404),
        ("/stream/x/my-source/" + SECRET, "", 400),
        ("/nowhere", "", 404),
        ("*", "", 404),
        ("/health-check", "", 405),
        (f"/otlp/123/my-source/{SECRET}/v1/logs", "", 404),
        ("/otlp/123/otel/v1/logs", "Authorization: Bearer x\r\n", 404),
        ("/otlp/123/otel/v1/logs", "", 404),
    ],
)
def test_heads_are_refused_before_their_bodies(
    listener: Listener, target: str, headers: str, status: int
) -> None:
    """The answer is that of the whole request."""
    listener.otlp_dispatcher.put(SourceEntry(OTLP_KEY, "otlp", True, SECRET))
    head = HeadReader().read(f"POST {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    refusal = listener.handler.check(head)
    if not status:
        assert refusal is None
    else:
        assert _split(refusal)[0] == status
        assert refusal == listener.send(target, b"{}", headers=headers)


def test_an_unknown_encoding(
    listener: Listener,
) -> None:
    """The answer lists the known encodings (RFC 9110, 12.5.3), and that to an unknown content type
    doesn't.
    """
    status, headers, _ = listener.get(body=b"{}", headers="Content-Encoding: br\r\n")
    assert (status, headers["Accept-Encoding"]) == (415, "gzip, zstd")
    status, headers, _ = listener.get(PATH + "?batch=true", b"{}")
    assert status == 415 and "Accept-Encoding" not in headers


def test_shutdown(listener: Listener) -> None:
    """A closed dispatcher answers 503 with an exception id and a constant text."""
    listener.dispatcher.close()
    status, headers, body = listener.get()
    assert status == 503 and headers["Retry-After"] == "1"
    assert json.loads(body) == {
        "statusCode": 503,
        "error": "stream.in.shutdown",
        "message": "Application error. Please contact our support support@keboola.com with "
        "exception id (keboola-stream-0123456789abcde) attached.",
        "exceptionId": "keboola-stream-0123456789abcde",
    }


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        ((), "9.9.9.9", "203.0.113.7"),
        (("203.0.113.0/24",), "9.9.9.9", "9.9.9.9"),
        (("203.0.113.7",), "8.8.8.8, 9.9.9.9", "9.9.9.9"),
        (("203.0.113.7", "9.9.9.9"), "8.8.8.8 , 9.9.9.9:1234", "8.8.8.8"),
        (("203.0.113.7",), "[2001:db8::1]:80", "2001:db8::1"),
        (("203.0.113.7",), "nonsense", "203.0.113.7"),
        (("10.0.0.0/8",), "9.9.9.9", "203.0.113.7"),
        (("203.0.113.7", "9.9.9.9"), "9.9.9.9", "9.9.9.9"),
        (("203.0.113.7",), "fe80::1%eth0", "fe80::1"),
        (("203.0.113.7",), 'fe80::1%x"', "fe80::1"),
        (("203.0.113.7",), '[fe80::1%25"]:80', "fe80::1"),
        (("203.0.113.7",), "::ffff:9.9.9.9%1", "9.9.9.9"),
        (("203.0.113.7",), "9.9.9.9%eth0", "203.0.113.7"),
        (("203.0.113.7", "fe80::/10"), "8.8.8.8, fe80::1%a%b", "8.8.8.8"),
        (("203.0.113.7",), "9.9.9.9,", "9.9.9.9"),
        (("203.0.113.7",), " , 9.9.9.9 ,\t, ", "9.9.9.9"),
        (("203.0.113.7", "9.9.9.9"), "8.8.8.8,,9.9.9.9,", "8.8.8.8"),
        (("203.0.113.7",), ",", "203.0.113.7"),
        (("203.0.113.7",), "", "203.0.113.7"),
    ],
)
def test_client_behind_trusted_proxies(
    proxies: tuple[str, ...], forwarded: str, expected: str
) -> None:
    """Only a trusted proxy's entry about the previous hop is used."""
    listener = Listener(proxies)
    sink = FakeSink()
    listener.router.sinks[KEY] = [("k", sink)]
    listener.get(headers=f"X-Forwarded-For: {forwarded}\r\n")
    assert sink.records[0].client_ip == expected
