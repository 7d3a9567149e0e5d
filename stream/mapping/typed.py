"""Cells of typed columns, which are NULL or a valid text. Pure.

A typed column is first rendered like other columns (`stream.mapping.render`). This module converts
the result to a value of the column's type, or reports why it can't. Values at paths and results of
templates are JSON, so that null and strings can be distinguished.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    Mapping,
    PathColumn,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.types import ValueMisfit, check_data_type, decimal_size, fitting, is_text

__all__ = [
    "MissingValue",
    "check_types",
    "default_of",
    "is_typed",
    "keeps_spelling",
    "typed_value",
]

TypedValue = Callable[[bytes | None], bytes | None]
"""Converts the rendered text of a column (``None``: no value) to the text of its cell (``None``:
NULL). Raises UserError.
"""

_OF_TEXTS: dict[type[Column], tuple[str, ...]] = {
    UuidColumn: ("string", "uuid"),
    DatetimeColumn: ("string", "timestamp"),
    IpColumn: ("string",),
    BodyColumn: ("string", "json"),
    HeadersColumn: ("string", "json"),
}
"""The types of columns whose content isn't a value of the body."""


class MissingValue(UserError):
    """There is no value for a column that isn't nullable."""

    name = "missingValue"


def is_typed(mapping: Mapping) -> bool:
    """Return whether the columns have types; either all columns have one or none has."""
    return any(column.data_type for column in mapping.columns)


def check_types(mapping: Mapping) -> None:
    """Check types, defaults and keys. Raises UserError that names the first invalid column."""
    for column in mapping.columns:
        try:
            _check(column)
        except UserError as error:
            raise UserError(f'column "{column.name}": {error}', name="invalidColumnType") from None


def _check(column: Column) -> None:
    check_data_type(column.data_type)
    allowed = _OF_TEXTS.get(type(column))
    if allowed is not None and column.data_type not in allowed:
        raise UserError(
            f'a column of type "{column.type}" must have the dataType {" or ".join(allowed)}, not '
            f'"{column.data_type}"'
        )
    if column.primary_key and column.nullable:
        raise UserError("a part of the primary key can't be nullable")
    if column.primary_key and column.data_type == "json":
        raise UserError("JSON can't be a part of the primary key")
    if isinstance(column, PathColumn) and column.default_value is not None:
        try:
            fitting(column.data_type)(column.default_value.encode())
        except ValueMisfit as error:
            raise UserError(f"the default value doesn't fit its type: {error}") from None


def typed_value(column: Column) -> TypedValue:
    """Return the function that makes cells of *column*, whose type `check_types` has accepted."""
    fit, nullable = fitting(column.data_type), column.nullable
    is_json = isinstance(column, PathColumn | TemplateColumn)
    is_kept = keeps_spelling(column)
    takes_empty = is_text(column.data_type)
    default = default_of(column)

    def value(rendered: bytes | None) -> bytes | None:
        text = rendered
        if is_json and text is not None:
            if text == b"null":
                text = None
            elif text.startswith(b'"') and not is_kept:
                text = _content(text)
        if text is None or (not text and not takes_empty):
            if default is not None:
                return default
            if nullable:
                return None
            raise MissingValue(_missing(column, rendered))
        return fit(text)

    return value


def keeps_spelling(column: Column) -> bool:
    """Return whether a JSON string is stored as it is written, with its quotes."""
    if column.data_type == "json":
        return True
    is_json = isinstance(column, PathColumn | TemplateColumn)
    return is_json and column.data_type == "string" and not _is_raw(column)


def default_of(column: Column) -> bytes | None:
    """Return the valid text that replaces a missing value; ``None`` if there is none."""
    if isinstance(column, PathColumn) and column.default_value is not None:
        return fitting(column.data_type)(column.default_value.encode())
    return None


def _is_raw(column: Column) -> bool:
    return isinstance(column, PathColumn | TemplateColumn) and column.raw_string


def _content(text: bytes) -> bytes:
    """Return the content of a JSON string."""
    try:
        content = orjson.loads(text)
        encoded: bytes = content.encode()
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        raise ValueMisfit(text, "text in UTF-8") from None
    return encoded


def _missing(column: Column, rendered: bytes | None) -> str:
    what = "the value is empty" if rendered else "there is no value"
    if rendered == b"null":
        what = "the value is null"
    elif rendered is None and isinstance(column, PathColumn):
        what = f'path "{column.path}" not found in the body'
    wanted = "decimal" if decimal_size(column.data_type) else column.data_type
    return f'{what}, and the column of type {wanted} is neither "nullable" nor has a default'
