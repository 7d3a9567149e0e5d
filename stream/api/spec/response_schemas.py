"""Schemas of answers, for the documentation. Members are in the order used in answers."""

from __future__ import annotations

from stream.api.spec.request_schemas import SIGNALS, SOURCE_TYPES
from stream.api.spec.schema import (
    ANYTHING,
    Anything,
    Array,
    Boolean,
    Integer,
    Member,
    Number,
    Object,
    Schema,
    Text,
)
from stream.authority.rights import RIGHTS
from stream.errors import MAX_FAULTS
from stream.mapping.columns import COLUMN_TYPES

__all__ = [
    "AGGREGATED_SOURCES",
    "BRANCH",
    "BRANCHES",
    "CONNECTIONS",
    "CREATED_TOKEN",
    "CURRENT_TOKEN",
    "ERROR",
    "REJECTED_DELETED",
    "REJECTED_RECORD",
    "REJECTED_RECORDS",
    "REJECTED_TEST",
    "SERVICE_DETAIL",
    "SETTINGS_RESULT",
    "SINK",
    "SINKS_LIST",
    "SINK_FILES",
    "SOURCE",
    "SOURCES_LIST",
    "STATISTICS_FILES",
    "STATISTICS_TOTAL",
    "TABLE_ROWS",
    "TASK",
    "TASKS_LIST",
    "TESTED_MAPPING",
    "TEST_RESULT",
    "TOKENS",
    "VERSION",
    "VERSIONS",
    "VERSION_DETAIL",
]

_TEXT = Text()
_INT = Integer()
_TIME = Text(format="date-time", example="2024-01-15T10:30:00.000Z")
_PROJECT_ID = Integer(example=123)
_BRANCH_ID = Integer(example=345)
_SOURCE_ID = Text(example="my-source")
_SINK_ID = Text(example="my-sink")
_PARAM = Text(
    description="The part of the request that is wrong.", example="body.table.mapping.columns[0]"
)


def _object(
    name: str,
    *members: tuple[str, Schema],
    optional: tuple[str, ...] = (),
    nullable: bool = False,
) -> Object:
    """Return an object whose members are all required, except for the *optional* ones."""
    return Object(
        name=name,
        nullable=nullable,
        members=tuple(
            Member(member, schema, required=member not in optional) for member, schema in members
        ),
    )


BY = _object(
    "By",
    ("type", Text(enum=("user", "system"))),
    ("tokenId", _TEXT),
    ("tokenDesc", _TEXT),
    ("userId", _TEXT),
    ("userName", _TEXT),
    optional=("tokenId", "tokenDesc", "userId", "userName"),
)
CREATED = _object("CreatedEntity", ("at", _TIME), ("by", BY))
DELETED = _object("DeletedEntity", ("at", _TIME), ("by", BY))
DISABLED = _object("DisabledEntity", ("at", _TIME), ("by", BY), ("reason", Text(example="API")))
_VERSION_MEMBERS: tuple[tuple[str, Schema], ...] = (
    ("number", Integer(example=3)),
    ("hash", Text(example="f43e93acd97eceb3")),
    ("description", Text(example="Updated.")),
    ("at", _TIME),
    ("by", BY),
)
VERSION = _object("Version", *_VERSION_MEMBERS)
VERSION_DETAIL = _object(
    "VersionDetail",
    *_VERSION_MEMBERS,
    (
        "content",
        Anything(description="The source or sink with its overridden settings, in this version."),
    ),
    optional=("content",),
)
PAGE = _object(
    "PaginatedResponse",
    ("limit", Integer(example=100)),
    ("totalCount", Integer(example=1000)),
    ("afterId", Text(example="my-object-123")),
    ("lastId", Text(example="my-object-456")),
)

_SOURCE_MEMBERS: tuple[tuple[str, Schema], ...] = (
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("sourceId", _SOURCE_ID),
    ("type", Text(enum=SOURCE_TYPES)),
    ("name", _TEXT),
    ("description", _TEXT),
    (
        "http",
        _object("HTTPSource", ("url", Text(description="URL to which producers send records."))),
    ),
    (
        "otlp",
        _object(
            "OTLPSource",
            ("url", Text(description="Endpoint whose path contains the secret.")),
            (
                "baseUrl",
                Text(description="Endpoint for exporters that send the secret as a bearer token."),
            ),
            ("secret", Text(description="The secret, which is also the bearer token.")),
        ),
    ),
    ("version", VERSION),
    ("created", CREATED),
    ("deleted", DELETED),
    ("disabled", DISABLED),
)
SOURCE = _object("Source", *_SOURCE_MEMBERS, optional=("http", "otlp", "deleted", "disabled"))

