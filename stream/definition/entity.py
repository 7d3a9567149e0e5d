"""Branch, source and sink as they are stored, and the parts they share.

The order of attributes is the order of members in the stored JSON. The changes that a definition
can go through are in `stream.definition.lifecycle`; nothing here decides or writes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import attrs

from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.errors import UserError
from stream.mapping.stored import StoredMapping, stored_mapping
from stream.values.codec import Record, field
from stream.values.utctime import NO_TIME

__all__ = [
    "KEBOOLA",
    "SYSTEM",
    "Branch",
    "By",
    "Created",
    "Deleted",
    "Disabled",
    "Enabled",
    "HttpSource",
    "KeboolaTable",
    "OtlpSource",
    "SettingOverride",
    "Sink",
    "Source",
    "TableSink",
    "Undeleted",
    "Version",
]


@attrs.frozen
class By(Record):
    """The author of a change."""

    type: str = "system"
    token_id: str = field(default="", omit_empty=True)
    token_desc: str = field(default="", omit_empty=True)
    user_id: str = field(default="", omit_empty=True)
    user_name: str = field(default="", omit_empty=True)


SYSTEM = By("system")


@attrs.frozen
class Created(Record):
    """When and by whom an entity was created."""

    at: datetime = NO_TIME
    by: By = SYSTEM


@attrs.frozen
class Version(Record):
    """One version of a source or a sink; numbers start at 1 and have no gaps."""

    number: int = 0
    hash: str = ""
    description: str = ""
    at: datetime = NO_TIME
    by: By = SYSTEM


@attrs.frozen
class Disabled(Record):
    """When, by whom and why an entity was disabled.

    :ivar directly: false if it came from the parent; only such children are enabled with it.
    """

    directly: bool = False
    at: datetime = NO_TIME
    reason: str = ""
    by: By = SYSTEM


@attrs.frozen
class Enabled(Record):
    """When and by whom an entity was enabled."""

    at: datetime = NO_TIME
    by: By = SYSTEM


@attrs.frozen
class Deleted(Record):
    """When and by whom an entity was deleted.

    :ivar directly: false if it came from the parent; only such are undeleted with it.
    """

    directly: bool = False
    at: datetime = NO_TIME
    by: By = SYSTEM


@attrs.frozen
class Undeleted(Record):
    """When and by whom a deleted entity was restored."""

    at: datetime = NO_TIME
    by: By = SYSTEM


@attrs.frozen
class SettingOverride(Record):
    """A setting that differs from the service's configuration for one source or sink.

    :ivar key: full path, e.g. ``storage.level.staging.upload.trigger.count``.
    :ivar value: as the user sent it.
    """

    key: str
    value: Any = None


@attrs.frozen(kw_only=True)
class Branch(Record):
    """A branch of a project.

    :ivar name: of a branch that was made here; others have theirs elsewhere.
    """

    key: BranchKey = field(flatten=True)
    created: Created = Created()
    disabled: Disabled | None = None
    enabled: Enabled | None = None
    deleted: Deleted | None = None
    undeleted: Undeleted | None = None
    is_default: bool = False
    name: str = field(default="", omit_empty=True)


@attrs.frozen
class HttpSource(Record):
    """What an HTTP source has alone: the secret in its URL."""

    secret: str = attrs.field(repr=False)


@attrs.frozen
class OtlpSource(Record):
    """What an OpenTelemetry source has alone: the secret in its URL."""

    secret: str = attrs.field(repr=False)


SourceType = Literal["http", "otlp"]


@attrs.frozen(kw_only=True)
class Source(Record):
    """Where records come in. Exactly the part named by `type` is present."""

    key: SourceKey = field(flatten=True)
    created: Created = Created()
    version: Version = Version()
    disabled: Disabled | None = None
    enabled: Enabled | None = None
    deleted: Deleted | None = None
    undeleted: Undeleted | None = None
    type: SourceType
    name: str = ""
    description: str = field(default="", omit_empty=True)
    config: tuple[SettingOverride, ...] = field(default=(), omit_empty=True)
    http: HttpSource | None = None
    otlp: OtlpSource | None = None

    @property
    def secret(self) -> str:
        """The secret of the part in use. Raises UserError if the part is missing."""
        self.check_complete()
        part = self.http if self.type == "http" else self.otlp
        assert part is not None
        return part.secret

    @property
    def missing_part(self) -> str:
        """The part that belongs to the type and isn't stored, if one isn't."""
        return self.type if (self.http if self.type == "http" else self.otlp) is None else ""

    def check_complete(self) -> None:
        """Raises UserError if a part is missing."""
        if self.missing_part:
            raise _incomplete(f'source "{self.key}"', self.missing_part)

    @property
    def is_enabled(self) -> bool:
        """Return whether the source takes records."""
        return self.disabled is None


KEBOOLA = "keboola"
"""The type of Keboola's tables, the only one whose columns have no types."""


