"""Branch, source and sink as stored, and the parts they share.

The order of attributes is the order of members in the stored JSON. This module only describes what
is stored; `stream.definition.lifecycle` contains the lifecycle of a definition.
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
    """When an entity was disabled, by whom, and why.

    :ivar directly: false if the entity was disabled with its parent; only then is it enabled with
        its parent.
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
    """When an entity was deleted, and by whom.

    :ivar directly: false if the entity was deleted with its parent; only then is it undeleted with
        its parent.
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

    :ivar key: full path of the setting, e.g. ``storage.level.staging.upload.trigger.count``.
    :ivar value: value as the user sent it.
    """

    key: str
    value: Any = None


@attrs.frozen(kw_only=True)
class Branch(Record):
    """A branch of a project.

    :ivar name: name of the branch if it was created here; the names of other branches aren't stored
        here.
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
    """The part that only HTTP sources have: the secret in the URL."""

    secret: str = attrs.field(repr=False)


@attrs.frozen
class OtlpSource(Record):
    """The part that only OpenTelemetry sources have: the secret in the URL."""

    secret: str = attrs.field(repr=False)


SourceType = Literal["http", "otlp"]


@attrs.frozen(kw_only=True)
class Source(Record):
    """An endpoint that receives records. It has only the part that `type` names."""

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
        """The name of the part that the type requires but that isn't stored, if any."""
        return self.type if (self.http if self.type == "http" else self.otlp) is None else ""

    def check_complete(self) -> None:
        """Check that no part is missing. Raises UserError."""
        if self.missing_part:
            raise _incomplete(f'source "{self.key}"', self.missing_part)

    @property
    def is_enabled(self) -> bool:
        """Return whether the source accepts records."""
        return self.disabled is None


KEBOOLA = "keboola"
"""The type of Keboola tables; all other table types have column types."""


@attrs.frozen
class KeboolaTable(Record):
    """The Keboola table that a sink fills."""

    table_id: str


@attrs.frozen(kw_only=True)
class TableSink(Record):
    """The table of a sink.

    :ivar type: the name of its target.
    :ivar keboola: the table, if it is a Keboola table.
    :ivar options: the location of a table of another type, such as the name of the connection.
        ``partitionBy`` is a JSON array of strings.
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
        """The location of the table, in readable form."""
        if self.type == KEBOOLA:
            return "" if self.keboola is None else self.keboola.table_id
        return ".".join(value for name, value in self.options.items() if name != "partitionBy")

    @property
    def table_id(self) -> str:
        """Return the id of a Keboola table.

        Raises UserError: the table has another type, or its id isn't stored.
        """
        if self.keboola is None:
            raise _incomplete(f'a table of type "{self.type}"', f"table.{KEBOOLA}")
        return self.keboola.table_id


@attrs.frozen(kw_only=True)
class Sink(Record):
    """A destination of the records of a source: a table and its mapping."""

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
        """The name of the part that the table's type requires but that isn't stored, if any."""
        is_missing = self.table.type == KEBOOLA and self.table.keboola is None
        return f"table.{KEBOOLA}" if is_missing else ""

    def check_complete(self) -> None:
        """Check that no part is missing. Raises UserError."""
        if self.missing_part:
            raise _incomplete(f'sink "{self.key}"', self.missing_part)

    @property
    def is_enabled(self) -> bool:
        """Return whether the sink accepts records."""
        return self.disabled is None

    def accepts(self, signal: str) -> bool:
        """Return whether records of this OTLP *signal* (empty for HTTP records) go to this sink."""
        return not signal or not self.allowed_signals or signal in self.allowed_signals


def _incomplete(what: str, part: str) -> UserError:
    return UserError(
        f'"{part}" is missing in the stored {what}',
        status=409,
        name="unreadableRecord",
        detail="the record is damaged; `stream-service check-takeover` lists all such records for "
        "the operator",
    )