_COLUMN = _object(
    "TableColumnResponse",
    ("type", Text(enum=COLUMN_TYPES)),
    ("name", _TEXT),
    ("primaryKey", Boolean()),
    ("dataType", Text(example="integer")),
    ("nullable", Boolean()),
    ("path", _TEXT),
    ("defaultValue", _TEXT),
    ("rawString", Boolean()),
    (
        "template",
        _object("TableColumnTemplateResponse", ("language", _TEXT), ("content", _TEXT)),
    ),
    optional=(
        "primaryKey",
        "dataType",
        "nullable",
        "path",
        "defaultValue",
        "rawString",
        "template",
    ),
)
_TABLE = _object(
    "TableSink",
    ("type", Text(example="keboola")),
    ("tableId", Text(example="in.c-shop.events")),
    ("connection", Text(example="warehouse")),
    ("schema", Text(example="events")),
    ("namespace", Text(example="shop")),
    ("table", Text(example="orders")),
    ("path", Text(example="shop/orders")),
    ("partitionBy", Array(items=Text(example="day(at)"))),
    ("mapping", _object("TableMappingResponse", ("columns", Array(items=_COLUMN)))),
    optional=(
        *("tableId", "connection", "schema", "namespace", "table"),
        *("path", "partitionBy"),
    ),
)
_SINK_MEMBERS: tuple[tuple[str, Schema], ...] = (
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("sourceId", _SOURCE_ID),
    ("sinkId", _SINK_ID),
    ("type", Text(enum=("table",))),
    ("name", _TEXT),
    ("description", _TEXT),
    ("allowedSignals", Array(items=Text(enum=SIGNALS))),
    ("table", _TABLE),
    ("version", VERSION),
    ("created", CREATED),
    ("deleted", DELETED),
    ("disabled", DISABLED),
)
_SINK_OPTIONAL = ("allowedSignals", "deleted", "disabled")
SINK = _object("Sink", *_SINK_MEMBERS, optional=_SINK_OPTIONAL)

SOURCES_LIST = _object(
    "SourcesList",
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("page", PAGE),
    ("sources", Array(items=SOURCE)),
)
SINKS_LIST = _object(
    "SinksList",
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("sourceId", _SOURCE_ID),
    ("page", PAGE),
    ("sinks", Array(items=SINK)),
)
VERSIONS = _object("EntityVersions", ("versions", Array(items=VERSION)), ("page", PAGE))

SETTINGS_RESULT = _object(
    "SettingsResult",
    (
        "settings",
        Array(
            items=_object(
                "SettingResult",
                ("key", Text(example="storage.level.target.import.trigger.interval")),
                ("type", Text(enum=("string", "int", "float", "bool", "[]string"))),
                ("description", _TEXT),
                ("value", ANYTHING),
                ("defaultValue", ANYTHING),
                ("overwritten", Boolean()),
                ("protected", Boolean()),
                ("validation", _TEXT),
                optional=("validation",),
            )
        ),
    ),
)


def _level(name: str, *, nullable: bool = False) -> Object:
    return _object(
        name,
        ("firstRecordAt", _TIME),
        ("lastRecordAt", _TIME),
        ("recordsCount", _INT),
        ("compressedSize", Integer(description="Size after compression, in bytes.")),
        ("uncompressedSize", Integer(description="Size before compression, in bytes.")),
        optional=("firstRecordAt", "lastRecordAt"),
        nullable=nullable,
    )


