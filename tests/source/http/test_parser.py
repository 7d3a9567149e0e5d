"""The request parser: whole requests, split requests, and comparison with another parser."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import UserError
from stream.source.http.chunked import BYTES_PER_CHUNK, FREE_CHUNKS
from stream.source.http.errors import (
    BodyTooLarge,
    HeaderTooLarge,
    MalformedRequest,
    TooManyHeaders,
)
from stream.source.http.head import Head, HeadReader
from stream.source.http.parser import MAX_EMPTY_LINES, MAX_HEADERS, Request, RequestParser
from tests.effort import examples

HEAD_LIMIT = 1024
BODY_LIMIT = 512

Seen = list[tuple[bytes, bytes, bytes]]


def _parser(max_head: int = HEAD_LIMIT, max_body: int = BODY_LIMIT) -> RequestParser:
    return RequestParser(HeadReader(), max_head, max_body)


def next_whole(parser: RequestParser) -> Request | None:
    """Parse the next complete request, with any head."""
    request = parser.next_request()
    return next_whole(parser) if isinstance(request, Head) else request


def _run(pieces: list[bytes], parser: RequestParser | None = None) -> Seen:
    parser = parser or _parser()
    seen: Seen = []
    for piece in pieces:
        parser.feed(piece)
        while (request := next_whole(parser)) is not None:
            seen.append((request.head.method, request.head.target, request.body))
    return seen


GOOD = {
    "length": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    "no body": b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "empty body": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "old": b"POST /a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
    "chunked": b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\nhello\r\nA;ext="v"\r\n world... \r\n0\r\nX-Trailer: 1\r\n\r\n',
    "empty chunked": b"POST /a HTTP/1.1\r\nHost: x\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
    "odd values": b"POST /a HTTP/1.1\r\nhost:x\r\nX:\r\nY: \t a b\xff \t\r\n\r\n",
}
STREAM = b"\r\n".join([*GOOD.values(), b""]) + GOOD["length"]


def test_requests_of_every_kind() -> None:
    """Lengths, chunks, no bodies, and empty lines between requests are parsed."""
    bodies = [body for _, _, body in _run([STREAM])]
    assert bodies == [b"hello", b"", b"", b"x", b"hello world... ", b"", b"", b"hello"]


def test_a_split_at_any_byte() -> None:
    """A stream that is split at any position has the same requests."""
    whole = _run([STREAM])
    for cut in range(len(STREAM) + 1):
        assert _run([STREAM[:cut], STREAM[cut:]]) == whole
    assert _run([STREAM[i : i + 1] for i in range(len(STREAM))]) == whole


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_many_splits(cuts: list[int]) -> None:
    """A stream that is split many times has the same requests."""
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(places)]
    assert _run([piece for piece in pieces if piece]) == _run([STREAM])


def _request(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", *lines, b"", b""]) + body


SMUGGLING = {
    "two lengths": _request(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
    "same length twice": _request(b"Content-Length: 3", b"content-length: 3", body=b"abc"),
    "length list": _request(b"Content-Length: 3, 3", body=b"abc"),
    "length and chunks": _request(
        b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "chunks and length": _request(
        b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"0\r\n\r\n"
    ),
    "two codings": _request(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"
    ),
    "coding list": _request(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "unknown coding": _request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "hidden coding": _request(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "quoted coding": _request(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "coding in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "signed length": _request(b"Content-Length: +3", body=b"abc"),
    "negative length": _request(b"Content-Length: -3"),
    "hex length": _request(b"Content-Length: 0x3", body=b"abc"),
    "length with underscore": _request(b"Content-Length: 1_0", body=b"abcdefghij"),
    "empty length": _request(b"Content-Length: "),
    "giant length": _request(b"Content-Length: " + b"9" * 40),
    "non-ASCII digit": _request("Content-Length: ٣".encode(), body=b"abc"),
    "folded header": _request(b"X: a", b" b"),
    "folded coding": _request(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"),
    "blank before colon": _request(b"Content-Length : 3", body=b"abc"),
    "blank before name": b"POST / HTTP/1.1\r\n Host: x\r\n\r\n",
    "no colon": _request(b"Content-Length"),
    "empty name": _request(b": x"),
    "NUL in value": _request(b"X: a\x00b"),
    "NUL in name": _request(b"X\x00: a"),
    "CR in value": _request(b"X: a\rb"),
    "bare LF in head": b"POST / HTTP/1.1\nHost: x\n\n",
    "bare LF in header": b"POST / HTTP/1.1\r\nHost: x\nContent-Length: 3\r\n\r\nabc",
    "bare CR before end": b"POST / HTTP/1.1\r\nHost: x\r\r\n\r\n",
    "no host": b"POST / HTTP/1.1\r\n\r\n",
    "two hosts": _request(b"Host: y"),
    "wrong version": b"POST / HTTP/1.2\r\nHost: x\r\n\r\n",
    "version two": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "two blanks": b"POST  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tab in line": b"POST\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "blank in target": b"POST /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "bad chunk size": _request(b"Transfer-Encoding: chunked", body=b"xyz\r\n"),
    "signed chunk size": _request(b"Transfer-Encoding: chunked", body=b"+3\r\nabc\r\n"),
    "prefixed chunk size": _request(b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n"),
    "blank after chunk size": _request(b"Transfer-Encoding: chunked", body=b"3 \r\nabc\r\n"),
    "giant chunk size": _request(b"Transfer-Encoding: chunked", body=b"1" + b"0" * 16 + b"\r\n"),
    "empty chunk size": _request(b"Transfer-Encoding: chunked", body=b"\r\nabc\r\n"),
    "bare LF after chunk size": _request(b"Transfer-Encoding: chunked", body=b"3\nabc\r\n"),
    "bare LF after chunk": _request(b"Transfer-Encoding: chunked", body=b"3\r\nabc\n0\r\n\r\n"),
    "chunk too long": _request(b"Transfer-Encoding: chunked", body=b"3\r\nabcd\r\n0\r\n\r\n"),
    "LF in extension": _request(b"Transfer-Encoding: chunked", body=b"3;a\nb\r\nabc\r\n"),
    "bad trailer": _request(b"Transfer-Encoding: chunked", body=b"0\r\nX : y\r\n\r\n"),
    "length in trailer": _request(
        b"Transfer-Encoding: chunked", body=b"0\r\nContent-Length: 3\r\n\r\n"
    ),
    "open quote in extension": _request(
        b"Transfer-Encoding: chunked", body=b'3;a="b\r\nabc\r\n0\r\n\r\n'
    ),
    "no path": b"POST a HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown expectation": _request(b"Expect: 200-ok"),
}


@pytest.mark.parametrize("attack", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_ambiguous_requests_are_refused(attack: bytes) -> None:
    """An ambiguous request is refused, whole or byte by byte, and nothing after it is parsed."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    for pieces in ([attack + hidden], [bytes([byte]) for byte in attack + hidden]):
        parser = _parser()
        seen: Seen = []
        with pytest.raises(UserError) as caught:
            for piece in pieces:
                parser.feed(piece)
                while (request := next_whole(parser)) is not None:
                    seen.append((b"", request.head.target, request.body))
        assert caught.value.status in (400, 417)
        assert seen == []


