"""What goes over the pipes between a node and a process that writes to a lake. Pure.

A job is a line of JSON on the process's input, its answer a line on its output. The rows of a job's
slices come over a pipe of their own: blocks behind their length, an empty one behind each slice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from stream.errors import UserError

__all__ = ["INPUT", "MAX_LINE", "OUTPUT", "ROWS", "answer_of", "failure", "framed", "slices_of"]

INPUT, OUTPUT, ROWS = 0, 1, 3
"""Descriptors of the process."""

MAX_LINE = 4 * 1024 * 1024
"""Bytes of a job or of its answer."""

_LENGTH = struct.Struct("<I")
_END = _LENGTH.pack(0)
_BLOCK_BYTES = 256 * 1024


def framed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of one slice as they go over the pipe.

    They don't depend on how the slice is cut into *chunks*, which the network decides: where
    blocks end decides which rows come into one row group, and so about the bytes of objects.
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
    """The blocks of each of *count* slices; each is to be read to its end before the next.

    :param read: from the pipe, so many bytes; fewer only at its end.

    Raises EOFError if the pipe ends before the slices do.
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


def failure(error: UserError | str) -> bytes:
    """The answer of a job that failed: what a user may see, or what only the log says."""
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
    """What a job gave. Raises UserError, or RuntimeError for a fault of ours."""
    plain: dict[str, Any] = json.loads(line)
    if "error" in plain:
        shown = plain["error"]
        raise UserError(shown.pop("message"), **shown)
    if "fault" in plain:
        raise RuntimeError(plain["fault"])
    return plain
