"""The console of the running process, with a real SSH client."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.keys import FingerprintFormats, Key
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import ILogObserver, LogEvent, LogLevel, capturedLogs, globalLogPublisher

from stream.errors import UserError
from stream.ops.debug.manhole import MAX_SECONDS, ManholeService

SSH = shutil.which("ssh")
needs_ssh = pytest.mark.skipif(SSH is None, reason="there is no SSH client")


def _write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def _new_key(path: Path) -> Path:
    """Create a private key with its public key next to it."""
    key = Key(Ed25519PrivateKey.generate())
    _write(path.with_suffix(".pub"), key.public().toString("OPENSSH"))
    return _write(path, key.toString("OPENSSH"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The keys of a server and of an authorized client."""
    _new_key(tmp_path / "host")
    mine = _new_key(tmp_path / "mine")
    _write(tmp_path / "authorized", b"# me\n" + mine.with_suffix(".pub").read_bytes() + b"\n")
    return tmp_path


def _service(files: Path, *, line_seconds: float = MAX_SECONDS, **namespace: Any) -> ManholeService:
    return ManholeService(
        TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
        "127.0.0.1:0",
        host_key=str(files / "host"),
        authorized_keys=str(files / "authorized"),
        namespace=namespace,
        line_seconds=line_seconds,
    )


@asynccontextmanager
async def _running(service: ManholeService) -> AsyncIterator[int]:
    await service.startService()
    assert service.port is not None
    try:
        yield service.port.getHost().port  # type: ignore[attr-defined]
    finally:
        await service.stopService()


async def _ssh(port: int, key: Path, typed: bytes, *options: str, command: str = "") -> Any:
    """Return output, errors and exit code of an SSH client that types *typed*."""
    assert SSH is not None
    arguments = [
        *("-tt", "-p", str(port), "-i", str(key)),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
        *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "ConnectTimeout=20"),
        *("-F", "/dev/null"),
        *(options or ("-o", "BatchMode=yes")),
        "someone@127.0.0.1",
        *([command] if command else []),
    ]
    environment = {"TERM": "xterm", "PATH": os.environ["PATH"]}
    return await getProcessOutputAndValue(
        SSH, arguments, env=environment, reactor=reactor, stdinBytes=typed
    )


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_a_session(files: Path) -> None:
    """A user with the key gets a console with the given names, and each line is logged."""
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        async with _running(_service(files, answer=lambda: "forty-two")) as port:
            output, errors, code = await _ssh(port, files / "mine", b"answer()\r6 * 7\r\x04")
    finally:
        globalLogPublisher.removeObserver(observer)
    assert b"forty-two" in output, (output, errors)
    assert b"42" in output
    assert code == 0
    lines = [event["line"] for event in events if "line" in event]
    assert lines == ["answer()", "6 * 7"]
    assert {event["user"] for event in events if "line" in event} == {"someone"}
    key = Key.fromFile(str(files / "mine.pub")).fingerprint(FingerprintFormats.SHA256_BASE64)
    assert {event["key"] for event in events if "line" in event} == {f"SHA256:{key.rstrip('=')}"}


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_an_endless_loop(files: Path) -> None:
    """An endless loop is interrupted repeatedly; the session continues until SystemExit."""
    typed = (
        b"while True: pass\r\r"
        b"def stubborn():\r try:\r  while True: len('')\r finally:\r  while True: len('')\r\r"
        b"stubborn()\r6 * 7\rraise SystemExit\r"
    )
    async with _running(_service(files, line_seconds=0.1)) as port:
        output, errors, code = await _ssh(port, files / "mine", typed)
    assert output.count(b"KeyboardInterrupt: interrupted after 0.1 s") >= 2, (output, errors)
    assert b"42" in output
    assert code == 0


