"""JSON bodies: validation, and splitting of arrays and large documents.

Note [Pieces]: parsing takes a tenth of a microsecond or more for each value. So a large document is
first split by compiled code, in one pass that also validates it, and its pieces are parsed one
after another. Without compiled code it is parsed at once.

Note [Two readers]: orjson parses nearly every document. It refuses two valid kinds: numbers beyond
the range of doubles, and escapes of lone surrogates. A record must not be rejected because of
values that it doesn't need, so such a document is parsed again by the standard library. Such a
number becomes infinity, and each lone surrogate becomes U+FFFD. For all other documents both
readers return the same results.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

import orjson

from stream import native
from stream.record.errors import InvalidJson

__all__ = [
    "MAX_DEPTH",
    "MAX_VALUES",
    "array_items",
    "canonical_documents",
    "check_bounds",
    "check_steps",
    "container_end_steps",
    "has_more_values",
    "is_canonical",
    "parse_json",
    "parse_steps",
    "text_bytes",
]

MAX_DEPTH = 300
"""Maximum nesting of objects and arrays."""

MAX_VALUES = 100_000
"""Maximum number of values in a document.

Two bytes of the document can become a value that takes up to a hundred bytes of memory, and blocks
the process for a tenth of a microsecond.
"""

SMALL_BYTES = 2 * MAX_DEPTH
"""No document up to this size exceeds a limit, because each level and value takes two bytes."""

SEARCHED_BYTES = 64
_SPACED = b'": '

_BLANK = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = rb'[^ \t\r\n,\]}"{\[]++'
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+', re.DOTALL)
_STRINGS = re.compile(_STRING + rb'|".*+', re.DOTALL)
"""Strings; if a string has no end, everything from its opening quote."""

_ELEMENT = re.compile(_STRING + rb"|" + _SCALAR, re.DOTALL)
_BLANKS = re.compile(_BLANK)
_TO_VALUE = re.compile(rb'(?:[^"\[{,]++|' + _STRING + rb")*+(?:[\[{,]|.*+)", re.DOTALL)
"""The delimiter before or after a value, with all text before it; without one, all remaining text.

It matches at every position, so that no part of an invalid document is checked twice.
"""
_VALUES_AT_ONCE = 500
_TO_VALUES = re.compile(
    rb'(?:(?:[^"\[{,]++|' + _STRING + rb")*+[\[{,]){%d}+" % _VALUES_AT_ONCE, re.DOTALL
)
"""Matches like `_TO_VALUE`, but many values at once, because a match per value is slow."""

PIECE_BYTES = 64 * 1024
"""Maximum size of a document that is parsed at once, and of the pieces of a larger one."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*+")
_WIDE = re.compile(rb"\xff\xfe|\xfe\xff|\x00|[^\x00]\x00")
_MAX_INTEGER_CHARS = 20
_COUNTED_BYTES = 64 * 1024
_SEARCHED_AT_ONCE = 64 * 1024
_BRACKETS_AT_ONCE = 1000
_TOLERANCE = 2  # values are counted plus or minus one
_PAIRS_AT_MOST = 16
_STEPS = {0x5B: 1, 0x5D: -1}
_OPENING = frozenset((b"{", b"["))
_CLOSING = frozenset((b"}", b"]"))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def parse_json(source: bytes, max_values: int = MAX_VALUES, *, checks_depth: bool = True) -> Any:
    """Return the document in *source*; see Note [Two readers].

    :param checks_depth: whether the depth is checked; otherwise the document may have up to 1024
        levels, the reader's limit.

    Raises InvalidJson: it is invalid, or exceeds `MAX_DEPTH` or *max_values*.
    """
    if len(source) > SMALL_BYTES:
        check_bounds(source, max_values, checks_depth=checks_depth)
    try:
        return orjson.loads(source)
    except orjson.JSONDecodeError as error:
        return _read_again(source, error)


def parse_steps(source: bytes, max_values: int) -> Generator[None, None, Any]:
    """Parse a document in small steps; see Note [Pieces]. It may have up to 1024 levels.

    Raises InvalidJson: it is invalid, or exceeds *max_values*.
    """
    steps: list[tuple[str, int, int]] = []
    if native.is_built and len(source) > PIECE_BYTES:
        steps = _split(source, max_values, PIECE_BYTES)
        yield
    if not steps:
        return parse_json(source, max_values, checks_depth=False)
    containers: list[Any] = []  # those that aren't complete, each in the one before
    key: Any = None
    counted = len(source)  # the values are counted
    for sign, start, end in steps:
        if sign in "{[":
            container: Any = {} if sign == "{" else []
            if containers:
                _put_into(containers[-1], key, container)
            containers.append(container)
        elif sign == "k":
            key = parse_json(source[start:end], counted)
        elif sign == ",":
            into, piece = containers[-1], source[start:end]
            if isinstance(into, dict):
                into.update(parse_json(b"{%b}" % piece, counted, checks_depth=False))
            else:
                into += parse_json(b"[%b]" % piece, counted, checks_depth=False)
            yield
        elif len(containers) > 1:
            containers.pop()
    return containers[0]


