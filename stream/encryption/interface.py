"""What an encryptor of stored secrets does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zope.interface import Attribute, Interface

__all__ = ["DecryptionFailed", "IEncryptor"]


class DecryptionFailed(Exception):
    """A stored value can't be opened; the text says why, never what."""


class IEncryptor(Interface):
    """Seals JSON values for storage. Metadata binds a sealed value to the record it belongs to."""

    enabled: bool = Attribute("False when values are stored in clear.")

    async def encrypt(value: Any, metadata: Mapping[str, str]) -> str:  # noqa: N805
        """The text form of *value*; ``""`` when encryption is off, and the caller keeps *value*.

        :raises UserError: the service that keeps the key can't be asked.
        """

    async def decrypt(text: str, metadata: Mapping[str, str]) -> Any:  # noqa: N805
        """What was encrypted with the same metadata.

        :raises DecryptionFailed: another key, other metadata, or a changed text.
        :raises UserError: the service that keeps the key can't be asked.
        """
