"""Encryption of stored secrets: sink tokens and upload credentials."""

from stream.encryption.choice import PROVIDERS, configured_encryptor, encryptor_from
from stream.encryption.interface import DecryptionFailed, Encryptor

__all__ = ["PROVIDERS", "DecryptionFailed", "Encryptor", "configured_encryptor", "encryptor_from"]
