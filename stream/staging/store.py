"""The interface of staging stores, which make verified uploads in a pool thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, BinaryIO, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from stream.ops.clock import wall_clock
from stream.staging.chunks import Chunks, bytes_chunks
from stream.staging.errors import CredentialsExpired, StagingError
from stream.staging.location import MANIFEST_NAME, Location, manifest_body
from stream.staging.upload import FileUpload
from stream.values.utctime import from_timestamp

__all__ = ["Backend", "StagingStore", "StoredObject"]


@attrs.frozen
class StoredObject:
    """An object that is durably stored.

    :param url: URL of the object, as a manifest lists it.
    :param size: size of the object in bytes.
    :param etag: ETag from the store, without quotes; ``""`` if the store gives none.
    :param verified: whether the store itself confirmed size or digest; ``False`` if the credentials
        allow writing but not reading.
    """

    url: str
    size: int
    etag: str
    verified: bool


class Backend(Protocol):
    """The interface of a provider's backend, which runs in a pool thread and may block."""

    def put(self, key: str, chunks: Chunks, stopped: Callable[[], bool]) -> StoredObject:
        """Store the whole body under *key*, or nothing; the result's URL is empty."""

    def get(self, key: str) -> Iterator[bytes]:
        """Return the body of the object *key*. Raises StagingError, possibly while reading."""


class StagingStore:
    """The objects of one staging file, with the checks that all backends share.

    :param upload: the prepared file.
    :param file_key: key of the file, for messages.
    :param location: location of the objects.
    :param backend: backend that stores the objects.
    :param reactor: source of the time.
    :param pool: thread pool that runs the uploads; its size limits concurrent uploads.
    """

    def __init__(
        self,
        upload: FileUpload,
        file_key: str,
        location: Location,
        backend: Backend,
        reactor: Any,
        pool: ThreadPool,
    ) -> None:
        self.upload = upload
        self._file_key = file_key
        self._location = location
        self._backend = backend
        self._reactor = reactor
        self._pool = pool

    def put(self, name: str, chunks: Chunks) -> Deferred[StoredObject]:
        """Store the object *name*, replacing an older one.

        A partial object is never visible. Cancellation stops the upload at its next chunk; the
        thread may continue for a moment.

        Raises CredentialsExpired, before any byte is read. Raises StagingError: the object could
        not be stored.
        """
        return Deferred.fromCoroutine(self._put(name, chunks))

    def put_manifest(self, slice_names: Iterable[str]) -> Deferred[StoredObject]:
        """Replace the manifest by one that lists *slice_names* in the given order."""
        return self.put(MANIFEST_NAME, bytes_chunks(manifest_body(self.upload, slice_names)))

    def read(self, name: str) -> Iterator[bytes]:
        """Return the body of the object *name*; blocks.

        Raises StagingError immediately or while the body is read.
        """
        return self._backend.get(self._location.key(name))

    async def fetch(self, name: str, target: BinaryIO) -> None:
        """Copy the object *name* to *target*. Raises StagingError if it can't be read."""

        def copy() -> None:
            for chunk in self._backend.get(self._location.key(name)):
                target.write(chunk)

        await deferToThreadPool(self._reactor, self._pool, copy)

    async def _put(self, name: str, chunks: Chunks) -> StoredObject:
        key, url = self._location.key(name), self._location.url(name)
        self._require_live(self._now())
        given_up = threading.Event()
        running = deferToThreadPool(
            self._reactor, self._pool, self._backend.put, key, chunks, given_up.is_set
        )
        try:
            stored = await running
        except StagingError:
            # If the credentials expired during the upload, report that and not the store's error.
            self._require_live(self._now())
            raise
        finally:
            given_up.set()
        return attrs.evolve(stored, url=url)

    def _now(self) -> datetime:
        return from_timestamp(wall_clock(self._reactor)())

    def _require_live(self, now: datetime) -> None:
        expiration = self.upload.expiration
        if expiration is not None and self.upload.expired(now):
            raise CredentialsExpired(self._file_key, expiration)
