"""A proxy of an object store that counts requests and can answer 503."""

from __future__ import annotations

import http.client
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import attrs

__all__ = ["Staged", "StagingProxy"]

_HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "server", "date"}


@attrs.frozen
class Staged:
    """A request and its answer; :ivar at: seconds since the epoch."""

    at: float
    method: str
    path: str
    status: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StagingProxy

    def _go(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.is_away:
            self._answer(503, {}, b"")
            return
        connection = http.client.HTTPConnection(self.server.behind, timeout=60)
        try:
            # With the store's own host, which is part of the signature.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            if self.server.passes(self.command, self.path):
                self._answer(answer.status, dict(answer.getheaders()), content)
            else:
                self.close_connection = True
        finally:
            connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _go

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.server.requests.append(Staged(time.time(), self.command, self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing."""


class StagingProxy(ThreadingHTTPServer):
    """A proxy in front of an object store, which can fail.

    :param url: URL of the store behind it.
    :ivar is_away: whether all requests are answered with 503.
    """

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(url).netloc
        self.is_away = False
        self.requests: list[Staged] = []

    def passes(self, method: str, path: str) -> bool:
        """Return whether a received answer is passed on; otherwise the connection is closed."""
        return True

    @property
    def url(self) -> str:
        """The URL of the proxy."""
        return f"http://127.0.0.1:{self.server_address[1]}"