_LEVEL = _level("Level")
_LEVELS = _object(
    "Levels",
    ("local", _LEVEL),
    ("staging", _LEVEL),
    ("target", _LEVEL),
    optional=("local", "staging", "target"),
)
_REJECTED = _object(
    "RejectedStatistics",
    ("count", Integer(description="Number of records that the mapping rejected.")),
    (
        "lastError",
        _object(
            "RejectedLastError",
            ("reason", Text(description="Name of the error.", example="stream.in.badRequest")),
            (
                "column",
                Text(
                    description="The column that caused the error; empty if the whole record can't "
                    "be read."
                ),
            ),
            ("message", _TEXT),
            ("time", _TIME),
        ),
    ),
    optional=("lastError",),
)
STATISTICS_TOTAL = _object(
    "SinkStatisticsTotalResult",
    ("total", _LEVEL),
    ("levels", _LEVELS),
    ("rejected", _REJECTED),
    optional=("rejected",),
)
_QUARANTINE = _object(
    "SinkFileQuarantine",
    ("recordsCount", Integer(description="Number of rows that the target has refused so far.")),
    ("reason", Text(description="Why the target refused the first of them.")),
    (
        "isFinished",
        Boolean(description="Whether all refused rows are found, and all others are imported."),
    ),
    (
        "fileId",
        Integer(description="File of the project's storage that contains the refused rows."),
    ),
    ("table", Text(description="Table that contains the refused rows, if they are in a table.")),
    optional=("fileId", "table"),
)
_FILE = _object(
    "SinkFile",
    ("state", Text(enum=("writing", "closing", "importing", "imported"))),
    ("openedAt", _TIME),
    ("closingAt", _TIME),
    ("importingAt", _TIME),
    ("importedAt", _TIME),
    ("retryAttempt", _INT),
    ("retryReason", _TEXT),
    ("retryAfter", _TIME),
    (
        "statistics",
        _object(
            "SinkFileStatistics",
            ("total", _level("SinkFileTotal", nullable=True)),
            ("levels", _LEVELS),
        ),
    ),
    (
        "quarantine",
        _QUARANTINE,
    ),
    optional=(
        *("closingAt", "importingAt", "importedAt"),
        *("retryAttempt", "retryReason", "retryAfter", "statistics", "quarantine"),
    ),
)
STATISTICS_FILES = _object("SinkStatisticsFilesResult", ("files", Array(items=_FILE)))

_CONDITION = _object(
    "SinkFileCondition",
    ("name", Text(enum=("recordCount", "size", "time", "sliceCount", "expiration"))),
    ("value", Number(description="Current number of records, bytes, seconds or slices.")),
    ("limit", Number(description="Value at which the condition is met.")),
    ("progress", Number(description="Progress towards the limit, from 0 to 1.", example=0.25)),
    (
        "at",
        Text(
            format="date-time",
            description="Time at which the condition is met, if it depends only on time.",
        ),
    ),
    optional=("at",),
)
_ROWS_OF_FILE = _level("PipelineStatistics")
_CONDITIONS = Array(
    items=_CONDITION,
    description="Conditions that close it while it is open, the one closest to its limit first.",
)
_RETRY = (("retryAttempt", _INT), ("retryReason", _TEXT), ("retryAfter", _TIME))
_RETRY_OPTIONAL = tuple(name for name, _ in _RETRY)
SINK_FILES = _object(
    "SinkFilesResult",
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("sourceId", _SOURCE_ID),
    ("sinkId", _SINK_ID),
    ("time", _TIME),
    (
        "freshness",
        _object(
            "SinkFreshness",
            (
                "pendingRecords",
                Integer(description="Number of records that aren't in the table yet."),
            ),
            ("oldestPendingAt", _TIME),
            (
                "lastRecordAt",
                Text(
                    format="date-time", description="Time of the newest record in the listed files."
                ),
            ),
            optional=("oldestPendingAt", "lastRecordAt"),
        ),
    ),
    (
        "files",
        Array(
            description="Files that aren't imported yet, the newest first.",
            items=_object(
                "PipelineFile",
                ("fileId", _TEXT),
                ("state", Text(enum=("writing", "closing", "importing"))),
                ("openedAt", _TIME),
                ("closingAt", _TIME),
                ("importingAt", _TIME),
                *_RETRY,
                ("statistics", _ROWS_OF_FILE),
                ("conditions", _CONDITIONS),
                ("quarantine", _QUARANTINE),
                (
                    "slices",
                    Array(
                        description="Slices that aren't imported yet.",
                        items=_object(
                            "PipelineSlice",
                            ("sliceId", _TEXT),
                            ("volumeId", _TEXT),
                            ("state", Text(enum=("writing", "closing", "uploading", "uploaded"))),
                            ("openedAt", _TIME),
                            ("closingAt", _TIME),
                            ("uploadingAt", _TIME),
                            ("uploadedAt", _TIME),
                            *_RETRY,
                            ("statistics", _ROWS_OF_FILE),
                            ("conditions", _CONDITIONS),
                            optional=(
                                *("closingAt", "uploadingAt", "uploadedAt"),
                                *_RETRY_OPTIONAL,
                            ),
                        ),
                    ),
                ),
                optional=("closingAt", "importingAt", "quarantine", *_RETRY_OPTIONAL),
            ),
        ),
    ),
    (
        "imports",
        Array(
            description="The last imported files, the newest first.",
            items=_object(
                "PipelineImport",
                ("fileId", _TEXT),
                ("openedAt", _TIME),
                ("closingAt", _TIME),
                ("importingAt", _TIME),
                ("importedAt", _TIME),
                ("duration", Integer(description="Duration of the import in milliseconds.")),
                ("statistics", _ROWS_OF_FILE),
                ("quarantine", _QUARANTINE),
                optional=("closingAt", "importingAt", "importedAt", "duration", "quarantine"),
            ),
        ),
    ),
)

