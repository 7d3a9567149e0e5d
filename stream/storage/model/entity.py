"""The stored form of files and slices. The order of attributes is the order of the JSON members.

Mapping, encoding and triggers are fixed when a file is opened and copied to its slices, so a later
change of the sink or of a setting doesn't affect open data. Only a reference to the mapping is
copied; see Note [Two forms] in `stream.mapping.stored`.
"""

# ruff: noqa: RUF009 — the defaults are immutable

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

import attrs

from stream.mapping.columns import Mapping
from stream.mapping.stored import StoredMapping, stored_mapping
from stream.settings import QuarantineSettings, StorageLevel
from stream.storage.model.encoding import Compression, Encoding
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
from stream.values.codec import Record, field
from stream.values.duration import Duration
from stream.values.utctime import format_time

__all__ = [
    "Allocation",
    "Assignment",
    "AssignmentConfig",
    "File",
    "FileStaging",
    "FileTarget",
    "ImportConfig",
    "ImportTrigger",
    "LocalFile",
    "LocalSlice",
    "QuarantineLimits",
    "Slice",
    "SliceStaging",
    "UploadConfig",
    "UploadTrigger",
    "directory_name",
    "slice_directory",
]


_NOTHING = ByteSize(0)
_NO_MAPPING = StoredMapping.of(Mapping())
_DEFAULT = StorageLevel()
_ASSIGNMENT = _DEFAULT.local.volume.assignment
_ALLOCATION = _DEFAULT.local.writer.allocation
_UPLOAD = _DEFAULT.staging.upload
_IMPORT = _DEFAULT.target.import_
_QUARANTINE = QuarantineSettings()
_PROVIDER = "keboola"
_PREFIX = "slice"


def directory_name(text: str) -> str:
    """Return *text* (a key or a time) as a directory path on a volume, without ``.`` and ``:``."""
    return text.replace(".", "-").replace(":", "-")


def slice_directory(key: SliceKey) -> str:
    """Return the directory of a slice, relative to the root of its volume."""
    return f"{directory_name(str(key.file_key))}/{directory_name(format_time(key.slice_opened_at))}"


@attrs.frozen
class AssignmentConfig(Record):
    """The parameters by which the volumes of a file were chosen."""

    count: int = _ASSIGNMENT.count
    preferred_types: tuple[str, ...] = _ASSIGNMENT.preferred_types


@attrs.frozen
class Assignment(Record):
    """The volumes that hold the slices of a file; they don't change while the file exists."""

    config: AssignmentConfig = AssignmentConfig()
    volumes: tuple[str, ...] = ()


@attrs.frozen
class Allocation(Record):
    """The disk space that a slice reserves when it is opened.

    :ivar relative: reserved space as a percentage of the largest recent slice.
    """

    enabled: bool = _ALLOCATION.enabled
    static: ByteSize = _ALLOCATION.static
    relative: int = _ALLOCATION.relative


@attrs.frozen
class LocalFile(Record):
    """The part of a file at level ``local``.

    :ivar dir: path of the file's directory, relative to the root of each volume.
    """

    dir: str = ""
    assignment: Assignment = Assignment()
    allocation: Allocation = Allocation()


@attrs.frozen
class UploadTrigger(Record):
    """The limits at which a slice is uploaded."""

    count: int = _UPLOAD.trigger.count
    size: ByteSize = _UPLOAD.trigger.size
    interval: Duration = _UPLOAD.trigger.interval


@attrs.frozen
class UploadConfig(Record):
    """The conditions of uploading the slices of a file."""

    min_interval: Duration = _UPLOAD.min_interval
    trigger: UploadTrigger = UploadTrigger()


@attrs.frozen
class FileStaging(Record):
    """The part of a file at level ``staging``.

    :ivar is_empty: whether the import was skipped because the file holds no records.
    :ivar compression: how the objects in staging storage are compressed; only its type matters.
    :ivar expiration: when the upload credentials expire.
    """

    is_empty: bool = field(default=False, omit_empty=True)
    provider: str = _PROVIDER
    compression: Compression = Compression.of_type("gzip")
    expiration: datetime | None = None
    upload: UploadConfig = UploadConfig()


@attrs.frozen
class ImportTrigger(Record):
    """The limits at which a file is imported."""

    count: int = _IMPORT.trigger.count
    size: ByteSize = _IMPORT.trigger.size
    interval: Duration = _IMPORT.trigger.interval
    slices_count: int = _IMPORT.trigger.slices_count
    expiration: Duration = _IMPORT.trigger.expiration


@attrs.frozen
class ImportConfig(Record):
    """The conditions of importing a file."""

    max_slices: int = _IMPORT.max_slices
    min_interval: Duration = _IMPORT.min_interval
    trigger: ImportTrigger = ImportTrigger()


@attrs.frozen
class FileTarget(Record):
    """The part of a file at level ``target``."""

    provider: str = _PROVIDER
    import_: ImportConfig = field(name="import", alias="import_", default=ImportConfig())


@attrs.frozen
class QuarantineLimits(Record):
    """Limits of the size and age of the rejected records that are kept for a sink.

    :ivar max_size: maximum bytes of the sink's rejected records on one source node.
    """

    max_size: ByteSize = _QUARANTINE.max_size
    max_age: Duration = _QUARANTINE.max_age


def _local_of_file(local: LocalFile, file: Any) -> LocalFile:
    return local if local.dir else attrs.evolve(local, dir=directory_name(str(file.key)))


