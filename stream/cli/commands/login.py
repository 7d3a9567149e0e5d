"""`stream login` and `stream logout`."""

from __future__ import annotations

import sys

import click

from stream.cli.credentials import Credentials, forget, keep
from stream.cli.exit_codes import USAGE
from stream.cli.output import visible
from stream.client.errors import ClientError

__all__ = ["login", "logout"]

_LOCAL = "http://127.0.0.1:8000"


@click.command()
@click.option("--url", envvar="STREAM_API_URL", help="URL of the API.  [default: asked for]")
@click.option("--branch", default="default", show_default=True, help="Branch of the sources.")
@click.option("--token-stdin", is_flag=True, help="Read the token from the standard input.")
def login(url: str | None, branch: str, token_stdin: bool) -> int | None:
    """Store the address and the token of a service.

    Asks for the token, verifies it, and stores it in the operating system's configuration
    directory, in a file that only you can read.
    """
    from stream.client.api import Api, is_private

    if not url:
        if token_stdin:
            raise click.UsageError("--token-stdin needs --url.")
        url = click.prompt("URL of the API", default=_LOCAL)
    if token_stdin:
        token = sys.stdin.readline(4096).strip()
    else:
        token = click.prompt("Token", hide_input=True).strip()
    if not token or not token.isascii() or not token.isprintable():
        click.echo("Error: the token is empty, or has characters that no token has.", err=True)
        return USAGE
    if not is_private(url):
        click.echo("Warning: without https:// the token can be read on its way.", err=True)
    with Api(url, token, branch=branch) as api:
        listed = api.get("sources", limit=1)
        if not isinstance(listed, dict) or "sources" not in listed:
            raise ClientError(f"{url} answers, but not like the API of a Stream service.")
        project = visible(str(listed.get("projectId", "")))
        path = keep(Credentials(api.url, token, branch))
    click.echo(f"Signed in to project {project}, kept in {path}")
    return None


@click.command()
def logout() -> None:
    """Delete the stored address and token."""
    click.echo("Forgotten." if forget() else "Nothing was kept.")
