"""The input of a push: a file or the standard input, compressed or not, read in parts."""

from __future__ import annotations

import gzip
import io
import queue
import threading
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from stream.cli.push.records import InputFault
from stream.cli.terminal import input_bytes

__all__ = ["FORMATS", "Input"]

FORMATS = ("ndjson", "json", "csv")

_PART_BYTES = 256 * 1024
_HEAD_BYTES = 64 * 1024
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_QUEUED_PARTS = 8
_ZSTD_BYTES = 8 * 1024
"""Compressed bytes per read; only this limits the size of the decompressed output."""
_SUFFIXES = {
    ".csv": "csv",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".ldjson": "ndjson",
    ".log": "ndjson",
}


class Input:
    """A file or a pipe that records are read from.

    :param name: a path, or ``-``.

    :ivar size: size of the file in bytes; ``None`` if unknown.
    :ivar head: a digest of the beginning of the input, with the length of that beginning; empty for
        a pipe.

    Raises OSError: there is no such file.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.size: int | None = None
        self.head = ""
        if name == "-":
            self._raw: Any = input_bytes()
        else:
            self._raw = Path(name).open("rb")  # noqa: SIM115 - close() closes it
        if not isinstance(self._raw, io.BufferedReader):
            self._raw = io.BufferedReader(self._raw)
        if self._raw.seekable():
            start = self._raw.tell()
            head = self._raw.read(_HEAD_BYTES)
            self.size = self._raw.seek(0, io.SEEK_END) - start
            self._raw.seek(start)
            self.head = _digest(head)
        self._is_pipe = self.size is None
        self._magic: bytes = self._raw.peek(_PART_BYTES)[:_PART_BYTES]

    def close(self) -> None:
        """Close the file."""
        if self.name != "-":
            self._raw.close()

    def has_head(self, head: str) -> bool:
        """Return whether the input begins as described by *head*, even if it has since grown."""
        if not head or self._is_pipe:
            return True
        count = int(head.partition(":")[0])
        place = self._raw.tell()
        found = _digest(self._raw.read(count))
        self._raw.seek(place)
        return found == head

    @property
    def position(self) -> int:
        """The number of bytes read from the file, before decompression."""
        return 0 if self._is_pipe else int(self._raw.tell())

    def format(self) -> str:
        """Return the format, determined by the name of the file or the beginning of the input."""
        name = self.name.lower()
        for suffix in (".gz", ".gzip", ".zst", ".zstd"):
            name = name.removesuffix(suffix)
        found = _SUFFIXES.get(Path(name).suffix)
        begin = self._decoded_begin().removeprefix(b"\xef\xbb\xbf").lstrip()
        if found in (None, "json"):
            # A file named *.json may also contain one document per line.
            return "json" if begin.startswith(b"[") else "ndjson"
        return found

    def parts(self, offset: int = 0, *, ticks: float | None = None) -> Iterator[bytes]:
        """Iterate over the decompressed bytes, without the first *offset* bytes.

        Raises InputFault: the input isn't text, or can't be decompressed.

        :param ticks: seconds without data from a pipe after which an empty part is returned.
        """
        if self._magic.startswith(_GZIP):
            parts = _read(gzip.GzipFile(fileobj=self._raw, mode="rb"))
        elif self._magic.startswith(_ZSTD):
            parts = _zstd_parts(self._raw)
        else:
            if offset and not self._is_pipe:
                self._raw.seek(offset, io.SEEK_CUR)
                offset = 0
            parts = _read(self._raw)
        if self._is_pipe and ticks is not None:
            parts = _with_ticks(parts, ticks)
        return self._checked(parts, offset)

    def _checked(self, parts: Iterator[bytes], offset: int) -> Iterator[bytes]:
        """Return *parts* without the first *offset* bytes; check that they are text."""
        is_first = True
        for part in parts:
            if is_first and part:
                is_first = False
                self._check(part)
            if offset:
                skipped = min(offset, len(part))
                offset -= skipped
                if skipped == len(part):
                    continue
                part = part[skipped:]
            yield part
        if offset:
            raise InputFault("The input is shorter than the part that was already pushed.")

    def _decoded_begin(self) -> bytes:
        """Return some bytes from the beginning of the decompressed input."""
        magic = self._magic
        try:
            if magic.startswith(_GZIP):
                return zlib.decompressobj(31).decompress(magic, 4096)
            if magic.startswith(_ZSTD):
                return next(_zstd_parts(io.BufferedReader(io.BytesIO(magic))), b"")
        except Exception:
            return b""  # the error is reported when the input is read
        return magic

    def _check(self, part: bytes) -> None:
        if part.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputFault("The input is UTF-16: convert it to UTF-8.")
        if b"\0" in part:
            raise InputFault(
                "The input is binary: it must be NDJSON, a JSON array or CSV, uncompressed or "
                "compressed with gzip or zstd."
            )


def _read(stream: Any) -> Iterator[bytes]:
    while True:
        try:
            part = stream.read1(_PART_BYTES)
        except EOFError:
            raise InputFault("The compressed input is truncated.") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputFault(f"The gzip input is damaged: {error}.") from None
        if not part:
            return
        yield part


def _zstd_parts(raw: Any) -> Iterator[bytes]:
    """Decompress the zstd frames of *raw*.

    The library's own reader isn't used, because it accepts a truncated frame.
    """
    try:
        import zstandard
    except ImportError:
        raise InputFault(
            "The input is compressed with zstd, which needs one more library: pip install zstandard"
        ) from None
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    while compressed := raw.read1(_ZSTD_BYTES):
        while compressed:
            frame = frame or decompressor.decompressobj()
            try:
                part = frame.decompress(compressed)
            except zstandard.ZstdError as error:
                raise InputFault(f"The zstd input is damaged: {error}.") from None
            compressed = b""
            if frame.eof:
                compressed, frame = frame.unused_data, None
            if part:
                yield part
    if frame is not None:
        raise InputFault("The compressed input is truncated.")


def _digest(head: bytes) -> str:
    return f"{len(head)}:{blake2b(head, digest_size=16).hexdigest()}"


def _with_ticks(parts: Iterator[bytes], seconds: float) -> Iterator[bytes]:
    """Return *parts*, read by a thread, with an empty part for each *seconds* without data."""
    waiting: queue.Queue[bytes | Exception | None] = queue.Queue(_QUEUED_PARTS)

    def read() -> None:
        try:
            for part in parts:
                waiting.put(part)
            waiting.put(None)
        except Exception as error:
            waiting.put(error)

    threading.Thread(target=read, name="stream-input", daemon=True).start()
    while True:
        try:
            found = waiting.get(timeout=seconds)
        except queue.Empty:
            yield b""
            continue
        if found is None:
            return
        if isinstance(found, Exception):
            raise found
        yield found
