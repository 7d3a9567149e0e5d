"""Where the address and the token of the service come from, and where they are kept.

The file is ``credentials.json`` in the configuration directory of the operating system, readable
for its owner alone. The environment wins.
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

    :ivar url: of the API.
    :ivar token: for it.
    :ivar branch: in which commands look for sources.
    """

    url: str
    token: str = attrs.field(repr=False)
    branch: str = "default"


class _NotSignedIn(ClientError):
    """There is no address or no token."""


def credentials_path() -> Path:
    """Where they are kept."""
    return Path(click.get_app_dir("stream")) / "credentials.json"


def credentials(environ: Mapping[str, str] = os.environ) -> Credentials:
    """The present ones. Raises ClientError if there are none.

    A kept token is never sent to another address than the one that it was kept with.
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
            f"There is no {'address' if not url else 'token'} of a service: "
            f"call `stream login`, or set {missing}."
        )
    return Credentials(url, token, branch)


def keep(found: Credentials) -> Path:
    """Write *found* to the file; returns where that is."""
    path = credentials_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(attrs.asdict(found), indent=2) + "\n"
    # mkstemp makes the file with mode 0600.
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
    """Remove the file; whether there was one."""
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
        raise ClientError(f"Others can read {path}: chmod 600 {path}")
    try:
        members = json.loads(content)
        return Credentials(
            str(members["url"]), str(members["token"]), str(members.get("branch", "default"))
        )
    except (ValueError, KeyError, TypeError):
        raise ClientError(f"{path} can't be read; call `stream login` again.") from None
