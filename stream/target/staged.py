"""Staging storage for targets that bring none of their own: a folder that all nodes reach."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from isal import isal_zlib
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.errors import UserError
from stream.staging import Chunks, FileUpload, StagingError, StagingStore, open_store
from stream.storage.model.entity import Slice, directory_name
from stream.storage.model.key import FileKey

__all__ = ["MAX_PIECE_BYTES", "FolderStaging", "decompressed"]

_log = Logger()

MAX_PIECE_BYTES = 256 * 1024
"""The most that `decompressed` gives at once: a few bytes of gzip may hold a thousand times as
many."""

_INPUT_BYTES = 64 * 1024
_GZIP_CONTAINER = 31
_Damaged = cast("type[Exception]", isal_zlib.IsalError)


class FolderStaging:
    """Objects below one folder, one directory for each file.

    :param url: ``file:///…``. Raises UserError if it isn't.
    :param pool: a started pool, when it is used.
    """

    def __init__(self, url: str, reactor: Any, pool: ThreadPool) -> None:
        parts = urlsplit(url)
        self._root = Path(unquote(parts.path))
        if parts.scheme != "file" or parts.netloc or not self._root.is_absolute():
            raise UserError(
                '"target.staging.url" (STREAM_TARGET_STAGING_URL) must be the URL of a folder, '
                "like file:///var/lib/stream/staging; targets of connections need it"
            )
        self._reactor = reactor
        self._pool = pool

    async def put(self, slice_: Slice, chunks: Chunks) -> None:
        """Store the rows of *slice_*, whole and durable. Raises StagingError."""
        store = self._store(slice_.key.file_key)

        def make_root() -> None:
            try:
                self._root.mkdir(exist_ok=True)
            except OSError as error:
                raise StagingError(
                    f'cannot make the staging folder "{self._root}": {error.strerror}'
                ) from error

        await deferToThreadPool(self._reactor, self._pool, make_root)
        await store.put(slice_.staging.path, chunks)

    def read(self, slice_: Slice) -> Iterator[bytes]:
        """The rows of *slice_* as they were stored; blocks. Raises StagingError."""
        return self._store(slice_.key.file_key).read(slice_.staging.path)

    async def remove(self, file: FileKey) -> None:
        """Remove all objects of *file*; nothing, if there are none. Raises StagingError."""
        folder = self._root / directory_name(str(file))

        def remove() -> None:
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                return
            except OSError as error:
                raise StagingError(
                    f'cannot remove staged slices in "{folder}": {error.strerror}'
                ) from error

        await deferToThreadPool(self._reactor, self._pool, remove)

    def _store(self, file: FileKey) -> StagingStore:
        place = {"directory": str(self._root), "key": f"{directory_name(str(file))}/"}
        upload = FileUpload(0, str(file), "local", "", place)
        return open_store(upload, file_key=str(file), reactor=self._reactor, pool=self._pool)


def decompressed(chunks: Iterable[bytes], compression: str) -> Iterator[bytes]:
    """What *chunks* of a staged object hold, in pieces of at most `MAX_PIECE_BYTES`.

    :param compression: ``none`` or ``gzip``, of any number of members.

    Raises StagingError if the object is damaged.
    """
    if compression == "none":
        for chunk in chunks:
            yield from _pieces(chunk, MAX_PIECE_BYTES)
        return
    member = isal_zlib.decompressobj(_GZIP_CONTAINER)
    is_begun = False
    try:
        for chunk in chunks:
            # What is behind a piece is copied with it, so the input comes in small parts.
            for part in _pieces(chunk, _INPUT_BYTES):
                rest = part
                while True:
                    is_begun = is_begun or bool(rest)
                    data = member.decompress(rest, MAX_PIECE_BYTES)
                    if data:
                        yield data
                    if member.eof:
                        rest = member.unused_data
                        member, is_begun = isal_zlib.decompressobj(_GZIP_CONTAINER), False
                        if not rest:
                            break
                        continue
                    rest = member.unconsumed_tail
                    if not rest and len(data) < MAX_PIECE_BYTES:
                        break
    except _Damaged as error:
        raise StagingError(f"a staged slice is damaged: {error}", retryable=False) from error
    if is_begun:
        raise StagingError("a staged slice is damaged: its end is missing", retryable=False)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    if len(data) <= size:
        yield data
        return
    for start in range(0, len(data), size):
        yield data[start : start + size]
