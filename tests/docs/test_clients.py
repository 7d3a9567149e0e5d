"""The programs of the page about clients send their record, and its mappings fit the webhooks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
import pytest

from stream.mapping.columns import Mapping as Columns
from stream.mapping.columns import column_from_plain
from stream.mapping.render import compile_renderer
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from tests.client.sources import stub_source
from tests.docs.blocks import ROOT, all_blocks, section_of
from tests.templates.inprocess import row

PAGE = ROOT / "docs" / "clients.md"
_ROW_BYTES = 1024 * 1024


@attrs.frozen
class Language:
    """A language of the examples.

    :ivar file: the program's name.
    :ivar command: the command that runs it.
    """

    file: str
    command: tuple[str, ...]


LANGUAGES = {
    "python": Language("send.py", (sys.executable,)),
    "js": Language("send.js", ("node",)),
    "go": Language("send.go", ("go", "run")),
}


class _Server(ThreadingHTTPServer):
    """Answers each request with the next of *statuses*."""

    def __init__(self, statuses: Sequence[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.received: list[tuple[Mapping[str, str], Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), json.loads(body)))
        self.send_response(self.server.statuses.pop(0))
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"No.")

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing."""


@contextmanager
def _serving(*statuses: int) -> Iterator[_Server]:
    with _Server(statuses) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _run(language: str, directory: Path, server: _Server) -> subprocess.CompletedProcess[str]:
    known = LANGUAGES[language]
    if shutil.which(known.command[0]) is None:
        pytest.skip(f"needs {known.command[0]}")
    program = _programs(language)[0]
    (directory / known.file).write_text(program)
    url = f"http://127.0.0.1:{server.server_address[1]}/stream/123/my-source/secret"
    return subprocess.run(
        [*known.command, known.file],
        cwd=directory,
        env={**os.environ, "URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def _programs(language: str) -> list[str]:
    return [block.text for block in all_blocks(PAGE) if block.language == language]


def test_the_producer() -> None:
    """The producer's program sends all records in a few batches, and prints that."""
    with stub_source() as source:
        ended = subprocess.run(
            [sys.executable, "-c", _programs("python")[1]],
            cwd=ROOT,
            env={**os.environ, "URL": source.url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.stdout.endswith("1000 are stored, 0 were rejected\n"), ended.stderr
    assert [json.loads(record)["number"] for record in source.records] == list(range(1000))
    assert len(source.requests) < 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_retries(language: str, tmp_path: Path) -> None:
    """The same record is sent with the same key until it is stored."""
    with _serving(503, 408, 200) as server:
        ended = _run(language, tmp_path, server)
    assert ended.returncode == 0, ended.stderr
    assert [record for _, record in server.received] == [{"user": {"name": "Ada"}}] * 3
    assert len({headers["Idempotency-Key"] for headers, _ in server.received}) == 1
    assert {headers["Content-Type"] for headers, _ in server.received} == {"application/json"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_permanent_errors(language: str, tmp_path: Path) -> None:
    """A refused record isn't retried, and the program prints the reason."""
    with _serving(400) as server:
        ended = _run(language, tmp_path, server)
    assert ended.returncode != 0
    assert "No." in ended.stderr
    assert len(server.received) == 1


_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SAMPLES: dict[str, list[tuple[dict[str, str], str, list[str]]]] = {
    "GitHub": [
        (
            {**_JSON, "X-GitHub-Delivery": "72d3162e", "X-GitHub-Event": "issues"},
            '{"action":"opened","repository":{"full_name":"octo/hello"}}',
            ["72d3162e", "issues", "opened", "octo/hello"],
        ),
        (
            {**_JSON, "X-GitHub-Delivery": "72d3162f", "X-GitHub-Event": "ping"},
            '{"zen":"Design for failure."}',
            ["72d3162f", "ping", "", ""],
        ),
    ],
    "Stripe": [
        (
            {**_JSON, "Stripe-Signature": "t=1,v1=5257a8"},
            '{"id":"evt_1","type":"charge.succeeded","created":1714557600,"data":{"object":{}}}',
            ["evt_1", "charge.succeeded", "1714557600", "{}"],
        )
    ],
    "Slack": [
        (
            _FORM,
            "command=%2Fweather&text=94070&user_id=U2147483697&trigger_id=13345224609.738",
            ["/weather", "94070", "U2147483697", "13345224609.738"],
        )
    ],
    "Amazon SNS": [
        (  # the setting parses `text/plain` like this
            _JSON,
            '{"Type":"SubscriptionConfirmation","MessageId":"165545c9","TopicArn":"arn:t",'
            '"Message":"You have chosen","SubscribeURL":"https://sns/","Timestamp":"2012-04-26"}',
            ["165545c9", "SubscriptionConfirmation", "arn:t", "2012-04-26"],
        ),
        (
            _JSON,
            '{"Type":"Notification","MessageId":"22b80b92","TopicArn":"arn:t","Message":"Hello",'
            '"Timestamp":"2012-05-02"}',
            ["22b80b92", "Notification", "arn:t", "2012-05-02", "Hello", ""],
        ),
    ],
    "OpenTelemetry Collector": [
        (
            _JSON,
            '{"timestamp":"2024-05-01T10:00:00Z","severity_text":"INFO","body":"started"}',
            ["2024-05-01T10:00:00Z", "INFO", "started"],
        )
    ],
}
"""Headers and body of records, and the beginning of their rows, for each section."""


def _mappings() -> dict[str, Columns]:
    """Return the mapping of each section that has one."""
    found = {}
    for block in all_blocks(PAGE):
        if block.language == "json" and '"columns"' in block.text:
            columns = json.loads(block.text)["columns"]
            found[section_of(PAGE, block)] = Columns(tuple(map(column_from_plain, columns)))
    return found


def test_mappings() -> None:
    """Each mapping creates a row from the body that the service sends."""
    mappings = _mappings()
    assert set(mappings) == set(SAMPLES)
    for service, samples in SAMPLES.items():
        renderer = compile_renderer(mappings[service], _ROW_BYTES)
        for headers, body, expected in samples:
            fields = tuple((name.encode(), value.encode()) for name, value in headers.items())
            record = RecordContext(1714557600123, "::1", RecordHeaders(fields), body.encode())
            [cells] = csv.reader([row(renderer, record).decode()])
            assert cells[: len(expected)] == expected, service
