"""Parsers that split a stream of bytes into lines, array elements or CSV rows. Pure.

They keep only one record and one piece of the input in memory, so the input may be of any size.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = [
    "MAX_RECORD_BYTES",
    "InputFault",
    "Item",
    "array_elements",
    "csv_rows",
    "ndjson_lines",
]

MAX_RECORD_BYTES = 1024 * 1024
"""Maximum size of a record; by default, a source accepts no larger ones."""

_CUT_CHARACTERS = 3
"""More characters than can be missing at the end of a number (``e+``)."""

_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = codecs.BOM_UTF8
_ERROR_DISTANCE = 100
"""Missing data isn't the cause of an error at this many characters before the end of the data."""


class InputFault(Exception):
    """The input can't be parsed further; earlier records are valid."""


class Item(NamedTuple):
    """A record, or the reason why it is invalid.

    :ivar place: line number of the record, starting at 1; in an array its index, starting at 0.
    :ivar record: the record as JSON on one line; empty if there is a problem.
    :ivar end: position in the input at which the record ends.
    :ivar after: place of the next record.
    :ivar problem: the reason why the record can't be sent.
    """

    place: int
    record: bytes
    end: int
    after: int
    problem: str = ""


def ndjson_lines(
    parts: Iterable[bytes], *, line: int = 1, offset: int = 0, limit: int = MAX_RECORD_BYTES
) -> Iterator[Item | None]:
    """Iterate over the lines of *parts* that are not blank; ``None`` for an empty part.

    :param line: number of the first line.
    :param offset: number of bytes before the first line.
    :param limit: maximum length of a line in bytes.
    """
    rest = b""
    skipped = 0
    for part in parts:
        if not part:
            yield None
            continue
        if not offset and not rest and not skipped:
            offset = len(_BOM) if part.startswith(_BOM) else 0
            part = part.removeprefix(_BOM)
        lines = (rest + part).split(b"\n")
        rest = lines.pop()
        for text in lines:
            offset += len(text) + skipped + 1
            if skipped or len(text) > limit:
                yield Item(line, b"", offset, line + 1, _too_long(limit))
                skipped = 0
            elif record := text.strip():
                # A carriage return inside the record would split it.
                if b"\r" in record:
                    record = record.replace(b"\r", b" ")
                yield Item(line, record, offset, line + 1)
            line += 1
        if len(rest) > limit:
            skipped += len(rest)
            rest = b""
    if skipped:
        yield Item(line, b"", offset + skipped + len(rest), line + 1, _too_long(limit))
    elif record := rest.strip():
        yield Item(line, record.replace(b"\r", b" "), offset + len(rest), line + 1)


def _too_long(limit: int) -> str:
    return f"The record is larger than {limit} bytes."


_decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
"""Finds only the ends of values; numbers are copied unchanged."""


def array_elements(
    parts: Iterable[bytes],
    *,
    index: int = 0,
    offset: int = 0,
    is_inside: bool = False,
    limit: int = MAX_RECORD_BYTES,
) -> Iterator[Item]:
    """Iterate over the elements of the JSON array in *parts*.

    Raises InputFault: the input isn't an array.

    :param index: index of the first element.
    :param offset: number of bytes before *parts*.
    :param is_inside: whether *parts* begin after an element, before the comma.
    """
    text = _Text(parts, offset)
    if not is_inside:
        if text.next_character() != "[":
            raise InputFault("The input is not a JSON array: it does not begin with [.")
        text.skip(1)
    while True:
        mark = text.next_character()
        if mark == "]":
            text.skip(1)
            if text.next_character():
                raise InputFault(
                    f"There is data after the end of the array, at byte {text.offset}."
                )
            return
        if is_inside:
            if mark != ",":
                raise _broken(text, index, mark)
            text.skip(1)
            mark = text.next_character()
        if not mark:
            raise _broken(text, index, mark)
        record = text.take_value(index, limit)
        problem = "" if len(record) <= limit else _too_long(limit)
        yield Item(index, b"" if problem else record, text.offset, index + 1, problem)
        index += 1
        is_inside = True


def _broken(text: _Text, index: int, mark: str) -> InputFault:
    found = f'"{mark}"' if mark else "the end of the input"
    return InputFault(f"Element {index} (from 0), at byte {text.offset}: unexpected {found}.")


