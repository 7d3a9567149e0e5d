"""`stream rejected`."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from stream.cli.columns import column_of
from stream.cli.connection import connect
from stream.cli.exit_codes import FAILED, REJECTED, UNAVAILABLE
from stream.cli.output import Column, bytes_text, one_line, output_option, print_as, visible
from stream.cli.terminal import confirm
from stream.client.errors import ClientError, ServiceError

__all__ = ["rejected"]

R = TypeVar("R")

_SHOWN_RESULTS = 100
_DELETED_AT_ONCE = 100

_RECORDS: tuple[Column, ...] = (
    ("ID", lambda row: row["id"]),
    ("TIME", lambda row: row["time"]),
    ("NODE", lambda row: row.get("nodeId")),
    ("REASON", lambda row: row.get("reason")),
    ("COLUMN", lambda row: row.get("column")),
    ("SIZE", lambda row: bytes_text(row.get("size"))),
    ("MESSAGE", lambda row: one_line(row.get("message"))),
    ("RECORD", lambda row: row.get("excerpt")),
)
_REASONS: tuple[Column, ...] = (
    ("COUNT", lambda row: row["count"]),
    ("REASON", lambda row: row["reason"]),
    ("COLUMN", lambda row: row.get("column")),
    ("LAST", lambda row: row.get("lastTime")),
    ("MESSAGE", lambda row: one_line(row.get("message"))),
)
_WHY: tuple[Column, ...] = (
    ("REASON", lambda row: row.get("reason")),
    ("COLUMN", lambda row: row.get("column")),
    ("MESSAGE", lambda row: one_line(row.get("message"))),
)
_TESTED: tuple[Column, ...] = (
    ("ID", lambda row: row["id"]),
    ("ACCEPTED", lambda row: row["accepted"]),
    *_WHY,
    ("ROW", lambda row: _row_text(row.get("row"))),
)
_REPLAYED: tuple[Column, ...] = (
    ("ID", lambda row: row["id"]),
    ("STORED", lambda row: row.get("stored")),
    *_WHY,
)


def _row_text(row: Any) -> str:
    """Return a row of a mapping as ``name=value``."""
    columns = row.get("columns", ()) if isinstance(row, dict) else ()
    return "  ".join(f"{column.get('name')}={column.get('value')}" for column in columns)


@click.group()
def rejected() -> None:
    """Show, test, replay and delete the records that a sink has rejected."""


def _path(source: str, sink: str, *rest: str) -> tuple[str, ...]:
    return ("sources", source, "sinks", sink, "rejected", *rest)


def _call(method: str, path: tuple[str, ...], **options: Any) -> Any:
    """Call the API; say so if the service doesn't support rejected records."""
    with connect() as api:
        try:
            if method == "GET":
                return api.get(*path, **options)
            if path[-1] == "replay":
                return api.change(method, *path, **options)
            return api.call(method, *path, **options)
        except ServiceError as error:
            is_unknown = error.status == 404 and error.name in ("", "stream.api.endpointNotFound")
            if is_unknown or error.status in (405, 501):
                raise _NotThere(
                    f"The API of this service has no rejected records. ({error.message})"
                ) from None
            raise


class _NotThere(ClientError):
    """The service doesn't support rejected records, because it is older or the original."""

    exit_code = 4


_source = click.argument("source", metavar="SOURCE")
_sink = click.argument("sink", metavar="SINK")
_ids = click.argument("ids", nargs=-1, metavar="[ID]...")


@rejected.command("list")
@_source
@_sink
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--since", help="Time in UTC, such as 2026-05-01T10:00:00.000Z.")
@click.option("--reason", help="Select records with this reason.")
@click.option(
    "--of-column", "column", metavar="COLUMN", help="Select records with an error in this column."
)
@output_option
def list_rejected(
    source: str,
    sink: str,
    limit: int,
    since: str | None,
    reason: str | None,
    column: str | None,
    output: str,
) -> None:
    """List the newest rejected records of a SINK, and their number by reason."""
    given = {"limit": limit, "since": since, "reason": reason, "column": column}
    parameters = {name: value for name, value in given.items() if value is not None}
    found = _call("GET", _path(source, sink), **parameters)
    if output != "table":
        print_as(output, found)
        return
    print_as("table", found.get("reasons") or [], _REASONS)
    click.echo()
    print_as("table", found.get("records") or [], _RECORDS)
    dropped = found.get("dropped") or 0
    lost = f", {dropped} were dropped for lack of space" if dropped else ""
    click.echo(visible(f"{found.get('total', 0)} rejected records{lost}."))
    _name_missing(found)