@attrs.frozen(kw_only=True)
class File(Record):
    """One import unit."""

    key: FileKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)
    state: FileState
    closing_at: datetime | None = None
    importing_at: datetime | None = None
    imported_at: datetime | None = None
    mapping: StoredMapping = attrs.field(default=_NO_MAPPING, converter=stored_mapping)
    encoding: Encoding = Encoding()
    local: LocalFile = field(
        default=LocalFile(), converter=attrs.Converter(_local_of_file, takes_self=True)
    )
    staging: FileStaging = FileStaging()
    target: FileTarget = FileTarget()
    quarantine: QuarantineLimits | None = field(name="deadLetter", default=None)
    quota: ByteSize = field(default=_NOTHING, omit_empty=True)

    @property
    def level(self) -> Level:
        """The level of the file's state."""
        return FILE_LEVEL[self.state]

    @property
    def last_change_at(self) -> datetime:
        """When the file reached its current state."""
        return self.imported_at or self.importing_at or self.closing_at or self.key.file_opened_at

    def advance(self, expected: FileState, to: FileState, now: datetime) -> Self:
        """Return the file in its new state, without its failed attempts.

        Raises InvalidFileState: the file is not in the *expected* state.
        """
        check_file_transition(self.key, self.state, expected, to)
        reached: Any = {f"{to.value}_at": now}
        return attrs.evolve(self, state=to, retry=NO_RETRY, **reached)


@attrs.frozen
class LocalSlice(Record):
    """The part of a slice at level ``local``.

    :ivar dir: path of the slice's directory, relative to the root of the volume.
    :ivar is_empty: whether the upload was skipped because no records were received.
    :ivar allocated_disk_space: bytes reserved by each file of the slice when it is created.
    """

    dir: str = ""
    filename_prefix: str = _PREFIX
    filename_extension: str = ""
    is_empty: bool = field(default=False, omit_empty=True)
    allocated_disk_space: ByteSize = _NOTHING

    def filename(self, source_node_id: str) -> str:
        """Return the name of the file that one source node writes."""
        return f"{self.filename_prefix}-{source_node_id}.{self.filename_extension}"


@attrs.frozen
class SliceStaging(Record):
    """The part of a slice at level ``staging``.

    :ivar path: name of the object, appended to the key of the staging file.
    """

    path: str = ""
    provider: str = _PROVIDER
    compression: Compression = Compression.of_type("gzip")
    upload: UploadConfig = UploadConfig()


def _local_of_slice(local: LocalSlice, slice_: Any) -> LocalSlice:
    if local.dir and local.filename_extension:
        return local
    encoding = slice_.encoding
    extension = f"{encoding.encoder.type}{encoding.compression.extension}"
    return attrs.evolve(
        local,
        dir=local.dir or slice_directory(slice_.key),
        filename_extension=local.filename_extension or extension,
    )


def _staging_of_slice(staging: SliceStaging, slice_: Any) -> SliceStaging:
    if staging.path:
        return staging
    key, extension = slice_.key, ".gz" if staging.compression.type == "gzip" else ""
    path = f"{format_time(key.slice_opened_at)}_{key.volume_id}{extension}"
    return attrs.evolve(staging, path=path)


@attrs.frozen(kw_only=True)
class Slice(Record):
    """One upload unit: a directory on one volume, with a file for each source node that writes."""

    key: SliceKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)
    state: SliceState
    closing_at: datetime | None = None
    uploading_at: datetime | None = None
    uploaded_at: datetime | None = None
    imported_at: datetime | None = None
    mapping: StoredMapping = attrs.field(default=_NO_MAPPING, converter=stored_mapping)
    encoding: Encoding = Encoding()
    local: LocalSlice = field(
        default=LocalSlice(), converter=attrs.Converter(_local_of_slice, takes_self=True)
    )
    staging: SliceStaging = field(
        default=SliceStaging(), converter=attrs.Converter(_staging_of_slice, takes_self=True)
    )
    quarantine: QuarantineLimits | None = field(name="deadLetter", default=None)
    quota: ByteSize = field(default=_NOTHING, omit_empty=True)

    @classmethod
    def opened(
        cls, file: File, volume_id: str, now: datetime, allocated_disk_space: ByteSize
    ) -> Slice:
        """Return a new slice of *file* on a volume."""
        return cls(
            key=file.key.slice(volume_id, now),
            state=SliceState.WRITING,
            mapping=file.mapping,
            encoding=file.encoding,
            local=LocalSlice(
                dir=f"{file.local.dir}/{directory_name(format_time(now))}",
                allocated_disk_space=allocated_disk_space,
            ),
            staging=SliceStaging(
                provider=file.staging.provider,
                compression=file.staging.compression,
                upload=file.staging.upload,
            ),
            quarantine=file.quarantine,
            quota=file.quota,
        )

    @property
    def level(self) -> Level:
        """The level of the slice's state."""
        return SLICE_LEVEL[self.state]

    def advance(self, expected: SliceState, to: SliceState, now: datetime) -> Self:
        """Return the slice in its new state, without its failed attempts.

        Raises InvalidSliceState: the slice is not in the *expected* state.
        """
        check_slice_transition(self.key, self.state, expected, to)
        reached: Any = {f"{to.value}_at": now}
        return attrs.evolve(self, state=to, retry=NO_RETRY, **reached)

    def upload_again(self, file: FileState, now: datetime) -> Self:
        """Return the uploaded slice, reset so that it is uploaded to other staging storage.

        Raises InvalidFileState, InvalidSliceState: see `check_upload_again`.

        :param file: current state of the slice's file.
        """
        check_upload_again(self.key, file, self.state)
        return attrs.evolve(
            self,
            state=SliceState.UPLOADING,
            uploading_at=now,
            uploaded_at=None,
            retry=NO_RETRY,
        )