@attrs.frozen
class KeboolaTable(Record):
    """The table in Keboola that a sink fills."""

    table_id: str


@attrs.frozen(kw_only=True)
class TableSink(Record):
    """The table of a sink.

    :ivar type: the name of its target.
    :ivar keboola: of a table of this type.
    :ivar options: of a table of another type: where it is, such as the name of the connection.
        ``partitionBy`` is a JSON array of texts.
    """

    type: str
    keboola: KeboolaTable | None = None
    options: Mapping[str, str] = field(factory=dict, omit_empty=True, hash=False)
    mapping: StoredMapping = attrs.field(converter=stored_mapping)

    @property
    def has_types(self) -> bool:
        """Return whether the columns of the mapping have types."""
        return self.type != KEBOOLA

    @property
    def label(self) -> str:
        """Where the table is, for people."""
        if self.type == KEBOOLA:
            return "" if self.keboola is None else self.keboola.table_id
        return ".".join(value for name, value in self.options.items() if name != "partitionBy")

    @property
    def table_id(self) -> str:
        """The id of a Keboola table. Raises UserError if it is of another type, or not stored."""
        if self.keboola is None:
            raise _incomplete(f'a table of type "{self.type}"', f"table.{KEBOOLA}")
        return self.keboola.table_id


@attrs.frozen(kw_only=True)
class Sink(Record):
    """Where the records of a source go: the rows of a table."""

    key: SinkKey = field(flatten=True)
    created: Created = Created()
    version: Version = Version()
    disabled: Disabled | None = None
    enabled: Enabled | None = None
    deleted: Deleted | None = None
    undeleted: Undeleted | None = None
    type: Literal["table"] = "table"
    name: str = ""
    description: str = field(default="", omit_empty=True)
    config: tuple[SettingOverride, ...] = field(default=(), omit_empty=True)
    allowed_signals: tuple[str, ...] = field(default=(), omit_empty=True)
    table: TableSink

    @property
    def missing_part(self) -> str:
        """The part that belongs to the type of the table and isn't stored, if one isn't."""
        is_missing = self.table.type == KEBOOLA and self.table.keboola is None
        return f"table.{KEBOOLA}" if is_missing else ""

    def check_complete(self) -> None:
        """Raises UserError if a part is missing."""
        if self.missing_part:
            raise _incomplete(f'sink "{self.key}"', self.missing_part)

    @property
    def is_enabled(self) -> bool:
        """Return whether the sink takes records."""
        return self.disabled is None

    def accepts(self, signal: str) -> bool:
        """Return whether records of this OTLP *signal* (empty for HTTP records) go to this sink."""
        return not signal or not self.allowed_signals or signal in self.allowed_signals


def _incomplete(what: str, part: str) -> UserError:
    return UserError(
        f'"{part}" is missing in the stored {what}',
        status=409,
        name="unreadableRecord",
        detail="the record is damaged; `stream-service check-takeover` lists all such records, "
        "for the operator",
    )
