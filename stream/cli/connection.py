"""The connection of a command to the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.cli.credentials import credentials

if TYPE_CHECKING:
    from stream.client.api import Api

__all__ = ["connect", "source_url"]


def connect() -> Api:
    """Return the API client for the current credentials. Raises ClientError if there are none."""
    from stream.client.api import Api

    found = credentials()
    return Api(found.url, found.token, branch=found.branch)


def source_url(source: str) -> str:
    """Return the URL that receives the records of *source*, which is an id or the URL itself.

    Raises ClientError: the source doesn't accept records over HTTP.
    """
    from stream.client.errors import ClientError

    if source.startswith(("http://", "https://")):
        return source
    with connect() as api:
        found = api.get("sources", source)
    url = (found.get("http") or {}).get("url")
    if not url:
        raise ClientError(
            f'The source "{source}" is of type "{found.get("type")}": only sources of type "http" '
            "accept such records."
        )
    return str(url)
