"""The columns of a table mapping, as defined by users and stored.

The order of attributes is the order of members in the stored JSON. This module contains only the
definition of columns and its validation; `stream.mapping.render` renders them.

Columns of typed tables have a `data_type` (`stream.mapping.types`), and may be `nullable`; columns
of other tables have neither.
"""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from typing import Any, ClassVar, Literal

import attrs

from stream.errors import UserError
from stream.values.codec import Record, field, from_plain, known_part, register_union

__all__ = [
    "COLUMN_TYPES",
    "MAX_COLUMNS",
    "MAX_TEMPLATE_CHARACTERS",
    "BodyColumn",
    "Column",
    "DatetimeColumn",
    "HeadersColumn",
    "IpColumn",
    "Mapping",
    "PathColumn",
    "Template",
    "TemplateColumn",
    "UuidColumn",
    "column_from_plain",
]

MAX_COLUMNS = 100
MAX_TEMPLATE_CHARACTERS = 4096


@attrs.frozen
class Template(Record):
    """A template that computes the value of a column.

    :ivar language: only ``jsonnet`` is known.
    :ivar content: the snippet, 1 to 4096 characters.
    """

    language: str
    content: str


@attrs.frozen
class UuidColumn(Record):
    """A new version 7 UUID for every row."""

    TYPE: ClassVar[str] = "uuid"
    type: Literal["uuid"] = attrs.field(default="uuid", init=False)
    name: str
    primary_key: bool = field(default=False, omit_empty=True, kw_only=True)
    data_type: str = field(default="", omit_empty=True, kw_only=True)
    nullable: bool = field(default=False, omit_empty=True, kw_only=True)


@attrs.frozen
class DatetimeColumn(Record):
    """The time at which the record was received, in UTC with milliseconds."""

    TYPE: ClassVar[str] = "datetime"
    type: Literal["datetime"] = attrs.field(default="datetime", init=False)
    name: str
    primary_key: bool = field(default=False, omit_empty=True, kw_only=True)
    data_type: str = field(default="", omit_empty=True, kw_only=True)
    nullable: bool = field(default=False, omit_empty=True, kw_only=True)


@attrs.frozen
class IpColumn(Record):
    """The client's IP address."""

    TYPE: ClassVar[str] = "ip"
    type: Literal["ip"] = attrs.field(default="ip", init=False)
    name: str
    primary_key: bool = field(default=False, omit_empty=True, kw_only=True)
    data_type: str = field(default="", omit_empty=True, kw_only=True)
    nullable: bool = field(default=False, omit_empty=True, kw_only=True)


@attrs.frozen
class BodyColumn(Record):
    """The received body."""

    TYPE: ClassVar[str] = "body"
    type: Literal["body"] = attrs.field(default="body", init=False)
    name: str
    primary_key: bool = field(default=False, omit_empty=True, kw_only=True)
    data_type: str = field(default="", omit_empty=True, kw_only=True)
    nullable: bool = field(default=False, omit_empty=True, kw_only=True)


@attrs.frozen
class HeadersColumn(Record):
    """All headers as a JSON object."""

    TYPE: ClassVar[str] = "headers"
    type: Literal["headers"] = attrs.field(default="headers", init=False)
    name: str
    primary_key: bool = field(default=False, omit_empty=True, kw_only=True)
    data_type: str = field(default="", omit_empty=True, kw_only=True)
    nullable: bool = field(default=False, omit_empty=True, kw_only=True)