@rejected.command()
@_source
@_sink
@click.argument("id")
@click.option("--body", "only_body", is_flag=True, help="Print only the body, byte for byte.")
@output_option
def show(source: str, sink: str, id: str, only_body: bool, output: str) -> None:
    """Show the rejected record ID of a SINK."""
    found = _call("GET", _path(source, sink, id))
    if only_body:
        body = found.get("body", "")
        is_bytes = found.get("bodyEncoding") == "base64"
        sys.stdout.buffer.write(base64.b64decode(body) if is_bytes else body.encode())
        return
    print_as(output, found)


@rejected.command()
@_source
@_sink
@_ids
@click.option("--column", "columns", multiple=True, help="Column, as in `stream sink create`.")
@click.option(
    "--mapping", "mapping_name", metavar="FILE", help="File for `apply`, or file with columns."
)
@click.option("--reason", help="Select records with this reason.")
@click.option(
    "--of-column", "column", metavar="COLUMN", help="Select records with an error in this column."
)
@output_option
def test(
    source: str,
    sink: str,
    ids: tuple[str, ...],
    columns: tuple[str, ...],
    mapping_name: str | None,
    reason: str | None,
    column: str | None,
    output: str,
) -> int:
    """Test a mapping with the rejected records of a SINK. Nothing is stored.

    Without --column and --mapping the current mapping is tested. The exit code is 7 if records are
    rejected again.
    """
    mapping = _mapping(columns, mapping_name, source, sink)
    if mapping is None:
        with connect() as api:
            mapping = api.get("sources", source, "sinks", sink)["table"]["mapping"]
    body: dict[str, Any] = {"mapping": mapping}
    if ids:
        body["ids"] = list(ids)
    if reason:
        body["reason"] = reason
    if column:
        body["column"] = column
    found = _call("POST", _path(source, sink, "test"), body=body)
    summary = f"{found.get('accepted', 0)} of {found.get('tested', 0)} would be stored."
    _results(found, output, _TESTED, summary)
    return REJECTED if found.get("rejected") else 0


def _mapping(
    columns: tuple[str, ...], name: str | None, source: str, sink: str
) -> dict[str, Any] | None:
    if name is None:
        try:
            return {"columns": [column_of(text) for text in columns]} if columns else None
        except ValueError as error:
            raise click.UsageError(f"{error}.") from None
    from stream.cli.document import DocumentError, parse_document

    if columns:
        raise click.UsageError("Use either --column or --mapping, not both.")
    try:
        value = parse_document(name, Path(name).read_text(encoding="utf-8")).value
    except (DocumentError, OSError, UnicodeDecodeError) as error:
        raise click.UsageError(str(error)) from None
    value = _within(value, "sources", "sourceId", source)
    value = _within(value, "sinks", "sinkId", sink)
    for member in ("table", "mapping"):
        if isinstance(value, dict) and isinstance(value.get(member), dict):
            value = value[member]
    if isinstance(value, list):
        value = {"columns": value}
    if not isinstance(value, dict) or "columns" not in value:
        raise click.UsageError(f"{name} has no columns for the sink {source}/{sink}.")
    return value


def _within(value: Any, member: str, id_member: str, id: str) -> Any:
    """Return the entry with *id* in the list *member* of *value*, if *value* has that member."""
    entries = value.get(member) if isinstance(value, dict) else None
    if not isinstance(entries, list):
        return value
    found = (x for x in entries if isinstance(x, dict) and x.get(id_member) == id)
    return next(found, None)


def _results(found: dict[str, Any], output: str, columns: tuple[Column, ...], summary: str) -> bool:
    """Print results; return whether records of unavailable nodes are missing."""
    if output != "table":
        print_as(output, found)
        return _name_missing(found)
    results = found.get("results") or []
    if results:
        print_as("table", results[:_SHOWN_RESULTS], columns)
    if len(results) > _SHOWN_RESULTS:
        click.echo(f"… and {len(results) - _SHOWN_RESULTS} more; --output json shows them.")
    click.echo(visible(summary))
    for note in found.get("notes") or ():
        click.echo(visible(str(note)), err=True)
    return _name_missing(found)


def _name_missing(found: dict[str, Any]) -> bool:
    """Print which nodes are unavailable and why; return whether there are any."""
    missing = [node for node in found.get("nodes") or () if not node.get("available", True)]
    for node in missing:
        click.echo(
            f"Without the records of the node {visible(str(node['nodeId']))}: "
            f"{visible(str(node.get('message', 'it does not answer.')))}",
            err=True,
        )
    return bool(missing)


