"""Answers to unusual requests at the listeners for operators."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.web.resource import Resource
from twisted.web.server import Request

from stream.ops.quiet_site import QuietSite


class _Page(Resource):
    """A page that shows the body of a request."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        assert request.content is not None
        return b"body: %r" % request.content.read()


@pytest.fixture
def site() -> Iterator[QuietSite]:
    root = Resource()
    root.putChild(b"page", _Page())
    site = QuietSite(root, reactor=Clock())
    site.doStart()
    yield site
    site.doStop()


def _answer(site: QuietSite, request: bytes) -> bytes:
    channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert channel is not None
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(request)
    answer: bytes = transport.value()
    return answer


@pytest.mark.parametrize(
    ("line", "status"),
    [("GET /page", 200), ("GET /none", 404), ("POST /page", 405), ("TEST /page", 501)],
)
def test_every_answer_has_a_certain_type(site: QuietSite, line: str, status: int) -> None:
    """Browsers may not guess the content type of a page or an error."""
    answer = _answer(site, f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"\r\nx-content-type-options: nosniff" in head
    assert b"\r\ncontent-type: text/" in head


@pytest.mark.parametrize("length", [b"9" * 19, b"9" * 5000])
def test_an_absurd_length(site: QuietSite, length: bytes) -> None:
    """The request is refused, and nothing is logged."""
    head = b"GET /page HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n" % length
    with capturedLogs() as events:
        answer = _answer(site, head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not events


def test_a_body_is_dropped(site: QuietSite) -> None:
    """A body with a length and one in chunks aren't kept, and the next request is answered."""
    head = b"GET /page HTTP/1.1\r\nHost: x\r\n"
    known = head + b"Content-Length: 200000\r\n\r\n" + 200_000 * b"a"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n5\r\naaaaa\r\n0\r\n\r\n"
    answer = _answer(site, known + chunked + head + b"\r\n")
    assert answer.count(b"body: b''") == 3
