"""The links of the OpenAPI 3.0 document: follow-up operations of an answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stream.api.spec.operation import Operation
from stream.api.spec.response_schemas import SINK, SOURCE, TASK, VERSION

__all__ = ["links"]

Plain = dict[str, Any]


def links(operation: Operation, operations: Iterable[Operation]) -> Plain:
    """Return the operations that can follow *operation*, by the name of the link.

    The links pass on the path parameters of *operation*. They take the id of its object from the
    answer's body, or from the request that creates the object.
    """
    found: Plain = {}
    if operation.result is TASK and operation.task:
        found["GetTask"] = _link("GetTask", {"taskId": "$response.body#/taskId"})
    values = {
        parameter.name: f"$request.path.{parameter.name}"
        for parameter in operation.parameters
        if parameter.place == "path"
    }
    if operation.id == "CreateSource":
        values["sourceId"] = "$request.body#/sourceId"
    elif operation.id == "CreateSink":
        values["sinkId"] = "$request.body#/sinkId"
    elif operation.result is VERSION:
        values["versionNumber"] = "$response.body#/number"
    elif operation.result not in (SOURCE, SINK):
        return found
    for other in operations:
        needed = [parameter.name for parameter in other.parameters if parameter.place == "path"]
        if other is not operation and _is_next(needed, values):
            found[other.id] = _link(other.id, {name: values[name] for name in needed})
    return found


def _is_next(needed: list[str], values: Plain) -> bool:
    """Return whether an operation refers to the object that *values* name."""
    return "sourceId" in needed and set(needed) == set(values)


def _link(operation_id: str, parameters: Plain) -> Plain:
    return {"operationId": operation_id, "parameters": parameters}
