"""Bodies in a declared charset."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.record import charset
from stream.record.body import ready_body, ready_steps
from stream.record.charset import BYTES_AT_ONCE, find_charset, is_utf8_steps
from stream.record.headers import RecordHeaders
from stream.record.steps import result_of

LABELS = (
    "windows-1252",
    "windows-1257",
    "koi8-r",
    "gbk",
    "gb18030",
    "big5",
    "euc-jp",
    "iso-2022-jp",
    "shift_jis",
    "euc-kr",
)


def json_in(label: str) -> RecordHeaders:
    return RecordHeaders([(b"Content-Type", f"application/json; charset={label}".encode())])


def test_each_byte_of_a_single_byte_charset_is_a_character() -> None:
    """Bytes without an entry are control characters, or U+FFFD."""
    assert ready_body(json_in("windows-1252"), b"\x81\x80\xff") == "\x81€ÿ".encode()
    assert ready_body(json_in("windows-1257"), b"\x9f\xa1\xff") == "\x9f\ufffd˙".encode()


@given(label=st.sampled_from(LABELS), body=st.binary(max_size=40), size=st.integers(1, 7))
def test_steps_return_the_same_text(label: str, body: bytes, size: int) -> None:
    """Characters that are split between two steps are decoded as a whole."""
    found = find_charset(label)
    assert found is not None
    at_once = found.decode(body).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(charset, "BYTES_AT_ONCE", size)
        assert result_of(found.utf8_steps(body)) == at_once


@given(text=st.text(max_size=20), cut=st.integers(0, 80), size=st.integers(1, 7))
def test_utf_8_is_recognised_in_steps(text: str, cut: int, size: int) -> None:
    """A text that is cut within a character isn't UTF-8."""
    body = text.encode()[:cut]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(charset, "BYTES_AT_ONCE", size)
        assert result_of(is_utf8_steps(body)) == (body.decode(errors="ignore").encode() == body)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("byte", [b"\x81", b"\xff"])
def test_a_large_body_is_decoded_in_steps(label: str, byte: bytes) -> None:
    """A step decodes a limited number of bytes, whatever they are."""
    steps = ready_steps(json_in(label), byte * 10 * BYTES_AT_ONCE)
    assert len(list(steps)) == 10
