"""Schemas of request bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from stream.api.spec.schema import ANYTHING, Array, Boolean, Member, Object, Text, missing
from stream.authority.rights import RIGHTS
from stream.authority.tokens import MAX_TOKEN_NAME
from stream.definition.entity import KEBOOLA
from stream.errors import Fault
from stream.mapping.columns import COLUMN_TYPES, MAX_COLUMNS, MAX_TEMPLATE_CHARACTERS
from stream.mapping.types import DATA_TYPES

__all__ = [
    "CREATE_BRANCH",
    "CREATE_SINK",
    "CREATE_SOURCE",
    "CREATE_TOKEN",
    "REPLAY_REJECTED",
    "SETTINGS_PATCH",
    "TEST_MAPPING",
    "TEST_REJECTED",
    "UPDATE_SINK",
    "UPDATE_SOURCE",
]

MAX_ID = 48
MAX_NAME = 40
MAX_DESCRIPTION = 4096
MAX_COLUMN_NAME = 128
MAX_PATH = 1024
MAX_DEFAULT_VALUE = 4096
MAX_TABLE_ID = 256
MAX_DATA_TYPE = 20
MAX_NAME_BYTES = 63
MAX_PARTITIONS = 10
MAX_PARTITION_LENGTH = 200
MAX_SIGNALS = 10
MAX_SETTINGS = 200
MAX_HEADERS = 100

SOURCE_TYPES = ("http", "otlp")
SIGNALS = ("logs", "metrics", "traces")

_DESCRIPTION = Text(
    max_length=MAX_DESCRIPTION,
    description="Free text, for display.",
    example="The source receives events of our shop.",
)
_CHANGE_DESCRIPTION = Text(
    max_length=MAX_DESCRIPTION, description="Description of the new version.", example="Renamed."
)


def _id(of: str) -> Text:
    return Text(
        min_length=1,
        max_length=MAX_ID,
        description=f"Id of the {of}; by default it is derived from the name.",
        example=f"my-{of}",
    )


def _name(of: str) -> Text:
    return Text(
        min_length=1,
        max_length=MAX_NAME,
        description=f"Name of the {of}, for display.",
        example=f"My {of.capitalize()}",
    )


_SOURCE_TYPE = Text(
    enum=SOURCE_TYPES, description="Protocol by which the source accepts records.", example="http"
)
_SINK_TYPE = Text(enum=("table",), description="Kind of the sink.", example="table")

CREATE_SOURCE = Object(
    name="CreateSourceRequestBody",
    members=(
        Member("sourceId", _id("source")),
        Member("type", _SOURCE_TYPE, required=True),
        Member("name", _name("source"), required=True),
        Member("description", _DESCRIPTION),
    ),
)

UPDATE_SOURCE = Object(
    name="UpdateSourceRequestBody",
    nullable=True,
    members=(
        Member("changeDescription", _CHANGE_DESCRIPTION),
        Member("type", _SOURCE_TYPE),
        Member("name", _name("source")),
        Member("description", _DESCRIPTION),
    ),
)

TEMPLATE = Object(
    name="TableColumnTemplate",
    description="The template of a template column, evaluated for each record.",
    members=(
        Member("language", Text(enum=("jsonnet",), example="jsonnet"), required=True),
        Member(
            "content",
            Text(
                min_length=1, max_length=MAX_TEMPLATE_CHARACTERS, example="Body('user.id') + '-x'"
            ),
            required=True,
        ),
    ),
)

COLUMN = Object(
    name="TableColumn",
    members=(
        Member(
            "type",
            Text(
                enum=COLUMN_TYPES,
                description="Where the value of the column comes from.",
                example="path",
            ),
            required=True,
        ),
        Member(
            "name",
            Text(
                min_length=1,
                max_length=MAX_COLUMN_NAME,
                description="Name of the column in the table.",
                example="user",
            ),
            required=True,
        ),
        Member(
            "primaryKey",
            Boolean(
                description="Whether the column is part of the primary key of the table.",
                default=False,
            ),
        ),
        Member(
            "path",
            Text(
                max_length=MAX_PATH,
                description="For a path column: the path of the value in the body.",
                example="user.tags[0]",
            ),
        ),
        Member(
            "defaultValue",
            Text(
                max_length=MAX_DEFAULT_VALUE,
                description="For a path column: the value if there is nothing at the path.",
                example="",
            ),
        ),
        Member(
            "rawString",
            Boolean(
                description="For path and template columns: whether strings are stored without "
                "quotes.",
                default=False,
            ),
        ),
        Member("template", TEMPLATE),
        Member(
            "dataType",
            Text(
                max_length=MAX_DATA_TYPE,
                description="Data type of the column, for tables with types: "
                f"{', '.join(DATA_TYPES)}.",
                example="integer",
            ),
        ),
        Member(
            "nullable",
            Boolean(
                description="For tables with types: whether a missing value, null and, for types "
                "other than string, an empty text become NULL.",
                default=False,
            ),
        ),
    ),
)

MAPPING = Object(
    name="TableMapping",
    description="The columns of the table.",
    members=(
        Member(
            "columns",
            Array(
                items=COLUMN,
                min_items=1,
                max_items=MAX_COLUMNS,
            ),
            required=True,
        ),
    ),
)

_TABLE_TYPE = Text(
    description="Kind of the table: keboola, postgres, parquet or another installed target.",
    example="keboola",
)
_TABLE_ID = Text(
    max_length=MAX_TABLE_ID,
    description="Id of the table, for Keboola's tables: stage.bucket.table.",
    example="in.c-shop.events",
)


_CONNECTION = Text(
    max_length=MAX_NAME_BYTES,
    description="Name of the connection, for all tables except Keboola's.",
    example="warehouse",
)
_SCHEMA = Text(
    max_length=MAX_NAME_BYTES,
    description="Schema of a database table; the default is the schema of the connection.",
    example="events",
)
_TABLE_NAME = Text(
    max_length=MAX_NAME_BYTES,
    description="Name of a database table or Iceberg table.",
    example="orders",
)
_NAMESPACE = Text(
    max_length=MAX_TABLE_ID,
    description="Namespace of an Iceberg table, with dots between its levels.",
    example="shop",
)
_PATH = Text(
    max_length=MAX_TABLE_ID,
    description="Folder of a table of Parquet files, below the URL of the connection.",
    example="shop/orders",
)
_PARTITION_BY = Array(
    items=Text(max_length=MAX_PARTITION_LENGTH),
    max_items=MAX_PARTITIONS,
    description="Partitions of a table in a lake: transforms of columns.",
    example=["day(at)"],
)


@attrs.frozen(kw_only=True)
class TableObject(Object):
    """A table, whose required members depend on its type.

    :ivar is_complete: whether these members are required.
    """

    is_complete: bool

    def check(self, value: Any, path: str) -> Iterator[Fault]:
        if self.is_complete:
            type = value.get("type", KEBOOLA)
            place = _PLACES.get(type, _PLACE) if isinstance(type, str) else _PLACES[KEBOOLA]
            for name in ("type", *place, "mapping"):
                if name not in value:
                    yield missing(name, path)
        yield from super().check(value, path)


_PLACE = ("connection", "table")
_PLACES = {
    KEBOOLA: ("tableId",),
    "parquet": ("connection", "path"),
    "iceberg": ("connection", "namespace", "table"),
}


def _table(name: str, *, required: bool) -> Object:
    return TableObject(
        name=name,
        description="The table in which the sink stores rows.",
        is_complete=required,
        members=(
            Member("type", _TABLE_TYPE),
            Member("tableId", _TABLE_ID),
            Member("connection", _CONNECTION),
            Member("schema", _SCHEMA),
            Member("namespace", _NAMESPACE),
            Member("table", _TABLE_NAME),
            Member("path", _PATH),
            Member("partitionBy", _PARTITION_BY),
            Member("mapping", MAPPING),
        ),
    )


_ALLOWED_SIGNALS = Array(
    items=Text(enum=SIGNALS),
    max_items=MAX_SIGNALS,
    description="Signals of an OTLP source that the sink accepts; an empty list means all.",
    example=["logs"],
)

CREATE_SINK = Object(
    name="CreateSinkRequestBody",
    members=(
        Member("sinkId", _id("sink")),
        Member("type", _SINK_TYPE, required=True),
        Member("name", _name("sink"), required=True),
        Member("description", _DESCRIPTION),
        Member("allowedSignals", _ALLOWED_SIGNALS),
        Member("table", _table("TableSinkCreate", required=True)),
    ),
)

UPDATE_SINK = Object(
    name="UpdateSinkRequestBody",
    nullable=True,
    members=(
        Member("changeDescription", _CHANGE_DESCRIPTION),
        Member("type", _SINK_TYPE),
        Member("name", _name("sink")),
        Member("description", _DESCRIPTION),
        Member("allowedSignals", _ALLOWED_SIGNALS),
        Member("table", _table("TableSinkUpdate", required=False)),
    ),
)

MAX_REJECTED_IDS = 10_000
_REJECTED_CHOICE = (
    Member(
        "ids",
        Array(
            items=Text(max_length=MAX_ID),
            max_items=MAX_REJECTED_IDS,
            description="Select only records with these ids.",
        ),
    ),
    Member(
        "reason",
        Text(
            max_length=200,
            example="stream.in.badRequest",
            description="Select only records with this reason.",
        ),
    ),
    Member(
        "column",
        Text(
            max_length=200,
            example="price",
            description="Select only records that were rejected because of this column.",
        ),
    ),
    Member(
        "since",
        Text(
            format="date-time",
            example="2024-01-15T10:30:00.000Z",
            description="Select only records that were received at this time or later.",
        ),
    ),
    Member(
        "until",
        Text(
            format="date-time",
            example="2024-01-15T11:30:00.000Z",
            description="Select only records that were received before this time.",
        ),
    ),
)
REPLAY_REJECTED = Object(name="ReplayRejectedRequestBody", nullable=True, members=_REJECTED_CHOICE)
TEST_REJECTED = Object(
    name="TestRejectedRequestBody",
    members=(Member("mapping", MAPPING, required=True), *_REJECTED_CHOICE),
)

TEST_MAPPING = Object(
    name="TestMappingRequestBody",
    members=(
        Member(
            "table",
            Object(
                name="TestedTable",
                description="The mapping to test, and the type of the table, which determines "
                "whether columns have data types.",
                members=(
                    Member("type", _TABLE_TYPE),
                    Member("mapping", MAPPING, required=True),
                ),
            ),
            required=True,
        ),
        Member(
            "record",
            Object(
                name="TestedRecord",
                description="A sample record.",
                members=(
                    Member(
                        "body",
                        Text(
                            description="The body as text, or as base64 if isBase64 is true.",
                            example='{"user":{"name":"Ada"}}',
                        ),
                        required=True,
                    ),
                    Member("isBase64", Boolean(default=False)),
                    Member(
                        "headers",
                        Array(
                            items=Object(
                                name="TestedHeader",
                                members=(
                                    Member("name", Text(example="Content-Type"), required=True),
                                    Member("value", Text(example="application/json")),
                                ),
                            ),
                            max_items=MAX_HEADERS,
                            description="Headers of the record. Without a Content-Type, the body "
                            "is JSON.",
                        ),
                    ),
                    Member("ip", Text(description="The address of the producer.")),
                ),
            ),
            required=True,
        ),
    ),
)

CREATE_BRANCH = Object(
    name="CreateBranchRequestBody",
    members=(
        Member(
            "name",
            Text(
                min_length=1,
                max_length=MAX_NAME,
                description="Free text, for display.",
                example="staging",
            ),
            required=True,
        ),
    ),
)

CREATE_TOKEN = Object(
    name="CreateTokenRequestBody",
    members=(
        Member(
            "name",
            Text(
                min_length=1,
                max_length=MAX_TOKEN_NAME,
                description="Description of the user of the token.",
                example="ci",
            ),
            required=True,
        ),
        Member(
            "rights",
            Array(
                items=Text(enum=RIGHTS),
                min_items=1,
                max_items=len(RIGHTS),
                description="read permits reading definitions and statistics; write permits "
                "changes, too; tail permits reading records; admin permits everything, "
                "including tokens and branches.",
                example=["write"],
            ),
            required=True,
        ),
        Member(
            "expiresAt",
            Text(
                format="date-time",
                description="When the token expires; without this member it never expires.",
                example="2100-01-01T00:00:00Z",
            ),
        ),
    ),
)

SETTINGS_PATCH = Object(
    name="SettingsPatchRequestBody",
    nullable=True,
    members=(
        Member("changeDescription", _CHANGE_DESCRIPTION),
        Member(
            "settings",
            Array(
                items=Object(
                    name="SettingPatch",
                    members=(
                        Member(
                            "key",
                            Text(
                                min_length=1,
                                example="storage.level.target.import.trigger.interval",
                            ),
                            required=True,
                        ),
                        Member("value", ANYTHING),
                    ),
                ),
                max_items=MAX_SETTINGS,
                description="Settings to change; the value null restores the inherited value.",
            ),
        ),
    ),
)
