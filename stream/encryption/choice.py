"""Selection of the encryptor by the settings."""

from __future__ import annotations

from typing import Any

from twisted.python.threadpool import ThreadPool

from stream.encryption.aes import AesEncryptor
from stream.encryption.clear import ClearEncryptor
from stream.encryption.envelope import EnvelopeEncryptor, KeyService
from stream.encryption.interface import KEY_SERVICES, PROVIDERS, Encryptor
from stream.errors import UserError
from stream.settings import EncryptionSettings

__all__ = ["PROVIDERS", "configured_encryptor", "encryptor_from"]


def encryptor_from(provider: str, secret_key: bytes = b"") -> Encryptor:
    """Return the encryptor of a *provider* that needs no key service.

    Raises UserError: *provider* is another provider, or the key has the wrong length.

    :param provider: ``none`` or ``aes``.
    :param secret_key: the key for ``aes``, 32 bytes; ignored for ``none``.
    """
    if provider == "none":
        return ClearEncryptor()
    if provider == "aes":
        return AesEncryptor(secret_key)
    raise UserError(
        f'encryption.provider must be one of [{" ".join(PROVIDERS)}], found "{provider}"',
        name="invalidSettings",
    )


def configured_encryptor(settings: EncryptionSettings, reactor: Any, pool: ThreadPool) -> Encryptor:
    """Return the encryptor that *settings* describe, without connecting to a key service.

    Raises UserError: the provider is unknown, a key has the wrong length, or a library is missing.

    :param pool: thread pool for calls of a key service.
    """
    if settings.provider not in KEY_SERVICES:
        return encryptor_from(settings.provider, settings.aes.secret_key)
    return EnvelopeEncryptor(settings.provider, _key_service(settings), reactor, pool)


def _key_service(settings: EncryptionSettings) -> KeyService:
    # Imported here, so that only the configured provider is loaded.
    from stream.encryption import keyservices

    if settings.provider == "aws":
        return keyservices.AwsKeyService(settings.aws.region, settings.aws.kms_key_id)
    if settings.provider == "gcp":
        return keyservices.GcpKeyService(settings.gcp.kms_key_id, keyservices.google_token())
    return keyservices.AzureKeyService(
        settings.azure.key_vault_url, settings.azure.key_name, keyservices.azure_token()
    )