TABLE_ROWS = _object(
    "TableRowsResult",
    ("columns", Array(items=_TEXT)),
    ("rows", Array(items=Array(items=Text(nullable=True)))),
)

AGGREGATED_SOURCES = _object(
    "AggregatedSourcesResult",
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("page", PAGE),
    (
        "sources",
        Array(
            items=_object(
                "AggregatedSource",
                *_SOURCE_MEMBERS,
                (
                    "sinks",
                    Array(
                        items=_object(
                            "AggregatedSink",
                            *_SINK_MEMBERS,
                            (
                                "statistics",
                                _object(
                                    "AggregatedStatistics",
                                    ("total", _LEVEL),
                                    ("levels", _LEVELS),
                                    ("rejected", _REJECTED),
                                    ("files", Array(items=_FILE)),
                                    optional=("rejected",),
                                ),
                            ),
                            optional=_SINK_OPTIONAL,
                        )
                    ),
                ),
                optional=("http", "otlp", "deleted", "disabled"),
            )
        ),
    ),
)

TEST_ROW = _object(
    "TestResultRow",
    (
        "columns",
        Array(items=_object("TestResultColumn", ("name", _TEXT), ("value", _TEXT))),
    ),
)
TEST_RESULT = _object(
    "TestResult",
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("sourceId", _SOURCE_ID),
    (
        "tables",
        Array(
            items=_object(
                "TestResultTable",
                ("sinkId", _SINK_ID),
                ("tableId", _TEXT),
                (
                    "rows",
                    Array(items=TEST_ROW),
                ),
            )
        ),
    ),
)

TESTED_MAPPING = _object(
    "TestedMapping",
    (
        "rows",
        Array(
            items=_object(
                "TestedRow",
                ("accepted", Boolean(description="Whether all columns have a value.")),
                (
                    "columns",
                    Array(
                        items=_object(
                            "TestedColumn",
                            ("name", _TEXT),
                            ("value", _TEXT),
                            ("error", Text(description="Why the column has no value.")),
                            optional=("value", "error"),
                        )
                    ),
                ),
            ),
            description="A row for each record in the body.",
        ),
    ),
)

