"""Uploads slices to staging storage: first the object, then the manifest that lists it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.encryption.interface import Encryptor
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, EtcdError, Lock, Session
from stream.staging import Chunks, StagingStore, open_store
from stream.storage.model.entity import Slice
from stream.storage.model.state import SliceState
from stream.storage.model.statistics import Statistics
from stream.storage.store.records import read_slices
from stream.target.keboola.events import EventSender
from stream.target.keboola.provider import load_file_record, load_sink_token
from stream.target.keboola.records import decode_file, file_record_key
from stream.target.protocol import StagingReplaced

__all__ = ["SliceUploader"]

_log = Logger()

_UPLOADED = {SliceState.UPLOADED, SliceState.IMPORTED}


class SliceUploader:
    """Uploads slices to Keboola's staging storage.

    :param pool: a started thread pool, whose size limits the number of concurrent uploads.
    :param lock_timeout: maximum seconds to wait while another upload of the same file lists its
        slice.
    """

    def __init__(
        self,
        client: EtcdClient,
        session: Session,
        encryptor: Encryptor,
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
        """Store the slice's object; repeated calls store the same object.

        Raises StagingError: says whether a retry can help.
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
        """Write the manifest, which now includes this slice.

        The caller marks the slice as uploaded in the context.

        The lock is held until then; otherwise each of two concurrent uploads of a file could write
        a manifest without the other's slice. So the transaction that marks the slice should require
        the yielded lock.
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

    async def check_current(self, txn: AtomicTxn, store: StagingStore, slice_: Slice) -> None:
        """Check that the file of the slice is imported from *store*. Raises `StagingReplaced`.

        Runs in the transaction that marks the slice as uploaded, so that a slice in replaced
        storage isn't marked.
        """
        stored = await txn.get(file_record_key(slice_.key.file_key))
        if stored is None or decode_file(stored.value).file_id != store.upload.id:
            raise StagingReplaced(
                f"the file {slice_.key.file_key} now has different staging storage"
            )

    async def report(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Send the event about an attempted upload; failures are only logged."""
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
