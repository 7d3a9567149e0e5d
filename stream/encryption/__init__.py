"""Encryption of the secrets that are stored: sink tokens and upload credentials."""

from stream.encryption.choice import PROVIDERS, configured_encryptor, encryptor_from
from stream.encryption.interface import DecryptionFailed, IEncryptor

__all__ = ["PROVIDERS", "DecryptionFailed", "IEncryptor", "configured_encryptor", "encryptor_from"]