@attrs.frozen
class PathColumn(Record):
    """The value at a path in the parsed body.

    :ivar path: e.g. ``user.tags[0]``.
    :ivar raw_string: whether a string is rendered without JSON's quotes and escapes.
    :ivar default_value: rendered like a string of the body if the path has no value.
    """

    TYPE: ClassVar[str] = "path"
    type: Literal["path"] = attrs.field(default="path", init=False)
    name: str
    primary_key: bool = field(default=False, omit_empty=True, kw_only=True)
    data_type: str = field(default="", omit_empty=True, kw_only=True)
    nullable: bool = field(default=False, omit_empty=True, kw_only=True)
    path: str = attrs.field(kw_only=True)
    raw_string: bool = field(default=False, omit_empty=True, kw_only=True)
    default_value: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class TemplateColumn(Record):
    """A column that a template computes from the record.

    :ivar raw_string: whether a string is rendered without JSON's quotes and escapes.
    """

    TYPE: ClassVar[str] = "template"
    type: Literal["template"] = attrs.field(default="template", init=False)
    name: str
    primary_key: bool = field(default=False, omit_empty=True, kw_only=True)
    data_type: str = field(default="", omit_empty=True, kw_only=True)
    nullable: bool = field(default=False, omit_empty=True, kw_only=True)
    raw_string: bool = field(default=False, omit_empty=True, kw_only=True)
    template: Template = attrs.field(kw_only=True)


Column = (
    UuidColumn
    | DatetimeColumn
    | IpColumn
    | BodyColumn
    | HeadersColumn
    | PathColumn
    | TemplateColumn
)

_CLASSES: dict[str, type[Column]] = {
    cls.TYPE: cls
    for cls in (
        UuidColumn,
        DatetimeColumn,
        IpColumn,
        BodyColumn,
        HeadersColumn,
        PathColumn,
        TemplateColumn,
    )
}
COLUMN_TYPES = tuple(_CLASSES)


@attrs.frozen
class Mapping(Record):
    """The columns of a table's rows, in order."""

    columns: tuple[Column, ...] = ()

    def validate(self) -> None:
        """Check the columns. Raises UserError that describes the first problem.

        Templates are only checked for presence here; `stream.mapping.jsonnet.check_template` parses
        them.
        """
        if not self.columns:
            raise UserError('"columns" must contain at least 1 item')
        if len(self.columns) > MAX_COLUMNS:
            raise UserError(f'"columns" must contain at most {MAX_COLUMNS} items')
        for index, column in enumerate(self.columns):
            if not column.name:
                raise UserError(f'"columns[{index}].name" is a required field')
        for column in self.columns:
            _validate_column(column)


def _validate_column(column: Column) -> None:
    if isinstance(column, PathColumn) and not column.path:
        raise UserError(f'column "{column.name}" is missing path')
    if isinstance(column, TemplateColumn):
        template = column.template
        if not template.content or not template.language:
            raise UserError(f'column "{column.name}" is missing template')
        if len(template.content) > MAX_TEMPLATE_CHARACTERS:
            raise UserError(
                f'column "{column.name}" template is invalid: '
                f"it is longer than {MAX_TEMPLATE_CHARACTERS} characters"
            )


def column_from_plain(plain: Any) -> Column:
    """Return the column that *plain* describes, for example in a request. Raises UserError.

    Unknown members are ignored.
    """
    return known_part(_column_from_plain(plain))


def _column_from_plain(plain: Any) -> Column:
    if not isinstance(plain, AnyMapping):
        raise UserError("a column must be an object")
    name, kind = plain.get("name"), plain.get("type")
    cls = _CLASSES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise UserError(f'invalid column type "{kind}"')
    if not isinstance(name, str):
        raise UserError('"name" of a column is a required field')
    if cls is PathColumn and plain.get("path") is None:
        raise UserError(f'column "{name}" is missing path')
    if cls is TemplateColumn and plain.get("template") is None:
        raise UserError(f'column "{name}" is missing template')
    try:
        return from_plain(cls, plain)
    except ValueError as error:
        raise UserError(f'column "{name}" is invalid: {error}') from error


def _read_stored(plain: Any) -> Column:
    try:
        return _column_from_plain(plain)
    except UserError as error:
        raise ValueError(str(error)) from error


register_union(Column, _read_stored)
