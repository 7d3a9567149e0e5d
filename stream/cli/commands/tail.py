"""`stream tail`."""

from __future__ import annotations

import json
import time
from math import ceil
from typing import Any

import click

from stream.cli.connection import connect
from stream.cli.filters import FilterFault, compile_filter
from stream.cli.output import dump_json, dump_yaml, output_option, visible
from stream.client.errors import ClientError, ServiceError, Unreachable

__all__ = ["tail"]

_LONGEST_SECONDS = 3600
_SHORTEST_SECONDS = 0.2
"""Remaining time that doesn't justify another call."""
_ATTEMPTS = 5


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option(
    "--filter", "text", help='Show only matching records: .user.name == "Ada" and .count > 3'
)
@click.option("--rate", type=click.IntRange(1, 100), default=10, show_default=True)
@click.option(
    "--limit", type=click.IntRange(1), help="Number of records after which the command ends."
)
@click.option(
    "--duration",
    type=click.IntRange(1),
    help="Seconds after which the command ends.  [default: until Ctrl-C]",
)
@output_option
def tail(
    source: str,
    text: str | None,
    rate: int,
    limit: int | None,
    duration: int | None,
    output: str,
) -> None:
    """Show the records of a SOURCE as they arrive.

    Shows a sample of --rate records per second and source node; --filter selects among those. Paths
    refer to the body; $ip, $timestamp and $headers.NAME to the request. With --output json each
    record is a line.
    """
    try:
        meets = compile_filter(text) if text else None
    except FilterFault as error:
        raise click.UsageError(str(error)) from None
    shown = failures = 0
    with connect() as api:
        deadline = None if duration is None else time.monotonic() + duration
        while True:
            left = _LONGEST_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= _SHORTEST_SECONDS:
                return
            try:
                for event in api.events(
                    "sources", source, "tail", rate=rate, duration=min(ceil(left), _LONGEST_SECONDS)
                ):
                    failures = 0
                    if event.name == "start":
                        click.echo(f"Watching {visible(source)}; press Ctrl-C to stop.", err=True)
                    elif event.name == "record":
                        record = _record(event.data)
                        if meets is None or meets(record):
                            _print(record, output)
                            shown += 1
                            if shown == limit:
                                return
                    elif event.name == "dropped":
                        click.echo(f"Left out: {visible(event.data)}", err=True)
                    elif event.name == "end":
                        _ended(event.data)
                        break
            except (Unreachable, ServiceError) as error:
                passes = isinstance(error, Unreachable) or error.status in (429, 503)
                failures += 1
                if not passes or failures >= _ATTEMPTS:
                    raise
                click.echo(f"{visible(str(error), lines=True)} Trying again.", err=True)
                api.pause(min(2.0**failures, 10.0))


def _record(data: str) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ClientError("The service has sent an event that can't be read.")
    return record


_EXPECTED_ENDS = ("duration", "limit")


def _ended(data: str) -> None:
    """Raise ClientError if the tail has ended early."""
    try:
        reason = str(json.loads(data).get("reason", ""))
    except (ValueError, AttributeError, RecursionError):
        reason = data
    if reason not in _EXPECTED_ENDS:
        raise Unreachable(f"The service has ended the tail: {reason}.")


def _print(record: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(dump_json(record))
    elif output == "yaml":
        click.echo("---\n" + dump_yaml(record), nl=False)
    else:
        body = record.get("body", "")
        cut = " …" if record.get("isCut") else ""
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        click.echo(visible(f"{record.get('timestamp', '')}  {record.get('ip', '')}  {text}{cut}"))
