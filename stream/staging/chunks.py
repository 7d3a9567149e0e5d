"""Bodies as restartable streams of bytes, regrouped into parts of equal size.

This code runs in a pool thread, never in the reactor's thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["Chunks", "SentBody", "bytes_chunks", "file_chunks"]

#: Starts the body from its first byte; called once for each upload.
Chunks = Callable[[], Iterator[bytes]]

_READ_BYTES = 1024 * 1024


def bytes_chunks(body: bytes) -> Chunks:
    """Return a small in-memory *body* as a stream."""
    return lambda: iter((body,))


def file_chunks(paths: Sequence[Path]) -> Chunks:
    """Return a stream of the contents of *paths*, joined in the given order."""

    def read() -> Iterator[bytes]:
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while data := file.read(_READ_BYTES):
                    yield data

    return read


class SentBody:
    """Regroups a body into parts of exactly *part_size* bytes, except for the last one.

    It counts and digests the data, so that the sender knows afterwards what was sent.

    :param digested: whether a digest of each part is needed.
    :ivar size: number of bytes so far.
    :ivar digests: MD5 digests of the parts so far, if needed.
    """

    def __init__(
        self,
        chunks: Iterator[bytes],
        part_size: int,
        stopped: Callable[[], bool],
        *,
        digested: bool = True,
    ) -> None:
        self._chunks = chunks
        self._part_size = part_size
        self._stopped = stopped
        self._digested = digested
        self.size = 0
        self.digests: list[bytes] = []

    def parts(self) -> Iterator[bytes]:
        """Iterate over the parts. Raises InterruptedError if the upload was cancelled."""
        pending = bytearray()
        for chunk in self._chunks:
            if self._stopped():
                raise InterruptedError("the upload was cancelled")
            pending += chunk
            while len(pending) >= self._part_size:
                yield self._passed(bytes(pending[: self._part_size]))
                del pending[: self._part_size]
        if pending:
            yield self._passed(bytes(pending))

    def _passed(self, part: bytes) -> bytes:
        self.size += len(part)
        if self._digested:
            self.digests.append(hashlib.md5(part, usedforsecurity=False).digest())
        return part

    def expected_etag(self, *, multipart: bool) -> str:
        """Return the ETag, without quotes, that a store with MD5-based ETags would give."""
        if not multipart:
            return (self.digests[0] if self.digests else hashlib.md5(b"").digest()).hex()
        joined = hashlib.md5(b"".join(self.digests), usedforsecurity=False).hexdigest()
        return f"{joined}-{len(self.digests)}"
