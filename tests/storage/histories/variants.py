"""Deliberate faults, each of which the random histories must detect."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from stream.definition.change.files import SinkFiles
from stream.definition.entity import Sink, Source
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, Lock, atomic
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState
from stream.storage.store import records
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.repository import StorageRepository

__all__ = ["VARIANTS", "Variant"]

_REPOSITORY = "stream.storage.store.repository"


@attrs.frozen
class Variant:
    """A deliberate fault.

    :ivar patches: the replaced attributes.
    :ivar symptom: a part of the reported violation.
    """

    patches: dict[str, Any]
    symptom: str


async def _leave_open(self: SinkFiles[PreparedFile], change: Change, sink: Sink) -> None:
    await self._remote.deactivated(change, sink, token=self._token)


async def _only_open(
    self: SinkFiles[PreparedFile], change: Change, source: Source, sink: Sink
) -> None:
    await self._open(change, source, sink)


async def _not_moved(*_: object) -> None:
    return


_to_imported = StorageRepository.file_to_imported


async def _file_first(
    self: StorageRepository,
    client: EtcdClient,
    key: FileKey,
    now: datetime,
    lock: Lock | None = None,
) -> File:
    async def import_file(txn: AtomicTxn) -> File:
        file = await records.load_file(txn, key)
        new = file.advance(FileState.IMPORTING, FileState.IMPORTED, now)
        records.save_file(txn, file, new)
        return new

    await atomic(client, import_file, lock=lock)
    return await _to_imported(self, client, key, now, lock)


def _no_guards(self: AtomicTxn) -> list[Any]:
    return []


VARIANTS = {
    "imports before every slice is uploaded": Variant(
        {f"{_REPOSITORY}.check_combination": lambda file, slice_: None}, "unexpected combination"
    ),
    "closes a file and leaves its slices open": Variant(
        {f"{_REPOSITORY}.StorageRepository._close_slice": lambda self, txn, slice_, now: None},
        "slice",
    ),
    "leaves the file of a disabled sink open": Variant(
        {"stream.definition.change.files.SinkFiles.sink_deactivated": _leave_open}, "open files"
    ),
    "opens a second file for a changed sink": Variant(
        {"stream.definition.change.files.SinkFiles.sink_modified": _only_open}, "2 open files"
    ),
    "opens a second file for an enabled sink": Variant(
        {
            "stream.definition.change.files.SinkFiles.sink_deactivated": _leave_open,
            "stream.definition.change.files.SinkFiles.sink_activated": _only_open,
        },
        "open files",
    ),
    "forgets the statistics of what moves on": Variant(
        {"stream.storage.store.records.move_statistics": _not_moved}, "counted at"
    ),
    "marks the file before its slices": Variant(
        {f"{_REPOSITORY}.StorageRepository.file_to_imported": _file_first},
        "unexpected combination",
    ),
    "writes whatever others have written meanwhile": Variant(
        {"stream.etcd.atomic.AtomicTxn._guards": _no_guards}, ""
    ),
}
