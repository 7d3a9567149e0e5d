"""The address and the token of the service, from the environment or from a file.

The file is ``credentials.json`` in the operating system's configuration directory, readable only by
its owner. Environment variables take precedence.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import attrs
import click

from stream.client.errors import ClientError

__all__ = ["Credentials", "credentials", "credentials_path", "forget", "keep"]

_MAX_BYTES = 64 * 1024


@attrs.frozen
class Credentials:
    """The API, the token and the branch that a command uses.

    :ivar url: URL of the API.
    :ivar token: token for the API.
    :ivar branch: branch of the sources.
    """

    url: str
    token: str = attrs.field(repr=False)
    branch: str = "default"


class _NotSignedIn(ClientError):
    """The address or the token is missing."""


def credentials_path() -> Path:
    """Return the path of the credentials file."""
    return Path(click.get_app_dir("stream")) / "credentials.json"


def credentials(environ: Mapping[str, str] = os.environ) -> Credentials:
    """Return the current credentials. Raises ClientError if there are none.

    A stored token is never sent to another address than the one stored with it.
    """
    kept = _kept()
    url = environ.get("STREAM_API_URL", "")
    token = environ.get("STREAM_API_TOKEN", "")
    if not token and kept is not None and url in ("", kept.url):
        token = kept.token
    url = url or (kept.url if kept is not None else "")
    branch = environ.get("STREAM_API_BRANCH") or (kept.branch if kept is not None else "default")
    if not url or not token:
        missing = "STREAM_API_URL" if not url else "STREAM_API_TOKEN"
        raise _NotSignedIn(
            f"There is no {'address' if not url else 'token'} of a service: run `stream login`, or "
            f"set {missing}."
        )
    return Credentials(url, token, branch)


def keep(found: Credentials) -> Path:
    """Write *found* to the file; return its path."""
    path = credentials_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(attrs.asdict(found), indent=2) + "\n"
    # mkstemp creates the file with mode 0600.
    handle, temporary = tempfile.mkstemp(prefix=".credentials-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    return path


def forget() -> bool:
    """Remove the file; return whether it existed."""
    try:
        credentials_path().unlink()
    except FileNotFoundError:
        return False
    return True


def _kept() -> Credentials | None:
    path = credentials_path()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ClientError(f"Other users can read {path}. Run: chmod 600 {path}")
    try:
        members = json.loads(content)
        return Credentials(
            str(members["url"]), str(members["token"]), str(members.get("branch", "default"))
        )
    except (ValueError, KeyError, TypeError):
        raise ClientError(f"{path} can't be read; run `stream login` again.") from None