class _Text:
    """The input as text, read on demand.

    :ivar offset: number of bytes before the current position.
    """

    def __init__(self, parts: Iterable[bytes], offset: int) -> None:
        self._parts = iter(parts)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._is_over = False
        self._is_start = not offset
        self.offset = offset

    def next_character(self) -> str:
        """Return the next non-whitespace character; an empty string at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self.offset += match.end() - self._at
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, count: int) -> None:
        """Skip *count* ASCII characters."""
        self._at += count
        self.offset += count

    def take_value(self, index: int, limit: int) -> bytes:
        """Return the JSON value at the current position, formatted on one line."""
        while True:
            try:
                _, end = _decoder.raw_decode(self._text, self._at)
                # A number may be incomplete, for example if 1.5 is cut after 1 or 1.
                rest = self._text[end : end + _CUT_CHARACTERS]
                if len(rest) == _CUT_CHARACTERS or (rest and rest[0] not in ".eE"):
                    break
                if not self._more():
                    if rest:
                        break
                    raise _broken(self, index, "")
            except RecursionError:
                raise InputFault(f"Element {index} (from 0) is nested too deeply.") from None
            except json.JSONDecodeError as error:
                is_unfinished = error.msg.startswith("Unterminated string") or (
                    error.pos > len(self._text) - _ERROR_DISTANCE
                )
                too_much = len(self._text) - self._at > 8 * limit
                if not is_unfinished or too_much or not self._more():
                    raise InputFault(
                        f"Element {index} (from 0), which begins at byte {self.offset}, is not "
                        f"JSON: {error.msg}."
                    ) from None
        value = self._text[self._at : end].encode()
        self._at = end
        self.offset += len(value)
        return value.replace(b"\r", b" ").replace(b"\n", b" ")

    def _more(self) -> bool:
        if self._is_over:
            return False
        part = next(self._parts, None)
        if part is None:
            self._is_over = True
            part = b""
        elif self._is_start and part:
            self._is_start = False
            if part.startswith(_BOM):
                part = part.removeprefix(_BOM)
                self.offset += len(_BOM)
        try:
            text = self._decoder.decode(part, final=self._is_over)
        except UnicodeDecodeError as error:
            raise InputFault(
                f"The input is not UTF-8: near byte {self.offset}, {error.reason}."
            ) from None
        self._text = self._text[self._at :] + text
        self._at = 0
        return not self._is_over or bool(text)


def csv_rows(
    parts: Iterable[bytes],
    *,
    header: Sequence[str] | None = None,
    take_header: Callable[[list[str]], None] = lambda _: None,
    line: int = 1,
    offset: int = 0,
    delimiter: str = ",",
    limit: int = MAX_RECORD_BYTES,
) -> Iterator[Item]:
    """Iterate over the CSV rows in *parts* as JSON objects, whose values are strings.

    Raises InputFault: the input isn't CSV.

    :param header: names of the members; by default those in the first row.
    :param take_header: called with the names of the members.
    :param line: number of the first line.
    :param offset: number of bytes before *parts*.
    """
    lines = _Lines(parts, offset, limit)
    # This limit applies to the whole process; the limit of lines is the one that limits rows.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    first = line
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise InputFault(f"The row that begins on line {first} is not CSV: {error}.") from None
        if row is None:
            return
        if header is None:
            if not row:
                raise InputFault(
                    "The first line of a CSV file must contain the names of the columns."
                )
            header = _header(row)
            take_header(list(header))
        elif len(row) == len(header):
            record = json.dumps(
                dict(zip(header, row, strict=True)), separators=(",", ":"), ensure_ascii=False
            ).encode()
            problem = "" if len(record) <= limit else _too_long(limit)
            after = line + rows.line_num
            yield Item(first, b"" if problem else record, lines.offset, after, problem)
        elif row:
            problem = f"The row has {len(row)} values, the header has {len(header)} names."
            yield Item(first, b"", lines.offset, line + rows.line_num, problem)
        first = line + rows.line_num


def _header(row: list[str]) -> list[str]:
    names = [name.strip() for name in row]
    if "" in names:
        raise InputFault(f"Column {names.index('') + 1} of the header has no name.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputFault(f'The header contains the name "{twice[0]}" twice.')
    return names


class _Lines:
    """Lines of text for the CSV reader, including their line endings.

    :ivar offset: number of bytes up to the last line that was read.
    """

    def __init__(self, parts: Iterable[bytes], offset: int, limit: int) -> None:
        self.offset = offset
        self._lines = self._cut(parts, limit)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        is_start = not self.offset
        self.offset += len(line)
        if is_start:
            line = line.removeprefix(_BOM)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise InputFault(
                f"The line that ends at byte {self.offset} is not UTF-8: {error.reason}."
            ) from None

    def _cut(self, parts: Iterable[bytes], limit: int) -> Iterator[bytes]:
        rest = b""
        for part in parts:
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line + b"\n"
            if len(rest) > 4 * limit:
                raise InputFault(f"A line is larger than {4 * limit} bytes.")
        if rest:
            yield rest
