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
    description="For people.",
    example="The source receives events of our shop.",
)
_CHANGE_DESCRIPTION = Text(
    max_length=MAX_DESCRIPTION, description="Of the new version.", example="Renamed."
)


def _id(of: str) -> Text:
    return Text(
        min_length=1,
        max_length=MAX_ID,
        description=f"Id of the {of}. If it is left out, it is made from the name.",
        example=f"my-{of}",
    )


def _name(of: str) -> Text:
    return Text(
        min_length=1,
        max_length=MAX_NAME,
        description=f"Name of the {of} for people.",
        example=f"My {of.capitalize()}",
    )


_SOURCE_TYPE = Text(enum=SOURCE_TYPES, description="How records come in.", example="http")
_SINK_TYPE = Text(enum=("table",), description="Where records go.", example="table")

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
    description="What a template column evaluates for each record.",
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
            Text(enum=COLUMN_TYPES, description="What the column holds.", example="path"),
            required=True,
        ),
        Member(
            "name",
            Text(
                min_length=1,
                max_length=MAX_COLUMN_NAME,
                description="Name in the table.",
                example="user",
            ),
            required=True,
        ),
        Member(
            "primaryKey",
            Boolean(description="The column is a part of the table's primary key.", default=False),
        ),
        Member(
            "path",
            Text(
                max_length=MAX_PATH,
                description="Of a path column: where in the body.",
                example="user.tags[0]",
            ),
        ),
        Member(
            "defaultValue",
            Text(
                max_length=MAX_DEFAULT_VALUE,
                description="Of a path column: if there is nothing at the path.",
                example="",
            ),
        ),
        Member(
            "rawString",
            Boolean(
                description="Of path and template columns: a string is written without quotes.",
                default=False,
            ),
        ),
        Member("template", TEMPLATE),
        Member(
            "dataType",
            Text(
                max_length=MAX_DATA_TYPE,
                description="Type of the column, in tables that have types: "
                f"{', '.join(DATA_TYPES)}.",
                example="integer",
            ),
        ),
        Member(
            "nullable",
            Boolean(
                description="In tables that have types: nothing at the path, null and, unless it "
                "is a string, an empty text become NULL.",
                default=False,
            ),
        ),
    ),
)

MAPPING = Object(
    name="TableMapping",
    description="The columns of the table's rows.",
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
    description="Id of the table, stage.bucket.table.",
    example="in.c-shop.events",
)


_CONNECTION = Text(
    max_length=MAX_NAME_BYTES,
    description="Name of the connection, of tables other than Keboola's.",
    example="warehouse",
)
_SCHEMA = Text(
    max_length=MAX_NAME_BYTES,
    description="Schema of a table in a database; that of the connection if it is left out.",
    example="events",
)
_TABLE_NAME = Text(
    max_length=MAX_NAME_BYTES, description="Name of a table in a database.", example="orders"
)
_NAMESPACE = Text(
    max_length=MAX_TABLE_ID,
    description="Namespace of an Iceberg table; dots are between its levels.",
    example="shop",
)
_PATH = Text(
    max_length=MAX_TABLE_ID,
    description="Folder of a table of Parquet files, below the connection's URL.",
    example="shop/orders",
)
_PARTITION_BY = Array(
    items=Text(max_length=MAX_PARTITION_LENGTH),
    max_items=MAX_PARTITIONS,
    description="What a table in a lake is partitioned by: transforms of columns.",
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
        description="The table that is written to.",
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
    description="Signals of an OTLP source that go to the sink; none means all.",
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
            description="Only these records.",
        ),
    ),
    Member(
        "reason",
        Text(max_length=200, example="stream.in.badRequest", description="Only this reason."),
    ),
    Member(
        "column",
        Text(
            max_length=200,
            example="price",
            description="Only records that this column could not take.",
        ),
    ),
    Member(
        "since",
        Text(
            format="date-time",
            example="2024-01-15T10:30:00.000Z",
            description="Only records that were received at this time or later.",
        ),
    ),
    Member(
        "until",
        Text(
            format="date-time",
            example="2024-01-15T11:30:00.000Z",
            description="Only records that were received before this time.",
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
                description="The mapping to try, and the kind of table, which says whether columns "
                "have types.",
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
                description="A record as it would arrive.",
                members=(
                    Member(
                        "body",
                        Text(description="Text, or base64.", example='{"user":{"name":"Ada"}}'),
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
                            description="Without a Content-Type, the body is JSON.",
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
            Text(min_length=1, max_length=MAX_NAME, description="For people.", example="staging"),
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
                description="Of who uses it, for people.",
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
                description="read: definitions and statistics; write: changes, too; tail: records "
                "as they come in; admin: all of it, tokens and branches.",
                example=["write"],
            ),
            required=True,
        ),
        Member(
            "expiresAt",
            Text(
                format="date-time",
                description="When it ends; never if it is left out.",
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
                description="Settings to change; a null value goes back to the default.",
            ),
        ),
    ),
)
