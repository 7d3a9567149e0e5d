"""`stream sink`."""

from __future__ import annotations

from typing import Any

import click

from stream.cli.columns import column_of
from stream.cli.commands.sources import made_id
from stream.cli.connection import connect
from stream.cli.lifecycle import ENTITY_COLUMNS, add_lifecycle
from stream.cli.output import Column, output_option, print_as

__all__ = ["sink"]

_SINKS: tuple[Column, ...] = (
    ("SINK", lambda row: row["sinkId"]),
    ("TABLE", lambda row: table_name(row["table"])),
    *ENTITY_COLUMNS,
)


def table_name(table: dict[str, Any]) -> str:
    """Return the name of a table in lists."""
    if "tableId" in table:
        return str(table["tableId"])
    names = ("connection", "schema", "namespace", "table", "path")
    parts = [table.get(name) for name in names]
    return f"{table.get('type')}:{'.'.join(str(part) for part in parts if part)}"


def _columns(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(column_of(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from None


_column_option = click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_columns,
    metavar="NAME:TYPE[=VALUE][:DATATYPE][,OPTION...]",
    help="A column of the table, in their order: id:uuid,key  at:datetime  "
    "user:path=user.name  count:path=count:integer,default=1  raw:body. Options: key (part of "
    "the primary key), json (strings keep their quotes), nullable, default=TEXT.",
)


@click.group()
def sink() -> None:
    """List, create and change sinks."""


@sink.command("list")
@click.argument("source", metavar="SOURCE")
@click.option("--deleted", is_flag=True, help="List deleted sinks, which can be undeleted.")
@output_option
def list_sinks(source: str, deleted: bool, output: str) -> None:
    """List the sinks of a SOURCE."""
    path = ("sources", source, "sinks", *(("deleted",) if deleted else ()))
    with connect() as api:
        print_as(output, list(api.pages("sinks", *path)), _SINKS)


@sink.command()
@click.argument("source", metavar="SOURCE")
@click.argument("name")
@click.option("--id", "sink_id", help="ID of the sink; by default derived from the name.")
@click.option("--description", default="", help="Description, for display.")
@click.option(
    "--table",
    help="ID of a Keboola table (in.c-shop.orders), or name of a table in a database or catalog.",
)
@click.option(
    "--type", "table_type", default="keboola", show_default=True, help="Type of the table."
)
@click.option("--connection", help="Connection, for all tables except Keboola's.")
@click.option("--schema", help="Schema of a database table.")
@click.option("--namespace", help="Namespace of an Iceberg table.")
@click.option("--path", help="Folder of Parquet files.")
@click.option(
    "--partition-by", multiple=True, help="Partition of a lake table, for example day(at)."
)
@_column_option
@click.option(
    "--signal", "signals", multiple=True, help="Signal of an OTLP source: logs, metrics or traces."
)
@output_option
def create(
    source: str,
    name: str,
    sink_id: str | None,
    description: str,
    table: str | None,
    table_type: str,
    connection: str | None,
    schema: str | None,
    namespace: str | None,
    path: str | None,
    partition_by: tuple[str, ...],
    columns: tuple[dict[str, Any], ...],
    signals: tuple[str, ...],
    output: str,
) -> None:
    """Create a sink of a SOURCE with a NAME."""
    if not columns:
        raise click.UsageError("A sink needs columns, such as --column id:uuid --column body:body")
    given = {
        "tableId" if table_type == "keboola" else "table": table,
        "connection": connection,
        "schema": schema,
        "namespace": namespace,
        "path": path,
        "partitionBy": list(partition_by),
    }
    # The API knows which of these options a kind of table needs.
    place = {member: value for member, value in given.items() if value}
    body: dict[str, Any] = {
        "type": "table",
        "name": name,
        "description": description,
        "table": {"type": table_type, **place, "mapping": {"columns": list(columns)}},
    }
    if sink_id:
        body["sinkId"] = sink_id
    if signals:
        body["allowedSignals"] = list(signals)
    with connect() as api:
        made = api.change("POST", "sources", source, "sinks", body=body)
        found = api.get("sources", source, "sinks", made_id(made, "sinkId"))
    print_as(output, found)


@sink.command()
@click.argument("source", metavar="SOURCE")
@click.argument("sink", metavar="SINK")
@click.option("--name")
@click.option("--description")
@_column_option
@output_option
def update(
    source: str,
    sink: str,
    name: str | None,
    description: str | None,
    columns: tuple[dict[str, Any], ...],
    output: str,
) -> None:
    """Change a SINK. Given columns replace all columns."""
    given = {"name": name, "description": description}
    body: dict[str, Any] = {member: value for member, value in given.items() if value is not None}
    if columns:
        body["table"] = {"mapping": {"columns": list(columns)}}
    if not body:
        raise click.UsageError("Nothing to change: use --name, --description or --column.")
    path = ("sources", source, "sinks", sink)
    with connect() as api:
        api.change("PATCH", *path, body=body)
        print_as(output, api.get(*path))


add_lifecycle(sink, ("source", "sink"))
