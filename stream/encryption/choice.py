"""The encryptor the settings ask for."""

from __future__ import annotations

from typing import Any

from twisted.python.threadpool import ThreadPool

from stream.encryption.aes import AesEncryptor
from stream.encryption.clear import ClearEncryptor
from stream.encryption.envelope import EnvelopeEncryptor, KeyService
from stream.encryption.interface import Encryptor
from stream.errors import UserError
from stream.settings import EncryptionSettings

__all__ = ["PROVIDERS", "configured_encryptor", "encryptor_from"]

PROVIDERS = ("none", "aes", "gcp", "aws", "azure")


def encryptor_from(provider: str, secret_key: bytes = b"") -> Encryptor:
    """The encryptor for a *provider* that needs nobody else.

    Raises UserError: another provider, or a key of the wrong length.

    :param provider: ``none`` or ``aes``.
    :param secret_key: the key of ``aes``, 32 bytes; others ignore it.
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
    """The encryptor that *settings* describe; nothing is connected yet.

    Raises UserError: an unknown provider, a key of the wrong length, or a library is missing.

    :param pool: where a key service is asked.
    """
    if settings.provider not in ("gcp", "aws", "azure"):
        return encryptor_from(settings.provider, settings.aes.secret_key)
    return EnvelopeEncryptor(settings.provider, _key_service(settings), reactor, pool)


def _key_service(settings: EncryptionSettings) -> KeyService:
    # Imported here: what nobody configured needn't be loaded.
    from stream.encryption import keyservices

    if settings.provider == "aws":
        return keyservices.AwsKeyService(settings.aws.region, settings.aws.kms_key_id)
    if settings.provider == "gcp":
        return keyservices.GcpKeyService(settings.gcp.kms_key_id, keyservices.google_token())
    return keyservices.AzureKeyService(
        settings.azure.key_vault_url, settings.azure.key_name, keyservices.azure_token()
    )