_REJECTED_NOTES = Array(
    items=_TEXT,
    description="Notes about columns that read headers whose values are masked in rejected "
    "records.",
)
_REJECTED_NODES = Array(
    items=_object(
        "RejectedNode",
        ("nodeId", _TEXT),
        ("available", Boolean()),
        ("message", Text(description="Why the answer lacks the records of this node.")),
        optional=("message",),
    )
)
_MISSING_NODES = Array(
    items=_REJECTED_NODES.items,
    description="The nodes that may keep others, but don't run, don't answer or lack their "
    "directory.",
)
TASK = _object(
    "Task",
    ("taskId", Text(example="api.create.source/345/my-source/2024-01-15T10:30:00.000Z_aB3xZ")),
    ("type", Text(example="api.create.source")),
    ("url", Text(description="Request this URL, with `?wait=10s`, until the task is finished.")),
    ("status", Text(enum=("processing", "success", "error"))),
    ("isFinished", Boolean()),
    ("createdAt", _TIME),
    ("finishedAt", _TIME),
    ("duration", Integer(description="Duration in milliseconds.")),
    ("result", _TEXT),
    ("error", _TEXT),
    (
        "outputs",
        _object(
            "TaskOutputs",
            ("url", _TEXT),
            ("projectId", _PROJECT_ID),
            ("branchId", _BRANCH_ID),
            ("sourceId", _SOURCE_ID),
            ("sinkId", _SINK_ID),
            (
                "replayed",
                Integer(description="For a replay: number of records that were mapped again."),
            ),
            ("stored", Integer(description="Number of these records that were stored.")),
            (
                "rejected",
                Integer(description="Number of these records that the mapping rejected again."),
            ),
            (
                "results",
                Array(
                    description="The results of the first 1,000 of these records.",
                    items=_object(
                        "ReplayedRecord",
                        ("id", _TEXT),
                        ("stored", Boolean()),
                        ("reason", _TEXT),
                        ("column", _TEXT),
                        ("message", _TEXT),
                        optional=("reason", "column", "message"),
                    ),
                ),
            ),
            (
                "isComplete",
                Boolean(
                    description="Whether a replay has mapped all selected records. It hasn't if it "
                    "is still running, has reached its time limit, or if `nodes` are unavailable."
                ),
            ),
            (
                "hasMore",
                Boolean(description="Whether records remain because the time limit was reached."),
            ),
            ("notes", _REJECTED_NOTES),
            ("nodes", _REJECTED_NODES),
            optional=(
                *("url", "projectId", "branchId", "sourceId", "sinkId"),
                *("replayed", "stored", "rejected", "results"),
                *("isComplete", "hasMore", "notes", "nodes"),
            ),
        ),
    ),
    (
        "warnings",
        Array(
            items=_object("Warning", ("param", _PARAM), ("message", _TEXT)),
            description="Unknown members of the body; only in the first answer.",
        ),
    ),
    optional=("finishedAt", "duration", "result", "error", "outputs", "warnings"),
)
TASKS_LIST = _object(
    "TasksList",
    ("projectId", _PROJECT_ID),
    ("branchId", _BRANCH_ID),
    ("page", PAGE),
    (
        "tasks",
        Array(
            items=TASK,
            description="The tasks, the newest first, without the results of single records.",
        ),
    ),
)

BRANCH = _object(
    "Branch",
    ("branchId", _BRANCH_ID),
    ("name", Text(example="default")),
    ("isDefault", Boolean(example=True)),
)
BRANCHES = _object("BranchesList", ("branches", Array(items=BRANCH)))

CONNECTIONS = _object(
    "ConnectionsList",
    (
        "connections",
        Array(
            items=_object(
                "Connection",
                ("name", Text(example="warehouse")),
                ("type", Text(description="Type of its tables.", example="postgres")),
                (
                    "isAvailable",
                    Boolean(
                        description="Whether it works; null if its target can't test it.",
                        nullable=True,
                    ),
                ),
                ("checkedAt", _TIME),
                ("message", Text(description="Why it doesn't work.")),
                optional=("message",),
            )
        ),
    ),
    (
        "tableTypes",
        Array(
            items=Text(example="postgres"),
            description="The types of tables that a sink of the project can have.",
        ),
    ),
)

CURRENT_TOKEN = _object(
    "CurrentToken",
    ("tokenId", Text(example="a1b2c3d4")),
    ("projectId", _PROJECT_ID),
    ("name", Text(example="ci")),
    (
        "rights",
        Array(
            items=Text(enum=RIGHTS),
            description="The rights, including implied ones, such as read for write.",
        ),
    ),
)

_TOKEN_MEMBERS: tuple[tuple[str, Schema], ...] = (
    ("tokenId", Text(example="a1b2c3d4")),
    ("projectId", _PROJECT_ID),
    ("name", Text(example="ci")),
    ("rights", Array(items=Text(enum=RIGHTS))),
    ("created", CREATED),
    ("expiresAt", _TIME),
    ("isExpired", Boolean(example=False)),
)
TOKENS = _object(
    "TokensList",
    ("tokens", Array(items=_object("Token", *_TOKEN_MEMBERS, optional=("expiresAt",)))),
)
CREATED_TOKEN = _object(
    "CreatedToken",
    *_TOKEN_MEMBERS,
    ("token", Text(description="The text of the token; only this answer contains it.")),
    optional=("expiresAt",),
)

