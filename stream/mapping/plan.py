"""Requests to the template engine, and its answers. Pure.

A mapping's plan consists of the template columns that do more than call one record function. For
large records it includes the paths, because the engine also parses the bodies that take a long time
to parse. The engine (`stream.templates`) evaluates a plan for a record in a separate process. It
answers with the texts of the cells, or with the first failing column and the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from stream.errors import UserError

__all__ = [
    "NOTHING_FOUND",
    "CellTooBig",
    "Evaluated",
    "PlannedPath",
    "PlannedTemplate",
    "TemplatePlan",
]

NOTHING_FOUND = b""
"""The engine's text for an optional `PlannedPath` without a value. JSON is never empty."""


@attrs.frozen
class PlannedTemplate:
    """One template column.

    :ivar column: its name, for messages.
    :ivar content: the Jsonnet snippet.
    :ivar raw_string: whether a string is rendered without JSON's quotes; everything else is
        rendered as JSON.
    """

    column: str
    content: str
    raw_string: bool


@attrs.frozen
class PlannedPath:
    """One path column.

    :ivar column: its name, for messages.
    :ivar path: path into the body.
    :ivar raw_string: whether a string is rendered without JSON's quotes and escapes.
    :ivar default: text that is rendered if the path has no value.
    :ivar may_be_absent: whether a missing value is `NOTHING_FOUND` instead of an error; allowed
        only without *raw_string* and *default*.
    """

    column: str
    path: str
    raw_string: bool
    default: str | None
    may_be_absent: bool = False


@attrs.frozen(cache_hash=True)
class TemplatePlan:
    """The templates, or the templates and paths, of one mapping in the order of their columns.

    :ivar limit: maximum total size of a record's cells in bytes.
    :ivar needs_body: whether any of the columns may use the record's body.
    :ivar needs_headers: whether any of the columns may use the record's headers, which also
        determine how the body is parsed.
    """

    templates: tuple[PlannedTemplate | PlannedPath, ...]
    limit: int
    needs_body: bool = attrs.field(init=False, eq=False)
    needs_headers: bool = attrs.field(init=False, eq=False)

    @property
    def has_templates(self) -> bool:
        """Whether the plan contains templates, not only paths."""
        return any(isinstance(template, PlannedTemplate) for template in self.templates)

    def __attrs_post_init__(self) -> None:
        contents = [
            "Body" if isinstance(template, PlannedPath) else template.content
            for template in self.templates
        ]
        uses_body = any("Body" in content for content in contents)
        uses_headers = any("Header" in content for content in contents)
        object.__setattr__(self, "needs_body", uses_body)
        object.__setattr__(self, "needs_headers", uses_body or uses_headers)


@attrs.define(eq=False)
class Evaluated:
    """The outcome of one record.

    :ivar cells: texts of the columns of the plan, up to the one that failed; all of them if there
        is no error.
    :ivar error: why the next column can't be rendered, if any.
    :ivar seconds: CPU time that was used.
    """

    cells: Sequence[bytes]
    error: UserError | None = None
    seconds: float = 0.0


class CellTooBig(UserError):
    """The results exceed the size limit."""

    status = 413
    name = "payloadTooLarge"

    def __init__(self) -> None:
        super().__init__("the result of the template is too large")
