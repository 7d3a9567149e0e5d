"""Keboola Storage API: the client, its values and its errors."""

from stream.keboola.client import StorageApi
from stream.keboola.errors import JobDeadlineExceeded, JobFailed, StorageApiError
from stream.keboola.event import Event, EventParams, EventStatistics
from stream.keboola.token import Token
from stream.keboola.values import (
    Admin,
    Branch,
    Bucket,
    FileUpload,
    Index,
    Job,
    JobError,
    SinkToken,
    Table,
    TableMetadata,
    TokenInfo,
)
from stream.keboola.verifier import TokenVerifier

__all__ = [
    "Admin",
    "Branch",
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
    "Token",
    "TokenInfo",
    "TokenVerifier",
]
