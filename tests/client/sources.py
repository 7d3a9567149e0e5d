"""A source over HTTP for tests of the client, whose answers the test chooses."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

__all__ = ["Request", "StubSource", "stub_source"]


@attrs.frozen
class Request:
    """A received request.

    :ivar records: as they were sent, without compression.
    :ivar attempt: its number according to the client.
    """

    key: str
    records: list[bytes]
    attempt: str | None = None


@attrs.define
class StubSource:
    """A source that stores the records of batches.

    :ivar answer: returns the status and the document of an answer; by default all is stored.
    :ivar requests: all received requests.
    :ivar stored: records of batches that were answered with 200, once for each key.
    """

    url: str = ""
    answer: Callable[[Request], tuple[int, Any]] = attrs.field(
        default=lambda request: (200, {"accepted": len(request.records)})
    )
    requests: list[Request] = attrs.Factory(list)
    stored: dict[str, list[bytes]] = attrs.Factory(dict)
    came: threading.Event = attrs.Factory(threading.Event)

    @property
    def records(self) -> list[bytes]:
        return [record for records in self.stored.values() for record in records]


@contextmanager
def stub_source() -> Iterator[StubSource]:
    """Run a source on a free port."""
    source = StubSource()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = Request(
                self.headers["Idempotency-Key"],
                body.split(b"\n"),
                self.headers["Idempotency-Attempt"],
            )
            source.requests.append(request)
            source.came.set()
            status, document = source.answer(request)
            if status == 200:
                source.stored.setdefault(request.key, request.records)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Do nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    source.url = f"http://127.0.0.1:{server.server_address[1]}/stream/1/shop/secret"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield source
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