def test_the_limit_of_heads() -> None:
    """A head of the limit is accepted; one byte more is refused, even if the head is incomplete."""
    start = b"POST / HTTP/1.1\r\nHost: x\r\nX: "
    fill = HEAD_LIMIT - len(start) - 4
    assert _run([start + b"a" * fill + b"\r\n\r\n"])
    over = start + b"a" * (fill + 1) + b"\r\n\r\n"
    with pytest.raises(HeaderTooLarge, match='over the maximum "1KB"'):
        _run([over])
    with pytest.raises(HeaderTooLarge):
        _run([bytes([byte]) for byte in over])
    with pytest.raises(HeaderTooLarge):
        _run([start + b"a" * HEAD_LIMIT])


def test_the_limit_of_bodies() -> None:
    """A body of the limit is accepted; a larger one is refused by its length."""
    length = b"Content-Length: %d"
    body = b"b" * BODY_LIMIT
    assert _run([_request(length % BODY_LIMIT, body=body)])[0][2] == body
    with pytest.raises(BodyTooLarge, match='over the maximum "512B"'):
        _run([_request(length % (BODY_LIMIT + 1))])


def test_the_limit_of_chunked_bodies() -> None:
    """A chunk that would exceed the limit is refused when its length is announced."""
    chunk = b"100\r\n" + b"c" * 256 + b"\r\n"
    coding = b"Transfer-Encoding: chunked"
    assert len(_run([_request(coding, body=chunk * 2 + b"0\r\n\r\n")])[0][2]) == BODY_LIMIT
    with pytest.raises(BodyTooLarge):
        _run([_request(coding, body=chunk * 2 + b"1\r\n")])


