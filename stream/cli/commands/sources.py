"""`stream source`."""

from __future__ import annotations

from typing import Any

import click

from stream.cli.connection import connect
from stream.cli.lifecycle import ENTITY_COLUMNS, add_lifecycle
from stream.cli.output import Column, output_option, print_as, visible
from stream.cli.terminal import confirm
from stream.client.errors import ClientError

__all__ = ["source"]

_COLUMNS: tuple[Column, ...] = (
    ("SOURCE", lambda row: row["sourceId"]),
    ("TYPE", lambda row: row["type"]),
    *ENTITY_COLUMNS,
)


@click.group()
def source() -> None:
    """List, create and change sources."""


@source.command("list")
@click.option("--deleted", is_flag=True, help="List deleted sources, which can be undeleted.")
@output_option
def list_sources(deleted: bool, output: str) -> None:
    """List sources."""
    path = ("sources", "deleted") if deleted else ("sources",)
    with connect() as api:
        print_as(output, list(api.pages("sources", *path)), _COLUMNS)


@source.command()
@click.argument("name")
@click.option("--id", "source_id", help="ID of the source; by default derived from the name.")
@click.option("--type", type=click.Choice(("http", "otlp")), default="http", show_default=True)
@click.option("--description", default="", help="Description, for display.")
@output_option
def create(name: str, source_id: str | None, type: str, description: str, output: str) -> None:
    """Create a source with a NAME, and show it with its URL for records."""
    body: dict[str, Any] = {"type": type, "name": name, "description": description}
    if source_id:
        body["sourceId"] = source_id
    with connect() as api:
        made = api.change("POST", "sources", body=body)
        found = api.get("sources", made_id(made, "sourceId"))
    print_as(output, found)


@source.command()
@click.argument("source", metavar="SOURCE")
@click.option("--name")
@click.option("--description")
@output_option
def update(source: str, name: str | None, description: str | None, output: str) -> None:
    """Change the name or the description of a SOURCE."""
    given = {"name": name, "description": description}
    body = {member: value for member, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("Nothing to change: use --name or --description.")
    with connect() as api:
        api.change("PATCH", "sources", source, body=body)
        print_as(output, api.get("sources", source))


@source.command()
@click.argument("source", metavar="SOURCE")
@output_option
def url(source: str, output: str) -> None:
    """Print the URL for the records of a SOURCE; it contains the secret."""
    with connect() as api:
        _print_url(_url(api.get("sources", source)), output)


@source.command("rotate-secret")
@click.argument("source", metavar="SOURCE")
@click.option("-y", "--yes", is_flag=True, help="Don't ask for confirmation.")
@output_option
def rotate_secret(source: str, yes: bool, output: str) -> None:
    """Replace the secret in the URL of a SOURCE, and print the new URL.

    The old URL stops working immediately.
    """
    if not yes:
        confirm(f'No producer can use the old URL of "{source}" any more. Continue?')
    with connect() as api:
        _print_url(_url(api.call("POST", "sources", source, "rotate-secret")), output)


def _print_url(url: str, output: str) -> None:
    if output == "table":
        click.echo(visible(url))
    else:
        print_as(output, {"url": url})


def _url(found: dict[str, Any]) -> str:
    for type in ("http", "otlp"):
        if "url" in found.get(type, {}):
            return str(found[type]["url"])
    raise ClientError("The source has no URL.")


def made_id(made: dict[str, Any], member: str) -> str:
    """Return the id of a created object, from the object itself or from the outputs of its task."""
    found = made.get(member) or (made.get("outputs") or {}).get(member)
    if not found:
        raise ClientError(f"The service has created the object, but the answer lacks its {member}.")
    return str(found)


add_lifecycle(source, ("source",))
