"""No encryption: the record contains the value as plaintext, and the encrypted text is empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.encryption.interface import DecryptionFailed, provider_of

__all__ = ["ClearEncryptor"]


class ClearEncryptor:
    """An `Encryptor` that encrypts nothing."""

    enabled = False

    async def encrypt(self, value: Any, metadata: Mapping[str, str]) -> str:
        """Return an empty text; see `Encryptor.encrypt`."""
        return ""

    async def decrypt(self, text: str, metadata: Mapping[str, str]) -> Any:
        """Always fail, because an encrypted value was written with other settings."""
        provider = provider_of(text)
        raise DecryptionFailed(
            "encryption is disabled, so an encrypted value can't be decrypted"
            + (f': it was encrypted with encryption.provider "{provider}"' if provider else "")
        )
