"""The settings under ``storage``: volumes, statistics and cleanup; for levels see `level`."""

# ruff: noqa: RUF009 — `setting` and `group` create attrs fields

from __future__ import annotations

import attrs

from stream.settings.declare import duration, group, setting
from stream.settings.level import StorageLevel
from stream.values.duration import Duration

__all__ = [
    "DiskCleanupSettings",
    "JobCleanupSettings",
    "MetadataCleanupSettings",
    "StatisticsCacheL2Settings",
    "StatisticsCacheSettings",
    "StatisticsSettings",
    "StatisticsSyncSettings",
    "StorageSettings",
]


@attrs.frozen
class StatisticsSyncSettings:
    """The settings of storing statistics."""

    interval: Duration = setting(
        duration("1s"),
        "Interval between writes of the statistics to the database.",
        rule="required,minDuration=100ms,maxDuration=5s",
    )
    timeout: Duration = setting(
        duration("30s"),
        "Timeout for one write of the statistics.",
        rule="required,minDuration=1s,maxDuration=1m",
    )


@attrs.frozen
class StatisticsCacheL2Settings:
    """The settings of the second cache of statistics."""

    enabled: bool = setting(
        True, "Return totals from a cache of sums instead of adding them up for each request."
    )
    interval: Duration = setting(
        duration("1s"),
        "Interval at which the cached sums are discarded.",
        rule="required,minDuration=100ms,maxDuration=5s",
    )


@attrs.frozen
class StatisticsCacheSettings:
    """The settings of the statistics caches."""

    l2: StatisticsCacheL2Settings = group(StatisticsCacheL2Settings, key="L2")


@attrs.frozen
class StatisticsSettings:
    """The settings of statistics."""

    sync: StatisticsSyncSettings = group(StatisticsSyncSettings)
    cache: StatisticsCacheSettings = group(StatisticsCacheSettings)


@attrs.frozen
class MetadataCleanupSettings:
    """The settings of deleting old files and slices from etcd."""

    enable: bool = setting(True, "Delete the records of expired files and their slices.")
    concurrency: int = setting(
        50,
        "Maximum number of files that are cleaned up at the same time.",
        rule="required,min=1,max=500",
    )
    error_tolerance: int = setting(
        10,
        "Number of failures after which a round of the cleanup ends.",
        rule="required,min=0,max=100",
    )
    archived_file_retention_per_sink: int = setting(
        30,
        "Number of imported files that are kept for each sink; 0 is refused, as in the original.",
        rule="required,min=0,max=100",
    )
    active_file_expiration: Duration = setting(
        duration("168h"),
        "Age at which a file that hasn't been imported is abandoned and deleted.",
        rule="required,minDuration=1h,maxDuration=720h,gtefield=archivedFileExpiration",
    )
    archived_file_expiration: Duration = setting(
        duration("1h"),
        "Age at which an imported file is deleted.",
        rule="required,minDuration=15m,maxDuration=720h",
    )
    interval: Duration = setting(
        duration("10m"),
        "Interval between cleanups of file records.",
        rule="required,minDuration=30s,maxDuration=24h",
    )


@attrs.frozen
class JobCleanupSettings:
    """The settings of deleting old jobs from etcd."""

    enable: bool = setting(True, "Delete the records of finished import jobs.")
    concurrency: int = setting(
        50,
        "Maximum number of jobs that are checked at the same time.",
        rule="required,min=1,max=500",
    )
    error_tolerance: int = setting(
        10,
        "Number of failures after which a round of the cleanup ends.",
        rule="required,min=0,max=100",
    )
    interval: Duration = setting(
        duration("30s"),
        "Interval between cleanups of job records.",
        rule="required,minDuration=5s,maxDuration=10m",
    )


@attrs.frozen
class DiskCleanupSettings:
    """The settings of deleting old files from disks."""

    enabled: bool = setting(True, "Delete files of slices that are no longer in the database.")
    interval: Duration = setting(
        duration("5m"),
        "Interval between cleanups of volumes.",
        rule="required,minDuration=5m,maxDuration=24h",
    )
    concurrency: int = setting(
        50,
        "Number of directories that are removed at the same time.",
        rule="required,min=1,max=500",
    )


@attrs.frozen
class StorageSettings:
    """The settings of storage."""

    volumes_path: str = setting(
        "", "Directory that contains the volumes, each as {type}/{label}.", rule="required"
    )
    statistics: StatisticsSettings = group(StatisticsSettings)
    metadata_cleanup: MetadataCleanupSettings = group(MetadataCleanupSettings)
    job_cleanup: JobCleanupSettings = group(JobCleanupSettings)
    disk_cleanup: DiskCleanupSettings = group(DiskCleanupSettings)
    level: StorageLevel = group(StorageLevel)
