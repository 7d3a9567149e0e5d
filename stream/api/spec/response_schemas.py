"""Schemas of answers, for the documentation. Members are in the order in which they are written."""

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
    description="The part of the request that it is about.", example="body.table.mapping.columns[0]"
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
        Anything(description="The source or sink and its own settings, as of the version."),
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
    ("http", _object("HTTPSource", ("url", Text(description="Send records here.")))),
    (
        "otlp",
        _object(
            "OTLPSource",
            ("url", Text(description="Endpoint with the secret in its path.")),
            ("baseUrl", Text(description="Endpoint for a bearer token.")),
            ("secret", Text(description="The bearer token.")),
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
        ("compressedSize", Integer(description="Bytes.")),
        ("uncompressedSize", Integer(description="Bytes.")),
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
    ("count", Integer(description="Records that the mapping could not take.")),
    (
        "lastError",
        _object(
            "RejectedLastError",
            ("reason", Text(description="Name of the error.", example="stream.in.badRequest")),
            ("column", Text(description="Empty if the record as a whole can't be read.")),
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
    ("recordsCount", Integer(description="Rows that the target has refused, so far.")),
    ("reason", Text(description="Why the first of them was refused.")),
    ("isFinished", Boolean(description="All are found and stored; the others imported.")),
    ("fileId", Integer(description="The file of the project's storage that has them.")),
    ("table", Text(description="The table that has them, where they are in one.")),
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
    ("value", Number(description="Records, bytes, seconds or slices so far.")),
    ("limit", Number(description="The value from which on the condition is met.")),
    ("progress", Number(description="From 0 to 1.", example=0.25)),
    ("at", Text(format="date-time", description="When time alone meets it.")),
    optional=("at",),
)
_ROWS_OF_FILE = _level("PipelineStatistics")
_CONDITIONS = Array(
    items=_CONDITION, description="While it is open: what closes it, the nearest condition first."
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
            ("pendingRecords", Integer(description="Records that aren't in the table yet.")),
            ("oldestPendingAt", _TIME),
            ("lastRecordAt", Text(format="date-time", description="Of the files that are shown.")),
            optional=("oldestPendingAt", "lastRecordAt"),
        ),
    ),
    (
        "files",
        Array(
            description="Those that aren't imported, the newest first.",
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
                        description="Those that aren't imported.",
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
            description="The last files that were imported, the newest first.",
            items=_object(
                "PipelineImport",
                ("fileId", _TEXT),
                ("openedAt", _TIME),
                ("closingAt", _TIME),
                ("importingAt", _TIME),
                ("importedAt", _TIME),
                ("duration", Integer(description="Of the import, milliseconds.")),
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
                ("accepted", Boolean(description="Whether every column has a value.")),
                (
                    "columns",
                    Array(
                        items=_object(
                            "TestedColumn",
                            ("name", _TEXT),
                            ("value", _TEXT),
                            ("error", Text(description="Why there is no value.")),
                            optional=("value", "error"),
                        )
                    ),
                ),
            ),
            description="One for each record of the body.",
        ),
    ),
)

_REJECTED_NOTES = Array(
    items=_TEXT,
    description="Columns that read headers whose values are masked in rejected records.",
)
_REJECTED_NODES = Array(
    items=_object(
        "RejectedNode",
        ("nodeId", _TEXT),
        ("available", Boolean()),
        ("message", Text(description="Why its records are missing from the answer.")),
        optional=("message",),
    )
)
_MISSING_NODES = Array(
    items=_REJECTED_NODES.items,
    description="The nodes that may keep others, but don't run or don't answer.",
)
TASK = _object(
    "Task",
    ("taskId", Text(example="api.create.source/345/my-source/2024-01-15T10:30:00.000Z_aB3xZ")),
    ("type", Text(example="api.create.source")),
    ("url", Text(description="Ask this, with `?wait=10s`, until the task is finished.")),
    ("status", Text(enum=("processing", "success", "error"))),
    ("isFinished", Boolean()),
    ("createdAt", _TIME),
    ("finishedAt", _TIME),
    ("duration", Integer(description="Milliseconds.")),
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
            ("replayed", Integer(description="Of a replay: records that were mapped again.")),
            ("stored", Integer(description="Of these, how many are stored.")),
            ("rejected", Integer(description="Of these, how many the mapping still can't take.")),
            (
                "results",
                Array(
                    description="The outcomes of the first 1,000 of them.",
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
                    description="Whether a replay has mapped all selected records. It has not if "
                    "it still runs, if its time was over, or if `nodes` are unavailable."
                ),
            ),
            (
                "hasMore",
                Boolean(description="Whether records remain because the time was over."),
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
            description="Members of the body that are not known; only in the first answer.",
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
        Array(items=TASK, description="The newest first; without the outcomes of single records."),
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
                ("type", Text(description="Of its tables.", example="postgres")),
                (
                    "isAvailable",
                    Boolean(description="Null if its target can't say.", nullable=True),
                ),
                ("checkedAt", _TIME),
                ("message", Text(description="Why it does not answer.")),
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
            description="With those that others include, such as read in write.",
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
    ("token", Text(description="The text to send; it is shown only here.")),
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
    ("detail", Text(description="What the message leaves open.")),
    ("hint", Text(description="What was probably meant.")),
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
            description="All that is wrong, if there are several things.",
        ),
    ),
    ("docUrl", Text(description="The page about the operation.")),
    optional=("exceptionId", "param", "detail", "hint", "errors", "docUrl"),
)

_KEPT_HEADERS = Object(additional=_TEXT, description="Secrets are masked.")
_REJECTED_OUTLINE: tuple[tuple[str, Schema], ...] = (
    ("id", Text(example="019c0d2c-3d4e-7a10-8a64-1f2e3d4c5b6a")),
    ("nodeId", Text(description="The source node that keeps it.")),
    ("time", _TIME),
    ("statusCode", Integer(example=400)),
    ("reason", Text(description="Name of the error.", example="stream.in.badRequest")),
    ("column", Text(description="Empty if the record as a whole can't be read.")),
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
    ("total", Integer(description="How many are kept; `records` are the newest of them.")),
    ("dropped", Integer(description="How many weren't kept, or made room for newer ones.")),
    ("nodes", _REJECTED_NODES),
)
REJECTED_RECORD = _object(
    "RejectedRecord",
    *_REJECTED_OUTLINE,
    ("ip", _TEXT),
    ("headers", _KEPT_HEADERS),
    ("signal", Text(enum=SIGNALS)),
    ("body", _TEXT),
    ("bodyEncoding", Text(enum=("base64",), description="Of a body that isn't UTF-8.")),
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
