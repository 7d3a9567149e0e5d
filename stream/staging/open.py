"""Opening the staging store of a prepared file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError
from twisted.python.threadpool import ThreadPool

from stream.staging.cloud import azure_backend, s3_backend
from stream.staging.errors import StagingError
from stream.staging.gcs import gcs_backend
from stream.staging.local import LocalBackend
from stream.staging.location import location_of
from stream.staging.store import Backend, StagingStore
from stream.staging.upload import FileUpload

__all__ = ["open_store"]


def open_store(
    upload: FileUpload, *, file_key: str, reactor: Any, pool: ThreadPool
) -> StagingStore:
    """Return the store for the objects of *upload*, without connecting to it.

    Raises StagingError: the provider is unknown, or the parameters can't be used.

    :param file_key: the file's key, for messages.
    :param reactor: source of the time.
    :param pool: a started pool; its size limits concurrent uploads.
    """
    location = location_of(upload)
    return StagingStore(upload, file_key, location, _backend(upload), reactor, pool)


def _backend(upload: FileUpload) -> Backend:
    try:
        match upload.provider:
            case "aws":
                return s3_backend(upload)
            case "azure":
                return azure_backend(upload)
            case "gcp":
                return gcs_backend(upload)
    except KeyError as missing:
        raise StagingError(f"upload parameter {missing} is missing", retryable=False) from None
    except (BaseError, ValueError, TypeError):
        # The library's message may quote the parameters.
        raise StagingError(
            f'upload parameters of provider "{upload.provider}" are invalid', retryable=False
        ) from None
    return LocalBackend(Path(upload.credentials["directory"]))
