"""AES-256-GCM encryption of a gzipped JSON value.

The text form is ``aes::``, followed by nonce (12 bytes), ciphertext and tag (16 bytes) in base64.
The additional data is the compact JSON of the metadata, so a value can't be moved to another
record.

Note [Two contents]: this service encrypts a version byte and gzipped JSON. The original service
encrypts a gzipped gob, which has the same text form and is read as a
`stream.encryption.gob.Struct`.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import zlib
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stream.encryption.gob import GobError, decode_gob
from stream.encryption.interface import DecryptionFailed, provider_of
from stream.errors import UserError

__all__ = ["KEY_BYTES", "AesEncryptor", "blob_of", "bound", "opened", "packed", "seal", "unpacked"]

KEY_BYTES = 32
_PREFIX = "aes::"
_NONCE_BYTES = 12
_TAG_BYTES = 16
# The first byte of the plaintext is a version, so that the format can change unambiguously.
_VERSION = b"\x01"
_GZIP = b"\x1f\x8b"
_MAX_CONTENT_BYTES = 4 * 1024 * 1024
"""Maximum size of a decompressed value."""


class AesEncryptor:
    """An `Encryptor` with a secret key.

    Raises UserError: the key doesn't have 32 bytes.

    :param secret_key: exactly 32 bytes.
    """

    enabled = True

    def __init__(self, secret_key: bytes) -> None:
        if len(secret_key) != KEY_BYTES:
            raise UserError(
                f"encryption.aes.secretKey must be {KEY_BYTES} bytes long, "
                f"found {len(secret_key)} bytes",
                name="invalidSettings",
            )
        self._cipher = AESGCM(secret_key)

    async def encrypt(self, value: Any, metadata: Mapping[str, str]) -> str:
        """Encrypt a value; see `Encryptor.encrypt`."""
        return self._sealed(packed(value), metadata)

    def encrypt_for_original(self, gob: bytes, metadata: Mapping[str, str]) -> str:
        """Return the text form that the original service reads; see Note [Two contents]."""
        return self._sealed(gzip.compress(gob, mtime=0), metadata)

    def _sealed(self, plain: bytes, metadata: Mapping[str, str]) -> str:
        return _PREFIX + base64.b64encode(seal(self._cipher, plain, metadata)).decode()

    async def decrypt(self, text: str, metadata: Mapping[str, str]) -> Any:
        """Decrypt a value; see `Encryptor.decrypt`."""
        return unpacked(opened(self._cipher, blob_of(text, _PREFIX), metadata))


def blob_of(text: str, prefix: str) -> bytes:
    """Return the bytes that a text form has after its *prefix*. Raises DecryptionFailed."""
    if not text.startswith(prefix):
        other = provider_of(text)
        raise DecryptionFailed(
            f'the value was encrypted with encryption.provider "{other}", '
            f'but this process uses "{provider_of(prefix)}"'
            if other and other != provider_of(prefix)
            else f'the encrypted value does not begin with "{prefix}"'
        )
    try:
        return base64.b64decode(text[len(prefix) :], validate=True)
    except ValueError:
        raise DecryptionFailed("the encrypted value is not base64") from None


def seal(cipher: AESGCM, plain: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return nonce, ciphertext and tag of *plain*."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, bound(metadata))


def opened(cipher: AESGCM, blob: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the plaintext of bytes made by `seal`. Raises DecryptionFailed."""
    if len(blob) < _NONCE_BYTES + _TAG_BYTES:
        raise DecryptionFailed("the encrypted value is too short")
    try:
        return cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], bound(metadata))
    except InvalidTag:
        raise DecryptionFailed(
            "the value was encrypted with a different key or for a different record, or was "
            "modified"
        ) from None


def packed(value: Any) -> bytes:
    """Return a JSON value as a versioned plaintext."""
    return _VERSION + gzip.compress(orjson.dumps(value), mtime=0)


def unpacked(plain: bytes) -> Any:
    """Return the value of a plaintext made by `packed` or the original; see Note [Two contents].

    Raises DecryptionFailed: the content is damaged.
    """
    try:
        if plain[:1] == _VERSION:
            return orjson.loads(_gunzip(plain[1:]))
        if plain[:2] == _GZIP:
            return decode_gob(_gunzip(plain))
    except GobError as error:
        raise DecryptionFailed(
            f"the content of a value that the original service encrypted can't be read: {error}"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError):
        raise DecryptionFailed("the content of the encrypted value is damaged") from None
    raise DecryptionFailed("the encrypted value has an unknown version")


def _gunzip(data: bytes) -> bytes:
    """Decompress a value. Raises ValueError if it is larger than a token or credentials can be."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        content = file.read(_MAX_CONTENT_BYTES + 1)
    if len(content) > _MAX_CONTENT_BYTES:
        raise ValueError("too large")
    return content


def bound(metadata: Mapping[str, str]) -> bytes:
    """Return the additional data: compact JSON of *metadata*."""
    return orjson.dumps(dict(metadata), option=orjson.OPT_SORT_KEYS)