def test_the_overhead_of_chunks_is_limited() -> None:
    """Extensions and trailers count against the limit of the head."""
    coding = b"Transfer-Encoding: chunked"
    with pytest.raises(HeaderTooLarge):
        _run([_request(coding, body=(b"1;" + b"e" * 200 + b"\r\nx\r\n") * 6)])
    with pytest.raises(HeaderTooLarge):
        _run([_request(coding, body=b"0\r\n" + b"X: y\r\n" * 200)])
    with pytest.raises(HeaderTooLarge):
        _run([_request(coding, body=b"0\r\nX: " + b"y" * 2000)])
    with pytest.raises(MalformedRequest):
        _run([_request(coding, body=b"1;" + b"e" * 300)])


def test_empty_lines_are_limited() -> None:
    """Empty lines in any form before a request are limited."""
    some = b"\r\n" * MAX_EMPTY_LINES
    request = _request(b"Content-Length: 0")
    assert len(_run([some + request, some, request])) == 2
    for pieces in ([some + b"\r\n" + request], [b"\r\n"] * (MAX_EMPTY_LINES + 1)):
        with pytest.raises(MalformedRequest, match="empty lines"):
            _run(pieces)


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_small_chunks_are_limited(pieces: int) -> None:
    """Each chunk has the same cost, regardless of its size and arrival."""
    most = FREE_CHUNKS + FREE_CHUNKS // (BYTES_PER_CHUNK - 1)
    body = b"1\r\nx\r\n" * (most + 1)
    data = _request(b"Transfer-Encoding: chunked", body=body)
    parser = RequestParser(HeadReader(), HEAD_LIMIT, 10 * FREE_CHUNKS)
    size = len(data) // pieces
    parser.feed(data[:-6])
    assert next_whole(parser) is None and parser.held == most
    parser = RequestParser(HeadReader(), HEAD_LIMIT, 10 * FREE_CHUNKS)
    with pytest.raises(MalformedRequest, match=f"fewer than {BYTES_PER_CHUNK} bytes each"):
        for start in range(0, len(data), size):
            parser.feed(data[start : start + size])
            next_whole(parser)


def test_a_large_body_in_many_chunks() -> None:
    """The chunks need a minimum average size."""
    number = 3 * FREE_CHUNKS
    chunk = b"%x\r\n%b\r\n" % (BYTES_PER_CHUNK, b"x" * BYTES_PER_CHUNK)
    parser = RequestParser(HeadReader(), HEAD_LIMIT, number * BYTES_PER_CHUNK)
    parser.feed(_request(b"Transfer-Encoding: chunked", body=chunk * number + b"0\r\n\r\n"))
    request = next_whole(parser)
    assert request is not None and request.body == b"x" * (number * BYTES_PER_CHUNK)


def test_headers_are_counted() -> None:
    """Many headers are refused even if they are short."""
    for number, refused in ((MAX_HEADERS - 1, False), (MAX_HEADERS, True)):  # and Host
        parser = RequestParser(HeadReader(), 16 * 1024, BODY_LIMIT)
        parser.feed(_request(*[b"a:"] * number))
        if refused:
            with pytest.raises(TooManyHeaders, match=f"more than {MAX_HEADERS} headers"):
                next_whole(parser)
        else:
            request = next_whole(parser)
            assert request is not None and len(request.head.headers.raw) == MAX_HEADERS


def test_pipelined_requests_are_not_parsed_ahead() -> None:
    """A fault in the second request doesn't affect the first."""
    parser = _parser()
    parser.feed(GOOD["length"] + b"\x00garbage")
    request = next_whole(parser)
    assert request is not None and request.body == b"hello"
    with pytest.raises(MalformedRequest):
        next_whole(parser)


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(version: bytes, connection: bytes, expected: bool) -> None:
    """The version and Connection options determine whether another request may follow."""
    parser = _parser()
    parser.feed(b"GET / HTTP/" + version + b"\r\nHost: x\r\n" + connection + b"\r\n")
    request = next_whole(parser)
    assert request is not None and request.head.keep_alive is expected


def test_100_continue_is_needed_only_before_the_body() -> None:
    """A client that expects 100 Continue gets it unless the body has arrived."""
    parser = _parser()
    expecting = _request(b"Expect: 100-Continue", b"Content-Length: 2")
    parser.feed(expecting)
    assert next_whole(parser) is None
    assert parser.wants_continue
    parser.feed(b"ab")
    assert next_whole(parser) is not None
    assert not parser.wants_continue
    parser.feed(expecting + b"a")
    assert next_whole(parser) is None
    assert not parser.wants_continue


