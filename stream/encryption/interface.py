"""The interface of encryptors of stored secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["DecryptionFailed", "Encryptor"]


class DecryptionFailed(Exception):
    """A stored value can't be opened; the text says why, never what."""


class Encryptor(Protocol):
    """Seals JSON values for storage. Metadata binds a sealed value to the record it belongs to."""

    @property
    def enabled(self) -> bool:
        """False when values are stored in clear."""

    async def encrypt(self, value: Any, metadata: Mapping[str, str]) -> str:
        """The text form of *value*; ``""`` when encryption is off, and the caller keeps *value*.

        Raises UserError: the service that keeps the key can't be asked.
        """

    async def decrypt(self, text: str, metadata: Mapping[str, str]) -> Any:
        """The plaintext of what was encrypted with the same metadata.

        Raises DecryptionFailed: another key, other metadata, or a changed text. Raises UserError:
        the service that keeps the key can't be asked.
        """