def _put_into(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, dict):
        container[key] = value
    else:
        container.append(value)


def _split(source: bytes, max_values: int, size: int) -> list[tuple[str, int, int]]:
    """Return the steps of `native.split_json`. Raises InvalidJson."""
    try:
        steps, delimiters = native.split_json(source, size)
    except ValueError as error:
        _check_encoding(source)
        raise InvalidJson(f"it is invalid at byte {error.args[0] + 1}") from None
    if len(source) > 2 * max_values and delimiters > max_values:
        raise _too_many(max_values)
    return steps


def check_steps(source: bytes) -> Generator[None, None, bool]:
    """Check a large document like `parse_json`, in small steps and without parsing it.

    Raises InvalidJson.

    :returns: whether it was checked; a small one isn't.
    """
    if not native.is_built or len(source) <= PIECE_BYTES or source.count(b"\\u") > MAX_VALUES:
        return False
    _split(source, MAX_VALUES, len(source))
    yield
    if _may_be_deep(source) and _too_deep(source):
        raise _deep()
    yield
    return True


def check_bounds(source: bytes, max_values: int = MAX_VALUES, *, checks_depth: bool = True) -> None:
    """Refuse a document that would take too much memory or time to parse. Raises InvalidJson."""
    if len(source) > 2 * max_values and has_more_values(source, max_values):
        raise _too_many(max_values)
    if checks_depth and _may_be_deep(source) and _too_deep(source):
        raise _deep()


def _too_many(max_values: int) -> InvalidJson:
    return InvalidJson(f"it has more than {max_values} values", status=413, name="payloadTooLarge")


def _deep() -> InvalidJson:
    return InvalidJson(f"it is nested deeper than {MAX_DEPTH} levels")


def has_more_values(source: bytes, limit: int) -> bool:
    """Return whether the document has more than *limit* values, plus or minus one per container.

    The check stops at the limit; *source* needn't be valid.
    """
    signs = 0
    for start in range(0, len(source), _COUNTED_BYTES):
        piece = source[start : start + _COUNTED_BYTES]
        signs += len(piece) - len(piece.translate(None, b",[{"))
        if signs > limit:
            return _has_values(source, limit + 2)
    return False


def _has_values(source: bytes, number: int) -> bool:
    """Return whether `_TO_VALUE` matches *number* times in a row."""
    position = 0
    while number > _VALUES_AT_ONCE:
        many = _TO_VALUES.match(source, position)
        if many is None:
            break
        position = many.end()
        number -= _VALUES_AT_ONCE
    return next(islice(_TO_VALUE.finditer(source, position), number - 1, None), None) is not None


def _read_again(source: bytes, error: orjson.JSONDecodeError) -> Any:
    """Parse *source*, which orjson has refused; see Note [Two readers]."""
    text = _check_encoding(source)
    reason = str(error)
    has_surrogates = _SURROGATE.search(source) is not None
    if has_surrogates and source.count(b"\\u") > MAX_VALUES:
        raise InvalidJson(
            f"it has lone surrogates and more than {MAX_VALUES} escapes",
            status=413,
            name="payloadTooLarge",
        ) from None
    if has_surrogates or _is_huge_number(text, error.pos):
        try:
            value = json.loads(text, parse_int=_read_integer, parse_constant=_refuse_constant)
        except RecursionError:
            reason = "it is nested too deeply"
        except ValueError as other:
            reason = str(other)
        else:
            return _without_surrogates(value) if has_surrogates else value
    raise InvalidJson(reason) from None


def _check_encoding(source: bytes) -> str:
    """Return the text of *source*. Raises InvalidJson: it isn't in UTF-8."""
    if _WIDE.match(source) is not None:
        raise InvalidJson("it is in UTF-16 or UTF-32, please send UTF-8") from None
    try:
        return source.decode()
    except UnicodeDecodeError as fault:
        raise InvalidJson(f"byte {fault.start + 1} is not UTF-8") from None


def _is_huge_number(document: str, position: int) -> bool:
    """Return whether the reader stopped at a valid number beyond the range of doubles."""
    number = _NUMBER.match(document, position)
    if number is None:
        return False
    try:
        return math.isinf(float(number[0]))
    except ValueError:
        return False


