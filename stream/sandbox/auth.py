"""The caller of the API and its rights.

There are two kinds of tokens: *configured* tokens, such as the project administrator's master
token, and *sink tokens*, which the API returns once and stores as a hash. A master token with the
role ``admin`` may do everything, and one with another role may only read. Any other token may
access only its own buckets.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from stream.errors import UserError

__all__ = [
    "FixedToken",
    "FixedTokens",
    "Token",
    "access_denied",
    "hash_token",
    "new_sink_token",
    "sink_token_id",
    "token_invalid",
]

_SINK_TOKEN = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-[A-Za-z0-9_-]{32,64}")
MAX_TOKEN_CHARS = 512


@attrs.frozen
class FixedToken:
    """A token from the configuration.

    :param id: ID of the token, a number as text.
    :param role: role of the administrator to whom the token belongs: ``admin``, ``guest``,
        ``readOnly``, … Only master tokens have one.
    :param bucket_permissions: ``read`` or ``write`` by bucket ID, for tokens that aren't master
        tokens.
    """

    token: str = attrs.field(repr=False, validator=attrs.validators.min_len(1))
    id: str = attrs.field(default="1", validator=attrs.validators.matches_re("[0-9]{1,18}"))
    description: str = "Local master token"
    is_master: bool = True
    role: str = "admin"
    admin_id: int = 1
    admin_name: str = "Local Admin"
    bucket_permissions: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Token:
    """A caller with a valid token.

    :ivar id: ID of the token, a number; where the API shows the token itself, it is text.
    :ivar expires: time of expiry, seconds since the epoch; 0 for never.
    """

    id: str
    description: str
    is_master: bool = False
    admin: Mapping[str, Any] | None = None
    bucket_permissions: Mapping[str, str] = attrs.field(factory=dict)
    can_read_all_files: bool = False
    can_purge_trash: bool = False
    created: str = ""
    expires: float = 0.0

    @property
    def number(self) -> int:
        """The ID in the form that is used for the creator of an object."""
        return int(self.id)

    @property
    def can_manage(self) -> bool:
        """Whether the token may create and delete buckets and tokens."""
        return self.is_master and self.admin is not None and self.admin["role"] == "admin"

    def require_manage(self) -> None:
        """Check that the token is an administrator's.

        Raises UserError: 403, the token isn't an administrator's.
        """
        if not self.can_manage:
            raise access_denied("only the master token of an administrator can do this")

    def require_bucket(self, bucket_id: str, *, write: bool) -> None:
        """Check that the token may access a bucket.

        Raises UserError: 403, the token has no access to the bucket.
        """
        if self.can_manage or (self.is_master and not write):
            return
        granted = self.bucket_permissions.get(bucket_id)
        if granted not in (("write",) if write else ("read", "write")):
            raise access_denied(f'the token has no access to the bucket "{bucket_id}"')

    def require_file(self, owner_id: str, *, write: bool = False) -> None:
        """Check that the token may access a file.

        Raises UserError: 403, the file belongs to another token, and this token can't read all
        files.

        A token that replaced another one must be able to finish the files of that one. Therefore,
        if a token isn't a master token, the right to read all files includes the right to delete
        them.
        """
        if self.can_manage or owner_id == self.id:
            return
        if not (self.can_read_all_files or (self.is_master and not write)):
            raise access_denied("the file belongs to another token")


def access_denied(message: str) -> UserError:
    """Return the 403 error for a token without the required right."""
    return UserError(message, status=403, name="accessDenied")


def token_invalid() -> UserError:
    """Return the 401 error for an unknown token."""
    return UserError("Invalid access token", status=401, name="storage.tokenInvalid")


def hash_token(token: str) -> bytes:
    """Return the digest of a sink token; digests are stored and compared."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def new_sink_token(project_id: int, token_id: int) -> str:
    """Return ``<project>-<id>-<secret>``, with 240 random bits."""
    return f"{project_id}-{token_id}-{secrets.token_urlsafe(30)}"


def sink_token_id(token: str, project_id: int) -> int | None:
    """Return the ID in *token*, if it has the form of a sink token of the project."""
    match = _SINK_TOKEN.fullmatch(token)
    if match is None or int(match[1]) != project_id:
        return None
    return int(match[2])


class FixedTokens:
    """The configured tokens, compared in constant time."""

    def __init__(self, tokens: Iterable[FixedToken], created: str) -> None:
        self._tokens = [(hash_token(fixed.token), _caller(fixed, created)) for fixed in tokens]

    def find(self, token: str) -> Token | None:
        """Return the caller with that token; all tokens are compared in constant time."""
        digest, found = hash_token(token), None
        for expected, caller in self._tokens:
            if hmac.compare_digest(digest, expected):
                found = caller
        return found

    def by_id(self, token_id: str) -> Token | None:
        """Return the fixed token with this ID."""
        return next((caller for _, caller in self._tokens if caller.id == token_id), None)


def _caller(fixed: FixedToken, created: str) -> Token:
    admin = {"id": fixed.admin_id, "name": fixed.admin_name, "role": fixed.role}
    return Token(
        id=fixed.id,
        description=fixed.description,
        is_master=fixed.is_master,
        admin=admin if fixed.is_master else None,
        bucket_permissions=dict(fixed.bucket_permissions),
        can_read_all_files=fixed.is_master and fixed.role == "admin",
        can_purge_trash=fixed.is_master and fixed.role == "admin",
        created=created,
    )
