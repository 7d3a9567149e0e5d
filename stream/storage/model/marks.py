"""Marks in the header of a group's gzip member identify the requests whose rows it contains.

A producer may repeat a request with an idempotency key after its rows were stored but before any
node recorded that; the repetition may reach another source node, or one that has restarted. So the
record of their storage must exist if and only if the rows do. The header of a gzip member may
contain extra fields for applications (RFC 1952, FEXTRA). The marks are stored there, in the same
member as the rows. Programs that decompress the member ignore them.

::

    10 bytes  header, with FLG.FEXTRA
     2 bytes  length of all fields: one
     2 bytes  "SM"
     2 bytes  length of the field
     8 bytes  `_MAGIC`, by which members are found in a file
     4 bytes  length of what follows the field
     4 bytes  CRC-32 of it
     n × 32   marks: key, content, attempt
     4 bytes  CRC-32 of the field before
    the rest  of the member

The checksums show, without decompressing it, whether a member is complete or was cut off by a
crash.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import attrs

__all__ = [
    "ATTEMPT_BYTES",
    "KEY_BYTES",
    "MAX_MARKS",
    "SOURCE_BYTES",
    "Mark",
    "content_digest",
    "find_marks",
    "key_digest",
    "marked",
    "marks_of",
    "source_digest",
]

KEY_BYTES = 16
SOURCE_BYTES = 8
CONTENT_BYTES = 8
ATTEMPT_BYTES = 8
_MARK_BYTES = KEY_BYTES + CONTENT_BYTES + ATTEMPT_BYTES

MAX_MARKS = 1_000
"""Maximum number of marks in one group; a header has room for twice as many."""

_HEADER_BYTES = 10
_FLAGS_AT = 3
_FEXTRA = 4
_FIELD_NAME = b"SM"
_MAGIC = b"\xf1StrMrk\x01"
_LENGTHS = struct.Struct("<H2sH")
_REST = struct.Struct("<8sII")
_CRC = struct.Struct("<I")


@attrs.frozen
class Mark:
    """A request whose rows are in a group.

    :ivar key: digest of the project, the source and the idempotency key.
    :ivar content: digest of the content, which distinguishes another request under the same key.
    :ivar attempt: random ID of one attempt to carry out the request.
    """

    key: bytes
    content: bytes
    attempt: bytes

    def encoded(self) -> bytes:
        """The mark as stored in the header."""
        return self.key + self.content + self.attempt

    @classmethod
    def decode(cls, data: bytes) -> Mark:
        """Decode the result of `encoded`."""
        content_at, attempt_at = KEY_BYTES, KEY_BYTES + CONTENT_BYTES
        return cls(data[:content_at], data[content_at:attempt_at], data[attempt_at:])


def key_digest(project_id: int, source_id: str, key: bytes) -> bytes:
    """Return the digest of an idempotency key of a source."""
    return blake2b(b"%d/%s/%s" % (project_id, source_id.encode(), key), digest_size=16).digest()


def source_digest(source_id: str) -> bytes:
    """Return the digest by which writers distinguish the sources of a project."""
    return blake2b(source_id.encode(), digest_size=SOURCE_BYTES).digest()


def content_digest(fingerprint: bytes) -> bytes:
    """Return the digest of a request's content, given its longer fingerprint."""
    return fingerprint[:CONTENT_BYTES].ljust(CONTENT_BYTES, b"\0")


def marked(member: bytes, marks: Sequence[Mark]) -> bytes:
    """Return the gzip *member* with *marks* added to its header.

    The member must have no optional fields; at most `MAX_MARKS` are allowed.
    """
    if member[_FLAGS_AT] or len(marks) > MAX_MARKS:
        raise ValueError("a member can't be marked")
    rest = member[_HEADER_BYTES:]
    field = _REST.pack(_MAGIC, len(rest), zlib.crc32(rest))
    field += b"".join(mark.encoded() for mark in marks)
    field += _CRC.pack(zlib.crc32(field))
    header = bytearray(member[:_HEADER_BYTES])
    header[_FLAGS_AT] = _FEXTRA
    lengths = _LENGTHS.pack(len(field) + 4, _FIELD_NAME, len(field))
    return b"".join((header, lengths, field, rest))


def marks_of(member: bytes) -> tuple[Mark, ...]:
    """Return the marks of one gzip member; none if it has no valid marks."""
    if member[:2] != b"\x1f\x8b" or len(member) < _HEADER_BYTES or member[_FLAGS_AT] != _FEXTRA:
        return ()
    found = _read(member, 0)
    return () if found is None else found[1]


def find_marks(data: Any) -> Iterator[tuple[int, tuple[Mark, ...]]]:
    """Yield the end and the marks of each marked member in the content of a file.

    :param data: the content, as bytes or a memory map. Incomplete members are skipped.
    """
    at = data.find(_MAGIC)
    while at >= 0:
        start = at - _HEADER_BYTES - _LENGTHS.size
        found = _read(data, start) if start >= 0 else None
        if found is not None:
            yield found
        at = data.find(_MAGIC, at + len(_MAGIC) if found is None else found[0])


def _read(data: Any, start: int) -> tuple[int, tuple[Mark, ...]] | None:
    """Return the end and the marks of the complete member at *start*; ``None`` if there is none."""
    head = bytes(data[start : start + _HEADER_BYTES + _LENGTHS.size])
    if len(head) < _HEADER_BYTES + _LENGTHS.size or head[:2] != b"\x1f\x8b":
        return None
    _, name, length = _LENGTHS.unpack_from(head, _HEADER_BYTES)
    count, odd = divmod(length - _REST.size - _CRC.size, _MARK_BYTES)
    if name != _FIELD_NAME or odd or count < 0:
        return None
    field_at = start + len(head)
    field = bytes(data[field_at : field_at + length])
    if len(field) < length:
        return None
    magic, size, crc = _REST.unpack_from(field)
    content, (own_crc,) = field[: -_CRC.size], _CRC.unpack(field[-_CRC.size :])
    if magic != _MAGIC or own_crc != zlib.crc32(content):
        return None
    rest = bytes(data[field_at + length : field_at + length + size])
    if len(rest) < size or zlib.crc32(rest) != crc:
        return None
    places = range(_REST.size, _REST.size + count * _MARK_BYTES, _MARK_BYTES)
    marks = tuple(Mark.decode(content[place : place + _MARK_BYTES]) for place in places)
    return field_at + length + size, marks
