"""The target Keboola: the client of the Storage API, its values and errors."""

from stream.target.keboola.client import StorageApi
from stream.target.keboola.errors import JobDeadlineExceeded, JobFailed, StorageApiError
from stream.target.keboola.event import Event, EventParams, EventStatistics
from stream.target.keboola.values import (
    Bucket,
    FileUpload,
    Index,
    Job,
    JobError,
    SinkToken,
    Table,
    TableMetadata,
)
from stream.target.keboola.verifier import TokenVerifier

__all__ = [
    "Bucket",
    "Event",
    "EventParams",
    "EventStatistics",
    "FileUpload",
    "Index",
    "Job",
    "JobDeadlineExceeded",
    "JobError",
    "JobFailed",
    "SinkToken",
    "StorageApi",
    "StorageApiError",
    "Table",
    "TableMetadata",
    "TokenVerifier",
]