def test_the_head_of_an_incomplete_request() -> None:
    """The head is returned once before the body, but not for a complete request."""
    parser = _parser()
    parser.feed(_request(b"Content-Length: 2", body=b"ab"))
    assert isinstance(parser.next_request(), Request)
    too_long = b"Content-Length: %d" % (BODY_LIMIT + 1)
    for head in (b"Content-Length: 2", b"Transfer-Encoding: chunked", too_long):
        parser = _parser()
        parser.feed(_request(head, b"Expect: 100-continue"))
        first = parser.next_request()
        assert isinstance(first, Head) and first.target == b"/"
        assert parser.head is first and not parser.wants_continue
        if head is too_long:
            with pytest.raises(BodyTooLarge):
                parser.next_request()
            assert parser.head is first
        else:
            assert parser.next_request() is None
            assert parser.wants_continue


def test_held_bytes() -> None:
    """Bytes of incomplete heads are counted as received, those of bodies without the chunks'
    coding.
    """
    parser = _parser()
    assert parser.held == 0 and parser.is_empty
    parser.feed(b"POST /a HT")
    assert next_whole(parser) is None and parser.held == 10
    parser.feed(b"TP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc")
    assert next_whole(parser) is None and parser.held == 3
    parser.feed(b"de")
    assert next_whole(parser) is not None and parser.held == 0
    parser.feed(_request(b"Transfer-Encoding: chunked", body=b"4\r\nabcd\r\n5\r\nab"))
    assert next_whole(parser) is None and parser.held == 6
    parser.feed(b"cde\r\n0\r\n\r\n")
    assert next_whole(parser) is not None and parser.held == 0


def test_cached_heads_are_limited() -> None:
    """The number of cached heads, their size and their fields are limited, however many clients
    send.
    """
    reader = HeadReader()
    for number in range(HeadReader.MAX_HEADS * 2 + 1):
        reader.read(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    assert len(reader._known) <= HeadReader.MAX_HEADS
    for number in range(300):
        head = b"GET /%d HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % (number, b"a" * 8192)
        assert reader.read(head) is reader.read(head)
        assert sum(map(len, reader._known)) <= HeadReader.MAX_BYTES
    fields = b"".join(b"X-%d: 1\r\n" % number for number in range(250))
    for number in range(100):
        head = b"GET /%d HTTP/1.1\r\nHost: x\r\n%s\r\n" % (number, fields)
        assert reader.read(head) is reader.read(head)
        known = reader._known.values()
        assert sum(len(each.headers.raw) for each in known) <= HeadReader.MAX_FIELDS


def _h11_reads(data: bytes) -> Seen | None:
    """Return the requests that h11 parses in *data*, or ``None`` if it refuses."""
    seen: Seen = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
    connection.receive_data(data)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                seen.append((event.method, event.target, b""))
            elif isinstance(event, h11.Data):
                method, target, body = seen[-1]
                seen[-1] = (method, target, body + bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return seen
            else:
                return []
    except h11.RemoteProtocolError:
        return None


_pieces = st.sampled_from(
    [
        *(b"POST / HTTP/1.1\r\n", b"GET /a?b HTTP/1.1\r\n", b"Host: x\r\n", b"host:y\r\n"),
        *(b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length: 3 \r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"X: y\r\n", b" z\r\n", b"X : y\r\n", b"\r\n"),
        *(b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\n", b"\r", b"\x00", b"X: a\tb\r\n", b"0\r\n"),
    ]
)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(_pieces, max_size=8))
def test_agrees_with_another_parser(pieces: list[bytes]) -> None:
    """A first request that we accept is parsed to the same values by h11."""
    data = b"POST / HTTP/1.1\r\nHost: x\r\n" + b"".join(pieces)
    parser = _parser()
    parser.feed(data)
    try:
        request = next_whole(parser)
    except UserError:
        return
    if request is not None:
        assert _h11_reads(data) == [(request.head.method, request.head.target, request.body)]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(_pieces, max_size=8))
def test_splits_of_any_input(pieces: list[bytes]) -> None:
    """Any input results in the same requests or the same refusal, however it is split."""
    data = b"POST / HTTP/1.1\r\nHost: x\r\n" + b"".join(pieces)

    def outcome(parts: list[bytes]) -> tuple[Seen, bool]:
        parser = _parser()
        seen: Seen = []
        try:
            for part in parts:
                parser.feed(part)
                while (request := next_whole(parser)) is not None:
                    seen.append((request.head.method, request.head.target, request.body))
        except UserError:
            return seen, True
        return seen, False

    assert outcome([data]) == outcome([bytes([byte]) for byte in data])
