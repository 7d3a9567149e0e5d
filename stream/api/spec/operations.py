"""All operations of the API: the source of routes, checks and published documentation."""

from __future__ import annotations

import re
from typing import Any

import attrs

from stream.api.spec import request_schemas as requests
from stream.api.spec import response_schemas as answers
from stream.api.spec.operation import MAX_WAIT_SECONDS, Operation, Outcome, Parameter
from stream.api.spec.request_schemas import MAX_ID, SIGNALS
from stream.api.spec.schema import Boolean, DurationText, Integer, Text
from stream.authority.rights import Right

__all__ = ["OPERATIONS"]

_VERB_AND_OBJECT = re.compile(r"([A-Z][a-z]+)([A-Z]\w+)")

_BRANCH = "/v1/branches/{branchId}"
_SOURCES = f"{_BRANCH}/sources"
_SOURCE = f"{_SOURCES}/{{sourceId}}"
_SINKS = f"{_SOURCE}/sinks"
_SINK = f"{_SINKS}/{{sinkId}}"

_BRANCH_ID = Parameter(
    name="branchId",
    place="path",
    schema=Text(example="default", pattern="^(default|[0-9]{1,18})$"),
    description='Id of the branch or "default".',
)
_SOURCE_ID = Parameter(
    name="sourceId", place="path", schema=Text(min_length=1, max_length=MAX_ID, example="my-source")
)
_SINK_ID = Parameter(
    name="sinkId", place="path", schema=Text(min_length=1, max_length=MAX_ID, example="my-sink")
)
_VERSION_NUMBER = Parameter(
    name="versionNumber", place="path", schema=Integer(minimum=1, example=3)
)
_CONTENT = Parameter(
    name="content",
    place="query",
    schema=Boolean(default=False),
    description="Whether the answer contains the content of the version, too.",
)
_PAGING = (
    Parameter(
        name="afterId",
        place="query",
        schema=Text(default=""),
        description="Return the items after this id.",
    ),
    Parameter(
        name="limit",
        place="query",
        schema=Integer(minimum=1, maximum=100, default=100),
        description="Maximum number of items to return.",
    ),
)
_WAIT = Parameter(
    name="wait",
    place="query",
    schema=DurationText(
        maximum=MAX_WAIT_SECONDS, example="10s", pattern=r"^(0|([0-4]?[0-9]|50)s)$"
    ),
    description="How long to wait for the end of the task; the same as in the header Prefer.",
)
_IN_BRANCH = (_BRANCH_ID,)
_OF_SOURCE = (_BRANCH_ID, _SOURCE_ID)
_OF_SINK = (_BRANCH_ID, _SOURCE_ID, _SINK_ID)

_NO_SOURCE = (404, "sourceNotFound")
_NO_SINK = (404, "sinkNotFound")
_FORBIDDEN = (403, "forbidden")
_SOURCE_EXISTS = (409, "sourceAlreadyExists")
_SINK_EXISTS = (409, "sinkAlreadyExists")
_NO_SOURCE_VERSION = (404, "sourceVersionNotFound")
_NO_SINK_VERSION = (404, "sinkVersionNotFound")


_THE_TASK = Outcome(result=answers.TASK)
_THE_SOURCE = Outcome(shows="GetSource", result=answers.SOURCE)
_THE_SINK = Outcome(shows="GetSink", result=answers.SINK)


def _task(
    id: str,
    method: Any,
    path: str,
    summary: str,
    outcome: Outcome,
    *,
    parameters: tuple[Parameter, ...],
    **rest: Any,
) -> Operation:
    """Return an operation that changes something in a task."""
    errors = (_FORBIDDEN, *rest.pop("errors", ()))
    match = _VERB_AND_OBJECT.fullmatch(id)
    assert match is not None
    verb, of = match.groups()
    return Operation(
        id=id,
        method=method,
        path=path,
        summary=summary,
        task=f"api.{verb.lower()}.{of[0].lower()}{of[1:]}",
        outcome=outcome,
        parameters=(*parameters, _WAIT),
        right="write",
        status=202,
        result=answers.TASK,
        errors=errors,
        **rest,
    )


