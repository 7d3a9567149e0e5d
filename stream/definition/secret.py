"""The secret in the URL of a source."""

from __future__ import annotations

import secrets
import string

__all__ = ["SECRET_LENGTH", "new_secret"]

SECRET_LENGTH = 48
_ALPHABET = string.digits + string.ascii_letters


def new_secret() -> str:
    """Return 48 random digits and letters."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))
