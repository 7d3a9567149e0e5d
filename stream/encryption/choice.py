"""The encryptor the settings ask for."""

from __future__ import annotations

from stream.encryption.aes import AesEncryptor
from stream.encryption.clear import ClearEncryptor
from stream.encryption.interface import IEncryptor
from stream.errors import UserError

__all__ = ["PROVIDERS", "encryptor_from"]

PROVIDERS = ("none", "aes", "gcp", "aws", "azure")
_CLOUD = ("gcp", "aws", "azure")


def encryptor_from(provider: str, secret_key: bytes = b"") -> IEncryptor:
    """The encryptor for *provider*.

    :param provider: one of `PROVIDERS`.
    :param secret_key: the key of ``aes``, 32 bytes; others ignore it.
    :raises UserError: an unknown provider, one this build lacks, or a key of the wrong length.
    """
    if provider == "none":
        return ClearEncryptor()
    if provider == "aes":
        return AesEncryptor(secret_key)
    if provider in _CLOUD:
        raise UserError(
            f'encryption provider "{provider}" is not available in this build, use "aes" or "none"',
            name="invalidSettings",
        )
    raise UserError(
        f'encryption.provider must be one of [{" ".join(PROVIDERS)}], found "{provider}"',
        name="invalidSettings",
    )
