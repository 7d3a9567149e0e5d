"""The protocol between a node and its lake worker processes. Pure.

A job is a line of JSON on the standard input of the process, and its answer is a line on the
standard output. The rows of a job's slices are sent over a separate pipe in blocks, each preceded
by its length; an empty block follows each slice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from stream.errors import UserError

__all__ = [
    "INPUT",
    "MAX_LINE",
    "OUTPUT",
    "ROWS",
    "LakeUnusable",
    "answer_of",
    "failure",
    "framed",
    "slices_of",
]

INPUT, OUTPUT, ROWS = 0, 1, 3
"""File descriptors of the worker process."""

MAX_LINE = 4 * 1024 * 1024
"""Maximum length of a job or of its answer in bytes."""

_LENGTH = struct.Struct("<I")
_END = _LENGTH.pack(0)
_BLOCK_BYTES = 256 * 1024


class LakeUnusable(Exception):
    """A store or a catalog failed or refused a request. The message is only for the log."""


def framed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Return the blocks of one slice as sent over the pipe.

    The blocks must not depend on the *chunks* of the slice, which the network determines, because
    the ends of blocks determine the rows of each row group and so the bytes of the objects.
    """
    kept = bytearray()
    for chunk in chunks:
        kept += chunk
        while len(kept) >= _BLOCK_BYTES:
            yield _LENGTH.pack(_BLOCK_BYTES) + kept[:_BLOCK_BYTES]
            del kept[:_BLOCK_BYTES]
    if kept:
        yield _LENGTH.pack(len(kept)) + kept
    yield _END


def slices_of(read: Callable[[int], bytes], count: int) -> Iterator[Iterator[bytes]]:
    """Iterate over *count* slices, each of which iterates over its blocks.

    The caller must read each slice to its end before the next one.

    Raises EOFError: the pipe ends before the slices do.

    :param read: reads the given number of bytes from the pipe; returns fewer only at the end of the
        pipe.
    """

    def exactly(size: int) -> bytes:
        data = read(size)
        if len(data) < size:
            raise EOFError("the rows of a file ended too early")
        return data

    def blocks() -> Iterator[bytes]:
        while size := _LENGTH.unpack(exactly(_LENGTH.size))[0]:
            yield exactly(size)

    for _ in range(count):
        yield blocks()


def failure(error: UserError | LakeUnusable | str) -> bytes:
    """Return the answer of a failed job: a message for the user or only for the log."""
    if isinstance(error, LakeUnusable):
        return json.dumps({"unusable": str(error)}).encode() + b"\n"
    if isinstance(error, UserError):
        shown: dict[str, Any] = {
            "message": error.message,
            "status": error.status,
            "name": error.name,
            "detail": error.detail,
            "param": error.param,
        }
        return json.dumps({"error": shown}).encode() + b"\n"
    return json.dumps({"fault": error}).encode() + b"\n"


def answer_of(line: bytes) -> dict[str, Any]:
    """Return the result of a job. Raises UserError, LakeUnusable, or RuntimeError for a bug."""
    plain: dict[str, Any] = json.loads(line)
    if "error" in plain:
        shown = plain["error"]
        raise UserError(shown.pop("message"), **shown)
    if "unusable" in plain:
        raise LakeUnusable(plain["unusable"])
    if "fault" in plain:
        raise RuntimeError(plain["fault"])
    return plain
