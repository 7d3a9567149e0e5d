"""The published description of the API: Swagger 2.0 and OpenAPI 3.0, made from the operations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

import stream
from stream.api.spec.links import links
from stream.api.spec.operation import MAX_WAIT_SECONDS, Operation, Parameter
from stream.api.spec.response_schemas import ERROR
from stream.api.spec.schema import Array, Boolean, Integer, Member, Object, Schema, Text

__all__ = ["openapi2", "openapi3", "to_json"]

Plain = dict[str, Any]

_TITLE = "Stream Service"
_DESCRIPTION = "A service for continuously importing data to the Keboola platform."
_LICENSE = {"name": "Apache 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0.html"}
_SECURITY = "storage-api-token"
_SECURITY_SCHEME = {
    "type": "apiKey",
    "description": "Master token of a project administrator, or a token of a project of its own.",
    "name": "X-StorageApi-Token",
    "in": "header",
}
_BEARER = "bearer-token"
_BEARER_DESCRIPTION = "Token of a project of its own, or a programmatic token."
_BEARER_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": _BEARER_DESCRIPTION,
}
_BEARER_SCHEME2 = {
    "type": "apiKey",
    "description": f"{_BEARER_DESCRIPTION} The value is `Bearer`, a space and the token.",
    "name": "Authorization",
    "in": "header",
}
"""Swagger 2.0 has no bearer scheme; this is the usual replacement."""
_TAGS = (
    {"name": "documentation", "description": "What the API offers."},
    {"name": "configuration", "description": "Sources, sinks, their versions and settings."},
    {"name": "test", "description": "Trying out a mapping."},
    {"name": "internal", "description": "For the user interface."},
)
_COMMON_ERRORS = (
    (400, "badRequest"),
    (401, "masterTokenRequired"),
    (401, "tokenMissing"),
    (401, "tokenInvalid"),
    (401, "tokenExpired"),
    (403, "forbidden"),
    (408, "requestTimeout"),
    (413, "payloadTooLarge"),
    (414, "targetTooLong"),
    (431, "headTooLarge"),
    (500, "internalError"),
    (503, "serviceUnavailable"),
)
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": f"wait=10 waits up to 10 seconds, at most {MAX_WAIT_SECONDS}, for the end of "
    "the task (RFC 7240); the answer has the header Preference-Applied then.",
}
_LOCATION = {"description": "The URL of what was created."}
_BODY_ERRORS = (
    (400, "missingPayload"),
    (400, "decodePayload"),
    (400, "unknownMember"),
    (415, "unsupportedContentEncoding"),
)
_BRANCH_ERRORS = ((404, "storage.branches.notFound"), (409, "branchCountLimitReached"))


def to_json(document: Plain) -> bytes:
    """Return the document as indented JSON."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def openapi2(operations: Iterable[Operation]) -> Plain:
    """Return the Swagger 2.0 document."""
    parts = _Parts("#/definitions/", "x-nullable")
    paths = _paths(operations, parts, _operation2)
    return {
        "swagger": "2.0",
        "info": _info(),
        "host": "stream.target.keboola.com",
        "basePath": "/",
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": paths,
        "definitions": parts.named,
        "securityDefinitions": {_SECURITY: _SECURITY_SCHEME, _BEARER: _BEARER_SCHEME2},
        "tags": list(_TAGS),
    }


def openapi3(operations: Iterable[Operation]) -> Plain:
    """Return the OpenAPI 3.0 document."""
    parts = _Parts("#/components/schemas/", "nullable")
    operations = tuple(operations)
    paths = _paths(operations, parts, _operation3)
    for operation in operations:
        further = links(operation, operations)
        if further:
            answers = paths[_path(operation)][operation.method.lower()]["responses"]
            answers[str(operation.status)]["links"] = further
    return {
        "openapi": "3.0.3",
        "info": _info(),
        "servers": [
            {
                "url": "https://stream.{stack}",
                "variables": {"stack": {"default": "keboola.com"}},
            },
            {"url": "http://localhost:8001"},
        ],
        "paths": paths,
        "components": {
            "schemas": parts.named,
            "securitySchemes": {_SECURITY: _SECURITY_SCHEME, _BEARER: _BEARER_SCHEME},
        },
        "tags": list(_TAGS),
    }


