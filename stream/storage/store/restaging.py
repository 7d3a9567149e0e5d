"""Replacement of the staging storage of a closing file whose credentials have expired.

Note [Restaging]: an import accepts only one staging file, so slices that are already uploaded are
reset as well. They can be uploaded again, because the files of a slice remain on their volume until
its records are deleted. First the slices are reset, as many in each transaction as etcd accepts.
Then the file gets its new staging storage, unless another slice was uploaded to the old one in
between. After a crash, the next attempt repeats the work. A concurrent upload is recorded only if
the file still uses the staging storage that it went to; see `stream.target.protocol.Staged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

import attrs

from stream.etcd import AtomicTxn, EtcdClient, Lock, atomic
from stream.storage.model.entity import Slice
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.retry import NO_RETRY
from stream.storage.model.state import (
    FileState,
    InvalidFileState,
    InvalidSliceState,
    Level,
    SliceState,
)
from stream.storage.store import records
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.repository import SLICES_PER_TRANSACTION

__all__ = ["replace_staging"]


async def replace_staging(
    client: EtcdClient, key: FileKey, prepared: PreparedFile, now: datetime, lock: Lock
) -> int:
    """Reset all slices of the closing file *key* so that they are uploaded to *prepared*.

    :returns: the number of slices that were already uploaded.

    Raises InvalidFileState: the file isn't closing. Raises InvalidSliceState: a slice was uploaded
    while this function ran.
    """
    slices = await records.read_slices(client, key)
    uploaded = [slice_.key for slice_ in slices if _has_moved(slice_)]
    for start in range(0, len(uploaded), SLICES_PER_TRANSACTION):
        part = uploaded[start : start + SLICES_PER_TRANSACTION]
        await atomic(client, partial(_send_back, key=key, slices=part, now=now), lock=lock)
    await atomic(client, partial(_replace, key=key, prepared=prepared), lock=lock)
    for slice_ in await records.read_slices(client, key):
        if slice_.state is SliceState.UPLOADING and slice_.retry != NO_RETRY:
            await atomic(client, partial(records.forget_failures, key=slice_.key))
    return len(uploaded)


def _has_moved(slice_: Slice) -> bool:
    """Return whether rows of the slice are in staging storage."""
    return slice_.state is SliceState.UPLOADED and not slice_.local.is_empty


async def _send_back(
    txn: AtomicTxn, key: FileKey, slices: Sequence[SliceKey], now: datetime
) -> None:
    file = await records.load_file(txn, key)
    for slice_key in slices:
        slice_ = await records.load_slice(txn, slice_key)
        records.save_slice(txn, slice_, slice_.upload_again(file.state, now))
        await records.move_statistics(txn, slice_key, Level.STAGING, Level.LOCAL)


async def _replace(txn: AtomicTxn, key: FileKey, prepared: PreparedFile) -> None:
    file = await records.load_file(txn, key)
    if file.state is not FileState.CLOSING:
        raise InvalidFileState(f'file "{key}" is in "{file.state.value}" state')
    for slice_ in await records.load_slices(txn, key):
        if _has_moved(slice_):
            raise InvalidSliceState(f'slice "{slice_.key}" has since been uploaded')
    staging = attrs.evolve(file.staging, expiration=prepared.expiration)
    records.save_file(txn, file, attrs.evolve(file, staging=staging, retry=NO_RETRY))
    for record_key, value in prepared.records:
        txn.put(record_key, value)