def _get(
    id: str, path: str, summary: str, result: Any, *, right: Right = "read", **rest: Any
) -> Operation:
    """Return an operation that shows something."""
    return Operation(
        id=id, method="GET", path=path, summary=summary, result=result, right=right, **rest
    )


_PUBLIC = (
    Operation(
        id="ApiRootIndex",
        method="GET",
        path="/",
        summary="Redirect to /v1.",
        tag="documentation",
        public=True,
        status=301,
    ),
    Operation(
        id="ApiVersionIndex",
        method="GET",
        path="/v1",
        summary="Show the name of the API and a link to its documentation.",
        tag="documentation",
        public=True,
        result=answers.SERVICE_DETAIL,
    ),
    Operation(
        id="HealthCheck",
        method="GET",
        path="/health-check",
        summary="Report that the service runs.",
        tag="documentation",
        public=True,
        published=False,
    ),
    *(
        Operation(
            id=id,
            method="GET",
            path=f"/v1/documentation/{name}",
            summary=f"Get the description of the API, {form}.",
            tag="documentation",
            public=True,
        )
        for id, name, form in (
            ("OpenapiJson", "openapi.json", "Swagger 2.0 in JSON"),
            ("OpenapiYaml", "openapi.yaml", "Swagger 2.0 in YAML"),
            ("Openapi3Json", "openapi3.json", "OpenAPI 3.0 in JSON"),
            ("Openapi3Yaml", "openapi3.yaml", "OpenAPI 3.0 in YAML"),
        )
    ),
    Operation(
        id="Documentation",
        method="GET",
        path="/v1/documentation/",
        summary="The documentation as a page.",
        tag="documentation",
        public=True,
        published=False,
    ),
    Operation(
        id="DocumentationFile",
        method="GET",
        path="/v1/documentation/{*path}",
        summary="Files of the documentation page.",
        parameters=(Parameter(name="path", place="path", schema=Text()),),
        tag="documentation",
        public=True,
        published=False,
    ),
    Operation(
        id="Console",
        method="GET",
        path="/console/",
        summary="The console, a page for people.",
        tag="documentation",
        public=True,
        published=False,
    ),
    Operation(
        id="ConsoleFile",
        method="GET",
        path="/console/{*path}",
        summary="Files of the console.",
        parameters=(Parameter(name="path", place="path", schema=Text()),),
        tag="documentation",
        public=True,
        published=False,
    ),
)

