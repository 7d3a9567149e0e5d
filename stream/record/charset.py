"""Declared charsets of bodies, by the labels of the WHATWG Encoding Standard."""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator
from functools import lru_cache
from io import BytesIO

__all__ = [
    "BOM",
    "MAX_UTF8_BYTES",
    "Charset",
    "charset_parameter",
    "find_charset",
    "is_utf8_steps",
    "without_bom",
]

BOM = b"\xef\xbb\xbf"
"""The byte order mark in UTF-8, which isn't part of the text."""

_PARAMETER = re.compile(r';\s*charset\s*=\s*(?:"([^"]*)"|([^;\s]*))', re.IGNORECASE)
_MAX_LABEL_CHARS = 40
_UTF8_LABELS = frozenset({"utf-8", "utf8", "unicode-1-1-utf-8", "us-ascii", "ascii"})
"""Labels of UTF-8. They include ASCII, because other bytes declared as ASCII are probably UTF-8."""

_NOT_BY_BYTES = frozenset({"replacement", "utf-16le", "utf-16be", "x-user-defined"})
"""Charsets that aren't supported.

In UTF-16, ``&``, ``{`` and so on aren't single bytes; the others aren't meant for data exchange.
"""

_SEVERAL_BYTES = frozenset(
    {"gbk", "gb18030", "big5", "euc-jp", "iso-2022-jp", "shift_jis", "euc-kr"}
)
_FIRST_CONTROL, _AFTER_CONTROLS = 0x80, 0xA0
"""The control characters that the standard defines where Python's tables have no entry."""

MAX_UTF8_BYTES = 3
"""Maximum number of bytes in UTF-8 for a byte in another charset."""

BYTES_AT_ONCE = 64 * 1024
"""Number of bytes decoded per step; a step takes at most two milliseconds."""


class Charset:
    """An encoding other than UTF-8.

    :ivar is_single_byte: whether each byte is a character.
    """

    def __init__(self, name: str, codec: str) -> None:
        self._codec = codec
        self.is_single_byte = name not in _SEVERAL_BYTES
        # The table has all characters, because handling an undefined byte takes a microsecond.
        characters = (_character(byte, codec) for byte in range(256))
        self._table = "".join(characters) if self.is_single_byte else ""

    def decode(self, data: bytes) -> str:
        """Return *data* as text; each undefined byte becomes U+FFFD."""
        if self.is_single_byte:
            return codecs.charmap_decode(data, "strict", self._table)[0]
        return data.decode(self._codec, "replace")

    def utf8_steps(self, data: bytes) -> Generator[None, None, bytes]:
        """Return the result of `decode` in UTF-8, in small steps."""
        decoder = codecs.getincrementaldecoder(self._codec)("replace")
        output = BytesIO()
        for start in range(0, len(data), BYTES_AT_ONCE):
            end = start + BYTES_AT_ONCE
            piece = data[start:end]
            text = (
                self.decode(piece)
                if self.is_single_byte
                else decoder.decode(piece, end >= len(data))
            )
            output.write(text.encode())
            yield
        return output.getvalue()


def _character(byte: int, codec: str) -> str:
    try:
        return bytes([byte]).decode(codec)
    except UnicodeDecodeError:
        return chr(byte) if _FIRST_CONTROL <= byte < _AFTER_CONTROLS else "\ufffd"


def is_utf8_steps(data: bytes) -> Generator[None, None, bool]:
    """Return whether *data* is valid UTF-8, in small steps."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), BYTES_AT_ONCE):
        end = start + BYTES_AT_ONCE
        try:
            decoder.decode(data[start:end], end >= len(data))
        except UnicodeDecodeError:
            return False
        yield
    return True


def charset_parameter(content_type: str) -> str:
    """Return the charset label in a ``Content-Type``; empty if it is missing or means UTF-8."""
    match = _PARAMETER.search(content_type)
    label = "" if match is None else (match[1] or match[2] or "").strip()
    return "" if label.lower() in _UTF8_LABELS else label


@lru_cache(maxsize=256)
def find_charset(label: str) -> Charset | None:
    """Return the charset with *label*; ``None`` for UTF-8. Raises LookupError if it is unknown."""
    label = label.strip().lower()
    if label in _UTF8_LABELS:
        return None
    if len(label) > _MAX_LABEL_CHARS:
        raise LookupError(label)
    import webencodings  # imported here because few processes need it

    encoding = webencodings.lookup(label)
    if encoding is None or encoding.name in _NOT_BY_BYTES:
        raise LookupError(label)
    return None if encoding.name == "utf-8" else Charset(encoding.name, encoding.codec_info.name)


def without_bom(body: bytes) -> bytes:
    """Return *body* without its leading byte order mark, if any."""
    return body[len(BOM) :] if body.startswith(BOM) else body
