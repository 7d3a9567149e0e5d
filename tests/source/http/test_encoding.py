"""Compressed bodies and the bound on what they expand to."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import UserError
from stream.source.http.encoding import decode_body
from stream.source.http.errors import BodyTooLarge

COMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"zstd": zstandard.compress,
}

ENCODINGS = st.sampled_from(list(COMPRESSORS))


@given(encoding=ENCODINGS, parts=st.lists(st.binary(max_size=3000), min_size=1, max_size=4))
def test_what_was_compressed_comes_out(encoding: bytes, parts: list[bytes]) -> None:
    """One member or frame, or several behind one another."""
    body = b"".join(COMPRESSORS[encoding](part) for part in parts)
    assert decode_body(encoding, body, 12_000) == b"".join(parts)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_bound_is_exact(encoding: bytes) -> None:
    """The limit itself is allowed, a byte more is not."""
    body = COMPRESSORS[encoding](b"x" * 1000)
    assert len(decode_body(encoding, body, 1000)) == 1000
    with pytest.raises(BodyTooLarge, match='"999B"'):
        decode_body(encoding, body, 999)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_bomb_is_noticed_before_it_has_expanded(encoding: bytes) -> None:
    """A body that would need 200 MB costs no more than the limit and a piece."""
    body = COMPRESSORS[encoding](bytes(200_000_000))
    with pytest.raises(BodyTooLarge):
        decode_body(encoding, body, 1_000_000)


@given(encoding=ENCODINGS, data=st.data())
def test_truncated_body_is_refused(encoding: bytes, data: st.DataObject) -> None:
    """A part of a body is never taken for the whole."""
    body = COMPRESSORS[encoding](data.draw(st.binary(max_size=300)))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(UserError) as caught:
        decode_body(encoding, body[:cut], 1000)
    assert (caught.value.status, caught.value.name) == (400, "badRequest")


@given(encoding=ENCODINGS, body=st.binary(max_size=300))
def test_garbage_is_refused(encoding: bytes, body: bytes) -> None:
    """Whatever arrives, it is a client's mistake and no crash."""
    try:
        decode_body(encoding, body, 1000)
    except UserError as error:
        assert error.status in (400, 413)


def test_unknown_encoding_is_refused() -> None:
    """It could only be stored as rubbish."""
    with pytest.raises(UserError, match='unsupported content encoding "br"') as caught:
        decode_body(b"br", b"", 10)
    assert caught.value.status == 415