_SOURCE_OPERATIONS = (
    _task(
        "CreateSource",
        "POST",
        _SOURCES,
        "Create a source.",
        attrs.evolve(_THE_SOURCE, status=201),
        parameters=_IN_BRANCH,
        body=requests.CREATE_SOURCE,
        errors=(_SOURCE_EXISTS,),
    ),
    _get(
        "ListSources",
        _SOURCES,
        "List sources of the branch.",
        answers.SOURCES_LIST,
        parameters=(*_IN_BRANCH, *_PAGING),
    ),
    _get(
        "ListDeletedSources",
        f"{_SOURCES}/deleted",
        "List deleted sources of the branch.",
        answers.SOURCES_LIST,
        parameters=(*_IN_BRANCH, *_PAGING),
    ),
    _get(
        "GetSource",
        _SOURCE,
        "Get a source.",
        answers.SOURCE,
        parameters=_OF_SOURCE,
        errors=(_NO_SOURCE,),
    ),
    _task(
        "UpdateSource",
        "PATCH",
        _SOURCE,
        "Change a source.",
        _THE_SOURCE,
        description="Changes only the members in the body. Each call creates a new version.",
        parameters=_OF_SOURCE,
        body=requests.UPDATE_SOURCE,
        errors=(_NO_SOURCE,),
    ),
    _task(
        "DeleteSource",
        "DELETE",
        _SOURCE,
        "Delete a source and its sinks.",
        _THE_TASK,
        description="Without cascade the tables stay, and you can undelete the source.",
        parameters=(
            *_OF_SOURCE,
            Parameter(
                name="cascade",
                place="query",
                schema=Boolean(default=False),
                description="Delete the source permanently, with the tables of its sinks.",
            ),
        ),
        errors=(_NO_SOURCE,),
    ),
    _get(
        "GetSourceSettings",
        f"{_SOURCE}/settings",
        "Get the settings of a source.",
        answers.SETTINGS_RESULT,
        parameters=_OF_SOURCE,
        errors=(_NO_SOURCE,),
    ),
    _task(
        "UpdateSourceSettings",
        "PATCH",
        f"{_SOURCE}/settings",
        "Change settings of a source.",
        Outcome(shows="GetSourceSettings", result=answers.SETTINGS_RESULT),
        parameters=_OF_SOURCE,
        body=requests.SETTINGS_PATCH,
        errors=(_NO_SOURCE,),
    ),
    Operation(
        id="TestSource",
        method="POST",
        path=f"{_SOURCE}/test",
        summary="Show the rows that the sinks would make of a record.",
        description=(
            "The body and the headers are the record. A compressed body or a batch is read in the "
            "same way as by the source. Nothing is stored."
        ),
        tag="test",
        right="read",
        parameters=(
            *_OF_SOURCE,
            Parameter(
                name="signal",
                place="query",
                schema=Text(enum=SIGNALS, default="logs"),
                description="Of an OTLP source: the signal that the record belongs to.",
            ),
            Parameter(
                name="batch",
                place="query",
                schema=Text(),
                description="Whether the body contains many records, as for the URL of the source.",
            ),
        ),
        raw_body=True,
        result=answers.TEST_RESULT,
        errors=(_NO_SOURCE, (422, "unprocessableContent")),
    ),
    Operation(
        id="TestMapping",
        method="POST",
        path=f"{_SOURCE}/test/mapping",
        summary="Show the row that a mapping would make of a record.",
        description=(
            "The mapping doesn't have to belong to a sink. Each column has its value or its error. "
            "The body is read in the same way as by the source. Nothing is stored."
        ),
        tag="test",
        right="read",
        parameters=(
            *_OF_SOURCE,
            Parameter(
                name="signal",
                place="query",
                schema=Text(enum=SIGNALS, default="logs"),
                description="Of an OTLP source: the signal that the record belongs to.",
            ),
        ),
        body=requests.TEST_MAPPING,
        result=answers.TESTED_MAPPING,
        errors=(_NO_SOURCE, (422, "unprocessableContent")),
    ),
    Operation(
        id="TailSource",
        method="GET",
        path=f"{_SOURCE}/tail",
        summary="Watch the newest records of a source.",
        description=(
            "Server-sent events: each record as it arrived, the number of records that were left "
            "out, and the end. Shows only records that arrive after the call. Nothing is stored."
        ),
        tag="test",
        right="tail",
        parameters=(
            *_OF_SOURCE,
            Parameter(
                name="rate",
                place="query",
                schema=Integer(minimum=1, maximum=100, default=10),
                description="Maximum number of records per second that each source node shows.",
            ),
            Parameter(
                name="duration",
                place="query",
                schema=Integer(minimum=1, maximum=3600, default=300),
                description="Seconds after which the answer ends.",
            ),
            Parameter(
                name="limit",
                place="query",
                schema=Integer(minimum=1, maximum=100_000),
                description="Number of records after which the answer ends.",
            ),
        ),
        result=Text(description="Server-sent events."),
        content_type="text/event-stream",
        errors=(_NO_SOURCE,),
    ),
    Operation(
        id="SourceStatisticsClear",
        method="DELETE",
        path=f"{_SOURCE}/statistics/clear",
        summary="Reset the statistics of all sinks of a source.",
        right="write",
        parameters=_OF_SOURCE,
        errors=(_FORBIDDEN, _NO_SOURCE),
    ),
    _task(
        "DisableSource",
        "PUT",
        f"{_SOURCE}/disable",
        "Disable a source and its sinks.",
        _THE_SOURCE,
        parameters=_OF_SOURCE,
        errors=(_NO_SOURCE,),
    ),
    _task(
        "EnableSource",
        "PUT",
        f"{_SOURCE}/enable",
        "Enable a source and the sinks that were disabled with it.",
        _THE_SOURCE,
        parameters=_OF_SOURCE,
        errors=(_NO_SOURCE,),
    ),
    Operation(
        id="RotateSourceSecret",
        method="POST",
        path=f"{_SOURCE}/rotate-secret",
        summary="Replace the secret of a source.",
        description="The URL with the old secret stops working immediately.",
        right="write",
        parameters=_OF_SOURCE,
        result=answers.SOURCE,
        errors=(_FORBIDDEN, _NO_SOURCE, (409, "versionCountLimitReached")),
    ),
    _task(
        "UndeleteSource",
        "PUT",
        f"{_SOURCE}/undelete",
        "Restore a deleted source and the sinks that were deleted with it.",
        _THE_SOURCE,
        parameters=_OF_SOURCE,
        errors=((404, "deletedSourceNotFound"),),
    ),
    _get(
        "ListSourceVersions",
        f"{_SOURCE}/versions",
        "List versions of a source.",
        answers.VERSIONS,
        parameters=(*_OF_SOURCE, *_PAGING),
        errors=(_NO_SOURCE,),
    ),
    _get(
        "SourceVersionDetail",
        f"{_SOURCE}/versions/{{versionNumber}}",
        "Get a version of a source.",
        answers.VERSION_DETAIL,
        parameters=(*_OF_SOURCE, _VERSION_NUMBER, _CONTENT),
        errors=(_NO_SOURCE, _NO_SOURCE_VERSION),
    ),
    _task(
        "RollbackSourceVersion",
        "PUT",
        f"{_SOURCE}/versions/{{versionNumber}}/rollback",
        "Restore the content of an older version as a new version.",
        _THE_SOURCE,
        parameters=(*_OF_SOURCE, _VERSION_NUMBER),
        errors=(_NO_SOURCE, _NO_SOURCE_VERSION),
    ),
)

