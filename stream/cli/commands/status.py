"""`stream status`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from stream.cli.connection import connect
from stream.cli.flow import SinkFlow, flows, live_counts, rates
from stream.cli.lifecycle import state_of
from stream.cli.output import (
    Column,
    age_text,
    bytes_text,
    number_text,
    one_line,
    output_option,
    print_as,
)
from stream.client.errors import ServiceError

if TYPE_CHECKING:
    from stream.client.api import Api

__all__ = ["status"]

_INTERVAL_SECONDS = 2.0

_COLUMNS: tuple[Column, ...] = (
    ("SOURCE", lambda row: row["sourceId"]),
    ("SINK", lambda row: row["sinkId"]),
    ("STATE", lambda row: row["state"]),
    ("RECORDS/S", lambda row: number_text(row["recordsPerSecond"])),
    ("RECORDS", lambda row: number_text(row["records"])),
    ("IN TABLE", lambda row: number_text(row["inTable"])),
    ("WAITING", lambda row: number_text(row["waiting"])),
    ("OLDEST", lambda row: age_text(row["oldestSeconds"])),
    ("BYTES", lambda row: bytes_text(row["bytes"])),
    ("FILES", lambda row: " ".join(f"{x}:{n}" for x, n in row["files"].items())),
    ("REJECTED", lambda row: number_text(row["rejected"])),
    ("ERROR", lambda row: one_line(row["error"])),
)


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--watch", is_flag=True, help="Refresh the output until Ctrl-C.")
@output_option
def status(sources: tuple[str, ...], watch: bool, output: str) -> None:
    """Show the flow of records, and problems.

    For each sink: records per second, received and imported records, waiting records and the age of
    the oldest one (OLDEST), files on their way, rejected records and the last error. Counts come
    from etcd and are a few seconds old.
    """
    with connect() as api:
        before = _read(api, sources)
        while True:
            live = _live(api)
            if live is None:
                api.pause(_INTERVAL_SECONDS)
            now = _read(api, sources)
            per_second = rates(before, now) if live is None else live
            rows = [flow.row(per_second.get(flow.key), time.time()) for flow in now]
            if watch and output == "table":
                click.clear()
            print_as(output, rows, _COLUMNS)
            if not watch:
                return
            before = now
            if live is not None:
                api.pause(_INTERVAL_SECONDS)


def _read(api: Api, sources: Sequence[str]) -> list[SinkFlow]:
    found = list(api.pages("sources", "aggregation", "sources"))
    missing = set(sources) - {source["sourceId"] for source in found}
    for source_id in sorted(missing):
        api.get("sources", source_id)  # raises the service's error
    return [
        flow
        for source in found
        if not sources or source["sourceId"] in sources
        for flow in flows(source, state_of, time.monotonic())
    ]


def _live(api: Api) -> dict[tuple[str, str], float] | None:
    """Return records per second by source and sink, if the service has live counters."""
    try:
        return live_counts(api.events("live"))
    except ServiceError as error:
        if error.status in (404, 405, 501, 503):
            return None
        raise
    except ValueError:
        return None