def _refuse() -> None:
    raise UserError("there is no such thing")


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_results_and_errors(files: Path) -> None:
    """A result that is available is shown at once; a user's mistake is shown without a
    traceback.
    """
    later: Deferred[str] = Deferred()
    functions: dict[str, Any] = {
        "soon": lambda: succeed("here"),
        "never": lambda: fail(ValueError("broken")),
        "later": lambda: later,
        "tell": lambda: later.callback("at last"),
        "refuse": _refuse,
    }
    typed = b"soon()\rnever()\rlater()\rtell()\rrefuse()\r1/0\r\x04"
    with capturedLogs() as log:
        async with _running(_service(files, **functions)) as port:
            output, errors, code = await _ssh(port, files / "mine", typed)
    assert code == 0, errors
    for shown in (b"'here'", b"ValueError: broken", b"Deferred #0 called back: 'at last'"):
        assert shown in output
    assert b"UserError: there is no such thing" in output
    assert output.count(b"Traceback") == output.count(b"ZeroDivisionError") == 1
    texts = [event.get("log_format") or "" for event in log if event["log_level"] >= LogLevel.warn]
    assert texts[0].startswith("console of the process")
    assert texts[-1] == '"{user}" has left the console'
    assert not [text for text in texts if "refused" in text or "error" in text]


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_a_stop_closes_open_sessions(files: Path) -> None:
    """An open session doesn't prevent the process from stopping."""
    entered: Deferred[None] = Deferred()
    async with _running(_service(files, enter=lambda: entered.callback(None))) as port:
        session = ensureDeferred(_ssh(port, files / "mine", b"enter()\r"))
        await entered
    assert (await session)[2] == 255


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_other_keys_are_refused(files: Path) -> None:
    """A key that isn't listed, or that has options, is refused.

    An invalid line doesn't affect other keys.
    """
    other = _new_key(files / "other")
    public = other.with_suffix(".pub").read_bytes()
    mine = files / "mine.pub"
    lines = [b'command="true" ' + public, b"no-pty " + public.split()[1], b"x", b"ssh-rsa \xff"]
    _write(files / "authorized", b"\n".join([*lines, b"", mine.read_bytes()]))
    with capturedLogs() as log:
        async with _running(_service(files)) as port:
            output, errors, code = await _ssh(port, other, b"1+1\r\x04")
            assert (await _ssh(port, files / "mine", b"\x04"))[2] == 0
    assert any("refused the login" in event["log_format"] for event in log)
    assert code == 255
    assert b"Permission denied (publickey)" in errors
    assert b">>>" not in output


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_passwords_are_not_accepted(files: Path) -> None:
    """The server answers a client with only a password that keys are required."""
    async with _running(_service(files)) as port:
        _, errors, code = await _ssh(
            port,
            files / "mine",
            b"secret\r",
            *("-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"),
            *("-o", "PreferredAuthentications=password,keyboard-interactive,none"),
        )
    assert code == 255
    assert b"Permission denied (publickey)" in errors
    assert b"assword:" not in errors


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_a_removed_key_is_refused(files: Path) -> None:
    """The file of keys is read at each login."""
    async with _running(_service(files)) as port:
        assert (await _ssh(port, files / "mine", b"\x04"))[2] == 0
        _write(files / "authorized", b"")
        assert (await _ssh(port, files / "mine", b"\x04"))[2] == 255


@needs_ssh
@pytest_twisted.ensureDeferred
async def test_no_commands(files: Path) -> None:
    """The server provides the console only, and runs no command."""
    async with _running(_service(files)) as port:
        output, _, code = await _ssh(port, files / "mine", b"", command="echo hello")
    assert code != 0
    assert b"hello" not in output


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("host", 0o640, '"manhole.hostKey" .* is accessible to other users, its mode is 640'),
        ("authorized", 0o622, '"manhole.authorizedKeys" .* is accessible to other users'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_files_that_others_can_change(
    files: Path, name: str, mode: int, message: str
) -> None:
    """The console doesn't start if others can change its files."""
    (files / name).chmod(mode)
    with pytest.raises(UserError, match=message):
        await _service(files).startService()


@pytest_twisted.ensureDeferred
async def test_missing_or_unusable_files(files: Path) -> None:
    """The error names the setting whose file is missing or unusable."""
    (files / "host").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r'"manhole.hostKey" .* must be a readable private key'):
        await _service(files).startService()
    (files / "host").unlink()
    with pytest.raises(UserError, match=r'cannot read "manhole.hostKey"'):
        await _service(files).startService()
