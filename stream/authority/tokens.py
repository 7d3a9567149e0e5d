"""Tokens for the projects of this service: create, list, revoke, and find by text.

A token's text contains its project and its id, and ends with a random secret. etcd stores only the
SHA-256 of the text. That is enough, because a text with more than 280 random bits can't be found by
brute force. So the hash needs neither a salt nor a slow function.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Callable, Sequence
from datetime import datetime

import attrs

from stream.authority.rights import RIGHTS, Right
from stream.definition.entity import By, Created
from stream.definition.secret import new_secret
from stream.definition.stored import read_stored, readable
from stream.errors import UserError, shortened
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.values.codec import Record, encode, field

__all__ = [
    "MAX_PROJECT_ID",
    "MAX_TOKENS",
    "MAX_TOKEN_NAME",
    "PREFIX",
    "REVOKED",
    "TokenKey",
    "TokenRecord",
    "Tokens",
    "digest",
    "key_in",
    "path_of",
]

PREFIX = "authority/token/"
"""Prefix of the records in etcd."""
REVOKED = f"{PREFIX}revoked"
"""Key that each revocation writes, so that its revision is that of the last revocation."""

MAX_TOKENS = 1000
"""Maximum number of tokens of a project, including expired ones."""
MAX_TOKEN_NAME = 64
"""Maximum length in characters."""
MAX_PROJECT_ID = 10**18 - 1

_NEVER = Created()
_ID_LENGTH = 8
_ID_ALPHABET = string.digits + string.ascii_lowercase
_FORM = re.compile(r"stream_([1-9][0-9]{0,17})_([0-9a-z]{8})_[0-9A-Za-z]{48}", re.ASCII)


@attrs.frozen
class TokenKey:
    """A token of a project."""

    project_id: int
    token_id: str

    def __str__(self) -> str:
        return f"{self.project_id}/{self.token_id}"


@attrs.frozen(kw_only=True)
class TokenRecord(Record):
    """A token as stored.

    :ivar digest: SHA-256 of the text, in hexadecimal digits.
    :ivar expires_at: when the token expires; ``None`` if it doesn't.
    """

    key: TokenKey = field(flatten=True)
    digest: str = attrs.field(repr=False)
    name: str
    rights: tuple[str, ...]
    created: Created = _NEVER
    expires_at: datetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """Return whether the token has expired."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def known_rights(self) -> tuple[Right, ...]:
        """The rights that this version of the service knows."""
        return tuple(right for right in RIGHTS if right in self.rights)


def digest(text: str) -> str:
    """Return the digest of a token, which is stored instead of the token."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def key_in(text: str) -> TokenKey | None:
    """Return the key in the *text* of a token; ``None`` if *text* isn't that of a token."""
    match = _FORM.fullmatch(text)
    return None if match is None else TokenKey(int(match[1]), match[2])


def path_of(key: TokenKey) -> str:
    """Return the key in etcd of the record of a token."""
    return f"{PREFIX}{key}"


class Tokens:
    """The tokens of all projects.

    :param client: etcd client, already started.
    :param now: returns the current time in UTC.
    """

    def __init__(self, client: EtcdClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now

    async def create(
        self,
        project_id: int,
        name: str,
        rights: Sequence[Right],
        by: By,
        *,
        expires_at: datetime | None = None,
    ) -> tuple[TokenRecord, str]:
        """Create a token; return its record and its text, which isn't stored.

        Raises UserError: the values are invalid, or the project has too many tokens.
        """
        now = self._now()
        _check(project_id, name, expires_at, now)
        token_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
        key = TokenKey(project_id, token_id)
        text = f"stream_{project_id}_{token_id}_{new_secret()}"
        record = TokenRecord(
            key=key,
            digest=digest(text),
            name=name,
            rights=tuple(rights),
            created=Created(now, by),
            expires_at=expires_at,
        )

        async def body(txn: AtomicTxn) -> None:
            known = await txn.range(f"{PREFIX}{project_id}/", track_deletes=False)
            if len(known) >= MAX_TOKENS:
                raise UserError(
                    f"token count limit reached in the project, the maximum is {MAX_TOKENS}",
                    status=409,
                    name="tokenCountLimitReached",
                    detail="revoke tokens that are no longer used, for example expired ones",
                )
            txn.put(path_of(key), encode(record))

        await atomic(self._client, body)
        return record, text

    async def list(self, project_id: int) -> list[TokenRecord]:
        """Return all tokens of a project, including expired ones, the oldest first."""
        found = await self._client.range(f"{PREFIX}{project_id}/")
        records = [record for _, record in readable(TokenRecord, found.kvs)]
        return sorted(records, key=lambda record: (record.created.at, record.key.token_id))

    async def revoke(self, key: TokenKey) -> None:
        """Delete a token. Raises UserError if the project has none with this id."""

        async def body(txn: AtomicTxn) -> None:
            if await txn.get(path_of(key)) is None:
                raise UserError(
                    f'token "{shortened(key.token_id)}" not found in the project',
                    status=404,
                    name="tokenNotFound",
                )
            txn.delete(path_of(key))
            txn.put(REVOKED, str(key).encode())

        await atomic(self._client, body)

    async def find(self, text: str) -> TokenRecord | None:
        """Return the current record of the token with this *text*; ``None`` if there is none."""
        key = key_in(text)
        stored = None if key is None else await self._client.get(path_of(key))
        if stored is None:
            return None
        record = read_stored(TokenRecord, stored)
        return record if hmac.compare_digest(record.digest, digest(text)) else None


def _check(project_id: int, name: str, expires_at: datetime | None, now: datetime) -> None:
    if not 1 <= project_id <= MAX_PROJECT_ID:
        raise UserError(f"the id of a project must be a number from 1 to {MAX_PROJECT_ID}")
    if not 1 <= len(name) <= MAX_TOKEN_NAME or not name.isprintable():
        raise UserError(
            f"the name of a token must have 1 to {MAX_TOKEN_NAME} printable characters",
            param="body.name",
        )
    if expires_at is not None and expires_at <= now:
        raise UserError("a token can't expire in the past", param="body.expiresAt")
