"""AES encryption of stored secrets."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from stream.encryption import DecryptionFailed, encryptor_from
from tests.encryption.steps import done

KEY = bytes(range(32))
SINK = {"sink": "123/456/my-source/my-sink"}
encryptor = encryptor_from("aes", KEY)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_round_trip(value: Any) -> None:
    """An encrypted value is decrypted with the same metadata."""
    assert done(encryptor.decrypt(done(encryptor.encrypt(value, SINK)), SINK)) == value


def test_the_format_of_an_encrypted_value() -> None:
    """The value is `aes::` and base64 of nonce, ciphertext and tag, bound to compact JSON."""
    text = done(encryptor.encrypt({"token": "secret"}, SINK))
    assert text.startswith("aes::")
    blob = base64.b64decode(text[5:], validate=True)
    bound = b'{"sink":"123/456/my-source/my-sink"}'
    plain = AESGCM(KEY).decrypt(blob[:12], blob[12:], bound)
    assert plain[0] == 1
    assert orjson.loads(gzip.decompress(plain[1:])) == {"token": "secret"}


def test_the_same_value_has_different_ciphertexts() -> None:
    """Each encryption uses a fresh nonce."""
    texts = {done(encryptor.encrypt("x", SINK)) for _ in range(50)}
    assert len({base64.b64decode(text[5:])[:12] for text in texts}) == 50


@given(st.data())
def test_any_changed_bit_is_detected(data: st.DataObject) -> None:
    """A value with one changed bit can't be decrypted."""
    blob = bytearray(base64.b64decode(done(encryptor.encrypt("value", SINK))[5:]))
    position = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[position // 8] ^= 1 << position % 8
    with pytest.raises(DecryptionFailed, match="a different key"):
        done(encryptor.decrypt("aes::" + base64.b64encode(bytes(blob)).decode(), SINK))


@pytest.mark.parametrize("metadata", [{}, {"sink": "other"}, {"file": SINK["sink"]}])
def test_other_metadata(metadata: dict[str, str]) -> None:
    """A value can't be decrypted as part of another record."""
    with pytest.raises(DecryptionFailed):
        done(encryptor.decrypt(done(encryptor.encrypt("x", SINK)), metadata))


def test_other_key() -> None:
    """A value can't be decrypted with another key, and the error contains no key."""
    text = done(encryptor.encrypt("my secret", SINK))
    with pytest.raises(DecryptionFailed) as caught:
        done(encryptor_from("aes", bytes(32)).decrypt(text, SINK))
    assert "my secret" not in str(caught.value)


def test_order_of_metadata_does_not_matter() -> None:
    """The metadata is a map, so its order isn't significant."""
    text = done(encryptor.encrypt("x", {"a": "1", "b": "2"}))
    assert done(encryptor.decrypt(text, {"b": "2", "a": "1"})) == "x"


def sealed(plain: bytes) -> str:
    nonce = bytes(12)
    blob = nonce + AESGCM(KEY).encrypt(nonce, plain, orjson.dumps(SINK))
    return "aes::" + base64.b64encode(blob).decode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin"),
        ("gcp::aes::AAAA", 'encryption.provider "gcp"'),
        ("aes::?", "not base64"),
        ("aes::AAAA", "too short"),
        (sealed(b""), "unknown version"),
        (sealed(b"\x02" + gzip.compress(b"1", mtime=0)), "unknown version"),
        (sealed(b"\x01not gzip"), "damaged"),
        (sealed(b"\x01" + gzip.compress(b"123", mtime=0)[:-9]), "damaged"),
        (sealed(b"\x01" + gzip.compress(b"{not json", mtime=0)), "damaged"),
    ],
)
def test_values_that_can_not_be_decrypted(text: str, reason: str) -> None:
    """Each kind of damage has its own error."""
    with pytest.raises(DecryptionFailed, match=reason):
        done(encryptor.decrypt(text, SINK))
