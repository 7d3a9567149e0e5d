"""The table of a sink, as described in requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from stream.api.spec.schema import quoted
from stream.definition.entity import KEBOOLA, KeboolaTable, TableSink
from stream.definition.mappings import check_mapping_size
from stream.errors import UserError, shortened
from stream.mapping.columns import Column, Mapping, PathColumn, TemplateColumn, column_from_plain
from stream.mapping.jsonnet import direct_cell
from stream.mapping.path_check import check_path
from stream.mapping.typed import check_types

__all__ = [
    "TablePatch",
    "TemplateChecks",
    "check_table_id",
    "check_templates",
    "new_table",
    "read_mapping",
    "table_patch",
]

_STAGES = ("in", "out", "sys")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,96}")
_COLUMNS = "body.table.mapping.columns"
_OPTIONS = ("connection", "schema", "namespace", "table", "path", "partitionBy")


class TemplateChecks(Protocol):
    """Parses templates in another process, because parsing may never end (`stream.templates`)."""

    def check(self, project: int, templates: Sequence[str], /) -> Deferred[list[str | None]]:
        """Return the problem of each of *templates*; ``None`` for a valid one.

        Raises UserError: the templates can't be checked now.
        """


async def check_templates(checks: TemplateChecks, project: int, mapping: Mapping) -> None:
    """Check the templates of *mapping*.

    Raises UserError: a template is invalid; the error names the first one and the reason.
    """
    columns = [
        column
        for column in mapping.columns
        if isinstance(column, TemplateColumn)
        and direct_cell(column.template.content, column.raw_string) is None
    ]
    if not columns:
        return
    faults = await checks.check(project, [column.template.content for column in columns])
    for column, fault in zip(columns, faults, strict=True):
        if fault is not None:
            raise UserError(f'column "{shortened(column.name)}" template is invalid: {fault}')


def read_mapping(plain: AnyMapping[str, Any], *, has_types: bool) -> Mapping:
    """Return the mapping of a request. Its templates aren't checked yet.

    Raises UserError: a column is invalid; the error describes the first problem.

    :param has_types: whether columns of the table have types; a column without one is a string.
    """
    mapping = Mapping(
        tuple(
            _column(column, f"{_COLUMNS}[{index}]") for index, column in enumerate(plain["columns"])
        )
    )
    mapping.validate()
    _check_names(mapping)
    if has_types:
        mapping = Mapping(
            tuple(
                attrs.evolve(column, data_type=column.data_type or "string")
                for column in mapping.columns
            )
        )
        check_types(mapping)
    else:
        _refuse_types(mapping)
    check_mapping_size(mapping)
    return mapping


def _refuse_types(mapping: Mapping) -> None:
    for index, column in enumerate(mapping.columns):
        if column.data_type or column.nullable:
            member = "dataType" if column.data_type else "nullable"
            raise UserError(
                f'column "{shortened(column.name)}" has "{member}", but columns of a table of type '
                '"keboola" have no types',
                param=f"{_COLUMNS}[{index}].{member}",
                detail=f'omit "{member}", or use another type of table',
            )


def _column(plain: Any, param: str) -> Column:
    try:
        column = column_from_plain(plain)
        _check_column(column)
    except UserError as error:
        # The message about a template needs no *param*, and clients compare the whole answer.
        if plain["type"] != TemplateColumn.TYPE:
            error.param = error.param or param
        raise
    return column


def _check_column(column: Column) -> None:
    if isinstance(column, PathColumn) and column.path:
        try:
            check_path(column.path)
        except UserError as error:
            raise UserError(
                f'column "{shortened(column.name)}" {error}', detail=error.detail
            ) from None


def _check_names(mapping: Mapping) -> None:
    """Refuse column names that no table can have. Names in tables are case-insensitive."""
    seen: dict[str, str] = {}
    for index, column in enumerate(mapping.columns):
        name, param = column.name, f"{_COLUMNS}[{index}].name"
        if not name.isprintable():
            raise UserError(
                f"column name {quoted(name)} has a character that can't be printed", param=param
            )
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            same = "is defined twice" if other == name else f'differs from "{other}" only in case'
            raise UserError(f'column "{name}" {same}', param=param)


def check_table_id(text: str) -> None:
    """Check that *text* is ``stage.bucket.table``. Raises UserError."""
    fragments = text.split(".")
    if len(fragments) != 3:
        problem = "unexpected number of fragments"
    elif fragments[0] not in _STAGES:
        problem = f'unexpected stage "{fragments[0]}"'
    elif not fragments[1] or not fragments[2]:
        problem = "empty fragment"
    elif not (_NAME.fullmatch(fragments[1]) and _NAME.fullmatch(fragments[2])):
        problem = (
            "the names of the bucket and the table consist of at most 96 letters, digits, dashes "
            "and underscores"
        )
    else:
        return
    shown = shortened(text)
    raise UserError(
        f'invalid "tableId" value "{shown}": invalid table ID "{shown}": {problem}',
        param="body.table.tableId",
        detail='a table ID has the form "in.c-bucket.table"',
    )


def new_table(plain: AnyMapping[str, Any] | None) -> TableSink:
    """Return the table of a new sink. Raises UserError."""
    if plain is None:
        raise UserError('"table" must be configured for the "table" sink type')
    type = plain["type"]
    mapping = read_mapping(plain["mapping"], has_types=type != KEBOOLA)
    if type == KEBOOLA:
        check_table_id(plain["tableId"])
        return TableSink(type=type, keboola=KeboolaTable(plain["tableId"]), mapping=mapping)
    _refuse_other_members(plain, type)
    return TableSink(type=type, options=_options(plain), mapping=mapping)


def _options(plain: AnyMapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _OPTIONS:
        value = plain.get(name)
        if isinstance(value, list):
            found[name] = json.dumps(value)
        elif value:
            found[name] = value
    return found


def _refuse_other_members(plain: AnyMapping[str, Any], type: str) -> None:
    """Refuse members that belong to tables of another type."""
    others = _OPTIONS if type == KEBOOLA else ("tableId",)
    for name in others:
        if name in plain:
            raise UserError(f'a table of type "{type}" has no "{name}"', param=f"body.table.{name}")


@attrs.frozen
class TablePatch:
    """The changes that a request makes to the table of a sink.

    :ivar mapping: the new mapping; ``None`` if it doesn't change.
    :ivar table_id: id of the new Keboola table; ``None`` if it doesn't change.
    :ivar options: changed options of a table of another type.
    """

    mapping: Mapping | None = None
    table_id: str | None = None
    options: AnyMapping[str, str] = attrs.field(factory=dict)

    def apply(self, table: TableSink) -> TableSink:
        """Return *table* with the changes applied."""
        if self.mapping is not None:
            table = attrs.evolve(table, mapping=self.mapping)
        if self.table_id is not None:
            keboola = attrs.evolve(table.keboola or KeboolaTable(""), table_id=self.table_id)
            table = attrs.evolve(table, keboola=keboola)
        if self.options:
            table = attrs.evolve(table, options={**table.options, **self.options})
        return table


def table_patch(plain: AnyMapping[str, Any] | None, type: str) -> TablePatch:
    """Return the changes that a request makes to a table of this *type*. Raises UserError."""
    if plain is None:
        return TablePatch()
    if plain.get("type", type) != type:
        raise UserError(
            f'the type of a table can\'t be changed, it is "{type}"',
            param="body.table.type",
            detail="create another sink, and delete this one",
        )
    _refuse_other_members(plain, type)
    mapping = table_id = None
    if "mapping" in plain:
        mapping = read_mapping(plain["mapping"], has_types=type != KEBOOLA)
    if "tableId" in plain:
        table_id = plain["tableId"]
        check_table_id(table_id)
    return TablePatch(mapping, table_id, _options(plain))
