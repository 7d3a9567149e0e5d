"""The page with all routes of the API, made from the operations.

``make docs-api`` runs ``python -m tools.reference.api_routes docs/api-routes.md``, which writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from stream.api.spec.operation import Operation
from stream.api.spec.operations import OPERATIONS

__all__ = ["main", "reference"]

_INTRO = """\
# Routes of the API

<!-- Written by `make docs-api` from the declarations in stream/api/spec/operations.py. -->

Bodies, parameters and errors of each route are described by the running service at
`/v1/documentation/`, and for tools at `/v1/documentation/openapi3.json` (OpenAPI 3.0) and
`openapi.json` (Swagger 2.0). How they are used is in [the API](api.md).

A call by *anybody* needs no token, any other one a token with the right that is named. In a project
of Keboola an administrator's master token has all rights, another master token *read* and *tail*;
in a project of its own [each token has its rights](security.md#tokens-of-projects-of-their-own).
*Task* means that the answer is 202 and the work goes on behind it, unless the caller
[waits for its end](api.md#tasks).
"""
_BRANCH = "/v1/branches/{branchId}"
_SINKS = "/v1/branches/{branchId}/sources/{sourceId}/sinks"
_SOURCES = "/v1/branches/{branchId}/sources"


def reference() -> str:
    """Return the page in Markdown, with a final newline."""
    listed = sorted((one for one in OPERATIONS.values() if one.published), key=_section)
    parts = [_INTRO]
    for section, operations in groupby(listed, _section):
        parts.append(f"## {section[1]}\n\n" + "\n".join(_table(operations)) + "\n")
    return "\n".join(parts)


def _section(operation: Operation) -> tuple[int, str]:
    if operation.path.startswith(_SINKS):
        return 1, "Sinks"
    if operation.path.startswith(_SOURCES):
        return 0, "Sources"
    if operation.path.startswith(_BRANCH):
        return 2, "Branch"
    if operation.path.startswith(("/v1/tokens", "/v1/branches")):
        return 3, "Project"
    return (4, "Tasks") if "/tasks/" in operation.path else (5, "Service")


def _table(operations: Iterator[Operation]) -> Iterator[str]:
    yield "| route | by | |"
    yield "|---|---|---|"
    for operation in operations:
        path = operation.path.removeprefix(_BRANCH).replace("{*", "{") or "/"
        by = operation.right or ("any token" if operation.any_token else "anybody")
        task = " *Task.*" if operation.task else ""
        yield f"| `{operation.method} {path}` | {by} | {operation.summary}{task} |"


def main(path: str) -> None:
    """Write the page to *path*."""
    Path(path).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
