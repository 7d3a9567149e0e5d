"""A strict, bounded parser that parses the requests of one connection one at a time.

Nothing is parsed ahead. Data after a request is kept unparsed until the next request is asked for,
so a client that pipelines a thousand requests costs no more than the bytes of one read.
"""

from __future__ import annotations

import re

from stream import native
from stream.source.http.chunked import ChunkedBody
from stream.source.http.errors import (
    BodyTooLarge,
    HeaderTooLarge,
    MalformedRequest,
    TooManyHeaders,
)
from stream.source.http.head import Head, HeadReader

__all__ = ["MAX_SMALL_BODY", "Request", "RequestParser"]

_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_NEVER_IN_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ALLOWED_IN_HEAD = _NEVER_IN_HEAD.sub(b"", bytes(range(256)))
_FIRST_BYTE = re.compile(rb"[A-Za-z]|\r(?:\n|\Z)")


MAX_EMPTY_LINES = 16
"""Maximum number of empty lines before a request. One is common; each costs a little."""

MAX_HEADERS = 256
"""Maximum number of headers of a request.

Each header costs a microsecond or two, a hundred times as much as its bytes.
"""

MAX_SMALL_BODY = 4 * 1024
"""Maximum size of a body that is returned without a check of its head if it arrives whole."""

MIN_RECEIVED = 16 * 1024
"""Minimum size of the missing part of a body for it to be received into place."""

_OTHER_LINES = 2
"""The request line and the empty line."""

_MAY_HAVE_MANY = 4 * MAX_HEADERS
"""Size of `MAX_HEADERS` minimal headers, each of which is ``a:`` and a line end."""


class Request:
    """A request with its whole body."""

    __slots__ = ("body", "head")

    def __init__(self, head: Head, body: bytes) -> None:
        self.head = head
        self.body = body


