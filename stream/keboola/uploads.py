"""Slices into staging storage: the object, then the manifest that lists it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.encryption.interface import IEncryptor
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdError, Lock, Session
from stream.keboola.events import EventSender
from stream.keboola.provider import load_sink_token
from stream.keboola.records import FileRecord, decode_file, file_record_key
from stream.staging import Chunks, StagingStore, open_store
from stream.storage.entity import Slice
from stream.storage.key import FileKey
from stream.storage.records import read_slices
from stream.storage.state import SliceState
from stream.storage.statistics import Statistics

__all__ = ["SliceUploader", "load_file_record"]

_log = Logger()

_UPLOADED = {SliceState.UPLOADED, SliceState.IMPORTED}


async def load_file_record(client: EtcdClient, file: FileKey) -> FileRecord:
    """Raises UserError 404 if the file has no record."""
    stored = await client.get(file_record_key(file))
    if stored is None:
        raise UserError(
            f'keboola file "{file}" not found in the database',
            status=404,
            name="keboolaFileNotFound",
        )
    return decode_file(stored.value)


class SliceUploader:
    """:param pool: a started pool; its size bounds the uploads that run at once.
    :param lock_timeout: seconds to wait for another upload of the same file to list its slice.
    """

    def __init__(
        self,
        client: EtcdClient,
        session: Session,
        encryptor: IEncryptor,
        events: EventSender,
        pool: ThreadPool,
        reactor: Any,
        *,
        lock_timeout: float,
    ) -> None:
        self._client = client
        self._session = session
        self._encryptor = encryptor
        self._events = events
        self._pool = pool
        self._reactor = reactor
        self._lock_timeout = lock_timeout

    async def upload(self, slice_: Slice, chunks: Chunks) -> StagingStore:
        """Store the slice's object; the same object again if it is repeated.

        Raises `StagingError`, which says whether a repetition can help.
        """
        record = await load_file_record(self._client, slice_.key.file_key)
        upload = await record.unseal(self._encryptor)
        store = open_store(
            upload, file_key=str(slice_.key.file_key), reactor=self._reactor, pool=self._pool
        )
        await store.put(slice_.staging.path, chunks)
        return store

    @asynccontextmanager
    async def listed(self, store: StagingStore, slice_: Slice) -> AsyncIterator[Lock]:
        """Write the manifest with this slice in it; the caller marks the slice as uploaded inside.

        The lock lasts until then, or two uploads of a file would leave each other out. So the
        transaction that marks the slice should require the lock that this yields.
        """
        name = f"upload.bridge.keboola.manifest.{slice_.key.file_key}"
        lock = await self._session.lock(name, timeout=self._lock_timeout)
        async with lock:
            others = await read_slices(self._client, slice_.key.file_key)
            names = [
                other.staging.path
                for other in others
                if other.state in _UPLOADED and not other.local.is_empty
            ]
            await store.put_manifest(sorted({*names, slice_.staging.path}))
            yield lock

    async def report(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Send the event about an upload that was tried; problems are only logged."""
        try:
            token = await load_sink_token(self._client, self._encryptor, slice_.key.sink_key)
        except (UserError, EtcdError) as problem:
            _log.warn("cannot send an event: {error}", error=problem)
            return
        self._events.send(
            token,
            "sliceUpload",
            "Slice upload",
            slice_.key.sink_key,
            seconds=seconds,
            error=error,
            statistics=statistics,
        )
