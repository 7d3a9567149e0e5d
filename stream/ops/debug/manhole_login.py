"""Authentication for the console: authorized keys in a file, and the users they identify."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.conch.checkers import IAuthorizedKeysDB, SSHPublicKeyChecker
from twisted.conch.error import ValidPublicKey
from twisted.conch.ssh.keys import BadKeyError, EncryptedKeyError, FingerprintFormats, Key
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from stream.errors import UserError

__all__ = [
    "AuthorizedKeys",
    "KeyChecker",
    "Person",
    "check_authorized_keys",
    "fingerprint_of",
    "note",
    "read_host_key",
]

_log = Logger(namespace="stream.manhole")

MAX_KEYS_BYTES = 64 * 1024
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


def _check_file(path: str, setting: str, forbidden: int) -> None:
    if not path:
        raise UserError(f'the console needs "{setting}"')
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise UserError(f'cannot read "{setting}" ({path}): {error.strerror}') from None
    if mode & forbidden:
        raise UserError(
            f'"{setting}" ({path}) is accessible to other users, its mode is {mode & 0o777:o}'
        )


def check_authorized_keys(path: str) -> None:
    """Check that the file is readable and not writable by others. Raises UserError."""
    _check_file(path, "manhole.authorizedKeys", _OTHERS_WRITE)


def read_host_key(path: str) -> Key:
    """Return the server's private key. Raises UserError if it is invalid, or readable by others."""
    _check_file(path, "manhole.hostKey", _OTHERS_READ | _OTHERS_WRITE)
    try:
        key: Key = Key.fromFile(path)
    except (OSError, BadKeyError, EncryptedKeyError):
        raise UserError(
            f'"manhole.hostKey" ({path}) must be a readable private key without a passphrase'
        ) from (None)
    if key.isPublic():
        raise UserError(f'"manhole.hostKey" ({path}) is not a private key')
    return key


@implementer(IAuthorizedKeysDB)
class AuthorizedKeys:
    """The keys in a file; each is accepted for any login name.

    A key with options is ignored, because the options would not be enforced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def getAuthorizedKeys(self, username: bytes) -> Iterator[Key]:
        try:
            check_authorized_keys(str(self._path))
            with self._path.open("rb") as file:
                lines = file.read(MAX_KEYS_BYTES).splitlines()
        except (OSError, UserError) as error:
            _log.error("login is impossible: {reason}", reason=str(error))
            return
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith(b"#"):
                key = _public_key(line)
                if key is None:
                    _log.warn(
                        "line {number} of {path} is not a public key",
                        number=number,
                        path=self._path,
                    )
                else:
                    yield key


def _public_key(line: bytes) -> Key | None:
    kind, *_ = line.split()
    try:
        key: Key = Key.fromString(line, type="public_openssh")
    except Exception:  # conch raises many types of errors
        return None
    return key if kind == key.sshType() else None  # if they differ, the line begins with options


def fingerprint_of(key: Key) -> str:
    """Return the fingerprint in the form of ``ssh-keygen -l``."""
    return f"SHA256:{key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip('=')}"


@attrs.frozen
class Person:
    """A user who has logged in.

    :ivar name: login name, as given by the client; not verified.
    :ivar key: fingerprint of the key, which identifies the user.
    """

    name: str
    key: str


def note(person: Person, text: str, **fields: Any) -> None:
    """Return the logger for commands of *person*."""
    _log.warn(text, user=person.name, key=person.key, **fields)


class KeyChecker(SSHPublicKeyChecker):
    """Authenticates users by their keys."""

    def requestAvatarId(self, credentials: Any) -> Deferred[Person]:
        name = credentials.username.decode("utf-8", "replace")
        try:
            key = fingerprint_of(Key.fromString(credentials.blob))
        except Exception:  # as above
            key = "that can't be read"

        def refused(failure: Failure) -> Failure:
            failure.trap(UnauthorizedLogin)
            if failure.check(ValidPublicKey):  # the client only asks whether to sign
                return failure
            _log.warn('refused the login of "{user}" with the key {key}', user=name, key=key)
            return failure

        login: Deferred[Any] = super().requestAvatarId(credentials)
        return login.addCallbacks(lambda _: Person(name, key), refused)
