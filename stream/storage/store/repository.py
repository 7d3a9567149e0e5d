"""The changes of files and slices; each is part of a single transaction.

The methods run inside the body of an atomic operation. They read what they need, check that the
step is allowed, and write both copies of each record and the related statistics. Callers pass the
time and the remote resources that they have prepared.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import attrs
from twisted.logger import Logger

from stream.definition.entity import Sink, Source
from stream.definition.key import SinkKey
from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.definition.stored import read_stored
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, EtcdError, Lock, atomic
from stream.settings import QuarantineSettings, StorageLevel
from stream.settings.overrides import QUARANTINE, merge
from stream.storage.model import prefix
from stream.storage.model.assignment import assign_volumes
from stream.storage.model.encoding import Encoding
from stream.storage.model.entity import (
    Allocation,
    Assignment,
    AssignmentConfig,
    File,
    FileStaging,
    FileTarget,
    ImportConfig,
    LocalFile,
    QuarantineLimits,
    Slice,
    UploadConfig,
    directory_name,
)
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import FileState, Level, SliceState, check_combination
from stream.storage.model.statistics import Statistics, total
from stream.storage.model.volume import Volume
from stream.storage.store import records
from stream.storage.store.allocation import allocated_space
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.volume_limit import VolumeLimit
from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode, from_plain, to_plain
from stream.values.utctime import to_nanoseconds

__all__ = ["NO_VOLUME", "StorageRepository"]

_log = Logger()

SLICES_PER_TRANSACTION = 20
"""Maximum number of slices in one transaction. Each takes up to five operations or conditions; etcd
accepts 128 by default.
"""

NO_VOLUME = "replay"
"""The volume ID of a slice that is on no volume; real IDs are longer."""

MAX_SLICES = 240
"""Maximum number of slices of a file.