SERVICE_DETAIL = _object("ServiceDetail", ("api", Text(example="stream")), ("documentation", _TEXT))

ERROR = _object(
    "GenericError",
    ("statusCode", Integer(example=404)),
    ("error", Text(example="stream.api.sourceNotFound")),
    ("message", Text(example='Source "my-source" not found in the branch.')),
    ("exceptionId", _TEXT),
    ("param", _PARAM),
    (
        "detail",
        Text(description="Details that the message doesn't contain, such as allowed values."),
    ),
    ("hint", Text(description="The value that was probably meant.")),
    (
        "errors",
        Array(
            items=_object(
                "Fault",
                ("error", Text(example="stream.api.missingField")),
                ("message", _TEXT),
                ("param", _PARAM),
                ("detail", _TEXT),
                optional=("param", "detail"),
            ),
            max_items=MAX_FAULTS,
            description="All errors, if there are several.",
        ),
    ),
    ("docUrl", Text(description="URL of the documentation of the operation.")),
    optional=("exceptionId", "param", "detail", "hint", "errors", "docUrl"),
)

_KEPT_HEADERS = Object(additional=_TEXT, description="The headers, with masked secrets.")
_REJECTED_OUTLINE: tuple[tuple[str, Schema], ...] = (
    ("id", Text(example="019c0d2c-3d4e-7a10-8a64-1f2e3d4c5b6a")),
    ("nodeId", Text(description="The source node that keeps the record.")),
    ("time", _TIME),
    ("statusCode", Integer(example=400)),
    ("reason", Text(description="Name of the error.", example="stream.in.badRequest")),
    (
        "column",
        Text(
            description="The column that caused the error; empty if the whole record can't be read."
        ),
    ),
    ("message", _TEXT),
    ("excerpt", Text(description="The beginning of the body.")),
    ("contentType", _TEXT),
    ("size", Integer(description="Bytes of the body.")),
)
REJECTED_RECORDS = _object(
    "RejectedRecords",
    (
        "records",
        Array(
            items=_object(
                "RejectedRecordOutline",
                *_REJECTED_OUTLINE,
                ("headers", _KEPT_HEADERS),
                optional=("headers",),
            )
        ),
    ),
    (
        "reasons",
        Array(
            items=_object(
                "RejectedReason",
                ("reason", _TEXT),
                ("column", _TEXT),
                ("count", _INT),
                ("lastTime", _TIME),
                ("message", _TEXT),
            )
        ),
    ),
    (
        "total",
        Integer(
            description="Number of records that are kept; `records` contains the newest of them."
        ),
    ),
    (
        "dropped",
        Integer(description="Number of records that weren't kept, or were replaced by newer ones."),
    ),
    ("nodes", _REJECTED_NODES),
)
REJECTED_RECORD = _object(
    "RejectedRecord",
    *_REJECTED_OUTLINE,
    ("ip", _TEXT),
    ("headers", _KEPT_HEADERS),
    ("signal", Text(enum=SIGNALS)),
    ("body", _TEXT),
    ("bodyEncoding", Text(enum=("base64",), description="Encoding of a body that isn't UTF-8.")),
    optional=("signal", "bodyEncoding"),
)
REJECTED_DELETED = _object(
    "RejectedRecordsDeleted",
    ("deleted", _INT),
    ("nodes", _MISSING_NODES),
    optional=("nodes",),
)
REJECTED_TEST = _object(
    "RejectedRecordsTest",
    ("tested", _INT),
    ("accepted", _INT),
    ("rejected", _INT),
    (
        "results",
        Array(
            items=_object(
                "RejectedRecordTest",
                ("id", _TEXT),
                ("accepted", Boolean()),
                ("reason", _TEXT),
                ("column", _TEXT),
                ("message", _TEXT),
                ("row", TEST_ROW),
                optional=("reason", "column", "message", "row"),
            )
        ),
    ),
    ("notes", _REJECTED_NOTES),
    ("nodes", _MISSING_NODES),
    optional=("notes", "nodes"),
)
