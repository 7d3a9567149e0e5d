"""File and slice as they are stored. The order of attributes is the order of members in the JSON.

Mapping, encoding and triggers are frozen into a file when it opens and copied to its slices, so a
later change of the sink or of a setting never affects data that is already open. Of the mapping
only the reference is copied; see Note [Two forms] of `stream.mapping.stored`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

import attrs

from stream.mapping.stored import StoredMapping, stored_mapping
from stream.storage.model.encoding import Encoding
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.retry import NO_RETRY, Retry
from stream.storage.model.state import (
    FILE_LEVEL,
    SLICE_LEVEL,
    FileState,
    Level,
    SliceState,
    check_file_transition,
    check_slice_transition,
    check_upload_again,
)
from stream.values.bytesize import ByteSize
from stream.values.codec import field
from stream.values.duration import Duration
from stream.values.utctime import format_time

__all__ = [
    "Allocation",
    "Assignment",
    "AssignmentConfig",
    "DeadLetter",
    "File",
    "FileStaging",
    "FileTarget",
    "ImportConfig",
    "ImportTrigger",
    "LocalFile",
    "LocalSlice",
    "Slice",
    "SliceStaging",
    "UploadConfig",
    "UploadTrigger",
    "directory_name",
]


_NOTHING = ByteSize(0)


def directory_name(text: str) -> str:
    """*text* (a key or a time) as directories on a volume: without ``.`` and ``:``."""
    return text.replace(".", "-").replace(":", "-")


@attrs.frozen
class AssignmentConfig:
    count: int
    preferred_types: tuple[str, ...]


@attrs.frozen
class Assignment:
    """Which volumes hold the slices of a file; fixed for the file's life."""

    config: AssignmentConfig
    volumes: tuple[str, ...]


@attrs.frozen
class Allocation:
    """How much disk space a slice reserves when it opens.

    :ivar relative: percent of the largest recent slice.
    """

    enabled: bool
    static: ByteSize
    relative: int


@attrs.frozen
class LocalFile:
    """:ivar dir: path below each volume's root."""

    dir: str
    assignment: Assignment
    allocation: Allocation


@attrs.frozen
class UploadTrigger:
    count: int
    size: ByteSize
    interval: Duration


@attrs.frozen
class UploadConfig:
    min_interval: Duration
    trigger: UploadTrigger


@attrs.frozen
class FileStaging:
    """:ivar is_empty: the import was skipped, the file holds no record.
    :ivar expiration: until when the upload credentials are good.
    """

    is_empty: bool = field(default=False, omit_empty=True)
    provider: str = "keboola"
    compression: str = "gzip"
    expiration: datetime | None = None
    upload: UploadConfig = field(kw_only=True)


@attrs.frozen
class ImportTrigger:
    count: int
    size: ByteSize
    interval: Duration
    slices_count: int
    expiration: Duration


@attrs.frozen
class ImportConfig:
    max_slices: int
    min_interval: Duration
    trigger: ImportTrigger


@attrs.frozen
class FileTarget:
    provider: str
    import_: ImportConfig = field(name="import", alias="import_")


@attrs.frozen
class DeadLetter:
    """How much is kept, and how long, of the records that can't be rendered for the sink.

    :ivar max_size: bytes of the sink's files on one source node.
    """

    max_size: ByteSize
    max_age: Duration


@attrs.frozen(kw_only=True)
class File:
    """One import unit."""

    key: FileKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)
    state: FileState
    closing_at: datetime | None = None
    importing_at: datetime | None = None
    imported_at: datetime | None = None
    mapping: StoredMapping = attrs.field(converter=stored_mapping)
    encoding: Encoding
    local: LocalFile
    staging: FileStaging
    target: FileTarget
    dead_letter: DeadLetter | None = None
    quota: ByteSize = field(default=_NOTHING, omit_empty=True)

    @property
    def level(self) -> Level:
        return FILE_LEVEL[self.state]

    @property
    def last_change_at(self) -> datetime:
        """When the file reached its present state."""
        return self.imported_at or self.importing_at or self.closing_at or self.key.file_opened_at

    def advance(self, expected: FileState, to: FileState, now: datetime) -> Self:
        """The file after the transition; failed attempts are forgotten.

        Raises `InvalidFileState` unless the file is in the *expected* state.
        """
        check_file_transition(self.key, self.state, expected, to)
        reached: Any = {f"{to.value}_at": now}
        return attrs.evolve(self, state=to, retry=NO_RETRY, **reached)


