"""Compressed request bodies, decoded with a bound on what they expand to. Pure."""

from __future__ import annotations

from typing import cast

import zstandard
from isal import isal_zlib

from stream.errors import UserError
from stream.source.http.errors import BodyTooLarge, UnsupportedEncoding

__all__ = ["decode_body"]

_GZIP_CONTAINER = 31
_GzipError = cast("type[Exception]", isal_zlib.IsalError)
_MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""Of a zstd frame: what RFC 8878 asks of every decoder; more only costs memory."""

_PIECE_BYTES = 256
"""Fed to zstd at once, so that a bomb is noticed early: a byte can expand to 32 KiB."""


def decode_body(encoding: bytes, body: bytes, limit: int) -> bytes:
    """The decoded *body*.

    :param encoding: value of ``Content-Encoding`` in lower case; empty for none.
    :param limit: bytes of the decoded body.
    :raises UserError: 415 for an unknown encoding, 400 for damaged or truncated data.
    :raises BodyTooLarge: it expands beyond *limit*; found out without expanding further.
    """
    if encoding in (b"gzip", b"x-gzip"):
        return _gunzip(body, limit)
    if encoding == b"zstd":
        return _unzstd(body, limit)
    if encoding in (b"", b"identity"):
        return body
    raise UnsupportedEncoding(encoding.decode("latin-1"))


def _gunzip(body: bytes, limit: int) -> bytes:
    decoded = b""
    rest = body
    while True:
        decoder = isal_zlib.decompressobj(_GZIP_CONTAINER)
        try:
            decoded += decoder.decompress(rest, limit + 1 - len(decoded))
        except _GzipError as error:
            raise UserError(f"cannot decompress gzip body: {error}") from None
        if len(decoded) > limit:
            raise BodyTooLarge(limit)
        if not decoder.eof:
            raise UserError("cannot decompress gzip body: it is truncated")
        rest = decoder.unused_data
        if not rest:
            return decoded


def _unzstd(body: bytes, limit: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    parts = []
    size = 0
    rest = body
    try:
        while True:
            frame = decoder.decompressobj(write_size=64 * 1024)
            for start in range(0, len(rest), _PIECE_BYTES):
                part = frame.decompress(rest[start : start + _PIECE_BYTES])
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise BodyTooLarge(limit)
                if frame.eof:
                    rest = frame.unused_data + rest[start + _PIECE_BYTES :]
                    break
            if not frame.eof:
                raise UserError("cannot decompress zstd body: it is truncated")
            if not rest:
                return b"".join(parts)
    except zstandard.ZstdError as error:
        raise UserError(f"cannot decompress zstd body: {error}") from None
