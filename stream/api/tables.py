"""The table of a sink as requests describe it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from typing import Any

import attrs

from stream.definition.entity import KeboolaTable, TableSink
from stream.errors import UserError
from stream.mapping.columns import Column, Mapping, TemplateColumn, column_from_plain
from stream.mapping.jsonnet import check_template

__all__ = ["check_table_id", "new_table", "table_patch"]

_STAGES = ("in", "out", "sys")


def _read_mapping(plain: AnyMapping[str, Any]) -> Mapping:
    """The mapping of a request. Raises UserError with the first thing wrong with its columns."""
    return Mapping(tuple(_column(column) for column in plain["columns"]))


def _column(plain: Any) -> Column:
    column = column_from_plain(plain)
    if isinstance(column, TemplateColumn):
        try:
            check_template(column.template.content)
        except UserError as error:
            raise UserError(f'column "{column.name}" template is invalid: {error}') from None
    return column


def check_table_id(text: str) -> None:
    """Raises UserError unless *text* is ``stage.bucket.table``."""
    fragments = text.split(".")
    if len(fragments) != 3:
        problem = "unexpected number of fragments"
    elif fragments[0] not in _STAGES:
        problem = f'unexpected stage "{fragments[0]}"'
    elif not fragments[1] or not fragments[2]:
        problem = "empty fragment"
    else:
        return
    raise UserError(f'invalid "tableId" value "{text}": invalid table ID "{text}": {problem}')


def new_table(plain: AnyMapping[str, Any] | None) -> TableSink:
    """The table of a new sink. Raises UserError."""
    if plain is None:
        raise UserError('"table" must be configured for the "table" sink type')
    mapping = _read_mapping(plain["mapping"])
    check_table_id(plain["tableId"])
    return TableSink(type="keboola", keboola=KeboolaTable(plain["tableId"]), mapping=mapping)


def table_patch(plain: AnyMapping[str, Any] | None) -> Callable[[TableSink], TableSink]:
    """A function from the present table to the one that a request asks for. Raises UserError.

    What the request doesn't name stays.
    """
    changes: dict[str, Any] = {}
    if plain is not None and "mapping" in plain:
        changes["mapping"] = _read_mapping(plain["mapping"])
    if plain is not None and "tableId" in plain:
        check_table_id(plain["tableId"])
        changes["keboola"] = KeboolaTable(plain["tableId"])
    return lambda table: attrs.evolve(table, **changes)
