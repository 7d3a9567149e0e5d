"""`stream tasks`."""

from __future__ import annotations

from typing import Any

import click

from stream.cli.connection import connect
from stream.cli.output import Column, one_line, output_option, print_as

__all__ = ["object_of", "tasks"]

_MOST = 100


def object_of(task: dict[str, Any]) -> str:
    """Return the source, or the source and the sink, that *task* is about."""
    # The id of a task consists of type, branch, source, perhaps sink, and time. It is used because
    # outputs are missing until the task ends.
    return "/".join(str(task["taskId"]).split("/")[2:-1])


_COLUMNS: tuple[Column, ...] = (
    ("CREATED", lambda row: row["createdAt"]),
    ("CHANGE", lambda row: row["type"].removeprefix("api.")),
    ("OBJECT", object_of),
    ("STATUS", lambda row: row["status"]),
    ("MS", lambda row: row.get("duration", "")),
    ("RESULT", lambda row: one_line(row.get("error") or row.get("result"))),
)


@click.command()
@click.argument("source", required=False, metavar="[SOURCE]")
@click.option("--limit", type=click.IntRange(1, _MOST), default=20, show_default=True)
@output_option
def tasks(source: str | None, limit: int, output: str) -> None:
    """Show the latest changes and their results, of all sources or of SOURCE and its sinks.

    Successful tasks are kept for an hour, failed ones for two days, regardless of who started them.
    """
    with connect() as api:
        if source:
            api.get("sources", source)  # raises the service's error
        parameters = {"limit": limit, **({"sourceId": source} if source else {})}
        print_as(output, api.get("tasks", **parameters)["tasks"], _COLUMNS)
