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

The running service describes the bodies, parameters and errors of each route at
`/v1/documentation/`. For tools it serves `/v1/documentation/openapi3.json` (OpenAPI 3.0) and
`openapi.json` (Swagger 2.0). [The API](api.md) explains how to use the routes.

The column *right* shows the right that the token of a request needs; *none* means that no token is
needed. In a Keboola project, the master token of an administrator has all rights, and any other
master token has *read* and *tail*. With Stream's own tokens, [each token has its own
rights](security.md#tokens-of-projects-of-their-own). *Task* means that the API answers 202 and runs
the change in a task, unless the caller [waits for the task](api.md#tasks).
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
    yield "| route | right | what it does |"
    yield "|---|---|---|"
    for operation in operations:
        path = operation.path.removeprefix(_BRANCH).replace("{*", "{") or "/"
        by = operation.right or ("any token" if operation.any_token else "none")
        task = " *Task.*" if operation.task else ""
        yield f"| `{operation.method} {path}` | {by} | {operation.summary}{task} |"


def main(path: str) -> None:
    """Write the page to *path*."""
    Path(path).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
