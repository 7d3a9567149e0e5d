"""`stream login` and `stream logout`."""

from __future__ import annotations

import sys

import click

from stream.cli.credentials import Credentials, forget, keep
from stream.cli.exit_codes import USAGE
from stream.cli.output import output_option, print_as, visible
from stream.cli.terminal import answered, input_bytes, is_terminal
from stream.client.errors import ClientError

__all__ = ["login", "logout"]

_LOCAL = "http://127.0.0.1:8000"
_ADVICE = "Without a terminal: give --url, and the token to --token-stdin."


@click.command()
@click.option("--url", envvar="STREAM_API_URL", help="URL of the API.  [default: ask]")
@click.option("--branch", default="default", show_default=True, help="Branch of the sources.")
@click.option("--token-stdin", is_flag=True, help="Read the token from the standard input.")
@output_option
def login(url: str | None, branch: str, token_stdin: bool, output: str) -> int | None:
    """Store the address and the token of a service.

    Asks for the token, verifies it, and stores it in the operating system's configuration
    directory, in a file that only you can read.
    """
    from stream.client.api import Api, is_private

    if not url:
        if token_stdin:
            raise click.UsageError("--token-stdin needs --url.")
        with answered(_ADVICE):
            url = click.prompt("URL of the API", default=_LOCAL, err=True)
    if token_stdin:
        token = input_bytes().readline(4096).decode(errors="replace").strip()
    else:
        with answered(_ADVICE):
            hidden = is_terminal(sys.stdin)
            token = click.prompt("Token", hide_input=hidden, err=True).strip()
    if not token or not token.isascii() or not token.isprintable():
        click.echo(
            "Error: the token is empty, or contains characters that aren't allowed in a token.",
            err=True,
        )
        return USAGE
    if not is_private(url):
        click.echo("Warning: without https:// others can read the token in transit.", err=True)
    with Api(url, token, branch=branch) as api:
        listed = api.get("sources", limit=1)
        if not isinstance(listed, dict) or "sources" not in listed:
            raise ClientError(f"{url} responds, but is not the API of a Stream service.")
        project = visible(str(listed.get("projectId", "")))
        path = keep(Credentials(api.url, token, branch))
        found = {"projectId": listed.get("projectId"), "url": api.url, "branch": branch}
    if output == "table":
        click.echo(f"Signed in to project {project}; the token is stored in {path}")
    else:
        print_as(output, {**found, "path": str(path)})
    return None


@click.command()
@output_option
def logout(output: str) -> None:
    """Delete the stored address and token."""
    was_kept = forget()
    if output == "table":
        click.echo("Forgotten." if was_kept else "Nothing was kept.")
    else:
        print_as(output, {"deleted": was_kept})