A file is rotated long before it has so many, unless rotation fails for hours.
"""


class StorageRepository:
    """The changes of files and slices, each in one transaction.

    :param settings: settings of the service, which sources and sinks may override.
    :param volumes: the currently registered volumes.
    :param largest_slice: returns the bytes of the largest recent slice of a sink, on which the size
        that new slices reserve is based. Without it, they reserve the fixed size from the settings.
    :param quarantine: the service's settings for rejected records; without them, none are kept.
    :param volume_limit: limit of volumes per sink; without it, only the limit in the settings
        applies.
    """

    def __init__(
        self,
        settings: StorageLevel,
        volumes: Callable[[], Sequence[Volume]],
        largest_slice: Callable[[SinkKey], Awaitable[ByteSize]] | None = None,
        quarantine: QuarantineSettings | None = None,
        volume_limit: VolumeLimit | None = None,
    ) -> None:
        self._settings = settings
        self._volume_limit = volume_limit
        self._quarantine = quarantine or QuarantineSettings(enabled=False)
        self._volumes = volumes
        self._largest_slice = largest_slice

    # Opening.

    async def open_file(
        self,
        txn: AtomicTxn,
        source: Source,
        sink: Sink,
        prepared: PreparedFile,
    ) -> File:
        """Open a file in state ``writing``, with a slice on each assigned volume.

        Raises UserError: no volume is registered, or the key is taken.
        """
        file = await self._within_limit(self._new_file(source, sink, prepared))
        # The file is prepared before the transaction that creates the sink.
        is_first = sink.created.at >= file.key.file_opened_at
        space = await self._space(file, is_first=is_first)
        slices = [
            Slice.opened(file, volume_id, file.key.file_opened_at, space)
            for volume_id in file.local.assignment.volumes
        ]
        await txn.expect_absent(records.keys_of_new(file, slices))
        await records.create_file(txn, file)
        for key, value in prepared.records:
            txn.put(key, value)
        for slice_ in slices:
            await records.create_slice(txn, slice_)
        return file

    async def open_uploading(
        self, txn: AtomicTxn, source: Source, sink: Sink, prepared: PreparedFile
    ) -> Slice | None:
        """Open a file in state ``closing``, with one slice in state ``uploading`` but on no volume.

        No source node writes to it, and no reader uploads it. The caller uploads it, and continues
        with `slice_to_uploaded` or `drop_uploading`.

        :returns: the slice. ``None`` if the sink was changed or isn't enabled; then nothing is
            written.
        """
        if not await _unchanged(txn, source, sink):
            return None
        now = prepared.key.file_opened_at
        file = attrs.evolve(
            self._new_file(source, sink, prepared, ()), state=FileState.CLOSING, closing_at=now
        )
        await records.create_file(txn, file)
        for key, value in prepared.records:
            txn.put(key, value)
        slice_ = attrs.evolve(
            Slice.opened(file, NO_VOLUME, now, ByteSize(0)),
            state=SliceState.UPLOADING,
            closing_at=now,
            uploading_at=now,
        )
        await records.create_slice(txn, slice_)
        return slice_

    async def drop_uploading(
        self, txn: AtomicTxn, key: FileKey, also: Callable[[File], Sequence[str]]
    ) -> File | None:
        """Delete a file that `open_uploading` created and whose slice isn't uploaded.

        :param also: further keys to delete with the file.
        :returns: the file. ``None`` if it no longer exists or its slice is uploaded; then nothing
            is deleted.
        """
        stored = await txn.get(f"{prefix.FILE_ALL}{key}")
        if stored is None:
            return None
        file = decode(File, stored.value)
        slices = await records.load_slices(txn, key)
        if file.state is not FileState.CLOSING or any(
            slice_.state is not SliceState.UPLOADING or slice_.key.volume_id != NO_VOLUME
            for slice_ in slices
        ):
            return None
        records.delete_slice_records(txn, slices)
        records.delete_file_records(txn, file)
        txn.delete_prefix(f"{prefix.statistics(Level.LOCAL)}{key}/")
        for other in also(file):
            txn.delete(other)
        return file

    async def _within_limit(self, file: File) -> File:
        """Return *file* with only as many of its first volumes as the limit allows."""
        assignment = file.local.assignment
        if self._volume_limit is None:
            return file
        most = await self._volume_limit.of(len(assignment.volumes))
        fewer = attrs.evolve(assignment, volumes=assignment.volumes[:most])
        return attrs.evolve(file, local=attrs.evolve(file.local, assignment=fewer))

    async def _space(self, file: File, *, is_first: bool = False) -> ByteSize:
        """Return the bytes that a new slice of the file reserves; a failed estimate is ignored.

        :param is_first: whether the sink is new and therefore has no slices yet.
        """
        largest = ByteSize(0)
        if self._largest_slice is not None and file.local.allocation.enabled and not is_first:
            try:
                largest = await self._largest_slice(file.key.sink_key)
            except EtcdError as error:
                _log.warn("cannot calculate slice pre-allocated size: {error}", error=error)
        return allocated_space(file.local.allocation, largest)

    def _assigned(self, source: Source, sink: Sink, prepared: PreparedFile) -> tuple[str, ...]:
        """Return the volumes of a new file. Raises UserError if there are none."""
        level = merge(self._settings, *_overrides(source, sink))
        config = from_plain(AssignmentConfig, to_plain(level.local.volume.assignment))
        opened_at = to_nanoseconds(prepared.key.file_opened_at)
        volumes = assign_volumes(self._volumes(), config, opened_at)
        if not volumes:
            raise UserError(
                "no volume is available for the file", status=503, name="noVolumeAvailable"
            )
        return volumes

    def _new_file(
        self,
        source: Source,
        sink: Sink,
        prepared: PreparedFile,
        volumes: tuple[str, ...] | None = None,
    ) -> File:
        """Return a new file.

        :param volumes: volumes of the file; ``None`` to assign them.
        """
        if volumes is None:
            volumes = self._assigned(source, sink, prepared)
        overrides = _overrides(source, sink)
        level = merge(self._settings, *overrides)
        quarantine = merge(self._quarantine, *overrides, below=QUARANTINE)
        config = from_plain(AssignmentConfig, to_plain(level.local.volume.assignment))
        encoding = Encoding.of(level.local.encoding)
        return File(
            key=prepared.key,
            state=FileState.WRITING,
            mapping=sink.table.mapping,
            encoding=encoding,
            local=LocalFile(
                dir=directory_name(str(prepared.key)),
                assignment=Assignment(config, volumes),
                allocation=from_plain(Allocation, to_plain(level.local.writer.allocation)),
            ),
            staging=FileStaging(
                provider=prepared.provider,
                compression=encoding.compression.in_staging,
                expiration=prepared.expiration,
                upload=from_plain(UploadConfig, to_plain(level.staging.upload)),
            ),
            target=FileTarget(
                provider=prepared.provider,
                import_=from_plain(ImportConfig, to_plain(level.target.import_)),
            ),
            quarantine=(
                QuarantineLimits(quarantine.max_size, quarantine.max_age)
                if quarantine.enabled
                else None
            ),
            quota=self._quota(level.local.quota),
        )

    def _quota(self, wanted: ByteSize) -> ByteSize:
        """Return the buffer quota of a sink, limited by the service's quota."""
        limit = self._settings.local.quota
        return min(wanted or limit, limit) if limit else wanted

    # Closing and rotating.

    def reads(self, sink: SinkKey) -> Sequence[str]:
        """Return the prefixes that `close_files` reads."""
        return (records.local_files_of(sink),)

    async def mappings_in_use(self, txn: AtomicTxn, sink: SinkKey) -> set[str]:
        """Return the hashes of the mappings to which files of the sink refer.

        A slice has the mapping of its file, which is deleted later than the slice.
        """
        kvs = await txn.range(f"{prefix.FILE_ALL}{sink}/", track_deletes=False)
        return {read_stored(File, kv).mapping.hash for kv in kvs}

    async def close_files(self, txn: AtomicTxn, sink: SinkKey, now: datetime) -> list[File]:
        """Move every file of the sink in state ``writing`` to ``closing``, with its slices."""
        files = [
            file for file in await records.local_files(txn, sink) if file.state is FileState.WRITING
        ]
        if len(files) > 1:
            _log.error(
                'unexpected state, found {count} opened files in the sink "{sink}"',
                count=len(files),
                sink=str(sink),
            )
        return [await self._close_file(txn, file, now) for file in files]

    async def close_left_behind(self, txn: AtomicTxn, key: FileKey, now: datetime) -> bool:
        """Close the file *key* without opening a new one if a newer file of the sink is open.

        Such a file results from an incomplete rotation of another service; rotations of this
        service are atomic.

        :returns: whether it was closed.
        """
        open_files = [
            file
            for file in await records.local_files(txn, key.sink_key)
            if file.state is FileState.WRITING
        ]
        left = next((file for file in open_files if file.key == key), None)
        if left is None or all(file.key <= key for file in open_files):
            return False
        await self._close_file(txn, left, now)
        return True

    async def _close_file(self, txn: AtomicTxn, file: File, now: datetime) -> File:
        closed = file.advance(FileState.WRITING, FileState.CLOSING, now)
        records.save_file(txn, file, closed)
        for slice_ in await records.local_slices(txn, file.key):
            if slice_.state is SliceState.WRITING:
                self._close_slice(txn, slice_, now)
        return closed

    def _close_slice(self, txn: AtomicTxn, slice_: Slice, now: datetime) -> None:
        closed = slice_.advance(SliceState.WRITING, SliceState.CLOSING, now)
        records.save_slice(txn, slice_, closed)

    async def rotate_file(
        self, txn: AtomicTxn, key: FileKey, prepared: PreparedFile, source: Source, sink: Sink
    ) -> File | None:
        """Open a new file and close *key*; return ``None`` and change nothing if *key* isn't open.

        The definitions are guarded by the transaction: a sink that was disabled or deleted gets no
        new file.
        """
        if not await _unchanged(txn, source, sink):
            return None
        file = await records.load_file(txn, key)
        if file.state is not FileState.WRITING:
            return None
        opened = await self.open_file(txn, source, sink, prepared)
        await self._close_file(txn, file, prepared.key.file_opened_at)
        return opened

    async def rotate_slice(self, txn: AtomicTxn, key: SliceKey, now: datetime) -> Slice | None:
        """Open a new slice on the same volume and close *key*.

        Returns ``None`` and changes nothing if the slice or its file isn't open, or if the file
        already has as many slices as one import accepts. In that case the open slices grow until
        the file is rotated.
        """
        slice_ = await records.load_slice(txn, key)
        file = await records.load_file(txn, key.file_key)
        if slice_.state is not SliceState.WRITING or file.state is not FileState.WRITING:
            return None
        if await records.count_slices(txn, file.key) >= MAX_SLICES:
            _log.error("cannot add more slices to the file {file_id}", file_id=str(file.key))
            return None
        opened = Slice.opened(file, key.volume_id, now, await self._space(file))
        await records.create_slice(txn, opened)
        self._close_slice(txn, slice_, now)
        return opened

    # Upload and import.

    async def slice_to_uploading(
        self, txn: AtomicTxn, key: SliceKey, is_empty: bool, now: datetime
    ) -> Slice:
        """Move a slice from ``closing`` to ``uploading``.

        Raises InvalidSliceState: the slice isn't closing.
        """
        slice_ = await records.load_slice(txn, key)
        new = slice_.advance(SliceState.CLOSING, SliceState.UPLOADING, now)
        new = attrs.evolve(new, local=attrs.evolve(new.local, is_empty=is_empty))
        file = await records.load_file(txn, key.file_key)
        check_combination(file.state, new.state)
        records.save_slice(txn, slice_, new)
        return new

    async def slice_to_uploaded(
        self,
        txn: AtomicTxn,
        key: SliceKey,
        now: datetime,
        *,
        is_empty: bool | None = None,
        counted: Statistics | None = None,
    ) -> Slice:
        """Move a slice from ``uploading`` to ``uploaded``, and its statistics to level staging.

        Raises InvalidSliceState: the slice isn't uploading.

        :param is_empty: whether the reader found no rows; replaces the recorded value.
        :param counted: the reader's counts; they replace the recorded ones.
        """
        slice_ = await records.load_slice(txn, key)
        new = slice_.advance(SliceState.UPLOADING, SliceState.UPLOADED, now)
        if is_empty is not None:
            new = attrs.evolve(new, local=attrs.evolve(new.local, is_empty=is_empty))
        file = await records.load_file(txn, key.file_key)
        check_combination(file.state, new.state)
        records.save_slice(txn, slice_, new)
        await records.move_statistics(txn, key, Level.LOCAL, Level.STAGING, counted)
        return new

    async def file_to_importing(
        self, txn: AtomicTxn, key: FileKey, is_empty: bool, now: datetime
    ) -> File:
        """Move a file from ``closing`` to ``importing``, once every slice is uploaded.

        Raises InvalidFileState: the file isn't closing. Raises UserError: a slice isn't uploaded.

        :param is_empty: whether the statistics contain no records. They may be older than the
            upload of a slice, for example by a replay, so a file with a non-empty slice isn't empty
            in any case.
        """
        file = await records.load_file(txn, key)
        new = file.advance(FileState.CLOSING, FileState.IMPORTING, now)
        slices = await records.load_slices(txn, key)
        for slice_ in slices:
            check_combination(new.state, slice_.state)
        is_empty = is_empty and all(slice_.local.is_empty for slice_ in slices)
        new = attrs.evolve(new, staging=attrs.evolve(new.staging, is_empty=is_empty))
        records.save_file(txn, file, new)
        return new

    async def file_to_imported(
        self, client: EtcdClient, key: FileKey, now: datetime, lock: Lock | None = None
    ) -> File:
        """Move the slices of a file with their statistics, then the file, to ``imported``.

        The slices are changed in several transactions. After a crash, the next call finishes the
        step. Until then the file remains ``importing``, although its import is known to have
        succeeded.

        Raises InvalidFileState: the file isn't importing.
        """
        slices = await records.read_slices(client, key)
        keys = [slice_.key for slice_ in slices if slice_.state is not SliceState.IMPORTED]
        for start in range(0, len(keys), SLICES_PER_TRANSACTION):
            part = keys[start : start + SLICES_PER_TRANSACTION]

            async def import_some(txn: AtomicTxn, part: Sequence[SliceKey] = part) -> None:
                await self._import_slices(txn, key, part, now)

            await atomic(client, import_some, lock=lock)

        async def import_file(txn: AtomicTxn) -> File:
            file = await records.load_file(txn, key)
            new = file.advance(FileState.IMPORTING, FileState.IMPORTED, now)
            for slice_ in await records.load_slices(txn, key):
                check_combination(new.state, slice_.state)
            records.save_file(txn, file, new)
            return new

        return await atomic(client, import_file, lock=lock)

    @staticmethod
    async def _import_slices(
        txn: AtomicTxn, file_key: FileKey, keys: Sequence[SliceKey], now: datetime
    ) -> None:
        file = await records.load_file(txn, file_key)
        file.advance(FileState.IMPORTING, FileState.IMPORTED, now)
        for key in keys:
            slice_ = await records.load_slice(txn, key)
            imported = slice_.advance(SliceState.UPLOADED, SliceState.IMPORTED, now)
            records.save_slice(txn, slice_, imported)
            await records.move_statistics(txn, key, Level.STAGING, Level.TARGET)

    # Failures.

    async def file_failed(
        self,
        txn: AtomicTxn,
        key: FileKey,
        reason: str,
        now: datetime,
        delay: timedelta | None = None,
    ) -> None:
        """Record a failed attempt; see `stream.storage.model.retry`."""
        file = await records.load_file(txn, key)
        records.save_file(
            txn, file, attrs.evolve(file, retry=file.retry.failed(now, reason, delay=delay))
        )

    async def slice_failed(
        self,
        txn: AtomicTxn,
        key: SliceKey,
        reason: str,
        now: datetime,
        delay: timedelta | None = None,
    ) -> None:
        """Record a failed attempt; see `stream.storage.model.retry`."""
        slice_ = await records.load_slice(txn, key)
        records.save_slice(
            txn, slice_, attrs.evolve(slice_, retry=slice_.retry.failed(now, reason, delay=delay))
        )

    # Deleting.

    async def delete_file(
        self, client: EtcdClient, key: FileKey, lock: Lock, also: Sequence[str] = ()
    ) -> Statistics:
        """Delete the records of a file and its slices; add its imported counts to the sink's.

        The slices are deleted first, in separate transactions. After a crash, the next call
        finishes the deletion.

        :param also: further keys to delete with the file.
        :returns: the statistics of the file, summed over all levels.
        """
        slices = await records.read_slices(client, key)
        for start in range(0, len(slices), SLICES_PER_TRANSACTION):
            part = slices[start : start + SLICES_PER_TRANSACTION]

            async def delete_some(txn: AtomicTxn, part: Sequence[Slice] = part) -> None:
                records.delete_slice_records(txn, part)

            await atomic(client, delete_some, lock=lock)

        async def delete(txn: AtomicTxn) -> Statistics:
            file = await records.load_file(txn, key)
            records.delete_file_records(txn, file)
            for other in also:
                txn.delete(other)
            return await _roll_up(txn, key)

        return await atomic(client, delete, lock=lock)


