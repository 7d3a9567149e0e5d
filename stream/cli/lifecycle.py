"""Commands shared by sources and sinks: enabling, deletion, versions, settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from stream.cli.connection import connect
from stream.cli.output import Column, output_option, print_as
from stream.cli.terminal import confirm

__all__ = ["ENTITY_COLUMNS", "add_lifecycle", "path_of", "state_of"]

VERSION_COLUMNS: tuple[Column, ...] = (
    ("VERSION", lambda row: row["number"]),
    ("AT", lambda row: row["at"]),
    ("BY", lambda row: row["by"].get("tokenDesc") or row["by"].get("type")),
    ("DESCRIPTION", lambda row: row["description"]),
)


def state_of(entity: dict[str, Any]) -> str:
    """Return whether a source or sink is enabled, disabled or deleted."""
    return "deleted" if "deleted" in entity else "disabled" if "disabled" in entity else "enabled"


ENTITY_COLUMNS: tuple[Column, ...] = (
    ("NAME", lambda row: row["name"]),
    ("STATE", state_of),
    ("VERSION", lambda row: row["version"]["number"]),
    ("CREATED", lambda row: row["created"]["at"]),
)


def path_of(ids: dict[str, str]) -> tuple[str, ...]:
    """Return the API path of a source or sink.

    :param ids: ``source`` and, for a sink, ``sink``.
    """
    path = ("sources", ids["source"])
    return (*path, "sinks", ids["sink"]) if "sink" in ids else path


def _with_ids(names: tuple[str, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = click.argument(name, metavar=name.upper())(function)
        return function

    return decorate


def _title(ids: dict[str, str]) -> str:
    return f'Sink "{ids["source"]}/{ids["sink"]}"' if "sink" in ids else f'Source "{ids["source"]}"'


def add_lifecycle(group: click.Group, names: tuple[str, ...]) -> None:
    """Add the commands to *group*.

    :param names: names of the arguments: ``source``, or ``source`` and ``sink``.
    """
    what = names[-1]
    with_ids = _with_ids(names)

    def change(done: str, method: str, ids: dict[str, str], output: str, *rest: str) -> None:
        with connect() as api:
            api.change(method, *path_of(ids), *rest)
            if output == "table":
                click.echo(f"{_title(ids)} is {done}.")
            elif method == "DELETE":
                members = {f"{name}Id": value for name, value in ids.items()}
                print_as(output, {**members, "state": done})
            else:
                print_as(output, api.get(*path_of(ids)))

    @group.command(help=f"Show a {what}.")
    @with_ids
    @output_option
    def show(output: str, **ids: str) -> None:
        with connect() as api:
            print_as(output, api.get(*path_of(ids)))

    @group.command(help=f"Disable a {what}: it accepts no records.")
    @with_ids
    @output_option
    def disable(output: str, **ids: str) -> None:
        change("disabled", "PUT", ids, output, "disable")

    @group.command(help=f"Enable a {what}.")
    @with_ids
    @output_option
    def enable(output: str, **ids: str) -> None:
        change("enabled", "PUT", ids, output, "enable")

    @group.command(help=f"Restore a deleted {what}.")
    @with_ids
    @output_option
    def undelete(output: str, **ids: str) -> None:
        change("back", "PUT", ids, output, "undelete")

    @group.command(help=f"Delete a {what}. You can undelete it; tables stay.")
    @with_ids
    @click.option("-y", "--yes", is_flag=True, help="Don't ask for confirmation.")
    @output_option
    def delete(yes: bool, output: str, **ids: str) -> None:
        if not yes:
            confirm(f"Delete the {_title(ids)[0].lower()}{_title(ids)[1:]}?")
        change("deleted", "DELETE", ids, output)

    @group.command(help=f"List the versions of a {what}.")
    @with_ids
    @output_option
    def versions(output: str, **ids: str) -> None:
        with connect() as api:
            found = list(api.pages("versions", *path_of(ids), "versions"))
        print_as(output, found, VERSION_COLUMNS)

    @group.command(help="Restore the content of an older VERSION.")
    @with_ids
    @click.argument("version", type=click.IntRange(min=1))
    @output_option
    def rollback(version: int, output: str, **ids: str) -> None:
        change(f"as in version {version}", "PUT", ids, output, "versions", str(version), "rollback")

    @group.command(help=f"Show the settings of a {what}, or change them with KEY=VALUE.")
    @with_ids
    @click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
    @click.option("--all", "show_all", is_flag=True, help="Also show settings with default values.")
    @output_option
    def settings(changes: tuple[str, ...], show_all: bool, output: str, **ids: str) -> None:
        with connect() as api:
            path = (*path_of(ids), "settings")
            if changes:
                patch = [_setting(text) for text in changes]
                api.change("PATCH", *path, body={"settings": patch})
            found = api.get(*path)["settings"]
        if output == "table" and not show_all:
            found = [setting for setting in found if setting.get("overwritten")]
        print_as(output, found, SETTING_COLUMNS)


SETTING_COLUMNS: tuple[Column, ...] = (
    ("KEY", lambda row: row["key"]),
    ("VALUE", lambda row: row.get("value")),
    ("DEFAULT", lambda row: row.get("defaultValue")),
)


def _setting(text: str) -> dict[str, Any]:
    import yaml

    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.UsageError(
            f'"{text}" is not KEY=VALUE; KEY= restores the inherited value of a setting.'
        )
    try:
        plain = yaml.safe_load(value) if value else None
    except Exception:  # such as a date that doesn't exist, or a tag that doesn't fit the value
        plain = value
    return {"key": key, "value": plain}
