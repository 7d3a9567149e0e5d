"""Decompression of request bodies with a size limit. Pure.

The time is linear in the sizes of input and output, whatever the content.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import cast

import zstandard
from isal import isal_zlib

from stream.errors import UserError
from stream.record.errors import BodyTooLarge, UnsupportedEncoding
from stream.record.zstd_pieces import frame_pieces

__all__ = ["MAX_MEMBERS", "Abandoned", "content_codings", "decode_body"]

MAX_MEMBERS = 100
"""Maximum number of gzip members or zstd frames.

Each needs its own setup, so a program that creates one per record should combine records.
"""

MAX_CODINGS = 2
"""Maximum number of content codings applied to one body."""

_GZIP_CONTAINER = 31
_GzipError = cast("type[Exception]", isal_zlib.IsalError)
_MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""Maximum window of a zstd frame: the size that RFC 8878 recommends every decoder to support."""

_GZIP_PIECE_BYTES = 16 * 1024
_GZIP_OUTPUT_BYTES = 256 * 1024
"""Maximum output per step; a step blocks the process."""

_PADDING = b"\0"
_NOTHING = (b"", b"identity")


class Abandoned(Exception):
    """The client no longer waits for the decoded body."""


def _always() -> bool:
    return True


def content_codings(encoding: bytes) -> list[bytes]:
    """Return the codings of a ``Content-Encoding``, in the order in which they were applied.

    Raises UserError: 415, because a coding is unknown or there are too many.

    :param encoding: lower-case value of the header; empty if there is none.
    """
    codings = [name for name in map(bytes.strip, encoding.split(b",")) if name not in _NOTHING]
    for name in codings:
        if name not in _DECODERS:
            raise UnsupportedEncoding(name.decode("latin-1"))
    if len(codings) > MAX_CODINGS:
        raise UserError(
            f"the body has more than {MAX_CODINGS} content encodings",
            status=415,
            name="unsupportedMediaType",
        )
    return codings


def decode_body(
    encoding: bytes, body: bytes, limit: int, is_wanted: Callable[[], bool] = _always
) -> bytes:
    """Return the decoded *body*.

    Raises UserError: 415 for an unknown encoding, 400 for damaged or truncated data. Raises
    BodyTooLarge: the decoded body would exceed *limit*; decoding stops there. Raises Abandoned: the
    client no longer waits.

    :param encoding: see `content_codings`.
    :param limit: maximum size of the decoded body in bytes.
    :param is_wanted: returns whether the client still waits; called often.
    """
    for name in reversed(content_codings(encoding)):
        output = _Output(limit, is_wanted)
        try:
            _DECODERS[name](body, output)
            body = output.joined()
        finally:
            output.clear()
    return body


class _Output:
    """Collects the decoded bytes, with a size limit.

    The bytes are in one buffer, because thousands of separately freed parts would fragment the
    thread's heap, which would then never be returned to the system. The buffer becomes the decoded
    body without being copied; a copy would block the reactor for milliseconds.

    :ivar room: number of bytes up to the limit, plus one to detect that it is exceeded.
    """

    def __init__(self, limit: int, is_wanted: Callable[[], bool]) -> None:
        self.room = limit + 1
        self._limit = limit
        self._is_wanted = is_wanted
        self._data = BytesIO()
        self._members = 0

    def add(self, part: bytes) -> None:
        self.room -= len(part)
        if self.room <= 0:
            raise BodyTooLarge(self._limit)
        if not self._is_wanted():
            raise Abandoned
        self._data.write(part)

    def begin_member(self, kind: str) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise UserError(
                f"cannot decompress {kind} body: it has more than {MAX_MEMBERS} members",
                status=413,
                name="payloadTooLarge",
            )

    def joined(self) -> bytes:
        return self._data.getvalue()

    def clear(self) -> None:
        """Free the bytes, even if an exception still refers to this object."""
        self._data = BytesIO()


def _gunzip(body: bytes, output: _Output) -> None:
    position = 0
    while True:
        output.begin_member("gzip")
        decoder = isal_zlib.decompressobj(_GZIP_CONTAINER)
        try:
            may_hold_more = False  # after a whole piece, the decoder may still have output
            while not decoder.eof:
                piece = decoder.unconsumed_tail
                if not piece and not may_hold_more:
                    piece = body[position : position + _GZIP_PIECE_BYTES]
                    position += len(piece)
                    if not piece:
                        raise UserError("cannot decompress gzip body: it is truncated")
                room = min(output.room, _GZIP_OUTPUT_BYTES)
                part = decoder.decompress(piece, room)
                may_hold_more = len(part) == room
                output.add(part)
        except _GzipError:
            raise UserError("cannot decompress gzip body: it is damaged") from None
        position -= len(decoder.unused_data)
        # Zeros after a member are padding, as in gunzip.
        if not body[position : position + 1].strip(_PADDING) and not body[position:].strip(
            _PADDING
        ):
            return


def _unzstd(body: bytes, output: _Output) -> None:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    position = 0
    try:
        while True:
            output.begin_member("zstd")
            frame = decoder.decompressobj(write_size=64 * 1024)
            for end in frame_pieces(body, position):
                output.add(frame.decompress(body[position:end]))
                position = end
            if position > len(body) or not frame.eof:
                raise UserError("cannot decompress zstd body: it is truncated")
            position -= len(frame.unused_data)
            if position >= len(body):
                return
    except zstandard.ZstdError:
        raise UserError("cannot decompress zstd body: it is damaged") from None


_DECODERS: dict[bytes, Callable[[bytes, _Output], None]] = {
    b"gzip": _gunzip,
    b"x-gzip": _gunzip,
    b"zstd": _unzstd,
}