def _overrides(source: Source, sink: Sink) -> list[list[tuple[str, object]]]:
    return [[(item.key, item.value) for item in of.config] for of in (source, sink)]


async def _unchanged(txn: AtomicTxn, source: Source, sink: Sink) -> bool:
    """Return whether the sink is enabled and hasn't changed since the file was prepared."""
    found = await txn.get_many([f"{SOURCE_ACTIVE}{source.key}", f"{SINK_ACTIVE}{sink.key}"])
    stored = found[f"{SINK_ACTIVE}{sink.key}"]
    if stored is None or found[f"{SOURCE_ACTIVE}{source.key}"] is None:
        return False
    return decode(Sink, stored.value) == sink and sink.is_enabled


async def _roll_up(txn: AtomicTxn, key: FileKey) -> Statistics:
    """Delete the statistics of a file; add its imported counts to the sum of its sink."""
    sums = {}
    for level in Level:
        below = f"{prefix.statistics(level)}{key}/"
        kvs = await txn.range(below, track_deletes=False)
        sums[level] = total(decode(Statistics, kv.value) for kv in kvs)
        txn.delete_prefix(below)
    if sums[Level.TARGET].records_count:
        where = f"{prefix.statistics(Level.TARGET)}{key.sink_key}/{prefix.SUM_STATISTICS}"
        stored = await txn.get(where)
        before = decode(Statistics, stored.value) if stored else Statistics()
        txn.put(where, encode(before + sums[Level.TARGET]))
    return total(sums.values())