def _selects(command: Callable[..., R]) -> Callable[..., R]:
    """Give *command* the IDs or options that select records, as its argument *selection*."""

    @_ids
    @click.option("--reason", help="Select records with this reason.")
    @click.option(
        "--of-column",
        "column",
        metavar="COLUMN",
        help="Select records with an error in this column.",
    )
    @click.option(
        "--since", help="Select records received at this time or later (2026-05-01T10:00:00.000Z)."
    )
    @click.option("--until", help="Select records received before this time.")
    @click.option("--all", "all", is_flag=True, help="Select all rejected records of the sink.")
    @wraps(command)
    def selected(
        *arguments: Any,
        ids: tuple[str, ...],
        reason: str | None,
        column: str | None,
        since: str | None,
        until: str | None,
        all: bool,
        **options: Any,
    ) -> R:
        given = {"reason": reason, "column": column, "since": since, "until": until}
        selection: dict[str, Any] = {name: value for name, value in given.items() if value}
        if ids and (selection or all):
            raise click.UsageError("Use either IDs or options that select records, not both.")
        if not ids and not selection and not all:
            raise click.UsageError(
                "Select the records with IDs, --reason, --of-column, --since, --until or --all."
            )
        return command(*arguments, selection={"ids": list(ids)} if ids else selection, **options)

    return selected


def _replayed(source: str, sink: str, selection: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs of one replay; it ends after some minutes."""
    answer = _call("POST", _path(source, sink, "replay"), body=selection)
    return dict(answer.get("outputs") or answer)


@rejected.command()
@_source
@_sink
@_selects
@output_option
def replay(
    source: str,
    sink: str,
    selection: dict[str, Any],
    output: str,
) -> int:
    """Map rejected records again with the current mapping, and store each row once.

    The exit code is 7 if records are rejected again, and 6 if those of an unavailable source node
    are missing: repeat the command when the node is available.
    """
    found = further = _replayed(source, sink, selection)
    begun: set[str] = set()
    while further.get("hasMore") and _continues(further, begun):
        begun.add(_first_id(further))
        click.echo(f"{found['replayed']} records were replayed, continuing.", err=True)
        further = _replayed(source, sink, selection)
        found = _together(found, further)
    is_missing = _results(
        found,
        output,
        _REPLAYED,
        f"{found.get('replayed', 0)} replayed: {found.get('stored', 0)} stored, "
        f"{found.get('rejected', 0)} rejected again.",
    )
    if is_missing:
        click.echo("Replay again when these nodes are available.", err=True)
        return UNAVAILABLE
    if found.get("hasMore"):
        click.echo(
            "There are more records, but the service does not continue with them. "
            "Correct the mapping, or select other records.",
            err=True,
        )
        return FAILED
    return REJECTED if found.get("rejected") else 0


def _first_id(outputs: dict[str, Any]) -> str:
    results = outputs.get("results") or ()
    return str(results[0].get("id", "")) if results else ""


def _continues(outputs: dict[str, Any], begun: set[str]) -> bool:
    """Return whether another replay makes progress.

    An earlier version of the service begins with the oldest record again. If it stores no record,
    every further replay would do the same, and the command would never end.

    :param begun: the first records of earlier replays.
    """
    is_further = bool(outputs.get("stored")) or _first_id(outputs) not in begun
    return bool(outputs.get("replayed")) and is_further


def _together(found: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """Return *found*, the outputs of earlier replays, merged with *further*, those of the next."""
    counts = ("replayed", "stored", "rejected")
    together = {
        **found,
        **further,
        **{name: found.get(name, 0) + further.get(name, 0) for name in counts},
        "results": [*(found.get("results") or ()), *(further.get("results") or ())],
        "hasMore": further.get("hasMore", False),
    }
    notes = dict.fromkeys([*(found.get("notes") or ()), *(further.get("notes") or ())])
    if notes:
        together["notes"] = list(notes)
    nodes = {node["nodeId"]: node for node in further.get("nodes") or ()}
    if "isComplete" not in further:
        # An earlier version of the service doesn't ask the same node again.
        nodes = {node["nodeId"]: node for node in found.get("nodes") or ()} | nodes
    together["nodes"] = list(nodes.values())
    return together


@rejected.command()
@_source
@_sink
@_selects
@click.option("-y", "--yes", is_flag=True, help="Don't ask for confirmation.")
@output_option
def delete(
    source: str,
    sink: str,
    selection: dict[str, Any],
    yes: bool,
    output: str,
) -> int:
    """Delete rejected records of a SINK for good.

    The exit code is 6 if those of an unavailable source node remain.
    """
    if not yes:
        confirm("Delete them permanently?")
    ids = selection.get("ids")
    if ids:
        calls = [
            {"ids": ",".join(ids[start : start + _DELETED_AT_ONCE])}
            for start in range(0, len(ids), _DELETED_AT_ONCE)
        ]
    else:
        calls = [selection]
    answers = [_call("DELETE", _path(source, sink), **call) or {} for call in calls]
    nodes = {node["nodeId"]: node for answer in answers for node in answer.get("nodes") or ()}
    found = {
        "deleted": sum(answer.get("deleted", 0) for answer in answers),
        "nodes": list(nodes.values()),
    }
    if output == "table":
        click.echo("Deleted.")
    else:
        print_as(output, found)
    return UNAVAILABLE if _name_missing(found) else 0
