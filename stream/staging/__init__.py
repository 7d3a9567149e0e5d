"""Staging, the object store for slices before their import, with the manifest of the slices.

When the Storage API prepares a file, it selects the store (S3, Azure Blob, Google Cloud Storage, or
a folder) and issues short-lived credentials.
"""

from stream.staging.chunks import Chunks, bytes_chunks, file_chunks
from stream.staging.errors import CredentialsExpired, ObjectMismatch, StagingError
from stream.staging.location import MANIFEST_NAME, manifest_body
from stream.staging.open import open_store
from stream.staging.store import StagingStore, StoredObject
from stream.staging.upload import FileUpload

__all__ = [
    "MANIFEST_NAME",
    "Chunks",
    "CredentialsExpired",
    "FileUpload",
    "ObjectMismatch",
    "StagingError",
    "StagingStore",
    "StoredObject",
    "bytes_chunks",
    "file_chunks",
    "manifest_body",
    "open_store",
]
