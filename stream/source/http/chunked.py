"""The chunked transfer coding of a request body, decoded as it arrives."""

from __future__ import annotations

import re

from stream.source.http.errors import BodyTooLarge, HeaderTooLarge, MalformedRequest
from stream.source.http.head import FIELD

__all__ = ["ChunkedBody"]

MAX_SIZE_LINE_BYTES = 256
"""Maximum length of a line with a chunk's size and extensions."""

FREE_CHUNKS = 2000
"""Number of chunks allowed for a body of any size. A chunk costs about a microsecond."""

BYTES_PER_CHUNK = 50
"""Number of body bytes required for each further chunk, which limits the chunks per read."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e]|\\[\t\x20-\x7e])*+"'
_EXTENSION = rb";" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+"
_PLAIN_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})((?:" + _EXTENSION + rb")*+)\r\n")
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})
"""Headers for framing or routing, which aren't allowed as trailers."""
_BEFORE_DATA, _DATA, _AFTER_DATA, _TRAILERS = range(4)


class ChunkedBody:
    """Decodes one request body.

    :param max_body: maximum size of the decoded body in bytes.
    :param max_overhead: maximum number of bytes of extensions and trailers, which are discarded.
    """

    __slots__ = (
        "_chunks",
        "_data",
        "_left",
        "_max_body",
        "_max_overhead",
        "_overhead",
        "_size",
        "_state",
    )

    def __init__(self, max_body: int, max_overhead: int) -> None:
        self._max_body = max_body
        self._max_overhead = max_overhead
        self._overhead = 0
        self._data = bytearray()  # a list would take more memory than tiny chunks
        self._size = 0
        self._chunks = 0
        self._left = 0
        self._state = _BEFORE_DATA

    @property
    def body(self) -> bytes:
        """The decoded bytes."""
        return bytes(self._data)

    @property
    def held(self) -> int:
        """The number of bytes decoded so far."""
        return len(self._data)

    def decode(self, data: bytes) -> tuple[bool, bytes]:
        """Decode as much of *data* as possible.

        Raises MalformedRequest: the framing is invalid. Raises BodyTooLarge: the announced size of
        a chunk exceeds the limit.

        :returns: whether the body is complete, and the rest of *data*. The rest is data after the
            body, or an incomplete part that must be passed again together with further data.
        """
        position = 0
        while True:
            if self._state == _BEFORE_DATA:
                position = self._read_whole_chunks(data, position)
                following = self._read_size(data, position)
            elif self._state == _DATA:
                following = self._read_data(data, position)
            elif self._state == _AFTER_DATA:
                following = self._read_end_of_data(data, position)
            else:
                following = self._read_trailer(data, position)
                if following is not None and following == position + 2 and self._done:
                    return True, data[following:]
            if following is None:
                return False, data[position:]
            position = following

    @property
    def _done(self) -> bool:
        return self._left < 0

    def _read_whole_chunks(self, data: bytes, position: int) -> int:
        """Decode whole chunks from *position* on that have no extensions and are within the limits.

        :returns: the position after these chunks.
        """
        match_line, body = _PLAIN_SIZE_LINE.match, self._data
        room = self._max_body - self._size
        chunks = left = max(0, self._max_chunks - self._chunks)
        while match := match_line(data, position):
            size = int(match[1], 16)
            start = match.end()
            end = start + size
            if not size or size > room or not chunks or data[end : end + 2] != b"\r\n":
                break
            body += data[start:end]
            position = end + 2
            room -= size
            chunks -= 1
        self._size = self._max_body - room
        self._chunks += left - chunks
        return position

    @property
    def _max_chunks(self) -> int:
        """Return the number of chunks that the body may have so far."""
        return FREE_CHUNKS + self._size // BYTES_PER_CHUNK

    def _read_size(self, data: bytes, position: int) -> int | None:
        match = _SIZE_LINE.match(data, position, position + MAX_SIZE_LINE_BYTES)
        if match is None:
            if data.find(b"\n", position) >= 0 or len(data) - position >= MAX_SIZE_LINE_BYTES:
                raise MalformedRequest("invalid chunk size")
            return None
        self._count_overhead(len(match[2] or b""))
        self._chunks += 1
        if self._chunks > self._max_chunks:
            raise MalformedRequest(
                f"more than {FREE_CHUNKS} chunks have fewer than {BYTES_PER_CHUNK} bytes each, "
                "please send larger chunks"
            )
        self._left = int(match[1], 16)
        self._size += self._left
        if self._size > self._max_body:
            raise BodyTooLarge(self._max_body)
        self._state = _DATA if self._left else _TRAILERS
        return match.end()

    def _read_data(self, data: bytes, position: int) -> int | None:
        part = data[position : position + self._left]
        if not part:
            return None
        self._data += part
        self._left -= len(part)
        if not self._left:
            self._state = _AFTER_DATA
        return position + len(part)

    def _read_end_of_data(self, data: bytes, position: int) -> int | None:
        ending = data[position : position + 2]
        if ending == b"\r\n":
            self._state = _BEFORE_DATA
            return position + 2
        if ending in (b"", b"\r"):
            return None
        raise MalformedRequest("a chunk is longer than its size")

    def _read_trailer(self, data: bytes, position: int) -> int | None:
        if data.startswith(b"\r\n", position):
            self._left = -1
            return position + 2
        match = FIELD.match(data, position)
        if match is None:
            if data.find(b"\n", position) >= 0:
                raise MalformedRequest("invalid trailer")
            if self._overhead + len(data) - position > self._max_overhead:
                raise HeaderTooLarge(self._max_overhead)
            return None
        if match[1].lower() in _FRAMING:
            raise MalformedRequest("invalid trailer")
        self._count_overhead(match.end() - position)
        return match.end()

    def _count_overhead(self, count: int) -> None:
        self._overhead += count
        if self._overhead > self._max_overhead:
            raise HeaderTooLarge(self._max_overhead)