class RequestParser:
    """The parser of a connection, which is fed data and returns requests.

    A small request that has arrived whole is returned directly. For any other request, the head is
    returned once before the request, so that the caller can decide whether to read the body.

    After an error the connection can no longer be used, because it is unknown where the next
    request starts.

    :param heads: reader of heads, shared by all connections.
    :param max_head: maximum size of request line and headers in bytes, including the empty line.
    :param max_body: maximum size of a body in bytes: as received, or decoded if it is chunked.

    :ivar head: head of a request whose body isn't complete; ``None`` if there is none.
    :ivar rest: unused data; after an error, the malformed head.
    :ivar wants_continue: whether the client waits for ``100 Continue`` before it sends the body;
        the caller resets this when it sends that response.
    """

    __slots__ = (
        "_body",
        "_body_left",
        "_chunked",
        "_empty_lines",
        "_heads",
        "_in_body",
        "_max_body",
        "_max_head",
        "_max_small",
        "_place",
        "_searched",
        "head",
        "rest",
        "wants_continue",
    )

    def __init__(self, heads: HeadReader, max_head: int, max_body: int) -> None:
        self._heads = heads
        self._max_head = max_head
        self._max_body = max_body
        self._max_small = min(max_body, MAX_SMALL_BODY)
        self.rest = b""
        self._searched = 0
        self._empty_lines = 0
        self._in_body = False
        self.head: Head | None = None
        self._chunked: ChunkedBody | None = None
        self._body: bytearray | bytes = b""
        self._place: native.Body | None = None
        self._body_left = 0
        self.wants_continue = False

    @property
    def is_empty(self) -> bool:
        """Whether no byte of another request has arrived."""
        return not self.rest and self.head is None

    @property
    def is_unused(self) -> bool:
        """Whether nothing has arrived since the last request, not even an empty line.

        Empty lines are counted until the next head, so a request that is read elsewhere must not
        follow them.
        """
        return not self.rest and self.head is None and not self._empty_lines

    @property
    def held(self) -> int:
        """The number of held bytes, most of which belong to an incomplete request."""
        if self._place is not None:
            return len(self.rest) + len(self._place)
        body = len(self._body) if self._chunked is None else self._chunked.held
        return len(self.rest) + body

    @property
    def receives(self) -> bool:
        """Whether `receive` may be called, because the rest of a large body hasn't arrived."""
        return self._place is not None and self._body_left > 0

    def drop(self) -> None:
        """Drop the held data. No more data may be fed afterwards."""
        self.rest = b""
        self._body = b""
        self._place = None
        self._chunked = self.head = None
        self._in_body = False
        self._body_left = 0

    def feed(self, data: bytes) -> None:
        """Add data without parsing it."""
        if self._body_left:
            self._feed_body(data)
        elif self.rest:
            self.rest += data
        else:
            self.rest = data

    def _feed_body(self, data: bytes) -> None:
        size = len(data)
        if size > self._body_left:
            self.rest = data[self._body_left :]
            data = data[: self._body_left]
            size = self._body_left
        if self._place is None:
            self._body += data
        else:
            self._place.feed(data)
        self._body_left -= size

    def receive(self, descriptor: int, limit: int) -> int:
        """Receive more of the body from a socket without copying it. Only allowed if `receives`.

        :param limit: maximum number of bytes.
        :returns: the number of bytes; 0 if none are available, -1 if the connection has ended or
            failed.
        """
        assert self._place is not None
        size = self._place.receive(descriptor, limit)
        if size > 0:
            self._body_left -= size
        return size

    def next_request(self) -> Request | Head | None:
        """Return the next complete request, or ``None`` if more data is needed.

        If a request is large or hasn't arrived whole, its head is returned once before it.

        Raises MalformedRequest: the request is invalid or ambiguous. Raises HeaderTooLarge: the
        head exceeds the limit. Raises TooManyHeaders: the head has more than `MAX_HEADERS` fields.
        Raises BodyTooLarge: the body, or its announced length, exceeds the limit. Raises
        UnknownExpectation: the ``Expect`` header is unsupported.
        """
        if self.head is not None:
            if not self._in_body:
                self._start_body(self.head)
            return self._finish_body(self.head)
        data = self.rest
        if not data:
            return None
        end = data.find(b"\r\n\r\n", self._searched)
        if end < 0 or data[0] == 0x0D:
            return self._without_whole_head(data)
        end += 4
        if end > self._max_head:
            raise HeaderTooLarge(self._max_head)
        if end > _MAY_HAVE_MANY and data.count(b"\n", 0, end) > MAX_HEADERS + _OTHER_LINES:
            raise TooManyHeaders(MAX_HEADERS)
        self._searched = self._empty_lines = 0
        head = self._heads.read(data[:end])
        length = head.length
        if not head.chunked and length <= self._max_small:
            total = end + length
            if len(data) == total:
                self.rest = b""
                return Request(head, data[end:])
            if len(data) > total:
                self.rest = data[total:]
                return Request(head, data[end:total])
        self.head = head
        self.rest = data[end:]
        return head

    def _without_whole_head(self, data: bytes) -> Request | Head | None:
        if data.startswith(b"\r\n"):
            # Empty lines before a request are allowed, because some clients end bodies with one.
            start = 2
            while data.startswith(b"\r\n", start):
                start += 2
            self._empty_lines += start // 2
            if self._empty_lines > MAX_EMPTY_LINES:
                raise MalformedRequest("too many empty lines before a request")
            self.rest = data[start:]
            self._searched = 0
            return self.next_request()
        if _FIRST_BYTE.match(data) is None:
            raise MalformedRequest("invalid request line")
        start = max(self._searched - 1, 0)
        fault = None
        part = data[start:]
        if part.count(b"\n") != part.count(b"\r\n") or part.translate(None, _ALLOWED_IN_HEAD):
            # This is rare, so finding the position may take longer than the check.
            fault = _BARE_LINE_FEED.search(data, start) or _NEVER_IN_HEAD.search(data, start)
        if len(data) >= self._max_head and (fault is None or fault.start() >= self._max_head):
            raise HeaderTooLarge(self._max_head)
        if fault is not None:
            raise MalformedRequest("invalid header")
        self._searched = max(len(data) - 3, 0)
        return None

    def _start_body(self, head: Head) -> None:
        if head.length > self._max_body:
            raise BodyTooLarge(self._max_body)
        self._in_body = True
        data = self.rest
        self.wants_continue = head.expects_continue and not data
        if head.chunked:
            self._chunked = ChunkedBody(self._max_body, self._max_head)
        else:
            self.rest = data[head.length :]
            self._body_left = max(head.length - len(data), 0)
            if not self._body_left:
                self._body = data[: head.length]
            elif self._body_left >= MIN_RECEIVED and native.is_built:
                self._place = native.Body(head.length, data)
            else:
                self._body = bytearray(data)

    def _finish_body(self, head: Head) -> Request | None:
        if self._chunked is not None:
            complete, self.rest = self._chunked.decode(self.rest)
            if not complete:
                return None
            body = self._chunked.body
            self._chunked = None
        else:
            if self._body_left:
                return None
            # Neither copies a body that came with its head or was received into place.
            body = bytes(self._body) if self._place is None else self._place.take()
            self._body, self._place = b"", None
        self.head = None
        self._in_body = False
        self.wants_continue = False
        return Request(head, body)
