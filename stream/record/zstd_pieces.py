"""Splitting of a zstd body into pieces with a limited decompressed size. Pure.

A byte of zstd can expand to 32 KiB. The decoder returns the whole output of a piece at once, in one
buffer, and blocks the process until then. Therefore the maximum output of a block is read from its
header (RFC 8878) and isn't estimated.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["MAX_OUTPUT_BYTES", "MAX_PIECE_BYTES", "frame_pieces"]

MAX_OUTPUT_BYTES = 256 * 1024
"""Maximum output of a piece in bytes; a single block has at most half as much."""

MAX_PIECE_BYTES = 16 * 1024
"""Maximum size of a piece; a single block may be larger."""

_MAX_BLOCK_BYTES = 128 * 1024
_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
"""The last three of the four bytes of a skippable frame's magic number."""
_MAX_HEADER_BYTES = 18
"""Maximum size of a frame's header with its magic number."""

_DICTIONARY_BYTES = (0, 1, 2, 4)
_SIZE_BYTES = (0, 2, 4, 8)
_RAW, _REPEATED, _COMPRESSED = range(3)


def frame_pieces(body: bytes, start: int) -> Iterator[int]:
    """Iterate over the ends of the pieces of the frame at *start*; the last one ends the frame.

    The ends may exceed *body* if it is truncated. If there is no frame, a single end is returned
    after some bytes that the decoder refuses.
    """
    if body[start + 1 : start + 4] == _SKIPPABLE and body[start] >> 4 == 5:
        yield start + 8 + int.from_bytes(body[start + 4 : start + 8], "little")
        return
    first = body[start + 4 : start + 5]
    if body[start : start + 4] != _MAGIC or not first:
        yield start + _MAX_HEADER_BYTES
        return
    position = start + 5 + _header_bytes(first[0])
    piece, output = start, 0
    is_last = False
    while not is_last:
        header = int.from_bytes(body[position : position + 3], "little")
        is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        expanded = _MAX_BLOCK_BYTES if kind >= _COMPRESSED else min(size, _MAX_BLOCK_BYTES)
        end = position + 3 + (1 if kind == _REPEATED else size)
        if output and (output + expanded > MAX_OUTPUT_BYTES or end - piece > MAX_PIECE_BYTES):
            yield position
            piece, output = position, 0
        output += expanded
        position = end
        if position >= len(body):
            break  # the body is truncated, unless this was the last block
    yield position + (4 if first[0] & 4 else 0)


def _header_bytes(descriptor: int) -> int:
    """Return the size of the part of a frame's header that follows its *descriptor*."""
    is_single = descriptor >> 5 & 1
    size = _SIZE_BYTES[descriptor >> 6]
    return (0 if is_single else 1) + _DICTIONARY_BYTES[descriptor & 3] + (size or is_single)