@attrs.frozen
class LocalSlice:
    """:ivar dir: path below the volume's root.
    :ivar is_empty: the upload was skipped, no record was received.
    :ivar allocated_disk_space: bytes reserved by each file of the slice when it is created.
    """

    dir: str
    filename_prefix: str
    filename_extension: str
    is_empty: bool = field(default=False, omit_empty=True)
    allocated_disk_space: ByteSize = _NOTHING

    def filename(self, source_node_id: str) -> str:
        """The name of the file that one source node writes."""
        return f"{self.filename_prefix}-{source_node_id}.{self.filename_extension}"


@attrs.frozen
class SliceStaging:
    """:ivar path: name of the object, appended to the key of the staging file."""

    path: str
    provider: str
    compression: str
    upload: UploadConfig


@attrs.frozen(kw_only=True)
class Slice:
    """One upload unit: a directory on one volume, with a file for each source node."""

    key: SliceKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)
    state: SliceState
    closing_at: datetime | None = None
    uploading_at: datetime | None = None
    uploaded_at: datetime | None = None
    imported_at: datetime | None = None
    mapping: StoredMapping = attrs.field(converter=stored_mapping)
    encoding: Encoding
    local: LocalSlice
    staging: SliceStaging
    dead_letter: DeadLetter | None = None
    quota: ByteSize = field(default=_NOTHING, omit_empty=True)

    @classmethod
    def opened(
        cls, file: File, volume_id: str, now: datetime, allocated_disk_space: ByteSize
    ) -> Slice:
        """A new slice of *file* on a volume."""
        compression = file.encoding.compression
        staging_extension = ".gz" if file.staging.compression == "gzip" else ""
        return cls(
            key=file.key.slice(volume_id, now),
            state=SliceState.WRITING,
            mapping=file.mapping,
            encoding=file.encoding,
            local=LocalSlice(
                dir=f"{file.local.dir}/{directory_name(format_time(now))}",
                filename_prefix="slice",
                filename_extension=f"{file.encoding.encoder.type}{compression.extension}",
                allocated_disk_space=allocated_disk_space,
            ),
            staging=SliceStaging(
                path=f"{format_time(now)}_{volume_id}{staging_extension}",
                provider=file.staging.provider,
                compression=file.staging.compression,
                upload=file.staging.upload,
            ),
            dead_letter=file.dead_letter,
            quota=file.quota,
        )

    @property
    def level(self) -> Level:
        return SLICE_LEVEL[self.state]

    def advance(self, expected: SliceState, to: SliceState, now: datetime) -> Self:
        """The slice after the transition; failed attempts are forgotten.

        Raises `InvalidSliceState` unless the slice is in the *expected* state.
        """
        check_slice_transition(self.key, self.state, expected, to)
        reached: Any = {f"{to.value}_at": now}
        return attrs.evolve(self, state=to, retry=NO_RETRY, **reached)

    def upload_again(self, file: FileState, now: datetime) -> Self:
        """The uploaded slice, to be uploaded to other staging storage.

        :param file: the state of its file.

        Raises `InvalidFileState`, `InvalidSliceState`; see `check_upload_again`.
        """
        check_upload_again(self.key, file, self.state)
        return attrs.evolve(
            self,
            state=SliceState.UPLOADING,
            uploading_at=now,
            uploaded_at=None,
            retry=NO_RETRY,
        )
