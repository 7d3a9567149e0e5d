"""The lifecycle of a definition: versions, disabling, deletion, new secrets.

Pure functions from an entity to the entity after the change. `stream.definition.repository` decides
when a change makes a new version.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import attrs
import orjson
import xxhash

from stream.definition.entity import (
    Branch,
    By,
    Created,
    Deleted,
    Disabled,
    Enabled,
    HttpSource,
    OtlpSource,
    SettingOverride,
    Sink,
    Source,
    SourceType,
    TableSink,
    Undeleted,
    Version,
)
from stream.definition.key import SinkKey, SourceKey
from stream.values.codec import to_plain

__all__ = [
    "DISABLED_BY_API",
    "DISABLED_WITH_SOURCE",
    "content_hash",
    "delete",
    "disable",
    "enable",
    "is_active",
    "new_sink",
    "new_source",
    "next_version",
    "revive",
    "rollback",
    "undelete",
    "with_overrides",
    "with_secret",
]

E = TypeVar("E", Source, Sink)
S = TypeVar("S", Branch, Source, Sink)

DISABLED_BY_API = "API"
DISABLED_WITH_SOURCE = "Auto-disabled with the parent source."

_NOT_CONTENT = ("version", "created")
_HASH_DIGITS = 16


def content_hash(entity: Source | Sink) -> str:
    """Return 16 hexadecimal digits that are equal for equal content.

    The version and the details of the creation aren't part of the content. The mapping of a sink
    must be loaded.
    """
    plain = {name: part for name, part in to_plain(entity).items() if name not in _NOT_CONTENT}
    if isinstance(entity, Sink):
        plain["table"]["mapping"] = to_plain(entity.table.mapping.mapping)
    canonical = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)
    return f"{xxhash.xxh64_intdigest(canonical):0{_HASH_DIGITS}x}"


def is_active(entity: Source | Sink | None) -> bool:
    """Return whether the entity accepts records: it exists, isn't deleted and is enabled."""
    return entity is not None and entity.deleted is None and entity.disabled is None


def new_source(
    key: SourceKey,
    *,
    type: SourceType,
    name: str,
    secret: str,
    at: datetime,
    by: By,
    description: str = "",
    config: tuple[SettingOverride, ...] = (),
) -> Source:
    """Return a new source, in its first version."""
    draft = Source(
        key=key,
        created=Created(at, by),
        version=_unnumbered(at, by),
        type=type,
        name=name,
        description=description,
        config=config,
    )
    return next_version(with_secret(draft, type, secret), "New source.", at, by)


def new_sink(
    key: SinkKey,
    *,
    name: str,
    table: TableSink,
    at: datetime,
    by: By,
    description: str = "",
    config: tuple[SettingOverride, ...] = (),
    allowed_signals: tuple[str, ...] = (),
) -> Sink:
    """Return a new sink, in its first version."""
    draft = Sink(
        key=key,
        created=Created(at, by),
        version=_unnumbered(at, by),
        type="table",
        name=name,
        description=description,
        config=config,
        allowed_signals=allowed_signals,
        table=table,
    )
    return next_version(draft, "New sink.", at, by)


def _unnumbered(at: datetime, by: By) -> Version:
    return Version(number=0, hash="", description="", at=at, by=by)


def next_version(entity: E, description: str, at: datetime, by: By) -> E:
    """Return *entity* with the next version number."""
    version = Version(
        number=entity.version.number + 1,
        hash=content_hash(entity),
        description=description,
        at=at,
        by=by,
    )
    return attrs.evolve(entity, version=version)


def revive(created: E, deleted: E, at: datetime, by: By) -> E:
    """Return *created*, which continues the version numbers of *deleted* with the same id."""
    undeleted = attrs.evolve(
        created,
        created=deleted.created,
        version=attrs.evolve(created.version, number=deleted.version.number),
        undeleted=Undeleted(at, by),
    )
    return next_version(undeleted, created.version.description, at, by)


def disable(entity: S, at: datetime, by: By, *, directly: bool, reason: str) -> S:
    """Return the disabled entity.

    :param directly: false if the entity is disabled together with its parent.
    """
    disabled = Disabled(directly=directly, at=at, reason=reason, by=by)
    return attrs.evolve(entity, disabled=disabled, enabled=None)


def enable(entity: S, at: datetime, by: By) -> S:
    """Return the enabled entity."""
    return attrs.evolve(entity, disabled=None, enabled=Enabled(at, by))


def delete(entity: S, at: datetime, by: By, *, directly: bool) -> S:
    """Return the deleted entity.

    :param directly: false if the entity is deleted together with its parent.
    """
    return attrs.evolve(entity, deleted=Deleted(directly, at, by), undeleted=None)


def undelete(entity: S, at: datetime, by: By) -> S:
    """Return the restored entity."""
    return attrs.evolve(entity, deleted=None, undeleted=Undeleted(at, by))


def rollback(latest: E, target: E, at: datetime, by: By) -> E:
    """Return the content of *target* as the next version after *latest*.

    Whether the entity is enabled or deleted isn't part of the content, and doesn't change.
    """
    content = attrs.evolve(
        target,
        version=latest.version,
        disabled=latest.disabled,
        enabled=latest.enabled,
        deleted=latest.deleted,
        undeleted=latest.undeleted,
    )
    return next_version(content, f'Rollback to version "{target.version.number}".', at, by)


def with_secret(source: Source, type: SourceType, secret: str) -> Source:
    """Return *source* with this type and secret; remove the part for the other type."""
    http = attrs.evolve(source.http or HttpSource(""), secret=secret)
    otlp = attrs.evolve(source.otlp or OtlpSource(""), secret=secret)
    return attrs.evolve(
        source,
        type=type,
        http=http if type == "http" else None,
        otlp=otlp if type == "otlp" else None,
    )


def with_overrides(entity: E, overrides: list[tuple[str, object]]) -> E:
    """Return *entity* with exactly these setting overrides."""
    known = {override.key: override for override in entity.config}
    config = tuple(
        attrs.evolve(known.get(key) or SettingOverride(key), value=value)
        for key, value in overrides
    )
    return attrs.evolve(entity, config=config)