def _info() -> Plain:
    return {
        "title": _TITLE,
        "description": _DESCRIPTION,
        "version": stream.__version__,
        "license": _LICENSE,
    }


class _Parts:
    """Collects the objects that have names.

    :param null: the keyword that allows null.
    :ivar named: objects by name.
    """

    def __init__(self, prefix: str, null: str) -> None:
        self._prefix = prefix
        self._null = null
        self.named: dict[str, Plain] = {}

    def request(self, schema: Schema) -> Plain:
        """Return `schema` for a request body, where null means absence."""
        return self.schema(schema, lenient=True)

    def schema(self, schema: Schema, *, lenient: bool = False) -> Plain:
        """Return *schema*, or a reference to it if it has a name."""
        if isinstance(schema, Object) and schema.name:
            if schema.name not in self.named:
                self.named[schema.name] = {}
                self.named[schema.name] = self._plain(schema, lenient)
            return {"$ref": self._prefix + schema.name}
        return self._plain(schema, lenient)

    def _member(self, member: Member, lenient: bool) -> Plain:
        plain = self.schema(member.schema, lenient=lenient)
        if not lenient or member.required or not member.schema.type:
            return plain
        if "$ref" in plain:
            plain = {"allOf": [plain]}
        if "enum" in plain:
            plain["enum"].append(None)
        return plain | {self._null: True}

    def _plain(self, schema: Schema, lenient: bool) -> Plain:
        plain: Plain = {"type": schema.type} if schema.type else {}
        if schema.nullable:
            plain[self._null] = True
        if schema.description:
            plain["description"] = schema.description
        if schema.example is not None:
            plain["example"] = schema.example
        if isinstance(schema, Text):
            _put(plain, format=schema.format, default=schema.default, enum=list(schema.enum))
            _put(plain, minLength=schema.min_length, maxLength=schema.max_length)
            _put(plain, pattern=schema.pattern)
        elif isinstance(schema, Integer):
            _put(
                plain,
                format="int64",
                minimum=schema.minimum,
                maximum=schema.maximum,
                default=schema.default,
            )
        elif isinstance(schema, Boolean):
            _put(plain, default=schema.default)
        elif isinstance(schema, Array):
            plain["items"] = self.schema(schema.items, lenient=lenient)
            _put(plain, minItems=schema.min_items, maxItems=schema.max_items)
        elif isinstance(schema, Object):
            plain["properties"] = {
                member.name: self._member(member, lenient) for member in schema.members
            }
            if schema.additional is not None:
                plain["additionalProperties"] = self.schema(schema.additional, lenient=lenient)
            _put(plain, required=[member.name for member in schema.members if member.required])
        return plain


def _put(plain: Plain, **members: Any) -> None:
    """Add the members that aren't empty."""
    plain.update(
        {
            name: value
            for name, value in members.items()
            if value is not None and value != [] and (value != "" or name == "default")
        }
    )


def _paths(operations: Iterable[Operation], parts: _Parts, make: Any) -> Plain:
    paths: Plain = {}
    for operation in operations:
        if operation.published:
            of_path = paths.setdefault(_path(operation), {})
            of_path[operation.method.lower()] = make(operation, parts)
    return paths


def _path(operation: Operation) -> str:
    return operation.path.replace("{*", "{")


def _head(operation: Operation) -> Plain:
    head: Plain = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description or operation.summary,
        "operationId": operation.id,
    }
    if not operation.public:
        head["security"] = [{_SECURITY: []}, {_BEARER: []}]
    return head


def _parameter(parameter: Parameter) -> Plain:
    plain: Plain = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
    }
    if parameter.description:
        plain["description"] = parameter.description
    if parameter.place == "query":
        plain["allowEmptyValue"] = True  # means absence
    return plain


