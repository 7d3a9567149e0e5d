"""Prefixes of definitions in etcd. Every prefix ends with a slash."""

from __future__ import annotations

from stream.definition.key import BranchKey, SinkKey, SourceKey

__all__ = [
    "BRANCH_ACTIVE",
    "MAPPING",
    "SINK_ACTIVE",
    "SINK_DELETED",
    "SINK_VERSION",
    "SOURCE_ACTIVE",
    "SOURCE_DELETED",
    "SOURCE_VERSION",
    "children",
    "version_text",
]

BRANCH_ACTIVE = "definition/branch/active/"
SOURCE_ACTIVE = "definition/source/active/"
SOURCE_DELETED = "definition/source/deleted/"
SOURCE_VERSION = "definition/source/version/"
SINK_ACTIVE = "definition/sink/active/"
SINK_DELETED = "definition/sink/deleted/"
SINK_VERSION = "definition/sink/version/"
MAPPING = "storage/mapping/"
"""Mappings by sink and hash. They are kept as long as the sink or any of its files exists."""

_DIGITS = 10


def version_text(number: int) -> str:
    """Return a version number in the form used in keys: ten digits with leading zeros."""
    return f"{number:0{_DIGITS}d}"


def children(prefix: str, key: BranchKey | SourceKey | SinkKey) -> str:
    """Return the prefix of everything directly or indirectly below *key*."""
    return f"{prefix}{key}/"
