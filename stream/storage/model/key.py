"""Keys of files, slices and jobs. The text form of a key is its path below an etcd prefix."""

from __future__ import annotations

from datetime import datetime

import attrs

from stream.definition.key import SinkKey, SourceKey
from stream.values.utctime import format_time, parse_time

__all__ = ["FileKey", "FileVolumeKey", "JobKey", "SliceKey"]


@attrs.frozen(order=True)
class FileKey:
    """A file of a sink; two files of one sink can't be opened in the same millisecond."""

    project_id: int
    branch_id: int
    source_id: str
    sink_id: str
    file_opened_at: datetime

    @classmethod
    def of(cls, sink: SinkKey, opened_at: datetime) -> FileKey:
        """Return the key of the file that was opened at a given time."""
        return cls(sink.project_id, sink.branch_id, sink.source_id, sink.sink_id, opened_at)

    def __str__(self) -> str:
        return f"{self.sink_key}/{format_time(self.file_opened_at)}"

    @property
    def sink_key(self) -> SinkKey:
        """The key of the file's sink."""
        return SinkKey(self.project_id, self.branch_id, self.source_id, self.sink_id)

    @property
    def source_key(self) -> SourceKey:
        """The key of the file's source."""
        return SourceKey(self.project_id, self.branch_id, self.source_id)

    def slice(self, volume_id: str, opened_at: datetime) -> SliceKey:
        """Return the key of a slice of this file."""
        return SliceKey(
            self.project_id,
            self.branch_id,
            self.source_id,
            self.sink_id,
            self.file_opened_at,
            volume_id,
            opened_at,
        )

    @classmethod
    def parse(cls, text: str) -> FileKey:
        """Parse the text form. Raises ValueError if it is invalid."""
        project, branch, source, sink, opened_at = text.split("/")
        return cls(int(project), int(branch), source, sink, parse_time(opened_at))


@attrs.frozen(order=True)
class FileVolumeKey:
    """The slices of one file on one volume."""

    file_key: FileKey
    volume_id: str

    def __str__(self) -> str:
        return f"{self.file_key}/{self.volume_id}"


@attrs.frozen(order=True)
class SliceKey:
    """A slice of a file on a volume."""

    project_id: int
    branch_id: int
    source_id: str
    sink_id: str
    file_opened_at: datetime
    volume_id: str
    slice_opened_at: datetime

    def __str__(self) -> str:
        return f"{self.file_volume_key}/{format_time(self.slice_opened_at)}"

    @property
    def file_key(self) -> FileKey:
        """The key of the slice's file."""
        return FileKey(
            self.project_id, self.branch_id, self.source_id, self.sink_id, self.file_opened_at
        )

    @property
    def slice_id(self) -> str:
        """The part of the key that identifies the slice within its file."""
        return f"{self.volume_id}/{format_time(self.slice_opened_at)}"

    @property
    def file_volume_key(self) -> FileVolumeKey:
        """The key of the slice's file on the slice's volume."""
        return FileVolumeKey(self.file_key, self.volume_id)

    @property
    def sink_key(self) -> SinkKey:
        """The key of the slice's sink."""
        return SinkKey(self.project_id, self.branch_id, self.source_id, self.sink_id)

    @property
    def source_key(self) -> SourceKey:
        """The key of the slice's source."""
        return SourceKey(self.project_id, self.branch_id, self.source_id)

    @classmethod
    def parse(cls, text: str) -> SliceKey:
        """Parse the text form. Raises ValueError if it is invalid."""
        project, branch, source, sink, file_opened_at, volume, opened_at = text.split("/")
        return cls(
            int(project),
            int(branch),
            source,
            sink,
            parse_time(file_opened_at),
            volume,
            parse_time(opened_at),
        )


@attrs.frozen(order=True)
class JobKey:
    """A running import job of a sink."""

    project_id: int
    branch_id: int
    source_id: str
    sink_id: str
    job_id: str

    @classmethod
    def of(cls, sink: SinkKey, job_id: str) -> JobKey:
        """Return the key of an import job of a sink."""
        return cls(sink.project_id, sink.branch_id, sink.source_id, sink.sink_id, job_id)

    def __str__(self) -> str:
        return f"{self.sink_key}/{self.job_id}"

    @property
    def sink_key(self) -> SinkKey:
        """The key of the job's sink."""
        return SinkKey(self.project_id, self.branch_id, self.source_id, self.sink_id)
