"""Opening of the staging store of a prepared file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.python.threadpool import ThreadPool

from stream.staging.errors import StagingError
from stream.staging.local import LocalBackend
from stream.staging.location import location_of
from stream.staging.store import Backend, StagingStore
from stream.staging.upload import FileUpload

__all__ = ["open_store"]


def open_store(
    upload: FileUpload, *, file_key: str, reactor: Any, pool: ThreadPool
) -> StagingStore:
    """Return the store for the objects of *upload*, without connecting to it.

    Raises StagingError: the provider is unknown, or the parameters are unusable.

    :param file_key: key of the file, for messages.
    :param reactor: source of the time.
    :param pool: a started pool; its size limits concurrent uploads.
    """
    location = location_of(upload)
    return StagingStore(upload, file_key, location, _backend(upload), reactor, pool)


def _backend(upload: FileUpload) -> Backend:
    if upload.provider not in ("aws", "azure", "gcp"):
        return LocalBackend(Path(upload.credentials["directory"]))
    # Imported here, because most nodes store no slices, or use only one provider.
    from obstore.exceptions import BaseError

    try:
        if upload.provider == "gcp":
            from stream.staging.gcs import gcs_backend

            return gcs_backend(upload)
        from stream.staging.cloud import azure_backend, s3_backend

        return s3_backend(upload) if upload.provider == "aws" else azure_backend(upload)
    except KeyError as missing:
        raise StagingError(f"upload parameter {missing} is missing", retryable=False) from None
    except (BaseError, ValueError, TypeError):
        # The library's message may quote the parameters.
        raise StagingError(
            f'upload parameters of provider "{upload.provider}" are invalid', retryable=False
        ) from None
