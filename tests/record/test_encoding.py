"""Compressed bodies and the limit of their decompressed size."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from io import BytesIO

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import UserError
from stream.record.encoding import MAX_MEMBERS, Abandoned, content_codings, decode_body
from stream.record.errors import BodyTooLarge

COMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"zstd": zstandard.compress,
}

ENCODINGS = st.sampled_from(list(COMPRESSORS))


@given(encoding=ENCODINGS, parts=st.lists(st.binary(max_size=3000), min_size=1, max_size=4))
def test_decompression(encoding: bytes, parts: list[bytes]) -> None:
    """One member or frame, or several in sequence, are decompressed."""
    body = b"".join(COMPRESSORS[encoding](part) for part in parts)
    assert decode_body(encoding, body, 12_000) == b"".join(parts)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_the_limit_is_exact(encoding: bytes) -> None:
    """A body of the limit is accepted, and one byte more is refused."""
    body = COMPRESSORS[encoding](b"x" * 1000)
    assert len(decode_body(encoding, body, 1000)) == 1000
    with pytest.raises(BodyTooLarge, match='"999B"'):
        decode_body(encoding, body, 999)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_a_bomb_is_refused_early(encoding: bytes) -> None:
    """Decompression stops one piece after the limit, even if the body would need 200 MB."""
    body = COMPRESSORS[encoding](bytes(200_000_000))
    with pytest.raises(BodyTooLarge):
        decode_body(encoding, body, 1_000_000)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_a_refused_body_is_released(encoding: bytes) -> None:
    """The error and its frames hold no decompressed bytes."""
    body = COMPRESSORS[encoding](random.Random(1).randbytes(1_100_000))
    with pytest.raises(BodyTooLarge) as caught:
        decode_body(encoding, body, 1_000_000)
    frame = caught.value.__traceback__
    held: dict[int, int] = {}
    while frame is not None:
        values = [*frame.tb_frame.f_locals.values()]
        values += [each for value in values for each in getattr(value, "__dict__", {}).values()]
        for value in values:
            if isinstance(value, BytesIO):
                held[id(value)] = value.getbuffer().nbytes
            elif isinstance(value, bytes | bytearray) and value is not body:
                held[id(value)] = len(value)
        frame = frame.tb_next
    assert held and sum(held.values()) < 500_000  # the last part


@given(encoding=ENCODINGS, data=st.data())
def test_a_truncated_body_is_refused(encoding: bytes, data: st.DataObject) -> None:
    """A part of a body is never accepted as the whole body."""
    body = COMPRESSORS[encoding](data.draw(st.binary(max_size=300)))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(UserError) as caught:
        decode_body(encoding, body[:cut], 1000)
    assert (caught.value.status, caught.value.name) == (400, "badRequest")


@given(encoding=ENCODINGS, body=st.binary(max_size=300))
def test_invalid_data_is_refused(encoding: bytes, body: bytes) -> None:
    """Invalid data is the client's error and never a crash."""
    try:
        decode_body(encoding, body, 1000)
    except UserError as error:
        assert error.status in (400, 413)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_the_limit_of_members(encoding: bytes) -> None:
    """The limit itself is allowed."""
    member = COMPRESSORS[encoding](b"")
    assert decode_body(encoding, member * MAX_MEMBERS, 10) == b""
    with pytest.raises(UserError, match=f"more than {MAX_MEMBERS} members") as caught:
        decode_body(encoding, member * (MAX_MEMBERS + 1), 10)
    assert caught.value.status == 413


@given(
    parts=st.lists(st.binary(max_size=100), min_size=1, max_size=3), zeros=st.integers(0, 70_000)
)
def test_zeros_after_gzip_are_padding(parts: list[bytes], zeros: int) -> None:
    """Any number of zeros is ignored; other data after a member must be a valid member."""
    body = b"".join(map(gzip.compress, parts)) + bytes(zeros)
    assert decode_body(b"gzip", body, 1000) == b"".join(parts)
    with pytest.raises(UserError, match=r"damaged|truncated"):
        decode_body(b"gzip", body + b"x", 1000)


def test_cancelling() -> None:
    """The work ends with the next piece."""
    waiting = iter([True, True, False])
    with pytest.raises(Abandoned):
        decode_body(
            b"gzip", gzip.compress(random.randbytes(100_000)), 200_000, lambda: next(waiting)
        )


@pytest.mark.parametrize(
    ("encoding", "codings"),
    [
        (b"", []),
        (b"identity", []),
        (b"identity, gzip", [b"gzip"]),
        (b"gzip ,identity,, identity", [b"gzip"]),
        (b"gzip,zstd", [b"gzip", b"zstd"]),
        (b"x-gzip", [b"x-gzip"]),
    ],
)
def test_a_list_of_encodings(encoding: bytes, codings: list[bytes]) -> None:
    """Encodings are applied from the last to the first; none and identity change nothing."""
    assert content_codings(encoding) == codings
    body = b"text"
    for name in codings:
        body = COMPRESSORS[name.removeprefix(b"x-")](body)
    assert decode_body(encoding, body, 100) == b"text"


@pytest.mark.parametrize(
    "encoding", [b"gzip, br", b"deflate", b"gzip;q=1", b"br,gzip", b"gzip," * 3]
)
def test_a_list_with_an_unknown_encoding(encoding: bytes) -> None:
    """The error names it; a list that is too long is refused too."""
    with pytest.raises(UserError, match=r"br|deflate|q=1|more than 2") as caught:
        decode_body(encoding, b"", 10)
    assert caught.value.status == 415


def test_an_unknown_encoding_is_refused() -> None:
    """An unknown encoding is refused instead of stored without decoding."""
    with pytest.raises(UserError, match='unsupported content encoding "br"') as caught:
        decode_body(b"br", b"", 10)
    assert caught.value.status == 415
