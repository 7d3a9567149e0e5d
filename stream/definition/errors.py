"""The errors of definitions, with user-facing messages and names."""

from __future__ import annotations

from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.definition.prefix import version_text
from stream.errors import UserError
from stream.values.bytesize import ByteSize

__all__ = [
    "CountLimitReached",
    "DefinitionExists",
    "DefinitionNotFound",
    "DefinitionSizeLimitReached",
    "TooManyChanges",
    "branch_exists",
    "branch_limit_reached",
    "branch_not_found",
    "definition_size_limit_reached",
    "deleted_sink_not_found",
    "deleted_source_not_found",
    "project_sink_limit_reached",
    "sink_exists",
    "sink_limit_reached",
    "sink_not_found",
    "sink_version_not_found",
    "source_exists",
    "source_limit_reached",
    "source_not_found",
    "source_version_not_found",
    "too_many_changes",
    "version_limit_reached",
]


class DefinitionNotFound(UserError):
    """There is no such branch, source, sink or version."""

    status = 404


class DefinitionExists(UserError):
    """Another live source or sink has the id, or another branch has the name."""

    status = 409


class CountLimitReached(UserError):
    """The limit of branches, sources, sinks or versions is reached."""

    status = 409


class DefinitionSizeLimitReached(UserError):
    """The definitions of the project would occupy too many bytes in etcd."""

    status = 409
    name = "definitionSizeLimitReached"


class TooManyChanges(UserError):
    """The project has recently changed its definitions too often."""

    status = 503
    name = "serviceUnavailable"


def branch_not_found(key: BranchKey) -> DefinitionNotFound:
    """404: the project has no such branch."""
    return DefinitionNotFound(
        f'branch "{key.branch_id}" not found in the project', name="branchNotFound"
    )


def source_not_found(key: SourceKey) -> DefinitionNotFound:
    """404: the branch has no such source."""
    return DefinitionNotFound(
        f'source "{key.source_id}" not found in the branch', name="sourceNotFound"
    )


def sink_not_found(key: SinkKey) -> DefinitionNotFound:
    """404: the source has no such sink."""
    return DefinitionNotFound(f'sink "{key.sink_id}" not found in the source', name="sinkNotFound")


def deleted_source_not_found(key: SourceKey) -> DefinitionNotFound:
    """404: the branch has no such deleted source."""
    return DefinitionNotFound(
        f'deleted source "{key.source_id}" not found in the branch', name="deletedSourceNotFound"
    )


def deleted_sink_not_found(key: SinkKey) -> DefinitionNotFound:
    """404: the source has no such deleted sink."""
    return DefinitionNotFound(
        f'deleted sink "{key.sink_id}" not found in the source', name="deletedSinkNotFound"
    )


def source_version_not_found(key: SourceKey, number: int) -> DefinitionNotFound:
    """404: the source has no such version."""
    return DefinitionNotFound(
        f'source version "{key.source_id}/{version_text(number)}" not found in the branch',
        name="sourceVersionNotFound",
    )


def sink_version_not_found(key: SinkKey, number: int) -> DefinitionNotFound:
    """404: the sink has no such version."""
    return DefinitionNotFound(
        f'sink version "{key.sink_id}/{version_text(number)}" not found in the source',
        name="sinkVersionNotFound",
    )


def branch_exists(name: str) -> DefinitionExists:
    """409: the project already has a branch with this name."""
    return DefinitionExists(
        f'branch "{name}" already exists in the project', name="branchAlreadyExists"
    )


def source_exists(key: SourceKey) -> DefinitionExists:
    """409: the branch already has a source with this id."""
    return DefinitionExists(
        f'source "{key.source_id}" already exists in the branch', name="sourceAlreadyExists"
    )


def sink_exists(key: SinkKey, *, being_created: bool = False) -> DefinitionExists:
    """409: the source already has a sink with this id.

    :param being_created: whether another request is creating it.
    """
    shown = str(key) if being_created else key.sink_id
    return DefinitionExists(
        f'sink "{shown}" already exists in the source', name="sinkAlreadyExists"
    )


def branch_limit_reached(maximum: int) -> CountLimitReached:
    """The project already has the maximum number of branches."""
    return _limit("branch", "project", maximum)


def source_limit_reached(maximum: int) -> CountLimitReached:
    """The branch already has the maximum number of sources."""
    return _limit("source", "branch", maximum)


def sink_limit_reached(maximum: int) -> CountLimitReached:
    """The source already has the maximum number of sinks."""
    return _limit("sink", "source", maximum)


def project_sink_limit_reached(maximum: int) -> CountLimitReached:
    """The project would have more than the maximum number of sinks."""
    return _limit("sink", "project", maximum)


def version_limit_reached(of: str, maximum: int) -> CountLimitReached:
    """The source or sink already has the maximum number of versions.

    :param of: ``source`` or ``sink``.
    """
    return _limit("version", of, maximum)


def definition_size_limit_reached(
    size: int, missing: int, maximum: int
) -> DefinitionSizeLimitReached:
    """The definitions of the project would occupy more bytes than the limit.

    :param size: current size.
    :param missing: the bytes by which the change would exceed the limit.
    """
    return DefinitionSizeLimitReached(
        f"size limit of definitions reached in the project: its sources and sinks, with all their "
        f"versions and mappings, occupy {ByteSize(size).human()}, the maximum is "
        f"{ByteSize(maximum).human()}, and this change needs {ByteSize(missing).human()} more; "
        "delete sources or sinks that are no longer used, or ask the operator to increase "
        '"api.definitions.maxSize"',
        detail="the versions of deleted sources and sinks are removed when space is needed; a "
        "source that is deleted with `cascade=true`, which also deletes its tables, frees all its "
        "space when its files are cleaned up",
    )


def too_many_changes(maximum: int, seconds: int) -> TooManyChanges:
    """The project has recently written too many bytes.

    :param seconds: seconds until it may write again.
    """
    return TooManyChanges(
        f"too many changes of the project: they have written {ByteSize(maximum).human()} within a "
        f"quarter of an hour, which is the maximum; try again in {seconds} s"
    )


def _limit(what: str, where: str, maximum: int) -> CountLimitReached:
    return CountLimitReached(
        f"{what} count limit reached in the {where}, the maximum is {maximum}",
        name=f"{what}CountLimitReached",
    )
