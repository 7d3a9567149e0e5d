from __future__ import annotations

import json
import re
from typing import Any

import pytest
import pytest_twisted
import yaml

from stream.api.spec import request_schemas as requests
from stream.api.spec import response_schemas as answers
from stream.api.spec.openapi import openapi2, openapi3
from stream.api.spec.operations import OPERATIONS
from stream.api.spec.schema import Array, Object, Schema
from tests.api.conftest import SINK, SOURCE, Api

ensure = pytest_twisted.ensureDeferred


def references(value: Any) -> set[str]:
    return set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(value)))


@pytest.mark.parametrize(
    ("document", "prefix"),
    [
        (openapi2(OPERATIONS.values()), "#/definitions/"),
        (openapi3(OPERATIONS.values()), "#/components/schemas/"),
    ],
    ids=["2", "3"],
)
def test_the_documents_are_complete(document: Any, prefix: str) -> None:
    """Every reference resolves, every object is used, and every operation is described once."""
    named = document
    for part in prefix.strip("#/").split("/"):
        named = named[part]
    assert references(document) == {prefix + name for name in named}
    ids = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len(ids) == len(set(ids)) == sum(each.published for each in OPERATIONS.values())
    assert "CreateSource" in ids
    assert "HealthCheck" not in ids


@pytest.mark.parametrize(
    ("document", "schemes"),
    [
        (openapi2(OPERATIONS.values()), lambda document: document["securityDefinitions"]),
        (openapi3(OPERATIONS.values()), lambda document: document["components"]["securitySchemes"]),
    ],
    ids=["2", "3"],
)
def test_a_token_may_be_sent_in_both_headers(document: Any, schemes: Any) -> None:
    """Each operation that isn't public offers both schemes."""
    token, bearer = schemes(document).items()
    assert token[1]["name"] == "X-StorageApi-Token"
    assert bearer[1].get("scheme") == "bearer" or bearer[1]["name"] == "Authorization"
    for operation in OPERATIONS.values():
        if operation.published:
            shown = document["paths"][operation.path.replace("{*", "{")][operation.method.lower()]
            choice: list[dict[str, Any]] = [{token[0]: []}, {bearer[0]: []}]
            assert shown.get("security") == (None if operation.public else choice)


def test_every_parameter_in_a_path_is_declared() -> None:
    """A path names exactly the path parameters of its operation."""
    for operation in OPERATIONS.values():
        declared = {
            parameter.name for parameter in operation.parameters if parameter.place == "path"
        }
        assert set(re.findall(r"\{\*?(\w+)\}", operation.path)) == declared, operation.id


def objects(schema: Schema) -> list[Object]:
    if isinstance(schema, Array):
        return objects(schema.items)
    if not isinstance(schema, Object):
        return []
    return [schema, *(found for member in schema.members for found in objects(member.schema))]


def test_one_name_is_one_object() -> None:
    """Objects with the same name are equal."""
    named: dict[str, Object] = {}
    for operation in OPERATIONS.values():
        for schema in (operation.body, operation.result, answers.ERROR):
            for found in objects(schema) if schema is not None else ():
                assert named.setdefault(found.name, found) == found
    assert requests.CREATE_SINK.name in named


@ensure
async def test_the_files_are_served(api: Api) -> None:
    """Both versions are served in both formats, with the same content."""
    for name, version in (("openapi", "swagger"), ("openapi3", "openapi")):
        as_json = await api.call("GET", f"/v1/documentation/{name}.json", token=None)
        as_yaml = await api.call("GET", f"/v1/documentation/{name}.yaml", token=None)
        assert as_json.header("Content-Type") == "application/json"
        assert yaml.safe_load(as_yaml.body) == as_json.json
        assert version in as_json.json


@ensure
async def test_answers_are_as_published(api: Api) -> None:
    """Answers have the documented members in the documented order."""
    await api.create_source()
    await api.create_sink(allowedSignals=["logs"])
    task = await api.finish(await api.call("PUT", f"{SINK}/disable"))
    for operation, plain in (
        ("GetSource", await api.get(SOURCE)),
        ("GetSink", await api.get(SINK)),
        ("ListSources", await api.get("/v1/branches/456/sources")),
        ("ListSinks", await api.get(f"{SOURCE}/sinks")),
        ("GetSinkSettings", await api.get(f"{SINK}/settings")),
        ("ListSinkVersions", await api.get(f"{SINK}/versions")),
        ("SinkStatisticsTotal", await api.get(f"{SINK}/statistics/total")),
        ("SinkStatisticsFiles", await api.get(f"{SINK}/statistics/files")),
        ("AggregationSources", await api.get("/v1/branches/456/aggregation/sources")),
        ("GetTask", task),
        ("ListTasks", await api.get("/v1/branches/456/tasks")),
    ):
        result = OPERATIONS[operation].result
        assert result is not None
        assert_as_declared(plain, result, operation)


def assert_as_declared(value: Any, schema: Schema, path: str) -> None:
    if isinstance(schema, Array):
        for item in value:
            assert_as_declared(item, schema.items, f"{path}[]")
    elif isinstance(schema, Object) and value is not None:
        declared = [member.name for member in schema.members]
        assert [name for name in declared if name in value] == list(value), path
        for member in schema.members:
            assert member.name in value or not member.required, f"{path}.{member.name}"
            if member.name in value:
                assert_as_declared(value[member.name], member.schema, f"{path}.{member.name}")