def _without_surrogates(value: Any) -> Any:
    """Return *value* with U+FFFD instead of each lone surrogate, including in keys."""
    if type(value) is str:
        return value if value.isascii() else _SURROGATES.sub("\ufffd", value)
    if type(value) is list:
        return [_without_surrogates(item) for item in value]
    if type(value) is dict:
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _read_integer(text: str) -> int | float:
    """Parse an integer as orjson does: one that exceeds 64 bits becomes a double."""
    if len(text) <= _MAX_INTEGER_CHARS:
        number = int(text)
        if -(2**63) <= number < 2**64:
            return number
    return float(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def is_canonical(source: bytes, document: Any) -> bool:
    """Return whether printing *document* returns *source* again."""
    if source.find(_SPACED, 0, SEARCHED_BYTES) >= 0:
        return False  # some encoders write blanks, visible at the first key
    try:
        return orjson.dumps(document) == source
    except orjson.JSONEncodeError:
        return False  # it contains lone surrogates


def canonical_documents(sources: Sequence[bytes]) -> list[Any] | None:
    """Return the documents in *sources* if each of them is canonical, otherwise ``None``.

    They are parsed together if the first one is canonical. A source may contain two documents, or
    part of one; this is detected when the documents are printed. The printer refuses more than 254
    levels.
    """
    try:
        if not is_canonical(sources[0], orjson.loads(sources[0])):
            return None
        documents: list[Any] = orjson.loads(b"[%b]" % b",".join(sources))
        return documents if list(map(orjson.dumps, documents)) == sources else None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def _may_be_deep(source: bytes) -> bool:
    """Return whether *source* has more brackets than `MAX_DEPTH`.

    Most bodies have so few brackets that counting can be skipped.
    """
    if source.find(b"[") < 0:
        inner = source.find(b"{", 1)
        if inner < 0 or source.find(b"{", inner + 1) < 0:
            return False
    return source.count(b"[") + source.count(b"{") > MAX_DEPTH


def _too_deep(source: bytes) -> bool:
    brackets = _STRINGS.sub(b"", source).translate(_ONE_KIND, _NOT_BRACKETS)
    # Removing all innermost pairs lowers the depth by one; few documents need many passes.
    for _ in range(_PAIRS_AT_MOST):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    depths = accumulate(map(_STEPS.__getitem__, brackets))
    return max(depths, default=0) + _PAIRS_AT_MOST > MAX_DEPTH


def text_bytes(text: str) -> bytes:
    """Return *text* in UTF-8; each lone surrogate becomes one U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Two adjacent surrogates in *text*, e.g. after a concatenation, are one character.
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _SURROGATES.sub("\ufffd", joined).encode()


def array_items(source: bytes, max_bytes: int) -> Iterator[bytes | None]:
    """Return the source text of each item of the array *source*.

    ``None`` is returned between two small parts of the search for an item. An item of more than
    *max_bytes* is cut after a byte more, and is the last one.

    Raises InvalidJson: *source* isn't an array, its items aren't properly separated, or an item is
    nested too deeply or has too many containers. Items are validated when they are parsed; if all
    are valid, so is the array.
    """
    position = yield from _blanks_end_steps(source, 0)
    if not source.startswith(b"[", position):
        raise InvalidJson("the body of a batch must be an array")
    position = yield from _blanks_end_steps(source, position + 1)
    is_last = source.startswith(b"]", position)
    if is_last:
        position += 1
    while not is_last:
        limit = min(position + max_bytes + 1, len(source))
        if source.startswith((b"[", b"{"), position):
            end = yield from container_end_steps(source, position, limit)
        else:
            match = _ELEMENT.match(source, position, limit)
            if match is None and (limit == len(source) or source[position] != 0x22):
                raise _broken(position)
            end = limit if match is None else match.end()
        yield source[position:end]
        if end - position > max_bytes:
            return
        position = yield from _blanks_end_steps(source, end)
        is_last = source.startswith(b"]", position)
        if not is_last and not source.startswith(b",", position):
            raise _broken(end)
        position += 1
        if not is_last:
            position = yield from _blanks_end_steps(source, position)
    position = yield from _blanks_end_steps(source, position)
    if position < len(source):
        raise _broken(position)


def _blanks_end_steps(source: bytes, position: int) -> Generator[None, None, int]:
    while True:
        limit = position + _SEARCHED_AT_ONCE
        match = _BLANKS.match(source, position, limit)
        assert match is not None  # it also matches an empty text
        position = match.end()
        if position < limit:
            return position
        yield


def _broken(position: int) -> InvalidJson:
    return InvalidJson(f"the array is invalid at byte {position + 1}")


def container_end_steps(source: bytes, position: int, limit: int) -> Generator[None, None, int]:
    """Return the position after the container at *position*, or *limit* if it ends later.

    Each step is a small part of the work.

    Raises InvalidJson: it has no end in *source*, is nested too deeply or has too many containers.
    """
    depth = containers = 0
    left = _BRACKETS_AT_ONCE
    while True:
        match = _TO_BRACKET.match(source, position, limit)
        assert match is not None
        position = match.end() + 1
        bracket = source[position - 1 : min(position, limit)]
        if bracket in _OPENING:
            depth += 1
            containers += 1
            if depth > MAX_DEPTH:
                raise _deep()
            if containers > MAX_VALUES + _TOLERANCE:
                raise _too_many(MAX_VALUES)
        elif bracket in _CLOSING:
            depth -= 1
        elif limit < len(source):
            return limit
        else:
            raise _broken(position - 1)
        if depth == 0:
            return position
        left -= 1
        if not left:
            left = _BRACKETS_AT_ONCE
            yield
