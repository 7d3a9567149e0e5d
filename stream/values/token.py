"""The secret that authorizes a call, in a wrapper that hides it in logs and in ``repr()``."""

from __future__ import annotations

import hashlib
import re

import attrs

from stream.errors import UserError
from stream.values.redaction import hide_secrets

__all__ = ["Token", "is_sendable", "secrets_of"]

_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_BEARER = "Bearer "
_MAX_CHARACTERS = 1024


def is_sendable(text: str) -> bool:
    """Return whether *text* can be sent in a header without changes."""
    return _VISIBLE_ASCII.fullmatch(text) is not None


def _check(_instance: object, _attribute: object, value: str) -> None:
    if len(value) > _MAX_CHARACTERS or not is_sendable(value):
        raise UserError("invalid access token", status=401, name="storage.tokenInvalid")


@attrs.frozen(repr=False)
class Token:
    """An access token of a project.

    :param value: the token's text. A text that can't be sent in a header, or is far longer than any
        token, raises a `UserError` 401 ``storage.tokenInvalid``, as in the Storage API.
    """

    value: str = attrs.field(validator=_check)

    @classmethod
    def of(cls, token: Token | str) -> Token:
        """Return *token* as a `Token`; text is wrapped."""
        return token if isinstance(token, Token) else cls(token)

    def __repr__(self) -> str:
        return "Token(***)"

    def __str__(self) -> str:
        return "***"

    def headers(self) -> dict[str, str]:
        """The HTTP headers with the token."""
        if self.value.startswith(_BEARER):
            return {"Authorization": self.value}
        return {"X-StorageApi-Token": self.value}

    def fingerprint(self) -> bytes:
        """The SHA-256 of the token, used as a key in caches that must not contain the secret."""
        return hashlib.sha256(self.value.encode("ascii")).digest()

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that must not appear in any text."""
        return (self.value.removeprefix(_BEARER),)

    def hidden_in(self, text: str) -> str:
        """Return *text* with the token, and anything that looks like a token, masked."""
        return hide_secrets(text, self.secrets)


def secrets_of(token: Token | None) -> tuple[str, ...]:
    """Return the secrets of a call with *token* that no text may show; none without a token."""
    return () if token is None else token.secrets