def _errors(operation: Operation) -> dict[int, list[str]]:
    """Return the names of errors by status."""
    common = () if operation.public else _COMMON_ERRORS
    in_branch = any(parameter.name == "branchId" for parameter in operation.parameters)
    found: dict[int, list[str]] = {}
    further = (*(_BODY_ERRORS if operation.body else ()), *(_BRANCH_ERRORS if in_branch else ()))
    for status, name in (*operation.errors, *common, *further):
        shown = name if "." in name else f"stream.api.{name}"
        if shown not in found.setdefault(status, []):
            found[status].append(shown)
    return dict(sorted(found.items()))


def _operation2(operation: Operation, parts: _Parts) -> Plain:
    plain = _head(operation)
    parameters = []
    for parameter in operation.parameters:
        schema = {
            name: value
            for name, value in parts.schema(parameter.schema).items()
            if name not in ("example", "description")
        }
        parameters.append(_parameter(parameter) | schema)
    if operation.waits:
        parameters.append(_PREFER | {"type": "string"})
    if operation.body is not None:
        parameters.append(
            {
                "name": "body",
                "in": "body",
                "required": True,
                "schema": parts.request(operation.body),
            }
        )
    if parameters:
        plain["parameters"] = parameters
    answer: Plain = {"description": _status_text(operation)}
    if operation.result is not None:
        answer["schema"] = parts.schema(operation.result)
        if operation.content_type != "application/json":
            plain["produces"] = [operation.content_type]
    responses: Plain = {str(operation.status): answer}
    if operation.outcome is not None:
        awaited = {"schema": parts.schema(operation.outcome.result)}
        if operation.outcome.status == 201:
            awaited["headers"] = {"Location": _LOCATION | {"type": "string"}}
        responses[str(operation.outcome.status)] = {"description": _AWAITED} | awaited
    for status, names in _errors(operation).items():
        responses[str(status)] = {
            "description": ", ".join(names),
            "schema": parts.schema(ERROR),
        }
    plain["responses"] = responses
    return plain


def _operation3(operation: Operation, parts: _Parts) -> Plain:
    plain = _head(operation)
    parameters = [
        _parameter(parameter) | {"schema": parts.schema(parameter.schema)}
        for parameter in operation.parameters
    ]
    if operation.waits:
        parameters.append(_PREFER | {"schema": {"type": "string", "example": "wait=10"}})
    if parameters:
        plain["parameters"] = parameters
    if operation.body is not None:
        body = {"application/json": {"schema": parts.request(operation.body)}}
        plain["requestBody"] = {"required": True, "content": body}
    elif operation.raw_body:
        plain["requestBody"] = {"content": {"*/*": {"schema": {}}}}
    answer: Plain = {"description": _status_text(operation)}
    if operation.result is not None:
        answer["content"] = {
            operation.content_type: {"schema": parts.schema(operation.result)},
        }
    responses: Plain = {str(operation.status): answer}
    if operation.outcome is not None:
        awaited = {"content": _json(parts, operation.outcome.result)}
        if operation.outcome.status == 201:
            awaited["headers"] = {"Location": _LOCATION | {"schema": {"type": "string"}}}
        responses[str(operation.outcome.status)] = {"description": _AWAITED} | awaited
    for status, names in _errors(operation).items():
        responses[str(status)] = {
            "description": ", ".join(names),
            "content": _json(parts, ERROR),
        }
    plain["responses"] = responses
    return plain


def _json(parts: _Parts, schema: Schema) -> Plain:
    return {"application/json": {"schema": parts.schema(schema)}}


_AWAITED = "The task has succeeded while the caller waited for it."


def _status_text(operation: Operation) -> str:
    texts = {
        200: "OK",
        201: "Created.",
        202: "The task was started.",
        204: "Done.",
        301: "Moved.",
    }
    return texts[operation.status]
