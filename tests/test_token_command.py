"""``stream-service token`` and its arguments."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from stream.authority.tokens import key_in
from stream.errors import UserError
from stream.token_command import Request, read_request

CREATE = ["create", "--project", "1", "--name", "ci", "--can", "read"]


def _read(*argv: str, is_dev: bool = False) -> Request:
    flags = [] if is_dev else ["--etcd-endpoint=h:1"]
    return read_request([*argv, *flags], {}, is_dev=is_dev)


def test_arguments() -> None:
    """Flags are accepted in both forms and any order, and rights in one flag or several."""
    request = _read("--can=read", "create", "--project=7", "--name", "ci", "--can", "tail,write")
    assert (request.verb, request.project, request.name) == ("create", 7, "ci")
    assert (request.can, request.expires_in) == ("read,tail,write", None)
    assert _read(*CREATE, "--expires-in=90m").expires_in == timedelta(minutes=90)
    assert _read("revoke", "--project", "1", "a1").token_id == "a1"


def test_the_address_of_etcd() -> None:
    """The address is that of the service's settings, or of the development service with
    its offset.
    """
    assert _read(*CREATE).settings.etcd.endpoint == "h:1"
    dev = _read(*CREATE, "--port-offset=100", is_dev=True).settings.etcd
    assert (dev.endpoint, dev.namespace) == ("127.0.0.1:2479", "stream/")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["crate", "--project=1"], 'did you mean "create"?'),
        (["list"], "--project must be a number, at least 1"),
        (["list", "--project=x"], "--project must be a number, at least 1"),
        (["list", "--project=1", "x"], '"token list" takes flags only, got "x"'),
        (["list", "--project=1", "--name=x"], '"token list" has no flag --name'),
        (["revoke", "--project=1"], "expected the id of one token"),
        ([*CREATE, "--expires-in=soon"], '--expires-in "soon" is not a time such as 720h'),
        ([*CREATE, "--expires-in=0s"], '--expires-in "0s" is not a time'),
    ],
)
def test_invalid_arguments(argv: list[str], message: str) -> None:
    """The message names the expected input."""
    with pytest.raises(UserError) as caught:
        _read(*argv)
    assert message in str(caught.value)


def test_a_token_is_created_and_revoked(etcd_url: str) -> None:
    """A new token is printed alone, for scripts, and is not in the list."""
    where = [f"--etcd-endpoint={etcd_url}", f"--etcd-namespace={secrets.token_hex(8)}"]
    command = str(Path(sys.executable).parent / "stream-service")

    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        line = [command, "token", *argv, *where]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)

    made = call("create", "--project=7", "--name=ci", "--can=sources:write,tail")
    assert made.returncode == 0, made.stderr
    key = key_in(made.stdout.strip())
    assert key is not None and key.project_id == 7
    assert f"token {key.token_id} of project 7" in made.stderr
    listed = call("list", "--project=7").stdout
    assert re.search(rf"^{key.token_id}  ci +write,tail .* never$", listed, re.MULTILINE)
    assert made.stdout.strip() not in listed
    assert call("revoke", "--project=7", key.token_id).returncode == 0
    again = call("revoke", "--project=7", key.token_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert f'Token "{key.token_id}" not found in the project.' in again.stderr
