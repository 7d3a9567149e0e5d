"""The etcd prefixes of files, slices, statistics and volumes. All end with a slash.

Files and slices are stored twice in each transaction: under ``all`` for access by key, and under
the level of their state, so that operators watch only the part they need.
"""

from __future__ import annotations

from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import Level

__all__ = [
    "CLOSE_SYNC",
    "COORDINATOR_LIFE",
    "FILE_ALL",
    "OPEN_STATISTICS",
    "RESET_STATISTICS",
    "SLICE_ALL",
    "SOURCE_LIFE",
    "SUM_STATISTICS",
    "WRITER_VOLUME",
    "file_keys",
    "file_level",
    "slice_keys",
    "slice_level",
    "statistics",
]

FILE_ALL = "storage/file/all/"
SLICE_ALL = "storage/slice/all/"
WRITER_VOLUME = "storage/volume/writer/"
CLOSE_SYNC = "runtime/closesync/source/node/"
SOURCE_LIFE = "runtime/life/source/node/"
COORDINATOR_LIFE = "runtime/life/coordinator/node/"

OPEN_STATISTICS = "_open"
SUM_STATISTICS = "_sum"
RESET_STATISTICS = "~reset"


def file_level(level: Level) -> str:
    """Return the prefix of the files at a level."""
    return f"storage/file/level/{level.value}/"


def slice_level(level: Level) -> str:
    """Return the prefix of the slices at a level."""
    return f"storage/slice/level/{level.value}/"


def statistics(level: Level) -> str:
    """Return the prefix of the statistics of a level."""
    return f"storage/stats/{level.value}/"


def file_keys(key: FileKey, level: Level) -> tuple[str, str]:
    """Return the keys of both copies of a file."""
    return f"{FILE_ALL}{key}", f"{file_level(level)}{key}"


def slice_keys(key: SliceKey, level: Level) -> tuple[str, str]:
    """Return the keys of both copies of a slice."""
    return f"{SLICE_ALL}{key}", f"{slice_level(level)}{key}"
