"""The settings under ``storage.level``, for local disks, staging and target.

A source or sink may override some of them; see `stream.settings.overrides`. Each file is opened
with its own copy of `StorageLevel`.
"""

# ruff: noqa: RUF009 — `setting` and `group` create attrs fields

from __future__ import annotations

import attrs

from stream.settings.declare import duration, group, setting, size
from stream.settings.local import LocalLevelSettings
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = [
    "ImportSettings",
    "ImportTriggerSettings",
    "StagingLevelSettings",
    "StagingOperatorSettings",
    "StorageLevel",
    "TargetLevelSettings",
    "TargetOperatorSettings",
    "UploadSettings",
    "UploadTriggerSettings",
]


@attrs.frozen
class StagingOperatorSettings:
    """The settings of the operators that rotate slices and upload them."""

    slice_rotation_check_interval: Duration = setting(
        duration("1s"),
        "Interval between checks of the upload triggers of open slices.",
        rule="required,minDuration=100ms,maxDuration=30s",
    )
    slice_rotation_timeout: Duration = setting(
        duration("5m"),
        "Timeout for replacing a slice with a new one.",
        rule="required,minDuration=30s,maxDuration=15m",
    )
    slice_close_timeout: Duration = setting(
        duration("1m"),
        "How long a slice waits for its source nodes to stop writing.",
        rule="required,minDuration=10s,maxDuration=10m",
    )
    slice_upload_check_interval: Duration = setting(
        duration("2s"),
        "Interval between checks for slices to upload.",
        rule="required,minDuration=500ms,maxDuration=30s",
    )
    slice_upload_timeout: Duration = setting(
        duration("15m"),
        "Timeout for the upload of one slice.",
        rule="required,minDuration=30s,maxDuration=60m",
    )


@attrs.frozen
class UploadTriggerSettings:
    """The limits at which a slice is uploaded."""

    count: int = setting(
        10000,
        "Records count to trigger slice upload.",
        rule="required,min=1,max=10000000",
        override="user",
        unsigned=True,
    )
    size: ByteSize = setting(
        size("5MB"),
        "Records size to trigger slice upload.",
        rule="required,minBytes=100B,maxBytes=50MB",
        override="user",
    )
    interval: Duration = setting(
        duration("30s"),
        "Duration from the last slice upload to trigger the next upload.",
        rule="required,minDuration=1s,maxDuration=30m",
        override="user",
    )


@attrs.frozen
class UploadSettings:
    """The settings of uploads."""

    min_interval: Duration = setting(
        duration("10s"),
        "Minimum interval between uploads of one sink.",
        rule="required,minDuration=1s,maxDuration=30m",
    )
    trigger: UploadTriggerSettings = group(UploadTriggerSettings)


@attrs.frozen
class StagingLevelSettings:
    """The settings of the level ``staging``."""

    operator: StagingOperatorSettings = group(StagingOperatorSettings)
    upload: UploadSettings = group(UploadSettings)


@attrs.frozen
class TargetOperatorSettings:
    """The settings of the operators that rotate files and import them."""

    file_rotation_check_interval: Duration = setting(
        duration("1s"),
        "Interval between checks of the import triggers of open files.",
        rule="required,minDuration=100ms,maxDuration=30s",
    )
    file_rotation_timeout: Duration = setting(
        duration("5m"),
        "Timeout for replacing a file with a new one.",
        rule="required,minDuration=30s,maxDuration=15m",
    )
    file_close_timeout: Duration = setting(
        duration("1m"),
        "How long a file waits for the upload of its slices before it is checked again.",
        rule="required,minDuration=10s,maxDuration=10m",
    )
    file_import_check_interval: Duration = setting(
        duration("1s"),
        "Interval between checks for files to import.",
        rule="required,minDuration=500ms,maxDuration=30s",
    )
    file_import_timeout: Duration = setting(
        duration("15m"),
        "Timeout for the import of one file.",
        rule="required,minDuration=30s,maxDuration=60m",
    )


@attrs.frozen
class ImportTriggerSettings:
    """The limits at which a file is imported."""

    count: int = setting(
        50000,
        "Records count to trigger file import.",
        rule="required,min=1,max=10000000",
        override="user",
        unsigned=True,
    )
    size: ByteSize = setting(
        size("50MB"),
        "Records size to trigger file import.",
        rule="required,minBytes=100B,maxBytes=500MB",
        override="user",
    )
    interval: Duration = setting(
        duration("1m"),
        "Duration from the last import to trigger the next import.",
        rule="required,minDuration=1s,maxDuration=24h",
        override="user",
        published_rule="required,minDuration=30s,maxDuration=24h",
    )
    slices_count: int = setting(
        100,
        "Number of slices in the file to trigger file import.",
        rule="required,min=1,max=200",
        override="protected",
        unsigned=True,
    )
    expiration: Duration = setting(
        duration("30m"),
        "Min remaining expiration to trigger file import.",
        rule="required,minDuration=5m,maxDuration=45m",
        override="protected",
    )


@attrs.frozen
class ImportSettings:
    """The settings of imports."""

    max_slices: int = setting(
        100, "Maximum number of slices in one file.", rule="required,min=50,max=149", unsigned=True
    )
    min_interval: Duration = setting(
        duration("1m"),
        "Minimum interval between imports of one sink.",
        rule="required,minDuration=1s,maxDuration=24h",
    )
    trigger: ImportTriggerSettings = group(ImportTriggerSettings)


@attrs.frozen
class TargetLevelSettings:
    """The settings of the level ``target``."""

    operator: TargetOperatorSettings = group(TargetOperatorSettings)
    # "import" is a keyword, so the attribute has an underscore; the key doesn't.
    import_: ImportSettings = group(ImportSettings)


@attrs.frozen
class StorageLevel:
    """The settings of the three levels of storage."""

    local: LocalLevelSettings = group(LocalLevelSettings)
    staging: StagingLevelSettings = group(StagingLevelSettings)
    target: TargetLevelSettings = group(TargetLevelSettings)
