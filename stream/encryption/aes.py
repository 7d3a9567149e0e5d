"""AES-256-GCM around a gzipped JSON value.

Text form: ``aes::`` and the base64 of nonce (12 bytes), ciphertext, tag (16 bytes). The additional
data is the compact JSON of the metadata, so a value can't be moved to another record.
"""

from __future__ import annotations

import base64
import gzip
import os
import zlib
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from zope.interface import implementer

from stream.encryption.interface import DecryptionFailed, IEncryptor
from stream.errors import UserError

__all__ = ["AesEncryptor"]

KEY_BYTES = 32
_PREFIX = "aes::"
_NONCE_BYTES = 12
_TAG_BYTES = 16
# First byte of the plain text, so that the form can change without a guess.
_VERSION = b"\x01"


@implementer(IEncryptor)
class AesEncryptor:
    """See the module.

    :param secret_key: exactly 32 bytes.
    :raises UserError: a key of another length.
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

    def encrypt(self, value: Any, metadata: Mapping[str, str]) -> str:
        """See `IEncryptor.encrypt`."""
        plain = _VERSION + gzip.compress(orjson.dumps(value), mtime=0)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, plain, _bound(metadata))
        return _PREFIX + base64.b64encode(nonce + sealed).decode("ascii")

    def decrypt(self, text: str, metadata: Mapping[str, str]) -> Any:
        """See `IEncryptor.decrypt`."""
        if not text.startswith(_PREFIX):
            raise DecryptionFailed('the encrypted value does not begin with "aes::"')
        try:
            blob = base64.b64decode(text[len(_PREFIX) :], validate=True)
        except ValueError:
            raise DecryptionFailed("the encrypted value is not base64") from None
        if len(blob) < _NONCE_BYTES + _TAG_BYTES:
            raise DecryptionFailed("the encrypted value is too short")
        try:
            plain = self._cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], _bound(metadata))
        except InvalidTag:
            raise DecryptionFailed(
                "the encrypted value was made with another key or for another record, "
                "or it was changed"
            ) from None
        return _opened(plain)


def _opened(plain: bytes) -> Any:
    if plain[:1] != _VERSION:
        raise DecryptionFailed("the encrypted value has an unknown version")
    try:
        return orjson.loads(gzip.decompress(plain[1:]))
    except (OSError, EOFError, zlib.error, ValueError):
        raise DecryptionFailed("the content of the encrypted value is damaged") from None


def _bound(metadata: Mapping[str, str]) -> bytes:
    return orjson.dumps(dict(metadata), option=orjson.OPT_SORT_KEYS)
