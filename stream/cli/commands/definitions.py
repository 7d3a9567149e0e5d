"""`stream apply` and `stream export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.cli.connection import connect
from stream.cli.document import (
    MAX_BYTES,
    Document,
    DocumentError,
    check,
    parse_document,
    schemas_of,
)
from stream.cli.exit_codes import CHANGES, CONFLICT, USAGE
from stream.cli.output import dump_yaml, output_option, print_as, visible
from stream.cli.plan import Change, Plain, exported, plan
from stream.cli.terminal import confirm, input_bytes, is_terminal
from stream.client.errors import ClientError, ServiceError, TaskFailed

if TYPE_CHECKING:
    from stream.client.api import Api

__all__ = ["apply", "export"]

_ROUNDS = 6
_FIRST_DELAY = 0.3
_COLORS = {"+": "green", "-": "red"}
_DONE = {
    "create": "created",
    "update": "changed",
    "settings": "has other settings",
    "enable": "enabled",
    "disable": "disabled",
    "delete": "deleted",
}


@click.command()
@click.option("-f", "--file", "path", required=True, help="YAML file; - for the standard input.")
@click.option(
    "--dry-run", is_flag=True, help="Only show the changes; exit code 8 if there are any."
)
@click.option("-y", "--yes", is_flag=True, help="Don't ask for confirmation.")
@click.option(
    "--prune", is_flag=True, help="Delete sinks of these sources that aren't in the file."
)
@output_option
def apply(path: str, dry_run: bool, yes: bool, prune: bool, output: str) -> int | None:
    """Apply the sources and sinks in a file.

    Shows the differences, asks for confirmation, and makes the changes. Applying the same file
    again changes nothing.
    """
    try:
        document = parse_document(path, _text(path))
        with connect() as api:
            check(document, *schemas_of(_openapi(api)))
            return _apply(api, document, path, dry_run, yes, prune, output)
    except DocumentError as error:
        for fault in error.faults:
            click.echo(f"Error: {visible(fault)}", err=True)
        return USAGE


def _apply(
    api: Api, document: Document, path: str, dry_run: bool, yes: bool, prune: bool, output: str
) -> int | None:
    wanted: list[Plain] = document.value["sources"]

    def changes() -> list[Change]:
        return plan(wanted, _present(api, wanted), prune=prune)

    found = changes()
    if output == "table":
        _show(found)
    else:
        print_as(output, [_plain(change) for change in found])
    if not found:
        if output == "table":
            click.echo("No changes.")
        return None
    if dry_run:
        return CHANGES
    if not yes:
        if path == "-" or not is_terminal(sys.stdin):
            raise click.UsageError(
                "The changes can't be confirmed without a terminal: use --yes to apply them."
            )
        confirm("Make these changes?")
    _make(api, found, changes, quiet=output != "table")
    return None


def _text(path: str) -> str:
    try:
        if path == "-":
            content = input_bytes().read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DocumentError([f"{path}: the file is not UTF-8"]) from None
    except OSError as error:
        raise DocumentError([f"{path}: {error.strerror}"]) from None


def _openapi(api: Api) -> Any:
    try:
        return api.document()
    except ServiceError:
        return {}  # the API reports what is wrong


def _present(api: Api, wanted: Sequence[Plain]) -> dict[str, Plain]:
    """Return the current state of the sources in the file."""
    ids = {source["sourceId"] for source in wanted}
    with_settings = {
        (source["sourceId"], entity.get("sinkId", ""))
        for source in wanted
        for entity in (source, *source.get("sinks", ()))
        if "settings" in entity
    }
    found = {}
    for source in api.pages("sources", "sources"):
        source_id = source["sourceId"]
        if source_id in ids:
            sinks = list(api.pages("sinks", "sources", source_id, "sinks"))
            settings = {
                sink_id: _settings(api, source_id, sink_id)
                for sink_id in ("", *(sink["sinkId"] for sink in sinks))
                if (source_id, sink_id) in with_settings
            }
            found[source_id] = exported(source, sinks, settings)
    return found


def _settings(api: Api, source_id: str, sink_id: str) -> list[Plain]:
    sink = ("sinks", sink_id) if sink_id else ()
    settings: list[Plain] = api.get("sources", source_id, *sink, "settings")["settings"]
    return settings


def _show(changes: Sequence[Change]) -> None:
    for change in changes:
        click.secho(f"{change.action} {visible(change.title)}", bold=True)
        for line in change.diff(dump_yaml):
            click.secho(f"  {visible(line)}", fg=_COLORS.get(line[:1]))
    if changes:
        click.echo(f"{len(changes)} change{'s' if len(changes) > 1 else ''}.")


def _plain(change: Change) -> Plain:
    return {
        "action": change.action,
        "object": "/".join(change.path),
        "before": change.before,
        "after": change.after,
    }


def _make(
    api: Api, found: list[Change], changes: Callable[[], list[Change]], *, quiet: bool
) -> None:
    """Make the changes; see Note [Concurrent changes].

    Note [Concurrent changes]: the later of two concurrent changes gets a conflict, or an error
    because a task has the object locked. The command then reads the current state again and makes
    the confirmed changes that are still missing. It never makes a change that was not confirmed.
    """
    from stream.values.backoff import Backoff

    backoff = Backoff(_FIRST_DELAY, 3.0, jitter=0.5)
    confirmed = [(change.path, change.body) for change in found]
    for round in range(1, _ROUNDS + 1):
        try:
            for change in found:
                api.change(change.method, *change.path, body=change.body)
                if not quiet:
                    click.echo(f"{visible(change.title)} {_DONE[change.action]}")
            return
        except (ServiceError, TaskFailed) as error:
            passes = isinstance(error, TaskFailed) or error.status in (404, 409, 500, 503)
            if not passes or round == _ROUNDS:
                raise
            api.pause(backoff.next())
            found = changes()
            if not found:
                return
            if any((change.path, change.body) not in confirmed for change in found):
                raise Conflict(
                    "Somebody else changed these sources at the same time. Check the differences "
                    "again."
                ) from error


class Conflict(ClientError):
    """Another caller is changing the same objects."""

    exit_code = CONFLICT


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@output_option
def export(sources: tuple[str, ...], output: str) -> None:
    """Print SOURCES (by default all) and their sinks as a file for `stream apply`.

    The file is YAML, or JSON with --output json. It doesn't contain secrets of URLs.
    """
    with connect() as api:
        found = list(api.pages("sources", "sources"))
        missing = [name for name in sources if name not in {x["sourceId"] for x in found}]
        if missing:
            api.get("sources", missing[0])  # raises the service's error
        result = []
        for source in found:
            source_id = source["sourceId"]
            if sources and source_id not in sources:
                continue
            sinks = list(api.pages("sinks", "sources", source_id, "sinks"))
            ids = ("", *(sink["sinkId"] for sink in sinks))
            settings = {sink_id: _settings(api, source_id, sink_id) for sink_id in ids}
            result.append(exported(source, sinks, settings))
    print_as("json" if output == "json" else "yaml", {"sources": result})