_SINK_OPERATIONS = (
    _task(
        "CreateSink",
        "POST",
        _SINKS,
        "Create a sink.",
        attrs.evolve(_THE_SINK, status=201),
        parameters=_OF_SOURCE,
        body=requests.CREATE_SINK,
        errors=(_NO_SOURCE, _SINK_EXISTS),
    ),
    _get(
        "ListSinks",
        _SINKS,
        "List sinks of a source.",
        answers.SINKS_LIST,
        parameters=(*_OF_SOURCE, *_PAGING),
        errors=(_NO_SOURCE,),
    ),
    _get(
        "ListDeletedSinks",
        f"{_SINKS}/deleted",
        "List deleted sinks of a source.",
        answers.SINKS_LIST,
        parameters=(*_OF_SOURCE, *_PAGING),
        errors=(_NO_SOURCE,),
    ),
    _get(
        "GetSink",
        _SINK,
        "Get a sink.",
        answers.SINK,
        parameters=_OF_SINK,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _task(
        "UpdateSink",
        "PATCH",
        _SINK,
        "Change a sink.",
        _THE_SINK,
        description="Changes only the members in the body, and replaces a mapping as a whole. Each "
        "call creates a new version.",
        parameters=_OF_SINK,
        body=requests.UPDATE_SINK,
        errors=(_NO_SINK,),
    ),
    _task(
        "DeleteSink",
        "DELETE",
        _SINK,
        "Delete a sink.",
        _THE_TASK,
        description="The table stays, and you can undelete the sink.",
        parameters=_OF_SINK,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _get(
        "GetSinkSettings",
        f"{_SINK}/settings",
        "Get the settings of a sink.",
        answers.SETTINGS_RESULT,
        parameters=_OF_SINK,
        errors=(_NO_SINK,),
    ),
    _task(
        "UpdateSinkSettings",
        "PATCH",
        f"{_SINK}/settings",
        "Change settings of a sink.",
        Outcome(shows="GetSinkSettings", result=answers.SETTINGS_RESULT),
        parameters=_OF_SINK,
        body=requests.SETTINGS_PATCH,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _get(
        "SinkStatisticsTotal",
        f"{_SINK}/statistics/total",
        "Get the statistics of a sink.",
        answers.STATISTICS_TOTAL,
        parameters=_OF_SINK,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _get(
        "SinkStatisticsFiles",
        f"{_SINK}/statistics/files",
        "Get the files of a sink and their statistics.",
        answers.STATISTICS_FILES,
        parameters=(
            *_OF_SINK,
            Parameter(
                name="failedFiles",
                place="query",
                schema=Boolean(default=False),
                description="Only files whose import has failed and will be retried.",
            ),
        ),
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _get(
        "SinkFiles",
        f"{_SINK}/files",
        "Get the files of a sink on their way to its table.",
        answers.SINK_FILES,
        description="Returns the files that aren't imported yet, with their slices, the conditions "
        "that close them and what they wait for, and the last imports.",
        parameters=(
            *_OF_SINK,
            Parameter(
                name="imports",
                place="query",
                schema=Integer(minimum=0, maximum=100, default=10),
                description="Maximum number of imported files to return.",
            ),
        ),
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _get(
        "SinkTableRows",
        f"{_SINK}/table/rows",
        "Get the first rows of the table of a sink.",
        answers.TABLE_ROWS,
        right="tail",
        description="Works only if the target can read its tables. Long values are truncated.",
        parameters=(
            *_OF_SINK,
            Parameter(
                name="limit",
                place="query",
                schema=Integer(minimum=1, maximum=100, default=20),
                description="Maximum number of rows to return.",
            ),
        ),
        errors=(
            *(_NO_SOURCE, _NO_SINK),
            (404, "tableNotFound"),
            (501, "previewNotSupported"),
            (503, "tableBusy"),
        ),
    ),
    Operation(
        id="SinkStatisticsClear",
        method="DELETE",
        path=f"{_SINK}/statistics/clear",
        summary="Reset the statistics of a sink.",
        right="write",
        parameters=_OF_SINK,
        errors=(_FORBIDDEN, _NO_SOURCE, _NO_SINK),
    ),
    _task(
        "DisableSink",
        "PUT",
        f"{_SINK}/disable",
        "Disable a sink.",
        _THE_SINK,
        parameters=_OF_SINK,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _task(
        "EnableSink",
        "PUT",
        f"{_SINK}/enable",
        "Enable a sink.",
        _THE_SINK,
        parameters=_OF_SINK,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _task(
        "UndeleteSink",
        "PUT",
        f"{_SINK}/undelete",
        "Restore a deleted sink.",
        _THE_SINK,
        parameters=_OF_SINK,
        errors=(_NO_SOURCE, (404, "deletedSinkNotFound")),
    ),
    _get(
        "ListSinkVersions",
        f"{_SINK}/versions",
        "List versions of a sink.",
        answers.VERSIONS,
        parameters=(*_OF_SINK, *_PAGING),
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _get(
        "SinkVersionDetail",
        f"{_SINK}/versions/{{versionNumber}}",
        "Get a version of a sink.",
        answers.VERSION_DETAIL,
        parameters=(*_OF_SINK, _VERSION_NUMBER, _CONTENT),
        errors=(_NO_SOURCE, _NO_SINK, _NO_SINK_VERSION),
    ),
    _task(
        "RollbackSinkVersion",
        "PUT",
        f"{_SINK}/versions/{{versionNumber}}/rollback",
        "Restore the content of an older version as a new version.",
        _THE_SINK,
        parameters=(*_OF_SINK, _VERSION_NUMBER),
        errors=(_NO_SOURCE, _NO_SINK, _NO_SINK_VERSION),
    ),
)

_PROJECT_OPERATIONS = (
    _get("ListBranches", "/v1/branches", "List branches of the project.", answers.BRANCHES),
    Operation(
        id="CreateBranch",
        method="POST",
        path="/v1/branches",
        summary="Create a branch of a project with Stream's own tokens.",
        right="admin",
        body=requests.CREATE_BRANCH,
        result=answers.BRANCH,
        status=201,
        errors=(_FORBIDDEN, (404, "madeElsewhere"), (409, "branchAlreadyExists")),
    ),
    _get(
        "ListConnections",
        f"{_BRANCH}/connections",
        "List connections that sinks of the project may use.",
        answers.CONNECTIONS,
        description=(
            "The node tries each connection when it is listed, but at most once in ten seconds. "
            "The answer contains no addresses and no secrets. It also lists the types of tables "
            "that a sink can have."
        ),
        parameters=_IN_BRANCH,
    ),
    Operation(
        id="GetCurrentToken",
        method="GET",
        path="/v1/tokens/current",
        summary="Get the token of the request, and its rights.",
        any_token=True,
        result=answers.CURRENT_TOKEN,
    ),
    _get(
        "ListTokens",
        "/v1/tokens",
        "List Stream's own tokens of the project, without their texts.",
        answers.TOKENS,
        right="admin",
        errors=(_FORBIDDEN, (404, "madeElsewhere")),
    ),
    Operation(
        id="CreateToken",
        method="POST",
        path="/v1/tokens",
        summary="Create one of Stream's own tokens for the project.",
        description="Only this answer contains the text of the token.",
        right="admin",
        body=requests.CREATE_TOKEN,
        result=answers.CREATED_TOKEN,
        status=201,
        errors=(_FORBIDDEN, (404, "madeElsewhere"), (409, "tokenCountLimitReached")),
    ),
    Operation(
        id="RevokeToken",
        method="DELETE",
        path="/v1/tokens/{tokenId}",
        summary="Revoke one of Stream's own tokens of the project.",
        description="Every node refuses it within a second.",
        right="admin",
        parameters=(
            Parameter(
                name="tokenId",
                place="path",
                schema=Text(min_length=1, max_length=MAX_ID, example="a1b2c3d4"),
            ),
        ),
        status=204,
        errors=(_FORBIDDEN, (404, "madeElsewhere"), (404, "tokenNotFound")),
    ),
)

_REJECTED = f"{_SINK}/rejected"
_CHOSEN = (
    Parameter(
        name="reason",
        place="query",
        schema=Text(max_length=200, example="stream.in.badRequest"),
        description="Select only records with this reason.",
    ),
    Parameter(
        name="column",
        place="query",
        schema=Text(max_length=200, example="price"),
        description="Select only records that were rejected because of this column.",
    ),
    Parameter(
        name="since",
        place="query",
        schema=Text(format="date-time", example="2024-01-15T10:30:00.000Z"),
        description="Select only records that were received at this time or later.",
    ),
    Parameter(
        name="until",
        place="query",
        schema=Text(format="date-time", example="2024-01-15T11:30:00.000Z"),
        description="Select only records that were received before this time.",
    ),
)
_REJECTED_ID = Parameter(
    name="rejectedId", place="path", schema=Text(min_length=1, max_length=MAX_ID)
)
_OF_REJECTED = (*_OF_SINK, _REJECTED_ID)
_NO_REJECTED = (404, "rejectedRecordNotFound")
_NODE_UNAVAILABLE = (503, "sourceNodeUnavailable")

_REJECTED_OPERATIONS = (
    _get(
        "ListRejectedRecords",
        _REJECTED,
        "List the rejected records of a sink.",
        answers.REJECTED_RECORDS,
        description=(
            "Returns the newest records that the mapping of the sink rejected, of all source "
            "nodes, and names the nodes that are unavailable."
        ),
        parameters=(
            *_OF_SINK,
            Parameter(
                name="limit",
                place="query",
                schema=Integer(minimum=1, maximum=1000, default=100),
                description="Maximum number of records to return.",
            ),
            *_CHOSEN,
        ),
        right="tail",
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    Operation(
        id="TestRejectedRecords",
        method="POST",
        path=f"{_REJECTED}/test",
        summary="Show which rejected records a mapping would accept.",
        description="Nothing is stored, and nothing changes. At most 1,000 records are tested.",
        tag="test",
        right="tail",
        parameters=_OF_SINK,
        body=requests.TEST_REJECTED,
        result=answers.REJECTED_TEST,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    _task(
        "ReplayRejectedRecords",
        "POST",
        f"{_REJECTED}/replay",
        "Map rejected records again, and store those that the current mapping accepts.",
        _THE_TASK,
        description=(
            "Each record is stored exactly once, even if processes fail or you repeat the call. It "
            "keeps its time, address and headers. The outputs of the task show the results, also "
            "while the task runs."
        ),
        parameters=_OF_SINK,
        body=requests.REPLAY_REJECTED,
        errors=(_NO_SOURCE, _NO_SINK),
    ),
    Operation(
        id="DeleteRejectedRecords",
        method="DELETE",
        path=_REJECTED,
        summary="Delete rejected records of a sink.",
        right="write",
        parameters=(
            *_OF_SINK,
            Parameter(
                name="ids",
                place="query",
                schema=Text(max_length=8000),
                description="Select only records with these ids, separated by commas.",
            ),
            *_CHOSEN,
        ),
        result=answers.REJECTED_DELETED,
        errors=(_FORBIDDEN, _NO_SOURCE, _NO_SINK, _NODE_UNAVAILABLE),
    ),
    _get(
        "GetRejectedRecord",
        f"{_REJECTED}/{{rejectedId}}",
        "Get a rejected record.",
        answers.REJECTED_RECORD,
        right="tail",
        parameters=_OF_REJECTED,
        errors=(_NO_SOURCE, _NO_SINK, _NO_REJECTED, _NODE_UNAVAILABLE),
    ),
    Operation(
        id="DeleteRejectedRecord",
        method="DELETE",
        path=f"{_REJECTED}/{{rejectedId}}",
        summary="Delete a rejected record.",
        right="write",
        status=204,
        parameters=_OF_REJECTED,
        errors=(_FORBIDDEN, _NO_SOURCE, _NO_SINK, _NO_REJECTED, _NODE_UNAVAILABLE),
    ),
)

_OTHER_OPERATIONS = (
    _get(
        "GetTask",
        "/v1/tasks/{*taskId}",
        "Get a task.",
        answers.TASK,
        parameters=(
            Parameter(
                name="taskId",
                place="path",
                schema=Text(
                    example="api.create.source/345/my-source/2024-01-15T10:30:00.000Z_aB3xZ"
                ),
                description="The rest of the path; it may contain slashes.",
            ),
            _WAIT,
        ),
        errors=((404, "taskNotFound"),),
    ),
    _get(
        "ListTasks",
        f"{_BRANCH}/tasks",
        "List the tasks of a branch, the newest first.",
        answers.TASKS_LIST,
        description=(
            "Returns the tasks of all users. Successful tasks are kept for an hour, failed ones "
            "for two days."
        ),
        parameters=(
            *_IN_BRANCH,
            Parameter(
                name="sourceId",
                place="query",
                schema=Text(max_length=MAX_ID, default="", example="my-source"),
                description="Only tasks of this source and its sinks.",
            ),
            Parameter(
                name="afterId",
                place="query",
                schema=Integer(minimum=0, default=0),
                description="Return the tasks after this one: the `lastId` of another page.",
            ),
            _PAGING[1],
        ),
    ),
    Operation(
        id="LiveBranch",
        method="GET",
        path=f"{_BRANCH}/live",
        summary="Follow what happens in a branch.",
        description=(
            "Server-sent events: the counters of the sinks of the branch once a second, and each "
            "change of a file or a slice. With Last-Event-ID the answer begins after that event."
        ),
        tag="internal",
        right="read",
        parameters=_IN_BRANCH,
        result=Text(description="Server-sent events."),
        content_type="text/event-stream",
        errors=((503, "tooManyStreams"),),
    ),
    _get(
        "AggregationSources",
        f"{_BRANCH}/aggregation/sources",
        "List sources with their sinks and statistics.",
        answers.AGGREGATED_SOURCES,
        tag="internal",
        parameters=(*_IN_BRANCH, *_PAGING),
    ),
)

OPERATIONS: dict[str, Operation] = {
    operation.id: operation
    for operation in (
        *_PUBLIC,
        *_SOURCE_OPERATIONS,
        *_SINK_OPERATIONS,
        *_PROJECT_OPERATIONS,
        *_REJECTED_OPERATIONS,
        *_OTHER_OPERATIONS,
    )
}
"""The operations by id."""
