"""The interface of encryptors of stored secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["KEY_SERVICES", "PROVIDERS", "DecryptionFailed", "Encryptor", "provider_of"]

KEY_SERVICES = ("gcp", "aws", "azure")
PROVIDERS = ("none", "aes", *KEY_SERVICES)


class DecryptionFailed(Exception):
    """A stored value can't be decrypted. The message says why, without quoting the value."""


class Encryptor(Protocol):
    """Encrypts JSON values for storage. Metadata binds an encrypted value to its record."""

    @property
    def enabled(self) -> bool:
        """False if values are stored as plaintext."""

    async def encrypt(self, value: Any, metadata: Mapping[str, str]) -> str:
        """Return the text form of *value*.

        An empty text means that encryption is disabled, and the caller stores the plaintext.

        Raises UserError: the key service is unavailable.
        """

    async def decrypt(self, text: str, metadata: Mapping[str, str]) -> Any:
        """Return the plaintext of a value that was encrypted with the same metadata.

        Raises DecryptionFailed: the key or the metadata differ, or the text was changed. Raises
        UserError: the key service is unavailable.
        """


def provider_of(text: str) -> str:
    """Return the encryption provider that a text form names, ``""`` if it names none."""
    name, separator, _ = text.partition("::")
    return name if separator and name in PROVIDERS else ""
